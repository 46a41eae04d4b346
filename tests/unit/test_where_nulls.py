"""Of a condition it is told that it is NULL at most where a column is, or nothing is told."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metadata_extractors.conditions import EVERYTHING, condition
from metadata_extractors.where import checked
from snapengine.errors import UsageError

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("Modality", pa.string()),
        ("Age", pa.float64()),
        ("StudyDate", pa.date32()),
        ("ImageType", pa.list_(pa.string())),
        ("Series", pa.struct([("number", pa.int64())])),
        ("Rows", pa.int64()),
        ("burned", pa.bool_()),
    ]
)

TOLD = [
    "Modality = 'CT' AND Age > 50 AND NOT burned",
    "Rows <> 512 OR Rows <= -1 OR Age >= 1e3",
    "StudyDate < '2020-01-01'",
    "burned",
    "true",
    "Age BETWEEN 1 AND 2.5 OR Rows NOT BETWEEN 1 AND 2",
    "Modality IN ('CT', 'MR') AND Rows NOT IN (1, 2)",
    "Modality IS NULL OR Age IS NOT NULL",
    "Modality IS DISTINCT FROM 'CT' AND Rows IS NOT DISTINCT FROM 3",
]

NOT_TOLD = [
    "NULLIF(Rows, 3) > 1",
    "CASE WHEN Rows > 3 THEN true END",
    "Rows / 0 > 1",
    "Rows % 2 = 0",
    "Rows // 0 > 1",
    "Modality IN ('CT', NULL)",
    "Modality = NULL",
    "NOT (Rows > NULL)",
    "Rows BETWEEN 1 AND NULL",
    "TRY_CAST(Modality AS INTEGER) = 1",
    "CAST(Modality AS INTEGER) = 1",
    "StudyDate < DATE '2020-01-01'",
    "TRY(CAST(Modality AS INTEGER)) = 1",
    "ImageType[1] = 'ORIGINAL'",
    "'PRIMARY' IN ImageType",
    "Series.number = 3",
    "Modality LIKE 'C%'",
    "lower(Modality) = 'ct'",
    "Modality = 'CT' AND (Age > 5 OR (Rows > 1 AND Rows + 1 > 2))",
    "(Rows > NULL) IS NULL",
]


@pytest.mark.parametrize("where", TOLD)
def test_comparisons_of_columns_and_literals_are_null_only_where_a_column_is(where: str) -> None:
    assert checked(where, SCHEMA).null_by_null_alone
    assert condition(where, SCHEMA).null_by_null_alone


@pytest.mark.parametrize("where", NOT_TOLD)
def test_of_anything_else_nothing_is_told(where: str) -> None:
    assert not checked(where, SCHEMA).null_by_null_alone
    assert not condition(where, SCHEMA).null_by_null_alone


def test_no_condition_is_null_nowhere() -> None:
    assert EVERYTHING.null_by_null_alone


_VALUES = st.sampled_from(
    ["Rows", "Age", "small", "0", "-1", "2.5", "1e400", "170141183460469231731687303715884105728"]
)
_TEXTS = st.sampled_from(["key", "Modality", "''", "'CT'", "'NULL'", "'null'"])
_SIGNS = st.sampled_from(["=", "<>", "<", ">", "<=", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"])
_COMPARED = st.one_of(
    *(st.builds("{} {} {}".format, side, _SIGNS, side) for side in (_VALUES, _TEXTS)),
    *(st.builds("{} BETWEEN {} AND {}".format, side, side, side) for side in (_VALUES, _TEXTS)),
    *(st.builds("{} IN ({}, {})".format, side, side, side) for side in (_VALUES, _TEXTS)),
    st.builds("{} IS NULL".format, _VALUES),
    st.builds("{} = {}".format, st.sampled_from(["StudyDate", "burned", "seen"]), st.sampled_from(["'1'"])),
    st.just("burned"),
)
_CONDITIONS = st.recursive(
    _COMPARED,
    lambda inner: st.one_of(
        st.builds("NOT ({})".format, inner),
        st.builds("({}) AND ({})".format, inner, inner),
        st.builds("({}) OR ({})".format, inner, inner),
        st.builds("({}) = ({})".format, inner, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(where=_CONDITIONS)
def test_where_it_is_told_no_row_that_has_all_values_makes_it_null(where: str) -> None:
    table = pa.table(
        {
            "key": ["", "a", "NULL"],
            "Modality": ["CT", "null", "é"],
            "Age": [float("nan"), float("inf"), -0.0],
            "Rows": pa.array([-(2**63), 0, 2**63 - 1], pa.int64()),
            "small": pa.array([-128, 0, 127], pa.int8()),
            "burned": [True, False, True],
            "StudyDate": pa.array([0, 1, -100_000], pa.date32()),
            "seen": pa.array([0, 1, 2], pa.timestamp("ms", "UTC")),
        }
    )
    try:
        found = condition(where, table.schema)
        with found.judging() as judge:
            verdicts = judge(table.to_batches()[0])
    except UsageError:
        return
    if found.null_by_null_alone:
        assert verdicts.null_count == 0
