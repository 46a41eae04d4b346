"""What a billion objects with ten million changes a day cost a month, from measured costs and list prices.

It measures here, on a made bucket and a made log: bytes of log items, by-key items, archived observations
and checkpointed objects; the rates of archiving, compaction, checkpoints and views; a cold view of a
prefix. The rest is arithmetic (`_scale_model`). `--write` puts both into docs/scale.md; without it, its
figures are those of this run and that page stays as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from statistics import median

from benchmarks import _scale_document as document
from benchmarks._big_bucket import BUCKET, BigBucket, Clock, big_buckets, default_folder
from benchmarks._big_rows import ENABLED, Made
from benchmarks._scale_model import Measured, Scenario, inventory, listing, metadata, ours, total, views
from benchmarks.archiving import EVENTS, fill, segments_of
from benchmarks.harness import Figure, Result, positive
from benchmarks.prefix_scaling import look
from snapengine.archive.manifest import Segment
from snapengine.archiving.compaction import put_together
from snapengine.archiving.segments import archive_segments, prepared_root
from snapengine.engine import Engine
from snapengine.model import LogEntry, Observation
from snapengine.observation_codec import SCHEMA, encode, observations_of
from snapengine.settings import Settings
from snapengine.stores import dynamodb_codec as codec

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scale.md"
LOOKS = 7
KEEP_DAYS = 30


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objects", type=positive, default=1_000_000, help="of the bucket that is measured")
    parser.add_argument("--observations", type=positive, default=200_000, help="of the log that is archived")
    parser.add_argument("--seed", type=int, default=1, help="of what is done to the bucket")
    parser.add_argument("--folder", type=Path, help="for the bucket (default: in the user's cache folder)")
    parser.add_argument("--write", action="store_true", help="put this run's figures into docs/scale.md")


def run(options: argparse.Namespace) -> Result:
    scenario = Scenario()
    folder = options.folder or default_folder()
    with big_buckets(folder, [options.objects], seed=options.seed, root="file") as (bucket,):
        measured, right = measure(bucket, options.observations, scenario)
    if options.write:
        PAGE.write_text(document.page(measured, scenario), encoding="utf-8")
    return result(measured, scenario, options, correct=right)


def measure(bucket: BigBucket, observations: int, scenario: Scenario) -> tuple[Measured, bool]:
    """And whether every view said what it should."""
    events = observations_of(next(Made(100_000, bucket.made.seed).uploads(EVENTS)))
    with tempfile.TemporaryDirectory(prefix="snapengine-") as folder:
        event_bytes, archive_rate, compaction_rate = _log_to_archive(Path(folder), observations)
    archive = bucket.engine().archive(BUCKET)
    listed, newest = archive.segments[0], max(archive.checkpoints, key=lambda c: c.epoch)
    began = time.perf_counter()
    digest = bucket.engine().view(BUCKET, bucket.stamp.at).digest()
    seconds = time.perf_counter() - began
    patients = bucket.made.patients
    looks = sorted((look(bucket, n * patients // LOOKS) for n in range(LOOKS)), key=lambda each: each.view)
    middle = looks[LOOKS // 2]
    group_ms, group_mib = _row_group(bucket.engine(), listed)
    entry = _entry(events[: int(scenario.entry_rows)])
    measured = Measured(
        entry_bytes=_size(codec.entry_item(entry)),
        by_key_bytes=sum(_size(codec.observation_item(BUCKET, 1, 1, o)) for o in events[:1000]) / 1000,
        event_bytes=event_bytes,
        listed_bytes=sum(f.size for f in listed.observations) / listed.rows,
        object_bytes=sum(f.size for f in newest.objects) / newest.rows,
        archive_rate=archive_rate,
        compaction_rate=compaction_rate,
        checkpoint_rate=bucket.made.objects / bucket.stamp.seconds["checkpoint"],
        view_rate=bucket.made.objects / seconds,
        prefix_ms=1000 * middle.view,
        prefix_requests=middle.requests,
        prefix_mib=middle.bytes / 2**20,
        group_ms=group_ms,
        group_mib=group_mib,
        bucket_objects=bucket.made.objects,
    )
    rounded = {f.name: float(f"{getattr(measured, f.name):.4g}") for f in fields(Measured)}
    return Measured(**rounded), digest == bucket.stamp.digest and all(each.right for each in looks)


def _log_to_archive(folder: Path, observations: int) -> tuple[float, float, float]:
    """Bytes of an observation at rest; the rates of archiving, and of putting segments together."""
    clock = Clock(ENABLED)
    settings = Settings(
        store=f"sqlite:///{folder / 'store.db'}", archive=f"file://{folder / 'archive'}", cache="off"
    )
    engine = Engine(settings, clock=clock)
    engine.store.create()
    asyncio.run(fill(engine, clock, -(-observations // 1000)))
    began = time.perf_counter()
    asyncio.run(archive_segments(engine, BUCKET, max_rows=observations // 8))
    made = time.perf_counter()
    shorter = segments_of(engine)
    longer = put_together(engine, prepared_root(engine, BUCKET), BUCKET, shorter, lambda: None)
    ended = time.perf_counter()
    rows = sum(each.rows for each in shorter)
    return _bytes(longer) / longer.rows, rows / (made - began), rows / (ended - made)


def _row_group(engine: Engine, segment: Segment) -> tuple[float, float]:
    """Milliseconds and MiB of reading one row group of a segment, several times, another one each time."""
    reader = engine.files(BUCKET)
    files = [f for f in segment.observations if len(reader.groups(f)) > 1] or list(segment.observations)
    seconds = []
    before = reader.bytes_read
    for number in range(LOOKS):
        file = files[number % len(files)]
        began = time.perf_counter()
        reader.read(file, groups=[number % len(reader.groups(file))], columns=SCHEMA.names)
        seconds.append(time.perf_counter() - began)
    return 1000 * median(seconds), (reader.bytes_read - before) / LOOKS / 2**20


def _bytes(segment: Segment) -> int:
    return sum(f.size for f in segment.files)


def _entry(observations: list[Observation]) -> LogEntry:
    return LogEntry(BUCKET, 1, 1, "0" * 24, ENABLED, len(observations), encode(observations))


def _size(item: codec.Item) -> int:
    """By DynamoDB's rule: names and texts in UTF-8; a number about a byte for two digits, and one more."""
    size = 0
    for name, value in item.items():
        ((kind, held),) = value.items()
        size += len(name.encode())
        size += len(held) if kind == "B" else (len(held) + 1) // 2 + 1 if kind == "N" else len(held.encode())
    return size


def result(m: Measured, s: Scenario, options: argparse.Namespace, *, correct: bool) -> Result:
    bills = {
        "snapengine": total(ours(m, s, None)),
        f"snapengine_keep_days_{KEEP_DAYS}": total(ours(m, s, KEEP_DAYS)),
        "snapengine_views": total(views(m, s)),
        "list_object_versions": total(listing(s)),
        "s3_inventory": total(inventory(m, s)),
        "s3_metadata": total(metadata(s)),
    }
    figures = {name: Figure.of([dollars], "$/month") for name, dollars in bills.items()}
    units = document.UNITS
    figures |= {f.name: Figure.of([getattr(m, f.name)], units[f.name]) for f in fields(Measured)}
    return Result(
        name="simulate_scale",
        params={
            "objects": s.objects,
            "changes_a_day": s.changes,
            "versions": s.versions,
            "measured_objects": options.objects,
            "measured_observations": options.observations,
        },
        figures=figures,
        ratios={},
        targets={},
        correct=correct,
    )
