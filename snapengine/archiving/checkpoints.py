"""Checkpoints: the live set at an instant and an epoch, resolved once and kept, so that views begin there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import ArchiveFile, Checkpoint, Differential, Role, from_json
from snapengine.archive.planning import KeyRange, changed_between
from snapengine.archive.roots import Root
from snapengine.archive.schemas import GONE, OBJECT_ROWS, OBSERVATION_ROWS
from snapengine.archiving import paths
from snapengine.archiving.live_rows import live_files
from snapengine.archiving.policy import SETTLED_MS, base_of
from snapengine.archiving.publishing import Series, publish, retire
from snapengine.archiving.tools import ArchiveTools
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.changed_objects import RANGE_ROWS, differences
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
    instant = _instant(epoch, at)
    made = Checkpoint(instant, epoch.number, (), tools.clock())
    if any(c.name == made.name for c in archive.checkpoints):
        return next(c for c in archive.checkpoints if c.name == made.name)
    ref = SnapshotRef(bucket, "", instant, epoch.number)  # what is watched may change
    return _Making(tools, root, ref, epoch, renew).publish(made)


async def differential(
    tools: ArchiveTools,
    root: Root,
    bucket: str,
    *,
    at: int | None = None,
    renew: Callable[[], None] = lambda: None,
) -> Differential | None:
    """Make a differential from the newest checkpoint, at the last archived epoch; `at` and `renew` as for a
    checkpoint. None where none can be made: there is no checkpoint before that, or there is the same already,
    or another made it meanwhile."""
    return await asyncio.to_thread(make_differential, tools, root, bucket, at, renew)


def make_differential(
    tools: ArchiveTools, root: Root, bucket: str, at: int | None, renew: Callable[[], None]
) -> Differential | None:
    archive = tools.archive(bucket)
    epoch = tools.store.epoch(bucket, archive.last_epoch) if archive.last_epoch else None
    if epoch is None:
        return None
    instant = _instant(epoch, at)
    base = base_of(archive, instant, epoch.number)
    if base is None or (base.at, base.epoch) == (instant, epoch.number):
        return None
    made = Differential(instant, epoch.number, (), tools.clock(), base=base.name)
    if any(one.name == made.name for one in archive.differentials):
        return None
    ref = SnapshotRef(bucket, "", instant, epoch.number)
    return _Making(tools, root, ref, epoch, renew, base).publish(made)


def _instant(epoch: Epoch, at: int | None) -> int:
    instant = epoch.time - SETTLED_MS if at is None else at
    if instant > epoch.time:
        raise UsageError(
            f"A checkpoint at {render(instant)} would be later than the last archived epoch, of "
            f"{render(epoch.time)}."
        )
    return instant


P = TypeVar("P", bound=Checkpoint)


class _Making:
    """The files of a checkpoint, or of what is otherwise than in one."""

    def __init__(
        self,
        tools: ArchiveTools,
        root: Root,
        ref: SnapshotRef,
        epoch: Epoch,
        renew: Callable[[], None],
        base: Checkpoint | None = None,
    ) -> None:
        self._tools = tools
        self._root = root
        self._ref = ref
        self._epoch = epoch
        self._renew = renew
        self._base = base
        self._point = paths.Point(ref.bucket, ref.at, epoch.number, base is not None)

    def publish(self, point: P) -> P | None:
        """None if another made it meanwhile."""
        objects = self._objects() if self._base is None else self._differences(self._base)
        side = self._sorted("side", SCHEMA, _later_histories(self._tools, self._ref, self._epoch))
        rows = live_files(self._tools, self._root, self._ref, self._epoch, self._renew, self._base)
        made = replace(point, files=(*objects, *side, *rows))
        for file in made.files:
            self._renew()
            self._tools.reader(self._root.url).check(file)
        self._renew()  # who was thought dead may find the files swept
        if not publish(
            self._root, self._tools.store, self._ref.bucket, made, replacing=self._put_aside(made)
        ):
            return None
        return made

    def _put_aside(self, made: Checkpoint) -> str | None:
        """The manifest of the same name that was retired, and not swept yet: its place is free."""
        bodies = self._tools.store.manifests(self._ref.bucket)
        standing = {manifest.name: (manifest, body) for body in bodies for manifest in [from_json(body)]}
        manifest, body = standing.get(made.name, (None, None))
        return body if manifest is not None and manifest.retired_at is not None else None

    def _objects(self) -> list[ArchiveFile]:
        return self._sorted("objects", VIEW_SCHEMA, resolve_ranges(self._tools, self._ref, self._epoch))

    def _differences(self, base: Checkpoint) -> list[ArchiveFile]:
        with ExitStack() as stack:
            objects = stack.enter_context(self._series("objects", VIEW_SCHEMA))
            gone = stack.enter_context(self._series("gone", GONE))
            for changes in differences(self._tools, self._ref, self._epoch, base):
                self._renew()
                objects.write(changes.rows)
                stands = pc.is_in(changes.replaced, value_set=changes.rows["key"].combine_chunks())
                gone.write(pa.table([changes.replaced.filter(pc.invert(stands))], schema=GONE))
            return [*objects.close(), *gone.close()]

    def _sorted(self, role: Role, schema: pa.Schema, tables: Iterable[pa.Table]) -> list[ArchiveFile]:
        with self._series(role, schema) as series:
            for table in tables:
                self._renew()
                series.write(table)
            return series.close()

    def _series(self, role: Role, schema: pa.Schema) -> Series:
        if role == "side":
            stem = f"{paths.histories(self._point)}/side"
            return Series(self._root, stem, role, schema, ("key", "event_time"), OBSERVATION_ROWS)
        stem = f"{paths.objects(self._point)}/{'part' if role == 'objects' else role}"
        return Series(self._root, stem, role, schema, ("key",), OBJECT_ROWS)


def drop_damaged(
    tools: ArchiveTools, root: Root, bucket: str, renew: Callable[[], None], *, newest_only: bool = False
) -> list[Checkpoint]:
    """Retire the checkpoints and differentials of which a file is not as it was written; which those were.
    With `newest_only` just those are looked at that a view of now begins at."""
    dropped: list[Checkpoint] = []
    archive = tools.archive(bucket)
    points: Iterable[Checkpoint] = (*archive.checkpoints, *archive.differentials)
    if newest_only:
        newest = max(archive.starts, key=lambda start: (start.at, start.epoch), default=())
        points = [point for point in newest if point is not None]
    for standing in points:
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

    def late(reading: Reading) -> list[ArchiveFile]:
        return changed_between(reading.plan.history, ref.at, _FOR_EVER)

    def ranges(reading: Reading) -> list[KeyRange]:
        return reading.cut([*late(reading), *reading.listed()], RANGE_ROWS)

    def begin(reading: Reading) -> Fold[pa.Table]:
        history, files = reading.plan.history, set(late(reading))
        parts = [replace(part, files=tuple(f for f in part.files if f in files)) for part in history]
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

    return by_ranges(tools, ref, epoch, begin, base=False, ranges=ranges)
