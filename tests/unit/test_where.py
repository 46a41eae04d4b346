"""A condition is one boolean SQL expression over the columns, or it is refused with a reason."""

import string
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metadata_extractors.conditions import condition
from metadata_extractors.where import MAX_TEXT, checked, mentioned
from snapengine.errors import UsageError

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("Modality", pa.string()),
        ("PatientSex", pa.string()),
        ("PatientAgeYears", pa.float64()),
        ("StudyDate", pa.date32()),
        ("StudyTime", pa.time64("us")),
        ("event_time", pa.timestamp("ms", "UTC")),
        ("ImageType", pa.list_(pa.string())),
        ("Rows", pa.int64()),
        ("tags", pa.string()),
        ("odd \"name' x", pa.int64()),
        ("select", pa.bool_()),
    ]
)

ALLOWED = [
    "Modality = 'CT' AND PatientSex = 'M' AND PatientAgeYears > 50",
    "modality = 'CT'",
    '"odd ""name\' x" > 3',
    '"select"',
    "NOT \"select\" OR Modality IN ('CT', 'MR')",
    "Modality LIKE 'C%' AND key ILIKE '%/a_b/%' ESCAPE '/'",
    "Modality SIMILAR TO 'C.*' OR regexp_matches(key, '^ct/[0-9]+')",
    "StudyDate BETWEEN DATE '2020-01-01' AND DATE '2020-01-01' + INTERVAL 30 DAYS",
    "extract(year FROM StudyDate) = 2020 AND StudyTime < TIME '12:00'",
    "event_time >= TIMESTAMPTZ '2026-11-20 09:00:00+00'",
    "CAST(event_time AS DATE) = '2026-11-20'",
    "'PRIMARY' IN ImageType AND ImageType[1] = 'ORIGINAL' AND len(ImageType) > 2",
    "list_contains(ImageType, 'AXIAL')",
    "tags->>'$.project' = 'a'",
    "CASE WHEN Rows IS NULL THEN false ELSE Rows % 2 = 0 END",
    "coalesce(PatientAgeYears, 0) > 50 OR PatientSex IS DISTINCT FROM 'M'",
    "TRY_CAST(Modality AS INTEGER) = 1 OR TRY(CAST(Modality AS INTEGER)) = 2",
    "key = 'a; SELECT -- /* not a comment */'",
    "key = 'it''s ö 🙂'",
    "-Rows * 2 + 1 < 1e3",
]

REFUSED = [
    # more than one expression
    ("true; SELECT 1", "second statement"),
    ("true;", "more than an expression"),
    ("1=1) OR (1=1", "syntax"),
    ("(1=1", "syntax"),
    ("true) UNION SELECT (true", "syntax"),
    ("true UNION SELECT true", "more than an expression"),
    ("true EXCEPT SELECT true", "more than an expression"),
    ("true ORDER BY 1", "more than an expression"),
    ("true LIMIT 1", "more than an expression"),
    ("true GROUP BY key", "more than an expression"),
    ("true QUALIFY true", "more than an expression"),
    ("true WINDOW w AS ()", "more than an expression"),
    ("true USING SAMPLE 1", "more than an expression"),
    ("true, false", "syntax"),
    ("Modality = 'CT' -- ) rest", "comment"),
    ("Modality /* x */ = 'CT'", "comment"),
    ("true /* open", "syntax|comment|read"),
    ("key = 'open", "syntax"),
    ("", "empty"),
    (" \n\t", "empty"),
    ("Modality = ", "syntax"),
    ("true\x00", "NUL"),
    ("key = '\ud800'", "surrogate"),
    ("SELECT true", "syntax"),
    ("ATTACH 'x.db'", "type 'ATTACH'"),
    ("COPY t TO 'x'", "syntax"),
    ("INSTALL httpfs", "syntax"),
    ("true; LOAD httpfs", "second statement"),
    ("true; PRAGMA version", "second statement"),
    ("true; SET memory_limit = '1TB'", "second statement"),
    ("true; ATTACH 'x.db' AS x", "second statement"),
    ("true; COPY (SELECT 1) TO '/tmp/x'", "second statement"),
    # queries and files
    ("key IN (SELECT 'a')", "query"),
    ("EXISTS (SELECT 1)", "query"),
    ("EXISTS (FROM read_csv('/etc/passwd'))", "query"),
    ("(SELECT true)", "query"),
    ("Rows = ANY ([1, 2])", "query"),
    ("key = (TABLE secrets)", "query|syntax"),
    ("read_text('/etc/passwd') = 'x'", "reads files"),
    ("read_csv('/etc/passwd') IS NULL", "reads files"),
    ("read_parquet('x') IS NULL", "reads files"),
    ("parquet_scan('x') IS NULL", "reads files"),
    ("glob('*') IS NULL", "reads files"),
    ("getenv('HOME') = 'x'", "reads files, settings"),
    ("current_setting('memory_limit') = 'x'", "settings"),
    ("duckdb_secrets() IS NULL", "settings"),
    ("pragma_version() IS NULL", "settings"),
    ("version() = 'x'", "settings"),
    ("getvariable('x') = 1", "settings"),
    ("query('SELECT 1') IS NULL", "reads files"),
    # rows, state, time
    ("count(*) > 1", "many rows"),
    ("sum(Rows) > 1", "many rows"),
    ("max(Rows) FILTER (WHERE true) > 1", "many rows|DISTINCT"),
    ("row_number() OVER () = 1", "window"),
    ("Rows = lag(Rows) OVER (ORDER BY key)", "window"),
    ("len(list_filter(ImageType, x -> x = 'A')) > 1", "it takes a lambda"),
    ("len([x FOR x IN ImageType]) > 1", "list_apply|lambda"),
    ("tags->'$.a' = 'x'", "lambda"),
    ("unnest(ImageType) = 'A'", "makes rows"),
    ("range(1000000000) IS NULL", "makes rows"),
    ("repeat('a', 1000000000) = key", "memory or time"),
    ("error('x')", "fail"),
    ("nextval('s') = 1", "changes"),
    ("random() > 0.5", "write the value itself"),
    ("uuid() IS NULL", "write the value itself"),
    ("event_time < now()", "write the value itself"),
    ("StudyDate < current_date", "write the value itself"),
    ("StudyDate < today()", "write the value itself"),
    ("event_time < CURRENT_TIMESTAMP", "write the value itself"),
    ("age(StudyDate) > INTERVAL 1 DAY", "write the value itself"),
    ("key = current_user", "write the value itself"),
    ("Rows = ?", "parameter"),
    ("Rows = $1", "parameter"),
    ("Rows = $rows", "parameter"),
    ("#1 = 'a'", "number"),
    ("*", "many columns"),
    ("COLUMNS(*) = 1", "many columns"),
    ("key = 'a' COLLATE NOCASE", "collation"),
    ("main.upper(key) = 'A'", "no name and dot"),
    ("key.upper() = 'A'", "no name and dot"),
    ("(key, Rows) = ('a', 1)", "fields"),
    ("DEFAULT", "default|syntax"),
    # columns and types
    ("Modalty = 'CT'", 'did you mean "Modality"'),
    ('Modality = "CT"', "single quotes"),
    ("rowid = 1", "no column 'rowid'"),
    ("filename = 'x'", "no column 'filename'"),
    ("other.key = 'x'", "no column 'other'"),
    ("Modality", "yes or no"),
    ("PatientAgeYears + 1", "yes or no"),
    ("NULL", "yes or no"),
    ("Modality = 3", "text, and is compared with a number"),
    ("Modality IN (1, 2)", "text, and is compared with a number"),
    ("PatientAgeYears = 'old'", "cannot be worked out"),
    ("StudyDate = '19700231'", "cannot be worked out"),
    ("upper(PatientAgeYears) = 'A'", "types do not fit"),
    ("StudyDate + ImageType = 1", "types do not fit"),
    ("Modality::regtype = 'x'", "type 'regtype'"),
    ("Modality::my_enum = 'x'", "type 'my_enum'"),
    ("uper(Modality) = 'CT'", r"did you mean 'upper'\? At"),
    # size
    ("NOT " * 500 + "true", "nests too deeply"),
    ("(" * 5000 + "true" + ")" * 5000, "nests too deeply"),
    ("key = '" + "a" * MAX_TEXT + "'", "characters"),
]  # fmt: skip


@pytest.mark.parametrize("where", ALLOWED)
def test_a_boolean_expression_over_the_columns_is_let_through(where: str) -> None:
    assert checked(f"  {where}\n", SCHEMA)[0] == where


@pytest.mark.parametrize(
    ("where", "why"), REFUSED, ids=[f"{n}:{w[:24]!r}" for n, (w, _) in enumerate(REFUSED)]
)
def test_anything_else_is_refused_and_the_reason_is_given(where: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        checked(where, SCHEMA)


def test_the_place_is_shown_in_characters_and_quoted_values_are_not() -> None:
    with pytest.raises(UsageError) as refused:
        checked("key = 'é DOE^JOHN' AND random() > 1", SCHEMA)
    assert "At character 24" in str(refused.value)
    assert "⟦here⟧random()" in str(refused.value)
    assert "DOE" not in str(refused.value)


def test_two_columns_that_sql_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(UsageError, match="one name in SQL"):
        checked("a = 1", pa.schema([("a", pa.int64()), ("A", pa.int64())]))


def test_a_column_may_have_the_name_of_a_function() -> None:
    table = pa.table({"current_date": [1, 2], "now": [3, 3]})
    assert verdicts(table, "current_date = 2 AND now = 3") == [False, True]


def verdicts(table: pa.Table, where: str | pc.Expression) -> list[bool | None]:
    with condition(where, table.schema).judging() as judge:
        found: list[bool | None] = judge(table.combine_chunks().to_batches()[0]).to_pylist()
    return found


def test_the_columns_that_a_condition_uses_are_told_in_their_order() -> None:
    assert checked('rows > 1 AND \'A\' IN imagetype OR "odd ""name\' x" > Rows', SCHEMA)[1] == [
        "ImageType",
        "Rows",
        "odd \"name' x",
    ]
    assert checked("key = 'Rows'", SCHEMA)[1] == ["key"]
    assert checked("true", SCHEMA)[1] == []
    assert mentioned("upper(a) = 'b' AND (c[1] > 2 OR CASE WHEN d IS NULL THEN a = 'x' END)") == [
        "a",
        "c",
        "d",
    ]
    with pytest.raises(UsageError, match="second statement"):
        mentioned("true; SELECT 1")


def test_without_duckdb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(UsageError, match=r"snapengine\[sql\]"):
        checked("true", SCHEMA)


_CANARY = "canary-value-5f2c"
_SOME = """a b c "odd""x" a b c = < AND OR NOT ( ) 1 2.5 NULL 'x' IN IS LIKE || + CASE WHEN THEN ELSE END
    CAST AS INTEGER SELECT FROM read_text ; read_csv FILE -- /* $$ upper , [ ] ->> :: random DATE UNION { }"""
_WORDS = st.sampled_from(_SOME.split())
_GARBAGE = st.one_of(
    st.text(max_size=40), st.text(string.printable, max_size=40), st.lists(_WORDS, max_size=12).map(" ".join)
)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("canary") / "secret.csv"
    path.write_text(f"a\n{_CANARY}\n")
    return path


@settings(max_examples=300, deadline=None)
@given(text=_GARBAGE)
def test_random_text_is_refused_or_says_yes_or_no_of_each_row(canary: Path, text: str) -> None:
    table = pa.table(
        {"a": [1, None, 3], "b": ["x", "y", None], "c": [True, False, None], 'odd"x': [1.5, 2.5, None]}
    )
    said = ""
    try:
        assert len(verdicts(table, text.replace("FILE", f"'{canary}'"))) == 3
    except UsageError as refused:
        said = str(refused)
    assert _CANARY not in said
