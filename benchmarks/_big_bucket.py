"""A bucket of any number of objects, with its log, its archive and a checkpoint, made once and kept.

It comes about as in production, only faster: the baseline goes straight to Parquet files that one entry of
the log names; events (3 % of the objects are overwritten, deleted, created, removed) go through the log in
entries of 500 rows; epochs are cut through it; the archiver makes segments of them. The checkpoint is older
than the last percent; if that is much, a differential tells of it, as the archiver's policy has it. The
newest thousand events are in the log alone.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import boto3
import pyarrow as pa
import pyarrow.compute as pc
from platformdirs import user_cache_path

from benchmarks import _big_metadata
from benchmarks._big_rows import (
    AFTER,
    BASELINE_ENDED,
    BEFORE,
    DAY,
    ENABLED,
    HOUR,
    LATELY,
    LISTING,
    PATIENT_OBJECTS,
    Made,
)
from benchmarks._listing_server import CountingSeaweedFs, alone_in, reaching
from benchmarks.harness import Unavailable
from snapengine.archive.manifest import ArchiveFile
from snapengine.archive.roots import Root
from snapengine.archive.schemas import OBSERVATION_ROWS
from snapengine.archive.writing import FileWriter
from snapengine.archiving.checkpoints import checkpoint, differential
from snapengine.archiving.policy import differential_due
from snapengine.archiving.segments import archive_segments, prepared_root
from snapengine.digest import digest
from snapengine.engine import Engine
from snapengine.log import EpochCutter, RowWriter, StreamWriter
from snapengine.model import CREATED, BucketConfig
from snapengine.observation_codec import MAX_ROWS, SCHEMA, observations_of
from snapengine.ports import LogStore
from snapengine.settings import Settings
from tools.local_servers import ServiceFailed, ServiceUnavailable

FORMAT = 3
"""Of the folder: what another made is refused."""
BUCKET = "scans"
ARCHIVE_BUCKET = "archive"
EPOCHS = 24
"""Cut in each stretch of events, at most."""
WRITERS = 4

RootKind = Literal["s3", "file"]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is in a folder."""

    format: int
    objects: int
    seed: int
    root: RootKind
    observations: int
    epoch: int
    """The newest."""
    at: int
    """Its time, UTC milliseconds: where views of it are taken."""
    digest: str
    """Of what is live, by the rows themselves."""
    seconds: dict[str, float]
    """Of the steps of making it."""
    metadata: bool = False
    """Whether every version has a row of metadata (see `_big_metadata`). Then a last change is later than
    `at`."""


@dataclass(frozen=True, slots=True)
class BigBucket:
    """One that is made; its server, if it has one, runs."""

    made: Made
    stamp: Stamp
    folder: Path

    def settings(self) -> Settings:
        """For engines that keep nothing: no cache."""
        return Settings(store=_store(self.folder), cache="off")

    def engine(self) -> Engine:
        return Engine(self.settings())


def default_folder() -> Path:
    return user_cache_path("snapengine-benchmarks") / "big_bucket"


@contextmanager
def big_buckets(
    folder: Path, sizes: Sequence[int], *, seed: int, root: RootKind, metadata: bool = False
) -> Iterator[list[BigBucket]]:
    """Buckets of these sizes, made where there are none; one server holds the archives of all.

    With `metadata` they are others, whose versions all have rows.

    Raises `Unavailable` where it does not run, or if the folder is in use or holds something else.
    """
    if wrong := [size for size in sizes if size % PATIENT_OBJECTS]:
        raise Unavailable(f"A patient has 1,000 objects: {wrong} is no multiple of that.")
    own = folder / f"{root}-seed-{seed}{'-metadata' if metadata else ''}"
    with alone_in(own), ExitStack() as stack:
        if root == "s3":
            try:
                server = stack.enter_context(CountingSeaweedFs(own / "server"))
            except (ServiceUnavailable, ServiceFailed) as problem:
                raise Unavailable(f"SeaweedFS does not run: {problem}") from problem
            stack.enter_context(reaching(server))
            _create_bucket()
        yield [_prepared(own / f"objects-{size}", Made(size, seed), root, metadata) for size in sizes]


def _create_bucket() -> None:
    client: Any = boto3.client("s3")
    if ARCHIVE_BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=ARCHIVE_BUCKET)


def _store(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.db'}"


def _prepared(folder: Path, made: Made, root: RootKind, metadata: bool) -> BigBucket:
    stamp = folder / "made.json"
    if stamp.exists():
        body = json.loads(stamp.read_text())
        found = {name: body.get(name) for name in ("format", "objects", "seed", "root")}
        if found != {"format": FORMAT, "objects": made.objects, "seed": made.seed, "root": root}:
            raise Unavailable(f"{folder} holds {found}. Remove it, or give another --folder.")
        return BigBucket(made, Stamp(**body), folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"making {folder}, once", file=sys.stderr)
    archive = f"s3://{ARCHIVE_BUCKET}/{folder.name}" if root == "s3" else f"file://{folder / 'archive'}"
    clock = Clock(ENABLED)
    engine = Engine(Settings(store=_store(folder), archive=archive, cache="off"), clock=clock)
    engine.store.create()
    stamped = asyncio.run(_Making(engine, clock, made, root, metadata).run())
    unfinished = folder / "made.json.new"
    unfinished.write_text(json.dumps(asdict(stamped)))
    unfinished.rename(stamp)
    return BigBucket(made, stamped, folder)


class Clock:
    """What time it is in the log; epochs and writers ask it."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class _Making:
    def __init__(self, engine: Engine, clock: Clock, made: Made, root: RootKind, metadata: bool) -> None:
        self._metadata = metadata
        self._engine = engine
        self._clock = clock
        self._made = made
        self._root_kind: RootKind = root
        self._seconds: dict[str, float] = {}
        self._observations = 0

    async def run(self) -> Stamp:
        engine = self._engine
        engine.store.put_config(
            BucketConfig(
                bucket=BUCKET,
                region="us-east-1",
                account="123456789012",
                enabled_at=ENABLED,
                baseline_started=ENABLED,
                baseline_ended=BASELINE_ENDED,
            )
        )
        root = prepared_root(engine, BUCKET)
        lists: dict[str, list[pa.Table]] = {"before": [], "after": [], "lately": []}
        async with engine.log() as log:
            with self._timed("baseline"):
                files = self._write_listing(root, lists)
                self._clock.now = BASELINE_ENDED
                await StreamWriter(log, "baseline", self._clock).append_files(
                    BUCKET, files, sum(f.rows for f in files)
                )
                self._clock.now += HOUR
                await EpochCutter(log, BUCKET, self._clock).cut()
            if self._metadata:
                with self._timed("rows"):
                    for lot in self._made.all_lots():
                        await self._write_rows(log, lot.listed)
            for name, (_, until) in (("before", BEFORE), ("after", AFTER)):
                with self._timed(f"events_{name}"):
                    await self._write_events(log, pa.concat_tables(lists[name]), until)
                with self._timed(f"segments_{name}"):
                    await archive_segments(engine, BUCKET)
                if name == "before":
                    with self._timed("checkpoint"):
                        await checkpoint(engine, root, BUCKET)
                elif differential_due(engine.archive(BUCKET)):
                    with self._timed("differential"):
                        await differential(engine, root, BUCKET)
            await self._write_events(log, pa.concat_tables(lists["lately"]), LATELY[1])
            newest = engine.store.newest_epoch(BUCKET)
            if newest is None:
                raise RuntimeError("no epoch was cut")
            if self._metadata:
                await self._write_events(log, self._made.deletions(), LATELY[1] + DAY)
        with self._timed("truth"):
            said = self._digest()
        return Stamp(
            format=FORMAT,
            objects=self._made.objects,
            seed=self._made.seed,
            root=self._root_kind,
            observations=self._observations,
            epoch=newest.number,
            at=newest.time,
            digest=said,
            seconds=self._seconds,
            metadata=self._metadata,
        )

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[step] = round(time.perf_counter() - started, 2)
        print(f"{step}: {self._seconds[step]:.1f} s", file=sys.stderr)

    def _write_listing(self, root: Root, lists: dict[str, list[pa.Table]]) -> list[ArchiveFile]:
        """The listing's files; the lots' events are put aside on the way."""
        files: list[ArchiveFile] = []
        writer: FileWriter | None = None
        try:
            for lot in self._made.all_lots():
                for name, kept in lists.items():
                    kept.append(getattr(lot, name))
                if writer is not None and writer.rows + lot.listed.num_rows > OBSERVATION_ROWS:
                    files.append(writer.close())
                    writer = None
                if writer is None:
                    path = f"{BUCKET}/listed/{LISTING}/part-{len(files):05d}.parquet"
                    writer = FileWriter(root, path, "irregular", SCHEMA, sort=("key", "position"))
                writer.write(lot.listed)
            if writer is not None:
                files.append(writer.close())
        finally:
            if writer is not None:
                writer.abandon()
        self._observations += sum(f.rows for f in files)
        return files

    async def _write_events(self, log: LogStore, events: pa.Table, until: int) -> None:
        """In the order of their times, in full batches, worker after worker, an epoch every so often."""
        events = events.sort_by("event_time")
        self._observations += events.num_rows
        await self._write_rows(log, events)
        writers = [StreamWriter(log, f"worker-{number}", self._clock) for number in range(WRITERS)]
        cutter = EpochCutter(log, BUCKET, self._clock)
        starts = range(0, events.num_rows, MAX_ROWS)
        every = -(-len(starts) // EPOCHS)
        for number, start in enumerate(starts):
            batch = observations_of(events.slice(start, MAX_ROWS))
            self._clock.now = batch[-1].event_time + 2_000
            await writers[number % WRITERS].append(BUCKET, batch)
            if number % every == every - 1:
                await cutter.cut()
        self._clock.now = until + HOUR
        await cutter.cut()

    async def _write_rows(self, log: LogStore, observations: pa.Table) -> None:
        created = observations.filter(pc.equal(observations["kind"], CREATED))
        if self._metadata and created.num_rows:
            writer = RowWriter(log, "extraction", self._clock)
            await writer.append(BUCKET, _big_metadata.EXTRACTOR, _big_metadata.rows_of(created))

    def _digest(self) -> str:
        """Row by row, from what is live, one lot at a time."""
        tables = (lot.live for lot in self._made.all_lots())
        columns = ([table[name].to_pylist() for name in table.column_names] for table in tables)
        return digest(row for each in columns for row in zip(*each, strict=True))
