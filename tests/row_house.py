"""Rows of metadata for the bucket of `archive_house`, and all that can be asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from snapengine.log import EpochCutter, RowWriter
from snapengine.metadata_rows import row_schema
from snapengine.model import Epoch, ObjectVersion, SnapshotRef
from snapengine.row_reading import extractors_of, joined
from snapengine.row_reading import row_schema as schema_of
from tests.archive_house import INSTANTS, House, play
from tests.row_answers import read
from tests.seed import T0


def field(name: str, kind: pa.DataType, *, identifying: bool = False) -> pa.Field[Any]:
    return pa.field(name, kind, metadata={"identifying": str(identifying).lower(), "tag": name.upper()})


DICOM = row_schema(
    pa.schema(
        [
            field("Modality", pa.string()),
            field("Spacing", pa.list_(pa.float64())),
            field("PatientName", pa.string(), identifying=True),
        ]
    )
)
DICOM_2 = row_schema(
    pa.schema([*list(DICOM)[8:], field("Rows", pa.int64()), field("Born", pa.date32(), identifying=True)])
)
SIZES = row_schema(pa.schema([field("width", pa.int64())]))
SECRET = "Zebra^Marked"


def rows_of(versions: Iterable[ObjectVersion], schema: pa.Schema, seconds: float, **values: Any) -> pa.Table:
    """A row of each version, extracted so many seconds after T0."""
    told = {"extractor_version": "1", "outcome": "ok", "PatientName": SECRET, "Modality": "CT"} | values
    rows = [
        {
            "key": v.key,
            "version_id": v.version_id,
            "etag": v.etag,
            "sequencer": v.sequencer,
            "extracted_at": T0 + round(1000 * seconds),
            "Spacing": [1.0, float(number)],
            "width": number,
        }
        | told
        for number, v in enumerate(versions)
    ]
    kept = [{name: row.get(name) for name in schema.names} for row in rows]
    return pa.Table.from_pylist(kept, schema=schema)


def append(house: House, extractor: str, table: pa.Table) -> Epoch:
    """Commit rows, and cut an epoch."""

    async def run() -> Epoch:
        engine = house.engine()
        async with engine.log() as log:
            await RowWriter(log, "extractor", engine.clock).append(house.bucket, extractor, table)
            return await EpochCutter(log, house.bucket, engine.clock).cut()

    return asyncio.run(run())


def play_with_rows(house: House) -> None:
    """The seven epochs of `archive_house.play`, and five of rows: of two extractors, some of a newer version,
    and of versions that are no more."""
    play(house)
    for place, at in enumerate((INSTANTS[2], T0 + 2_000_000)):
        shown = list(house.engine().view(house.bucket, at).versions())
        append(house, "dicom", rows_of(shown[place:], DICOM, 5000 + place))
        append(house, "sizes", rows_of(shown[:9], SIZES, 5000 + place))
    again = list(house.engine().view(house.bucket, T0 + 2_000_000).versions())[3:6]
    append(house, "dicom", rows_of(again, DICOM_2, 6000, Modality="MR", extractor_version="2", Rows=512))


def row_answers(house: House, *, some: bool = False, full: bool = True) -> dict[Any, Any]:
    """Every view joined with its rows."""
    engine = house.engine()
    found: dict[Any, Any] = {}
    newest = engine.store.newest_epoch(house.bucket)
    assert newest is not None
    numbers = [newest.number] if some else range(6, newest.number + 1)
    for number in numbers:
        epoch = engine.store.epoch(house.bucket, number)
        assert epoch is not None
        found[number] = extractors_of(engine, house.bucket, epoch)
        for extractor in ("dicom", "sizes"):
            schema = schema_of(engine, house.bucket, epoch, extractor)
            found[number, extractor] = [(f.name, f.type, f.metadata) for f in schema]
            for at in [*INSTANTS[3::4], T0 + 2_000_000] if some else [*INSTANTS[1::2], T0 + 2_000_000]:
                for identifying in (False, True) if full else (False,):
                    ref = SnapshotRef(house.bucket, "", at, number)
                    answer = read(joined(engine, ref, epoch, extractor, identifying))
                    found[number, extractor, at, identifying] = answer.schema.names, answer.to_pylist()
    return found
