"""Rows chosen by a condition are those that pandas chooses, and every object of a view is counted."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from metadata_extractors.selecting import Selected, query, select_where
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, BadData, UsageError

QUESTION = "Modality = 'CT' AND PatientSex = 'M' AND PatientAgeYears > 50"
EXPRESSION = (
    (pc.field("Modality") == "CT") & (pc.field("PatientSex") == "M") & (pc.field("PatientAgeYears") > 50)
)


def synthetic(rows: int, seed: int = 7) -> pa.Table:
    draw = np.random.default_rng(seed)
    ages = draw.integers(0, 100, rows).astype(float)
    return pa.table(
        {
            "key": [f"ct/{n:09d}" for n in range(rows)],
            "version_id": [f"v{n % 7}" for n in range(rows)],
            "Modality": pa.array(np.array(["CT", "MR", "US"])[draw.integers(0, 3, rows)]),
            "PatientSex": pa.array(
                np.array(["M", "F"])[draw.integers(0, 2, rows)], mask=draw.random(rows) < 0.1
            ),
            "PatientAgeYears": pa.array(ages, mask=draw.random(rows) < 0.1),
        }
    ).cast(
        pa.schema(
            [
                ("key", pa.string()),
                ("version_id", pa.string()),
                ("Modality", pa.string()),
                ("PatientSex", pa.string()),
                pa.field("PatientAgeYears", pa.float64(), metadata={"unit": "a", "identifying": "true"}),
            ]
        )
    )


def chosen_by_pandas(table: pa.Table) -> list[str]:
    frame: pd.DataFrame = table.to_pandas()
    wanted = (frame.Modality == "CT") & (frame.PatientSex == "M") & (frame.PatientAgeYears > 50)
    return sorted(frame[wanted].key)


def numbers(selected: Selected) -> tuple[int, int, int, int]:
    return selected.matched, selected.not_matched, selected.unknown, selected.without_row


@pytest.mark.parametrize("where", [QUESTION, EXPRESSION], ids=["sql", "pyarrow"])
def test_the_question_over_a_million_rows_is_answered_as_pandas_does(where: str) -> None:
    table = synthetic(1_000_000)
    selected = select_where(table, where, ["key", "PatientAgeYears"])
    assert selected.table["key"].to_pylist() == chosen_by_pandas(table)
    verdicts = pc.and_kleene(
        pc.and_kleene(pc.equal(table["Modality"], "CT"), pc.equal(table["PatientSex"], "M")),
        pc.greater(table["PatientAgeYears"], 50),
    )
    nulls = verdicts.null_count
    trues = pc.sum(verdicts).as_py()
    assert numbers(selected) == (trues, 1_000_000 - trues - nulls, nulls, 0)


@pytest.mark.parametrize("where", [QUESTION, EXPRESSION], ids=["sql", "pyarrow"])
@pytest.mark.parametrize("streamed", [False, True], ids=["table", "reader"])
def test_a_view_is_joined_and_objects_without_a_row_are_counted(
    tmp_path: Path, where: str, streamed: bool
) -> None:
    stored = synthetic(20_000)
    paths = [tmp_path / f"part '{n}'.parquet" for n in range(4)]
    for n, path in enumerate(paths):
        pq.write_table(stored.slice(n * 5000, 5000), path)
    seen = stored.slice(0, 12_000).select(["key", "version_id"])
    strange = pa.table({"key": ["no/row", "ct/000000001"], "version_id": ["v0", "another"]})
    view = pa.concat_tables([strange, seen])
    selected = query(
        paths, view.to_reader(1000) if streamed else view, where, ["key", "PatientAgeYears"], threads=1
    )
    assert selected.table["key"].to_pylist() == chosen_by_pandas(stored.slice(0, 12_000))
    assert selected.without_row == 2
    assert sum(numbers(selected)) == view.num_rows
    assert selected.table.schema.names == ["key", "PatientAgeYears"]
    field = selected.table.schema.field("PatientAgeYears")
    assert field.metadata == {b"unit": b"a", b"identifying": b"true"}
    alone = select_where(stored.slice(0, 12_000), where)
    assert numbers(selected)[:3] == numbers(alone)[:3]


def test_without_a_condition_every_row_of_the_view_comes(tmp_path: Path) -> None:
    stored = synthetic(100)
    pq.write_table(stored, tmp_path / "m.parquet")
    view = stored.select(["key", "version_id"]).append_column("event time", pa.array(range(100)))
    selected = query([tmp_path / "m.parquet"], view)
    assert selected.table.select(stored.schema.names).equals(stored)
    assert query([tmp_path / "m.parquet"], view, '"event time" < 10').matched == 10


def test_a_null_version_does_not_inherit_the_row_of_its_predecessor(tmp_path: Path) -> None:
    stored = pa.table(
        {
            "key": ["a", "a", "b"],
            "version_id": ["null", "null", "v1"],
            "etag": ["e1", "e2", "x"],
            "sequencer": ["01", None, "09"],
            "Rows": [1, 2, 3],
        }
    )
    pq.write_table(stored, tmp_path / "m.parquet")

    def ask(etag: str, sequencer: str | None) -> Selected:
        view = pa.table(
            {
                "key": ["a", "b"],
                "version_id": ["null", "v1"],
                "etag": [etag, "of the listing"],
                "sequencer": pa.array([sequencer, None], pa.string()),
            }
        )
        return query([tmp_path / "m.parquet"], view, "Rows > 0", null_join=("etag", "sequencer"))

    assert ask("e1", "01").table["Rows"].to_pylist() == [1, 3]
    assert ask("e2", None).table["Rows"].to_pylist() == [2, 3]
    assert numbers(ask("e1", None)) == (1, 0, 0, 1)


def test_two_rows_of_one_version_are_no_answer(tmp_path: Path) -> None:
    pq.write_table(synthetic(10), tmp_path / "a.parquet")
    pq.write_table(synthetic(1), tmp_path / "b.parquet")
    view = synthetic(10).select(["key", "version_id"])
    for where in (QUESTION, EXPRESSION):
        with pytest.raises(BadData, match="too many"):
            query([tmp_path / "a.parquet", tmp_path / "b.parquet"], view, where)


def test_columns_that_no_file_has_are_null_and_of_their_type(tmp_path: Path) -> None:
    stored = synthetic(10)
    pq.write_table(stored, tmp_path / "old.parquet")
    wider = pa.schema([*stored.schema, ("PixelSpacing", pa.list_(pa.float64()))])
    view = stored.select(["key", "version_id"])
    selected = query([tmp_path / "old.parquet"], view, "PixelSpacing IS NULL", schema=wider)
    assert selected.table.schema.field("PixelSpacing").type == pa.list_(pa.float64())
    assert numbers(selected) == (10, 0, 0, 0)
    assert numbers(query([], view, QUESTION, schema=stored.schema)) == (0, 0, 0, 10)


def test_files_that_are_gone_damaged_or_unlike_each_other_are_named(tmp_path: Path) -> None:
    view = synthetic(3).select(["key", "version_id"])
    with pytest.raises(ArchiveFileMissing, match=r"none\.parquet"):
        query([tmp_path / "none.parquet"], view)
    whole = tmp_path / "whole.parquet"
    pq.write_table(synthetic(10_000), whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(ArchiveDamaged, match=r"cut\.parquet"):
        query([tmp_path / "cut.parquet"], view)
    other = pa.table({"key": ["a"], "version_id": ["v"], "Modality": [1]})
    pq.write_table(other, tmp_path / "other.parquet")
    with pytest.raises(BadData, match="fit together"):
        query([whole, tmp_path / "other.parquet"], view)


def test_patterns_and_addresses_are_no_files() -> None:
    view = synthetic(1)
    for path in ("data/*.parquet", "a[1].parquet", "s3://bucket/a.parquet", "https://host/a.parquet"):
        with pytest.raises(UsageError):
            query([path], view)


def test_a_value_that_breaks_the_condition_is_not_in_the_error(tmp_path: Path) -> None:
    table = pa.table({"key": ["a"], "version_id": ["v"], "PatientName": ["DOE^JOHN"]})
    pq.write_table(table, tmp_path / "m.parquet")
    where = "CAST(PatientName AS INTEGER) > 1"
    with pytest.raises(UsageError, match="TRY_CAST") as in_memory:
        select_where(table, where)
    with pytest.raises(UsageError, match="TRY_CAST") as in_files:
        query([tmp_path / "m.parquet"], table, where)
    assert "DOE" not in f"{in_memory.value}{in_files.value}"
    assert numbers(select_where(table, "TRY_CAST(PatientName AS INTEGER) > 1")) == (0, 0, 1, 0)
    with pytest.raises(UsageError) as by_arrow:
        select_where(table, pc.field("PatientName").cast(pa.int64()) > 1)
    assert "DOE" not in str(by_arrow.value)


def test_a_query_that_needs_more_memory_than_it_may_take_says_so(tmp_path: Path) -> None:
    stored = synthetic(300_000)
    pq.write_table(stored, tmp_path / "m.parquet")
    view = stored.select(["key", "version_id"])
    with pytest.raises(UsageError, match="temporary"):
        query([tmp_path / "m.parquet"], view.to_reader(), QUESTION, memory="8MiB", threads=1)
    for bad in ({"memory": "much"}, {"threads": 0}):
        with pytest.raises(UsageError):
            query([tmp_path / "m.parquet"], view, QUESTION, **bad)


def test_pyarrow_expressions_are_bound_before_they_are_run() -> None:
    table = synthetic(3)
    for where, why in (
        (pc.field("Modalty") == "CT", "fit"),
        (pc.field("PatientAgeYears") + 1, "yes or no"),
        (pc.field("Modality") > 3, "fit"),
        (5, "text or a pyarrow"),
    ):
        with pytest.raises(UsageError, match=why):
            select_where(table, where)


def test_unknown_columns_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'Modality'"):
        select_where(synthetic(1), "true", ["Modalit"])
    with pytest.raises(UsageError, match="list of names"):
        select_where(synthetic(1), "true", "Modality")
    with pytest.raises(UsageError, match="schema"):
        select_where(synthetic(1).to_batches(), "true")
    with pytest.raises(UsageError, match="to join by"):
        query([], synthetic(1), "true", join=("key", "etag"), schema=synthetic(1).schema)


def test_without_duckdb_a_pyarrow_expression_still_selects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    table = synthetic(100)
    assert select_where(table, EXPRESSION).table["key"].to_pylist() == chosen_by_pandas(table)
