"""Sorting outside memory: whatever comes in, comes out by key ranges, each row once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapengine.archive.planning import KeyRange, split
from snapengine.archive.sorting import BATCH_ROWS, Sorter

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("row", pa.int64())])
ALL = KeyRange("", None)


def table(keys: list[str], first: int = 0) -> pa.Table:
    return pa.table([pa.array(keys, pa.string()), pa.array(range(first, first + len(keys)))], schema=SCHEMA)


def sorted_out(batches: list[list[str]], run_bytes: int, rows_at_once: int) -> list[tuple[str, int]]:
    out: list[tuple[str, int]] = []
    with Sorter(SCHEMA, run_bytes=run_bytes) as sorter:
        first = 0
        for keys in batches:
            sorter.add(table(keys, first))
            first += len(keys)
        assert sorter.rows == first
        for between in split(sorter.bounds(), ALL, rows_at_once):
            part = sorter.within(between)
            out += sorted(zip(part["key"].to_pylist(), part["row"].to_pylist(), strict=True))
    return out


@settings(deadline=None)
@given(
    st.lists(st.lists(st.text(max_size=3), max_size=8), max_size=8),
    st.sampled_from([1, 60, 10**9]),
    st.integers(1, 20),
)
def test_every_row_comes_once_and_in_the_order_of_keys(
    batches: list[list[str]], run_bytes: int, rows: int
) -> None:
    flat = [key for keys in batches for key in keys]
    assert sorted_out(batches, run_bytes, rows) == sorted((key, row) for row, key in enumerate(flat))


def test_runs_on_the_disk_are_read_in_pieces_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    count = 3 * BATCH_ROWS
    keys = [f"{(i * 7919) % count:09d}" for i in range(count)]
    with Sorter(SCHEMA, run_bytes=1) as sorter:
        for start in range(0, count, BATCH_ROWS):
            sorter.add(table(keys[start : start + BATCH_ROWS]))
        bounds = sorter.bounds()
        assert len(list(tmp_path.rglob("*.arrow"))) == 3
        ranges = split(bounds, ALL, BATCH_ROWS)
        assert sum(sorter.within(keys).num_rows for keys in ranges) == count
        few = sorter.within(KeyRange("000000010", "000000020"))["key"].to_pylist()
        assert sorted(few) == [f"{i:09d}" for i in range(10, 20)]
    assert list(tmp_path.iterdir()) == []


def test_what_fits_into_memory_never_touches_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "is not there"))
    assert sorted_out([["b", "a"], ["a"]], 10**9, 10) == [("a", 1), ("a", 2), ("b", 0)]


def test_the_runs_of_a_sorter_that_failed_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sorter = Sorter(SCHEMA, run_bytes=1)
    with pytest.raises(KeyError), sorter:
        _add_and_fail(sorter)
    assert list(tmp_path.iterdir()) == []


def _add_and_fail(sorter: Sorter) -> None:
    sorter.add(table(["a"]))
    raise KeyError
