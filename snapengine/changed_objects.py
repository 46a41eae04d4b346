"""What has changed of a live set, found from what was observed since: at the cost of that, not of the set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import Checkpoint, Start
from snapengine.archive.planning import KeyRange, newest_start
from snapengine.archive.schemas import GONE
from snapengine.bulkfold import VIEW_SCHEMA, bulkfold
from snapengine.deltafold import EMPTY_BASE, Changes, settle
from snapengine.model import VERSION_DELETED, Epoch, SnapshotRef
from snapengine.observation_codec import SCHEMA
from snapengine.ranges import Finish, Fold, Reading, Sources, Starting, by_ranges
from snapengine.resolver import histories_of

RANGE_ROWS = 65_536
"""Rows of a range, more or less: they may be wide."""


def standing(over: Changes, wanted: pa.Array[Any], others: Callable[[list[str]], pa.Table]) -> pa.Table:
    """Of these keys what a live set shows, in no order: of those that a differential does not change, what
    `others` gives, which is asked for keys in order."""
    changed = over.rows.filter(pc.is_in(over.rows["key"], value_set=wanted))
    gone = over.replaced.filter(pc.is_in(over.replaced, value_set=wanted))
    told = pa.chunked_array([*changed["key"].chunks, gone], pa.string()).combine_chunks()
    left = wanted.filter(pc.invert(pc.is_in(wanted, value_set=told)))
    return pa.concat_tables([changed, others(sorted(left.to_pylist()))]) if len(left) else changed


class ObservedChanges:
    """What later observations change of what stands where a plan starts."""

    def __init__(self, reading: Reading, at: int) -> None:
        if reading.plan.start is None:
            raise ValueError("there is nothing to begin at")
        self._start = reading.plan.start
        self._at = at
        self._history = reading.observations(reading.plan.history)
        self._ids = reading.files_window(reading.plan.objects, pa.schema(EMPTY_BASE.schema))

    def of(self, keys: KeyRange, side: pa.Table, delta: pa.Table, over: Changes) -> Changes:
        """Of a range of keys: `side` has the earlier observations of some keys, `delta` all later ones;
        `over` is what a differential says."""
        removed = pc.unique(delta.filter(pc.equal(delta["kind"], VERSION_DELETED))["key"])
        ids = self._ids.rows(keys, sorted(removed.to_pylist())) if len(removed) else EMPTY_BASE
        told = settle(ids, side, delta, self._at, self._start.at, over)
        whole = histories_of(self._history, keys, sorted(told.whole.to_pylist()))
        objects = [told.rows, *(bulkfold(history, self._at) for history in whole)]
        return Changes(pc.unique(told.replaced), pa.concat_tables(objects))


def differences(sources: Sources, ref: SnapshotRef, epoch: Epoch, base: Checkpoint) -> Iterator[Changes]:
    """What a view shows otherwise than that checkpoint does: range by range of keys, in order."""
    begin = newest_start(sources.archive(ref.bucket), ref.at, epoch.number, of=base) or Start(base)

    def folding(reading: Reading) -> Fold[Changes]:
        return _Differences(reading, ref.at).start

    yield from by_ranges(Starting(sources, begin), ref, epoch, folding, ranges=_Differences.ranges)


class _Differences:
    """What a view shows otherwise than the checkpoint that its plan starts at, or differs from."""

    def __init__(self, reading: Reading, at: int) -> None:
        plan = reading.plan
        self._changes = ObservedChanges(reading, at)
        self._side = reading.files_window(plan.side, SCHEMA)
        self._delta = reading.observations(plan.delta)
        self._over = (
            reading.files_window(plan.gone, GONE),
            reading.files_window(plan.changed, VIEW_SCHEMA),
        )

    @staticmethod
    def ranges(reading: Reading) -> list[KeyRange]:
        """The keys in pieces of what has changed."""
        plan = reading.plan
        delta = (file for part in plan.delta for file in part.files)
        return reading.cut([*plan.changed, *plan.gone, *plan.side, *reading.listed(), *delta], RANGE_ROWS)

    def start(self, keys: KeyRange) -> Callable[[], Finish[Changes]]:
        """Begin to read a range; the rows come in key order, the replaced keys too."""
        waits = [window.start(keys) for window in (self._side, *self._over)]
        delta_rows = self._delta.start(keys)

        def read() -> Finish[Changes]:
            side, gone, changed = (wait() for wait in waits)
            delta = delta_rows()
            return lambda: self._together(keys, Changes(gone["key"].combine_chunks(), changed), side, delta)

        return read

    def _together(self, keys: KeyRange, over: Changes, side: pa.Table, delta: pa.Table) -> Changes:
        changes = over.then(self._changes.of(keys, side, delta, over))
        rows = changes.rows.take(pc.sort_indices(changes.rows, sort_keys=[("key", "ascending")]))
        replaced = pc.unique(changes.replaced)
        return Changes(replaced.take(pc.sort_indices(replaced)), rows)
