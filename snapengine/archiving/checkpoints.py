"""Checkpoints: the live set at an instant and an epoch, resolved once and kept, so that views begin there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import Checkpoint
from snapengine.archive.planning import KeyRange, changed_between
from snapengine.archive.roots import Root
from snapengine.archive.schemas import OBJECT_ROWS, OBSERVATION_ROWS
from snapengine.archiving import paths
from snapengine.archiving.live_rows import live_files
from snapengine.archiving.policy import SETTLED_MS
from snapengine.archiving.publishing import publish, retire, write_sorted
from snapengine.archiving.tools import ArchiveTools
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.errors import ArchiveDamaged, UsageError
from snapengine.instants import render
from snapengine.model import Epoch, SnapshotRef
from snapengine.observation_codec import SCHEMA
from snapengine.ranges import Fold, Reading, at_once, by_ranges
from snapengine.resolver import resolve_ranges

_FOR_EVER = 2**62
_TIMES = pa.schema([SCHEMA.field(name) for name in ("key", "event_time", "page_time")])


async def checkpoint(
    tools: ArchiveTools,
    root: Root,
    bucket: str,
    *,
    at: int | None = None,
    renew: Callable[[], None] = lambda: None,
) -> Checkpoint | None:
    """Make a checkpoint at the last archived epoch, unless there is the same. None where none can be made:
    nothing is archived yet, the baseline had not ended at that epoch, or another made it meanwhile.

    `at` is in UTC milliseconds; by default some minutes before the epoch's time. `renew` is called now and
    then; what it raises ends the work, which harms nothing.
    """
    return await asyncio.to_thread(make_checkpoint, tools, root, bucket, at, renew)


def make_checkpoint(
    tools: ArchiveTools, root: Root, bucket: str, at: int | None, renew: Callable[[], None]
) -> Checkpoint | None:
    archive = tools.archive(bucket)
    epoch = tools.store.epoch(bucket, archive.last_epoch) if archive.last_epoch else None
    config = tools.store.config(bucket)
    if epoch is None or config is None or epoch.watermarks.baseline_ended is None:
        return None
    instant = epoch.time - SETTLED_MS if at is None else at
    if instant > epoch.time:
        raise UsageError(
            f"A checkpoint at {render(instant)} would be later than the last archived epoch, of "
            f"{render(epoch.time)}."
        )
    made = Checkpoint(instant, epoch.number, (), tools.clock())
    if any(c.name == made.name for c in archive.checkpoints):
        return next(c for c in archive.checkpoints if c.name == made.name)
    ref = SnapshotRef(bucket, "", instant, epoch.number)  # what is watched may change
    place = (bucket, instant, epoch.number)

    def kept(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            renew()
            yield table

    objects = write_sorted(
        root,
        f"{paths.objects(*place)}/part",
        "objects",
        VIEW_SCHEMA,
        ("key",),
        kept(resolve_ranges(tools, ref, epoch)),
        OBJECT_ROWS,
    )
    side = write_sorted(
        root,
        f"{paths.histories(*place)}/side",
        "side",
        SCHEMA,
        ("key", "event_time"),
        kept(_later_histories(tools, ref, epoch)),
        OBSERVATION_ROWS,
    )
    rows = live_files(tools, root, ref, epoch, renew)
    made = replace(made, files=(*objects, *side, *rows))
    for file in made.files:
        renew()
        tools.reader(root.url).check(file)
    renew()  # who was thought dead may find the files swept
    return made if publish(root, tools.store, bucket, made) else None


def drop_damaged(tools: ArchiveTools, root: Root, bucket: str, renew: Callable[[], None]) -> list[Checkpoint]:
    """Retire the checkpoints of which a file is not as it was written; which those were."""
    dropped: list[Checkpoint] = []
    for standing in tools.archive(bucket).checkpoints:
        try:
            for file in standing.files:
                renew()
                tools.reader(root.url).check(file)
        except ArchiveDamaged:
            retire(tools.store, bucket, standing, tools.clock())
            dropped.append(standing)
    return dropped


def _later_histories(tools: ArchiveTools, ref: SnapshotRef, epoch: Epoch) -> Iterator[pa.Table]:
    """All observations of the keys of which one is of an event or a page after the checkpoint's instant."""

    def begin(reading: Reading) -> Fold[pa.Table]:
        history = reading.plan.history
        late = set(changed_between(history, ref.at, _FOR_EVER))
        parts = [replace(part, files=tuple(f for f in part.files if f in late)) for part in history]
        times = reading.observations(parts, _TIMES)
        observed = reading.observations(history)

        def rows(keys: KeyRange) -> pa.Table:
            told = times.rows(keys)
            later = [
                pc.fill_null(pc.greater(told[name].cast(pa.int64()), ref.at), False)
                for name in _TIMES.names[1:]
            ]
            wanted = pc.unique(told.filter(pc.or_(*later))["key"]).to_pylist()
            if not wanted:
                return SCHEMA.empty_table()
            found = observed.rows(keys, sorted(wanted))
            order = [("key", "ascending"), ("event_time", "ascending")]
            return found.take(pc.sort_indices(found, sort_keys=order))

        return at_once(rows)

    return by_ranges(tools, ref, epoch, begin, base=False)
