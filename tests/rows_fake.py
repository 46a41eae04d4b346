"""Rows of metadata in memory, joined with a view as `Joined` promises: as batches, or beside files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from metadata_extractors.registry import make_extractor
from snapengine import Engine
from snapengine.errors import IdentifyingRefused
from snapengine.metadata_rows import ROW_FIELDS, identifying_names, join_rows, joined_schema, row_schema
from snapengine.model import Epoch, SnapshotRef
from tests.seed import T0

COLUMNS = ["Modality", "PatientID", "PatientSex", "PatientAge", "StudyDate", "PixelSpacing", "Rows"]


def rows_of(told: dict[str, dict[str, Any]], columns: Sequence[str] = tuple(COLUMNS)) -> pa.Table:
    """Rows by key: values by column, and perhaps `version_id`, `outcome` and the like."""
    schema = row_schema(make_extractor("dicom", list(columns)).schema)
    usual = {"extractor_version": "1", "outcome": "ok", "extracted_at": T0}
    listed = [{"key": key, "version_id": f"v-{key}", **usual, **values} for key, values in told.items()]
    return pa.table(
        [pa.array([row.get(field.name) for row in listed], field.type) for field in schema], schema=schema
    )


@dataclass
class FakeJoined:
    schema: pa.Schema
    files: list[Path]
    changed: Sequence[str]
    rows: pa.Table
    damaged: Exception | None = None

    def settled(self) -> FakeJoined:
        return self

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self.rows.to_batches(max_chunksize=3)

    def abandon(self) -> None:
        """Nothing is being read."""

    def verify(self, columns: Sequence[str] | None = None) -> None:
        if self.damaged is not None:
            raise self.damaged


class FakeRows:
    """Stands in for `Engine.joined` and `Engine.row_schema`."""

    def __init__(self, rows: pa.Table | None, folder: Path | None = None) -> None:
        """With a `folder` the rows are in files there, except those of `changed` keys."""
        self.rows = rows
        self.folder = folder
        self.changed: list[str] = []
        self.denied = False
        self.damaged: Exception | None = None
        self.asked: list[bool] = []

    def into(self, monkeypatch: pytest.MonkeyPatch) -> FakeRows:
        """Have every engine read these rows."""

        def joined(engine: Engine, *given: Any, **how: Any) -> FakeJoined:
            return self.joined(engine, *given, **how)

        monkeypatch.setattr(Engine, "joined", joined)
        monkeypatch.setattr(Engine, "row_schema", lambda *_: self._rows.schema)
        return self

    @property
    def _rows(self) -> pa.Table:
        return self.rows if self.rows is not None else pa.schema(ROW_FIELDS).empty_table()

    def joined(
        self,
        engine: Engine,
        ref: SnapshotRef,
        epoch: Epoch,
        extractor: str,
        *,
        identifying: bool,
        columns: Sequence[str] | None = None,
    ) -> FakeJoined:
        assert ref.selection == ""
        self.asked.append(identifying)
        if identifying and self.denied:
            raise IdentifyingRefused("This role may not read identifying columns.")
        rows = self._rows
        full = joined_schema(rows.schema)
        hidden = [] if identifying else identifying_names(rows.schema)
        view = join_rows(engine.table(ref, epoch), rows.drop_columns(hidden))
        if self.folder is None:
            return FakeJoined(full, [], [], view, self.damaged)
        files = self._files(engine, ref, epoch, rows.drop_columns(hidden))
        changed = pc.is_in(view["key"], value_set=pa.array(self.changed, pa.string()))
        return FakeJoined(full, files, self.changed, view.filter(changed), self.damaged)

    def _files(self, engine: Engine, ref: SnapshotRef, epoch: Epoch, rows: pa.Table) -> list[Path]:
        """The whole bucket, with what no longer holds of the changed keys."""
        assert self.folder is not None
        whole = SnapshotRef(ref.bucket, "", ref.at, ref.epoch)
        table = join_rows(engine.table(whole, epoch), rows)
        stale = pc.is_in(table["key"], value_set=pa.array(self.changed, pa.string()))
        version = pc.if_else(stale, "stale", table["version_id"])
        table = table.set_column(1, table.schema.field(1), version.cast(pa.string()))
        made = []
        for number, start in enumerate(range(0, table.num_rows, 7)):
            path = self.folder / f"live '{number}'.parquet"
            pq.write_table(table.slice(start, 7), path)
            made.append(path)
        return made
