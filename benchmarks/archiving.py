"""From the log to a committed segment: observations a second, and bytes an observation at rest.

The log holds entries of 500 rows as a worker makes them (new objects, in random order of their keys: what
sorts and compresses worst) and some epochs. Timed is `archive_segments`: the lease, reading and decoding
the entries, sorting, two Parquet files or more with their checksums, the epochs' file, reading all of it
back, the commit. Once over SQLite, once over DynamoDB Local; the archive is in a folder. The peer is
`pyarrow.parquet.write_table` (zstd) of the same rows, which it has in memory, in the log's order. What the
segment holds is compared with what was logged, row by row, with the epoch of each.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks._big_bucket import Clock
from benchmarks._big_rows import ENABLED, HOUR, PATIENT_OBJECTS, Made
from benchmarks._dynamodb import BUCKET, add_endpoint_option, dynamodb_local, fresh_table
from benchmarks.harness import Figure, Result, Target, alternate, median_ratio, positive, timed
from snapengine.archive.manifest import Segment, from_json
from snapengine.archive.schemas import ARCHIVED, EPOCH
from snapengine.archiving.segments import archive_segments
from snapengine.engine import Engine
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BucketConfig
from snapengine.observation_codec import MAX_ROWS, observations_of
from snapengine.settings import Settings

EPOCH_ENTRIES = 100
"""Entries between two epochs."""
STREAMS = 4
EVENTS = (ENABLED, ENABLED + 8 * HOUR)
"""When the objects are put."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--observations", type=positive, default=500_000, help="in SQLite, to the next 1,000")
    parser.add_argument(
        "--dynamodb", type=positive, default=50_000, help="in DynamoDB Local, to the next 1,000"
    )
    parser.add_argument("--repetitions", type=positive, default=3, help="of each side")
    add_endpoint_option(parser)


def run(options: argparse.Namespace) -> Result:
    with tempfile.TemporaryDirectory(prefix="snapengine-") as folder:
        with _sqlite(Path(folder)) as engine:
            sqlite = measure(engine, Path(folder), options.observations, options.repetitions)
        with dynamodb_local(options.endpoint_url), fresh_table() as engine:
            dynamodb = measure(engine, Path(folder), options.dynamodb, options.repetitions)
    return result(sqlite, dynamodb, options.repetitions)


@dataclass(frozen=True, slots=True)
class Measured:
    """One store's log, archived several times."""

    observations: int
    seconds: list[float]
    plain_seconds: list[float]
    """Of the peer."""
    size: int
    """Bytes of the segment's files."""
    plain_size: int
    right: bool


def measure(logged: Engine, folder: Path, observations: int, repetitions: int) -> Measured:
    """Fill the log of an engine's bucket, then archive it, forget that, and archive it again."""
    clock = Clock(ENABLED)
    archive = folder / "archive"
    settings = Settings(store=logged.settings.store, archive=f"file://{archive}", cache="off")
    engine = Engine(settings, clock=clock)
    expected = asyncio.run(fill(engine, clock, -(-observations // PATIENT_OBJECTS)))
    plain = expected.drop_columns(["epoch"])
    judged: list[bool] = []
    sizes: list[int] = []

    def ours() -> float:
        seconds = timed(lambda: asyncio.run(archive_segments(engine, BUCKET)))
        segments = segments_of(engine)
        sizes.append(sum(f.size for s in segments for f in s.files))
        if not judged:  # that once, as it takes longer than what is timed
            judged.append(_held(engine, segments).equals(_in_order(expected)))
        for segment in segments:
            engine.store.delete_manifest(BUCKET, segment.name)
        shutil.rmtree(archive)
        return seconds

    def peer() -> float:
        return timed(lambda: pq.write_table(plain, folder / "plain.parquet", compression="zstd"))

    archived, written = alternate(ours, peer, repetitions)
    return Measured(
        observations=expected.num_rows,
        seconds=archived,
        plain_seconds=written,
        size=sizes[-1],
        plain_size=(folder / "plain.parquet").stat().st_size,
        right=all(judged),
    )


@contextmanager
def _sqlite(folder: Path) -> Iterator[Engine]:
    engine = Engine(Settings(store=f"sqlite:///{folder / 'store.db'}"))
    engine.store.create()
    yield engine


def segments_of(engine: Engine) -> list[Segment]:
    """In the order of their epochs."""
    manifests = map(from_json, engine.store.manifests(BUCKET))
    return sorted((each for each in manifests if isinstance(each, Segment)), key=lambda s: s.first)


async def fill(engine: Engine, clock: Clock, patients: int) -> pa.Table:
    """Write the log; what it holds, by `ARCHIVED`, in its order."""
    engine.store.put_config(
        BucketConfig(
            bucket=BUCKET,
            region="us-east-1",
            account="123456789012",
            streams=STREAMS,
            enabled_at=ENABLED,
            baseline_started=ENABLED,
            baseline_ended=ENABLED,
        )
    )
    events = pa.concat_tables(Made(patients * PATIENT_OBJECTS, 1).uploads(EVENTS)).sort_by("event_time")
    epochs: list[int] = []
    async with engine.log() as log:
        writers = [StreamWriter(log, f"worker-{number}", clock) for number in range(STREAMS)]
        cutter = EpochCutter(log, BUCKET, clock)
        for number, start in enumerate(range(0, events.num_rows, MAX_ROWS), 1):
            batch = observations_of(events.slice(start, MAX_ROWS))
            clock.now = batch[-1].event_time + 2_000
            await writers[number % STREAMS].append(BUCKET, batch)
            epochs += [(number - 1) // EPOCH_ENTRIES + 1] * len(batch)
            if number % EPOCH_ENTRIES == 0 or start + MAX_ROWS >= events.num_rows:
                await cutter.cut()
    return events.append_column(EPOCH, pa.array(epochs, pa.int64())).replace_schema_metadata(None)


def _held(engine: Engine, segments: Sequence[Segment]) -> pa.Table:
    reader = engine.files(BUCKET)
    files = [file for segment in segments for file in segment.observations]
    return _in_order(pa.concat_tables([ARCHIVED.empty_table(), *(reader.read(file) for file in files)]))


def _in_order(table: pa.Table) -> pa.Table:
    """Version ids are drawn at random: no two are the same."""
    plain = table.replace_schema_metadata(None)
    return plain.take(pc.sort_indices(plain, sort_keys=[("version_id", "ascending")])).combine_chunks()


def result(sqlite: Measured, dynamodb: Measured, repetitions: int) -> Result:
    figures: dict[str, Figure] = {}
    ratios: dict[str, Any] = {}
    for name, found in (("sqlite", sqlite), ("dynamodb", dynamodb)):
        figures |= {
            f"{name}_rate": Figure.of([found.observations / s for s in found.seconds], "observations/s"),
            f"{name}_plain_write": Figure.of(
                [found.observations / s for s in found.plain_seconds], "observations/s"
            ),
            f"{name}_at_rest": Figure.of([found.size / found.observations], "bytes/observation"),
            f"{name}_plain_at_rest": Figure.of([found.plain_size / found.observations], "bytes/observation"),
        }
        ratios[f"{name}_time_to_plain_write"] = median_ratio(found.seconds, found.plain_seconds)
    ratios |= {
        "bytes_an_observation": max(each.size / each.observations for each in (sqlite, dynamodb)),
        "size_to_plain": sqlite.size / sqlite.plain_size,
    }
    return Result(
        name="archiving",
        params={
            "observations": sqlite.observations,
            "dynamodb_observations": dynamodb.observations,
            "entry_rows": MAX_ROWS,
            "root": "file",
            "repetitions": repetitions,
        },
        figures=figures,
        ratios=ratios,
        targets={"bytes_an_observation": Target("at_most", 80.0)},
        correct=sqlite.right and dynamodb.right,
    )
