"""Footers prove that a column has no null, or one of few values, or they prove nothing."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metadata_extractors.footers import has_no_null, is_always_one_of

USUAL = ("ok", "not_matched")


def footer(values: Sequence[Any], *, name: str = "a", kind: Any = None, **how: Any) -> pq.FileMetaData:
    sink = pa.BufferOutputStream()
    table = pa.table({name: pa.array(values, kind), "other": pa.array([None] * len(values), pa.int64())})
    pq.write_table(table, sink, **{"row_group_size": 2, **how})
    return pq.read_metadata(pa.BufferReader(sink.getvalue()))


@pytest.mark.parametrize(
    "values",
    [["x", "y", "z"], [1, 2, 3], [1.5, float("nan"), 2.5], [True, False, True], [dt.date(2020, 1, 1)] * 3],
)
def test_a_column_of_which_every_row_group_counts_no_null_has_none(values: list[Any]) -> None:
    assert has_no_null([footer(values), footer(values)], "a")


def test_one_null_in_any_row_group_of_any_file_is_one() -> None:
    full, torn = footer([1, 2, 3, 4, 5]), footer([1, 2, 3, 4, None])
    assert has_no_null([full], "a")
    assert not has_no_null([full, torn], "a")
    assert not has_no_null([torn, full], "a")
    assert not has_no_null([footer([None, None], kind=pa.int64())], "a")


def test_a_column_without_statistics_proves_nothing() -> None:
    assert not has_no_null([footer([1, 2], write_statistics=False)], "a")
    assert not has_no_null([footer([1, 2], write_statistics=["other"])], "a")
    assert not is_always_one_of([footer(["ok"], write_statistics=False)], "a", USUAL)


def test_a_column_that_some_file_lacks_proves_nothing() -> None:
    assert not has_no_null([footer([1]), footer([1], name="b")], "a")
    assert not has_no_null([footer([1], name="A")], "a")
    assert not has_no_null([], "a")


def test_two_columns_that_sql_does_not_tell_apart_prove_nothing() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1], "A": pa.array([None], pa.int64())}), sink)
    assert not has_no_null([pq.read_metadata(pa.BufferReader(sink.getvalue()))], "a")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.timestamp("ms"), pa.time64("us")]
)
def test_values_that_are_read_in_another_way_than_they_are_stored_prove_nothing(kind: Any) -> None:
    value: Any = [1] if pa.types.is_list(kind) else {"a": 1} if pa.types.is_struct(kind) else 1
    found = footer([value, value], kind=kind)
    for name in ("a", "a.a", "a.list.element", "a.list.item"):
        assert not has_no_null([found], name)


def test_a_row_group_with_one_value_alone_always_has_it() -> None:
    assert is_always_one_of([footer(["ok", "ok", "not_matched"]), footer(["ok"])], "a", USUAL)


@pytest.mark.parametrize(
    "values",
    [
        ["ok", "failed"],
        ["ok", "ok", "failed"],
        ["not_matched", "ok"],
        ["ok", None],
        ["ok", "ok", None],
        ["failed"],
    ],
)
def test_a_row_group_with_any_other_proves_nothing(values: list[Any]) -> None:
    assert not is_always_one_of([footer(["ok"]), footer(values, kind=pa.string())], "a", USUAL)
