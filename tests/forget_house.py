"""A bucket whose objects have rows of metadata with marked values, for tests of forgetting."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snapengine import View
from snapengine.archiving.forget import Asked, Done, forget
from snapengine.forgotten import key_unit
from snapengine.log import EpochCutter, RowWriter
from snapengine.metadata_rows import row_schema
from snapengine.model import Epoch
from snapengine.selections import Chosen, note
from tests.archive_house import KEYS, House, play
from tests.seed import T0

SCHEMA = row_schema(
    pa.schema(
        [
            pa.field("Modality", pa.string()),
            pa.field("Label", pa.dictionary(pa.int32(), pa.string())),
            pa.field("PatientName", pa.string(), metadata={"identifying": "true"}),
        ]
    )
)
EXTRACTORS = ("dicom", "plain")
"""The second has no identifying columns."""


def mark(key: str, version: str) -> str:
    """A value that only the row of that version has."""
    return f"MARK<{key}|{version}>"


def rows_of(
    versions: Iterable[tuple[str, str]], *, hidden: bool = True, extractor_version: str = "1", etag: str = ""
) -> pa.Table:
    """Rows with marked values: each key and version id."""
    schema = SCHEMA if hidden else pa.schema([f for f in SCHEMA if f.name != "PatientName"])
    rows = [
        {
            "key": key,
            "version_id": version,
            "etag": etag or f"etag-{version}",
            "extractor_version": extractor_version,
            "outcome": "ok",
            "extracted_at": T0,
            "Modality": f"CT {mark(key, version)}",
            "Label": mark(key, version),
            "PatientName": mark(key, version),
        }
        for key, version in versions
    ]
    return pa.Table.from_pylist(
        [{name: row.get(name) for name in schema.names} for row in rows], schema=schema
    )


def extract(house: House, seconds: float, versions: Sequence[tuple[str, str]], **options: Any) -> Epoch:
    """Append rows of both extractors and cut an epoch, `seconds` after T0."""
    house.clock.now = max(house.clock.now, T0 + round(1000 * seconds))

    async def run() -> Epoch:
        engine = house.engine()
        async with engine.log() as log:
            writer = RowWriter(log, "w", engine.clock)
            for name in EXTRACTORS:
                await writer.append(house.bucket, name, rows_of(versions, hidden=name == "dicom", **options))
            return await EpochCutter(log, house.bucket, engine.clock).cut()

    return asyncio.run(run())


def found(house: House, folders: Sequence[Path], *values: str) -> list[str]:
    """Where any of the values stands: in the bytes of the table and of the archive, in all that Parquet files
    and payloads hold, and in files below `folders`."""
    places = list(_everything(house, folders))
    assert places, "nothing was looked at"
    return sorted({name for name, data in places for value in values if value.encode() in data})


def _everything(house: House, folders: Sequence[Path]) -> Iterable[tuple[str, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                yield from _unpacked(str(path), path.read_bytes())
    if house.store.startswith("dynamodb://"):
        pages = boto3.client("dynamodb").get_paginator("scan").paginate(TableName=house.store[11:])
        for page in pages:
            for item in page["Items"]:
                yield f"{item['PK']['S']} {item['SK']['S']}", repr(item).encode()
                if "payload" in item:
                    yield from _unpacked(f"{item['PK']['S']} {item['SK']['S']}", bytes(item["payload"]["B"]))
    else:
        with closing(sqlite3.connect(house.store.removeprefix("sqlite:///"))) as connection:
            for table in ("log", "identifying"):
                for row in connection.execute(f"SELECT bucket, stream, number, payload FROM {table}"):  # noqa: S608  # a constant
                    yield from _unpacked(f"{table} {row[:3]}", row[3])
    if house.archive.startswith("s3://"):
        s3 = boto3.client("s3")
        name = house.archive[5:].partition("/")[0]
        for listed in s3.get_paginator("list_object_versions").paginate(Bucket=name):
            for one in listed.get("Versions", []):
                body = s3.get_object(Bucket=name, Key=one["Key"], VersionId=one["VersionId"])["Body"].read()
                yield from _unpacked(f"{one['Key']}@{one['VersionId']}", body)


def _unpacked(name: str, data: bytes) -> Iterable[tuple[str, bytes]]:
    """The bytes, and what is in them if they are Parquet or a payload."""
    yield name, data
    start = data.find(b"PAR1")
    if start >= 0 and data[:4] != b"SQLi":
        try:
            table = pa.parquet.ParquetFile(pa.BufferReader(data[start:])).read()
        except pa.ArrowException:
            return  # a piece of one
        yield name, repr(table.to_pydict()).encode()
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            yield name, stream.read()


@dataclass(frozen=True)
class Site:
    """A house, and the folders in which nothing may be left."""

    house: House
    folders: tuple[Path, ...] = ()

    def left(self, *versions: tuple[str, str]) -> list[str]:
        """Where a value of one of the versions stands."""
        return found(self.house, self.folders, *(mark(*version) for version in versions))


def units(*keys: str) -> list[str]:
    return [key_unit(key) for key in keys]


LAST = [(key, f"f-{key}") for key in KEYS]
"""The versions of the newest epoch."""
NOW = T0 + 2_000_000
EARLIER = [(key, f"e-{key}") for key in KEYS[4:14]] + [(key, f"b-{key}") for key in KEYS[:-1]]


def populated(site: Site) -> House:
    """Rows of past and present versions; some in the archive alone with a checkpoint, some in the log too."""
    house = site.house
    play(house)
    extract(house, 3700, EARLIER)
    house.round(checkpoint_now=True)
    extract(house, 3800, LAST)
    extract(house, 3900, LAST[:3], extractor_version="2")
    narrow(house, ["ct/03", "ct/04"], f"PatientName = '{mark('ct/03', 'f-ct/03')}'")
    house.clock.now += 600_000
    house.round(checkpoint_now=True)
    extract(house, 5000, [("ct/03", "f-ct/03"), ("late", "f-late")])
    narrow(house, ["late"], f"PatientName = '{mark('late', 'f-late')}'")
    return house


def narrow(house: House, keys: Sequence[str], condition: str, *, identifying: bool = True) -> View:
    """Some objects as a narrowed view that a condition gave."""
    engine = house.engine()
    view = engine.view(house.bucket)
    some = view.select(keys)
    chosen = Chosen(view.reference, condition, "dicom", {"matched": len(keys)}, identifying)

    async def run() -> None:
        async with engine.log() as log:
            await note(log, some.ref, chosen, engine.clock)

    asyncio.run(run())
    return some


def run(house: House, asked: Asked | None) -> Done:
    return asyncio.run(forget(house.engine(), house.bucket, asked))


def joined(house: House, extractor: str, at: int, epoch: int | None = None) -> dict[str, dict[str, Any]]:
    """By key what a view shows with its rows, all columns."""
    engine = house.engine()
    view = engine.view(house.bucket, at, epoch=epoch)
    told = view.joined(extractor, identifying=True)
    tables = [pa.Table.from_batches([batch]) for batch in told.batches()]
    for path in told.files:
        table = pq.read_table(path)
        tables.append(
            table.filter(pc.invert(pc.is_in(table["key"], value_set=pa.array(told.changed, pa.string()))))
        )
    told.verify()
    return {row["key"]: row for table in tables for row in table.to_pylist()}
