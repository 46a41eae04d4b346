"""A bucket with an eventful history, over either store and either kind of root, for tests of archiving."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import boto3
import pytest

from snapengine import Engine, Settings
from snapengine.archive.manifest import Archive, ArchiveFile
from snapengine.archive.roots import Root
from snapengine.archive.writing import FileWriter
from snapengine.archiving.run import ArchiveReport, archive_bucket
from snapengine.archiving.segments import prepared_root
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BASELINE, CREATED, RECONCILE, VERSION_DELETED, Epoch, Observation
from snapengine.observation_codec import SCHEMA, decode_table, encode
from snapengine.resolver import key_history
from tests.seed import T0, enable, event, marker, record, removal

DAY = 86_400_000
SELECTIONS: list[Literal["last", "all"]] = ["last", "all"]
KEYS = [f"ct/{n:02d}" for n in range(12)] + ["é", "日本/😀", "mr/1", "late"]
INSTANTS = [T0 + 1000 * s for s in (-3600, 5, 150, 160, 320, 480, 900, 1300)]


class Clock:
    """UTC milliseconds, as a test sets them."""

    def __init__(self, now: int = T0) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@dataclass
class House:
    """A store and a root. Each `engine()` is another process, as far as what it remembers goes."""

    store: str
    archive: str
    clock: Clock = field(default_factory=Clock)
    bucket: str = "scans"

    def engine(self) -> Engine:
        return Engine(Settings(store=self.store, archive=self.archive, cache="off"), clock=self.clock)

    def root(self) -> Root:
        return self.engine().root(self.archive)

    def manifests(self) -> Archive:
        return self.engine().archive(self.bucket)

    def record(self, seconds: float, observations: Sequence[Observation]) -> Epoch:
        """Commit observations and cut an epoch, `seconds` after T0."""
        self.clock.now = T0 + round(1000 * seconds)
        return record(self.engine(), observations, self.bucket)

    def record_files(self, seconds: float, *files: Sequence[Observation]) -> Epoch:
        """The same, straight to Parquet, a file for each sequence."""
        self.clock.now = T0 + round(1000 * seconds)
        prepared_root(self.engine(), self.bucket)
        named = [put_listed(self.root(), self.bucket, rows) for rows in files]

        async def run() -> Epoch:
            engine = self.engine()
            async with engine.log() as log:
                writer = StreamWriter(log, "baseline", engine.clock)
                await writer.append_files(self.bucket, named, sum(map(len, files)))
                return await EpochCutter(log, self.bucket, engine.clock).cut()

        return asyncio.run(run())

    def cut(self, caught_up: int) -> Epoch:
        """An epoch that tells of no observation, but of a watermark."""

        async def run() -> Epoch:
            engine = self.engine()
            async with engine.log() as log:
                await log.raise_caught_up(self.bucket, caught_up)
                return await EpochCutter(log, self.bucket, engine.clock).cut()

        return asyncio.run(run())

    def round(self, **options: Any) -> ArchiveReport:
        return asyncio.run(archive_bucket(self.engine(), self.bucket, **options))

    def answers(self, *, some: bool = False) -> dict[Any, Any]:
        """Every view, slice and history that can be asked for; or some of each kind."""
        engine = self.engine()
        found: dict[Any, Any] = {}
        newest = engine.store.newest_epoch(self.bucket)
        assert newest is not None
        first = newest.number if some else 1
        for epoch in engine.store.epochs(self.bucket, first, newest.number):
            for at in INSTANTS[1::2] if some else INSTANTS:
                found[at, epoch.number] = engine.view(self.bucket, at, epoch=epoch.number).digest()
            for key in KEYS:
                history = key_history(engine, self.bucket, key, epoch)
                found[key, epoch.number] = sorted(set(history), key=repr)
        for versions in SELECTIONS:
            view = engine.slice(self.bucket, INSTANTS[1], INSTANTS[-2], versions=versions)
            found[versions] = view.digest()
        found["ct"] = engine.view(self.bucket, INSTANTS[-1], prefix="ct/0").digest()
        return found


def put_listed(root: Root, bucket: str, rows: Sequence[Observation]) -> ArchiveFile:
    """A file as a baseline writes it: the log's columns, in the order of the listing."""
    path = f"{bucket}/listed/{uuid4().hex[:8]}/part-00000.parquet"
    with FileWriter(root, path, "irregular", SCHEMA, sort=("key",)) as writer:
        writer.write(decode_table(encode(rows)))
    return writer.file


def listed(
    key: str, version: str, seconds: float, page: float, position: int, listing: str = "L1"
) -> Observation:
    return Observation(
        kind=CREATED,
        key=key,
        version_id=version,
        event_time=T0 + round(seconds) * 1000,
        size=7,
        etag=f"etag-{version}",
        storage_class="STANDARD",
        origin=BASELINE if listing == "L1" else RECONCILE,
        listing=listing,
        page_time=T0 + round(page * 1000),
        position=position,
    )


def absent(key: str, version: str, page: float) -> Observation:
    at = T0 + round(page * 1000)
    return Observation(
        kind=VERSION_DELETED,
        key=key,
        version_id=version,
        event_time=at,
        origin=RECONCILE,
        listing="L2",
        page_time=at,
    )


def baseline() -> list[Observation]:
    """Listed at T0: two versions of each key, the older of which came an hour before."""
    rows: list[Observation] = []
    for key in sorted(KEYS[:-1]):
        rows.append(listed(key, f"b-{key}", -10, 0, len(rows)))
        rows.append(listed(key, f"a-{key}", -3600, 0, len(rows)))
    return rows


def play(house: House, *, files: bool = False) -> None:
    """Seven epochs: a baseline, events in and out of time, deletions, a null version, a later listing."""
    engine = house.engine()
    engine.store.create()
    enable(engine, house.bucket)
    first = baseline()
    if files:
        house.record_files(10, first[:10], first[10:])
    else:
        house.record(10, first)
    house.record(160, [event(key, f"c-{key}", 150 + n) for n, key in enumerate(KEYS[:8])])
    house.record(
        330, [marker("ct/00", "m", 320), removal("ct/01", "c-ct/01", 321), event("mr/1", "null", 322)]
    )
    house.record(500, [event("late", "v-late", 20), event("ct/02", "d-ct/02", 480)])
    house.record(900, [event(key, f"e-{key}", 800 + n) for n, key in enumerate(KEYS[4:14])])
    again = [listed("ct/03", "never-told", 850, 1000, 0, "L2"), absent("ct/05", "c-ct/05", 1000)]
    house.record(1010, again)
    house.record(1400, [event(key, f"f-{key}", 1300 + n) for n, key in enumerate(KEYS)])
    house.clock.now = T0 + 3_600_000


def sqlite_house(folder: Path) -> House:
    return House(f"sqlite:///{folder}/log.db", f"file://{folder}/root")


def dynamodb_house(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    name = f"archive-{uuid4().hex}"
    client: Any = boto3.client("s3")
    client.create_bucket(Bucket=name)
    return House(f"dynamodb://t{uuid4().hex}", f"s3://{name}/the/prefix")
