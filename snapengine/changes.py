"""What differs between two views, from the facts between them: neither is resolved as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.planning import KeyRange, changed_between, tile
from snapengine.archive.windows import in_range
from snapengine.model import NULL_VERSION, VERSION_DELETED, Epoch, SnapshotRef
from snapengine.observation_codec import SCHEMA
from snapengine.ranges import Fold, Reading, Sources, at_once, by_ranges
from snapengine.resolver import resolve

MOST_KEYS = 1_000_000
"""If more may differ, both views had better be read as a whole."""

_TIMES = ("event_time", "page_time")
_COLUMNS = pa.schema([SCHEMA.field(name) for name in ("key", *_TIMES)])

Resolved = tuple[SnapshotRef, Epoch]


def differing(sources: Sources, before: Resolved, after: Resolved) -> tuple[pa.Table, pa.Table] | None:
    """Of two views of one bucket the rows of all keys that may differ, in key order. None where that is not
    known, or they are more than `MOST_KEYS`."""
    if before[0].prefix != after[0].prefix or before[0].start is not None or after[0].start is not None:
        return None
    keys = changed_keys(sources, before, after)
    if keys is None:
        return None
    first, second = (resolve(sources, ref, epoch, only=keys) for ref, epoch in (before, after))
    return first, second


class _TooMany(Exception):
    pass


def changed_keys(sources: Sources, before: Resolved, after: Resolved) -> list[str] | None:
    """Keys, in order, of which something was learned between the epochs, or happened between the instants;
    None if they are more than `MOST_KEYS`.

    Whatever time a fact has (an event's, one lifted to that of what lies beneath, a page's, by which a null
    is dated or a removal proved), it is that of an event or a page of its key: so no other key can differ.
    """
    old, new = sorted((before[1], after[1]), key=lambda epoch: epoch.number)
    since, until = sorted((before[0].at, after[0].at))
    found: set[str] = set()

    def begin(reading: Reading) -> Fold[pa.Table]:
        history = reading.plan.history
        between = set(changed_between(history, since, until))
        parts = [replace(part, files=tuple(f for f in part.files if f in between)) for part in history]
        happened = reading.observations(parts, _COLUMNS)
        archived = min(new.number, reading.archive.last_epoch)
        learned = reading.window(tile(reading.archive.segments, old.number, archived, reading.keys), _COLUMNS)

        def keys_of(keys: KeyRange) -> pa.Table:
            found.update(_keys(_between(happened.rows(keys), since, until)))
            if new.number > old.number:
                found.update(_keys(learned.rows(keys)))
            if len(found) > MOST_KEYS:
                raise _TooMany
            return _COLUMNS.empty_table()

        if new.number > old.number:
            found.update(_keys(reading.tail_after(old.cover)))
            files = reading.listed_after(old.cover)
            if sum(file.rows for file in files) > MOST_KEYS:
                raise _TooMany
            for file in files:
                found.update(_keys(reading.reader().read(file, columns=["key"])))
        return at_once(keys_of)

    ref = SnapshotRef(after[0].bucket, after[0].prefix, until, new.number)
    try:
        for _ in by_ranges(sources, ref, new, begin, base=False):
            pass
    except _TooMany:
        return None
    prefix = after[0].prefix
    return sorted(key for key in found if key.startswith(prefix))


def removed_keys(sources: Sources, ref: SnapshotRef, epoch: Epoch, shown: pa.Array) -> list[str]:
    """Of the keys shown, which are in order, those of which the epoch knows a removal, or a null version,
    which a later one may have replaced."""
    columns = pa.schema([SCHEMA.field(name) for name in ("key", "kind", "version_id")])
    found: set[str] = set()

    def begin(reading: Reading) -> Fold[pa.Table]:
        observed = reading.observations(reading.plan.history, columns)

        def keys_of(keys: KeyRange) -> pa.Table:
            rows = observed.rows(keys)
            wanted = in_range(pa.table({"key": shown}), keys)["key"].combine_chunks()
            ends = pc.or_(pc.equal(rows["kind"], VERSION_DELETED), pc.equal(rows["version_id"], NULL_VERSION))
            ended = rows.filter(pc.and_(ends, pc.is_in(rows["key"], value_set=wanted)))
            found.update(_keys(ended))
            return columns.empty_table()

        return at_once(keys_of)

    for _ in by_ranges(sources, ref, epoch, begin, base=False):
        pass
    return sorted(found)


def _keys(observations: pa.Table) -> Iterable[str]:
    keys: list[str] = pc.unique(observations["key"]).to_pylist()
    return keys


def _between(observations: pa.Table, since: int, until: int) -> pa.Table:
    """Those of an event or a page in `(since, until]`."""
    inside = pa.scalar(False)
    for name in _TIMES:
        time = pc.fill_null(observations[name].cast(pa.int64()), -1)
        inside = pc.or_(inside, pc.and_(pc.greater(time, since), pc.less_equal(time, until)))
    return observations.filter(inside)
