"""A condition over files and batches chooses the rows that pandas chooses, in bounded memory."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from metadata_extractors.conditions import condition
from metadata_extractors.dicom_usual import DEFAULT_COLUMNS
from metadata_extractors.querying import Means, Scope, query
from metadata_extractors.registry import make_extractor
from metadata_extractors.selecting import Asked, Selected, in_order
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, BadData, UsageError
from snapengine.metadata_rows import joined_schema, row_schema
from tests.rows_fake import FakeJoined
from tests.seed import T0

QUESTION = "Modality = 'CT' AND PatientSex = 'M' AND PatientAgeYears > 50"
EXPRESSION = (
    (pc.field("Modality") == "CT") & (pc.field("PatientSex") == "M") & (pc.field("PatientAgeYears") > 50)
)
SCHEMA = joined_schema(
    row_schema(
        pa.schema(
            [
                ("Modality", pa.string()),
                ("PatientSex", pa.string()),
                pa.field("PatientAgeYears", pa.float64(), metadata={"unit": "a", "identifying": "true"}),
            ]
        )
    )
)


def synthetic(rows: int, first: int = 0, seed: int = 7, without: float = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "key": [f"ct/{n:09d}" for n in range(first, first + rows)],
        "version_id": [f"v{n % 7}" for n in range(rows)],
        "event_time": pa.array(np.arange(rows) + T0, pa.timestamp("ms", "UTC")),
        "time": ["event"] * rows,
        "outcome": pa.array(["ok"] * rows, mask=draw.random(rows) < without),
        "Modality": pa.array(np.array(["CT", "MR", "US"])[draw.integers(0, 3, rows)]),
        "PatientSex": pa.array(np.array(["M", "F"])[draw.integers(0, 2, rows)], mask=draw.random(rows) < 0.1),
        "PatientAgeYears": pa.array(draw.integers(0, 100, rows).astype(float), mask=draw.random(rows) < 0.1),
    }
    return pa.table([columns.get(f.name, pa.nulls(rows, f.type)) for f in SCHEMA], schema=SCHEMA)


def chosen_by_pandas(table: pa.Table) -> list[str]:
    frame: pd.DataFrame = table.to_pandas()
    wanted = (frame.Modality == "CT") & (frame.PatientSex == "M") & (frame.PatientAgeYears > 50)
    return sorted(frame[wanted & frame.outcome.notna()].key)


def counted(selected: Selected) -> tuple[int, int | None, int, int]:
    return selected.matched, selected.not_matched, selected.unknown, selected.without_row


def ask(
    where: Any,
    files: list[Path],
    rows: pa.Table,
    changed: list[str] | None = None,
    schema: pa.Schema = SCHEMA,
    columns: tuple[str, ...] = ("key", "PatientAgeYears"),
    numbers: bool = True,
    **means: Any,
) -> Selected:
    joined = FakeJoined(schema, files, changed or [], rows)
    asked = Asked(
        condition(where, schema), pa.schema([schema.field(name) for name in columns]), numbers=numbers
    )
    return query(joined, schema, asked, columns, Scope(), Means(**means)).selected


NO_ROWS = SCHEMA.empty_table()


@pytest.mark.parametrize("where", [QUESTION, EXPRESSION], ids=["sql", "pyarrow"])
def test_the_question_over_a_million_rows_is_answered_as_pandas_does(tmp_path: Path, where: Any) -> None:
    table = synthetic(1_000_000, without=0.01)
    files = [tmp_path / f"part '{n}'.parquet" for n in range(4)]
    for n, path in enumerate(files):
        pq.write_table(table.slice(n * 250_000, 250_000), path)
    newer = synthetic(1000, first=999_500, seed=8)
    gone = [f"ct/{n:09d}" for n in range(0, 1_000_000, 1999)]
    found = ask(where, files, newer, [*gone, *newer["key"].to_pylist()])
    left = table.filter(
        pc.invert(pc.is_in(table["key"], value_set=pa.array([*gone, *newer["key"].to_pylist()])))
    )
    rows = pa.concat_tables([left, newer])
    assert found.table["key"].to_pylist() == chosen_by_pandas(rows)
    known = rows.filter(pc.is_valid(rows["outcome"]))
    verdicts = pc.and_kleene(
        pc.and_kleene(pc.equal(known["Modality"], "CT"), pc.equal(known["PatientSex"], "M")),
        pc.greater(known["PatientAgeYears"], 50),
    )
    trues, nulls = pc.sum(verdicts).as_py(), verdicts.null_count
    without = rows.num_rows - known.num_rows
    assert counted(found) == (trues, known.num_rows - trues - nulls, nulls, without)
    field = found.table.schema.field("PatientAgeYears")
    assert field.metadata == {b"unit": b"a", b"identifying": b"true"}


def test_columns_that_a_file_lacks_are_null_and_of_their_type(tmp_path: Path) -> None:
    pq.write_table(synthetic(10), tmp_path / "old.parquet")
    wider = SCHEMA.append(pa.field("PixelSpacing", pa.list_(pa.float64())))
    newer = synthetic(3, first=10).append_column("PixelSpacing", pa.array([[1.0]] * 3))
    pq.write_table(newer, tmp_path / "new.parquet")
    paths = [tmp_path / "old.parquet", tmp_path / "new.parquet"]
    for files, matched in ((paths, 10), (paths[:1], 10), (paths[1:], 0)):
        found = ask("PixelSpacing IS NULL", files, wider.empty_table(), None, wider, ("PixelSpacing", "key"))
        assert found.table.schema.field("PixelSpacing").type == pa.list_(pa.float64())
        assert found.matched == matched


def _some(kind: pa.DataType) -> Any:
    """A value of the type, as Python has it."""
    if pa.types.is_list(kind):
        return [_some(kind.value_type), None]
    if pa.types.is_timestamp(kind):
        return dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC if kind.tz else None)
    told = {
        pa.string(): "é'x",
        pa.binary(): b"\x00\xff",
        pa.float64(): 1.25,
        pa.uint64(): 2**63 + 1,
        pa.bool_(): True,
        pa.date32(): dt.date(2020, 1, 2),
        pa.time64("us"): dt.time(1, 2, 3, 456789),
    }
    return told.get(kind, 5)


@pytest.mark.parametrize("extractor", ["dicom", "images", "nifti", "object", "parquet"])
def test_values_of_every_type_come_out_of_files_as_they_went_in(tmp_path: Path, extractor: str) -> None:
    names = [*DEFAULT_COLUMNS, "AcquisitionDateTime", "SelectorUVValue", "ICCProfile", "StudyDateText"]
    columns = names if extractor == "dicom" else None
    schema = joined_schema(row_schema(make_extractor(extractor, columns).schema))
    full = {field.name: _some(field.type) for field in schema} | {"key": "a", "outcome": "ok"}
    bare = {field.name: None if field.nullable else full[field.name] for field in schema}
    rows = [full, bare | {"key": "b", "outcome": "ok"}]
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, tmp_path / "m.parquet")
    for where in ("true", pc.field("key") >= "a"):
        found = ask(where, [tmp_path / "m.parquet"], schema.empty_table(), None, schema, tuple(schema.names))
        assert found.table.equals(table)
        assert found.table.schema.equals(schema, check_metadata=True)


def test_files_that_are_gone_damaged_or_unlike_the_rest_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveFileMissing, match=r"none\.parquet"):
        ask("true", [tmp_path / "none.parquet"], NO_ROWS)
    whole = tmp_path / "whole.parquet"
    pq.write_table(synthetic(10_000), whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(ArchiveDamaged, match=r"cut\.parquet"):
        ask("true", [tmp_path / "cut.parquet"], NO_ROWS)
    other = synthetic(3).set_column(SCHEMA.get_field_index("Modality"), "Modality", pa.array([1, 2, 3]))
    pq.write_table(other, tmp_path / "other.parquet")
    with pytest.raises(BadData, match=r"other\.parquet has int64 in its column Modality"):
        ask(QUESTION, [whole, tmp_path / "other.parquet"], NO_ROWS)
    with pytest.raises(BadData, match="Modality of the metadata is int64"):
        ask(QUESTION, [], other)


def test_a_folder_whose_name_is_a_pattern_is_refused(tmp_path: Path) -> None:
    for name in ("a[1]", "b*", "c?"):
        (tmp_path / name).mkdir()
        pq.write_table(synthetic(1), tmp_path / name / "m.parquet")
        with pytest.raises(UsageError, match="SNAPENGINE_CACHE"):
            ask("true", [tmp_path / name / "m.parquet"], NO_ROWS)


def test_a_value_that_breaks_the_condition_is_not_in_the_error(tmp_path: Path) -> None:
    pq.write_table(synthetic(10), tmp_path / "m.parquet")
    for files, rows in (([tmp_path / "m.parquet"], NO_ROWS), ([], synthetic(10))):
        with pytest.raises(UsageError, match="TRY_CAST") as caught:
            ask("CAST(key AS INTEGER) > 1", files, rows)
        assert "ct/" not in str(caught.value)
        assert ask("TRY_CAST(key AS INTEGER) > 1", files, rows).unknown == 10


def test_a_query_that_needs_more_memory_than_it_may_take_says_so(tmp_path: Path) -> None:
    pq.write_table(synthetic(300_000), tmp_path / "m.parquet")
    changed = [f"ct/{n:09d}" for n in range(300_000)]
    with pytest.raises(UsageError, match="raise `memory`"):
        ask(QUESTION, [tmp_path / "m.parquet"], NO_ROWS, changed, memory="8MiB", threads=1)
    for bad in ({"memory": "much"}, {"threads": 0}):
        with pytest.raises(UsageError):
            ask(QUESTION, [tmp_path / "m.parquet"], NO_ROWS, **bad)


def test_pyarrow_expressions_are_bound_before_they_are_run() -> None:
    for where, why in (
        (pc.field("Modalty") == "CT", "fit"),
        (pc.field("PatientAgeYears") + 1, "yes or no"),
        (pc.field("Modality") > 3, "fit"),
        (5, "text or a pyarrow"),
    ):
        with pytest.raises(UsageError, match=why):
            condition(where, SCHEMA)


def test_rows_come_in_key_order_wherever_they_come_from() -> None:
    one, two, three = synthetic(5, first=5), synthetic(5), synthetic(5, first=3)
    for parts in ((one, two), (two, one), (one, three, two), (two,), ()):
        table = in_order(pa.concat_tables([NO_ROWS, *parts]))
        assert table["key"].to_pylist() == sorted(key for part in parts for key in part["key"].to_pylist())


def test_without_all_numbers_only_what_is_ruled_out_is_not_counted(tmp_path: Path) -> None:
    table = synthetic(3000, without=0.05)
    failed = pc.if_else(pc.equal(table["version_id"], "v3"), "failed", table["outcome"])
    table = table.set_column(table.schema.get_field_index("outcome"), SCHEMA.field("outcome"), failed)
    pq.write_table(table.slice(0, 2900), tmp_path / "part.parquet")
    gone = table["key"].slice(0, 2900).to_pylist()[::50]
    newer = table.slice(2900)
    every = ask(QUESTION, [tmp_path / "part.parquet"], newer, gone)
    fewer = ask(QUESTION, [tmp_path / "part.parquet"], newer, gone, numbers=False)
    assert fewer.table.equals(every.table)
    assert fewer.not_matched is None
    assert (fewer.matched, fewer.unknown, fewer.without_row) == (
        every.matched,
        every.unknown,
        every.without_row,
    )
    assert fewer.outcomes == {"failed": every.outcomes["failed"]}
    assert min(fewer.matched, fewer.unknown, fewer.without_row, every.outcomes["ok"]) > 0
