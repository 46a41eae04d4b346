"""From a reference to rows: a checkpoint and what was observed since, or all that was observed, folded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import Archive, Listed, Start
from snapengine.archive.planning import KeyRange, keys_below, make_plan, one_key
from snapengine.archive.schemas import GONE
from snapengine.bulkfold import BECAME, VIEW_SCHEMA, bulkfold, bulkfold_all
from snapengine.deltafold import EMPTY_BASE, Changes, pieces_together, put_together, settle
from snapengine.fold import fold
from snapengine.model import CREATED, EVENT, Epoch, ObjectVersion, Observation, SnapshotRef
from snapengine.observation_codec import SCHEMA, observations_of
from snapengine.ranges import (
    Finish,
    Fold,
    Observations,
    Reading,
    Sources,
    T,
    after_key,
    at_once,
    by_ranges,
)
from snapengine.row_bytes import COLUMNS, PIECE_ROWS, Piece


def view_schema(ref: SnapshotRef, columns: Sequence[str] | None = None) -> pa.Schema:
    """The columns of a view's rows; a slice of all versions has one more."""
    schema = VIEW_SCHEMA.append(BECAME) if ref.versions == "all" else VIEW_SCHEMA
    return schema if columns is None else pa.schema([schema.field(name) for name in columns])


def resolve(
    sources: Sources, ref: SnapshotRef, epoch: Epoch, *, only: Sequence[str] | None = None
) -> pa.Table:
    """The rows of a view (`VIEW_SCHEMA`) or of a slice of all versions, in order of the keys' UTF-8 bytes.

    A slice keeps of the state at its end what was created at or after its start. With `only` (in order) just
    the rows of those keys.
    """
    tables = resolve_ranges(sources, ref, epoch, only=only)
    return pa.concat_tables([view_schema(ref).empty_table(), *tables]).combine_chunks()


def resolve_ranges(
    sources: Sources,
    ref: SnapshotRef,
    epoch: Epoch,
    *,
    columns: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    after: str = "",
) -> Iterator[pa.Table]:
    """The same in order, range by range of keys, with only the columns asked for, of the keys after `after`,
    which is no key beyond the prefix's.

    In memory are five ranges (`ROWS_AT_ONCE`), a row group of each file, what of the log no segment has
    taken over, and the versions of some keys; not the bucket.
    """
    schema = view_schema(ref, columns)

    def begin(reading: Reading) -> Fold[pa.Table]:
        return Resolution(reading, ref, schema, only).start

    return by_ranges(sources, ref, epoch, begin, keys=after_key(keys_below(ref.prefix), after))


def resolve_pieces(sources: Sources, ref: SnapshotRef, epoch: Epoch) -> Iterator[Piece]:
    """What `resolve` gives, of the digest's columns, as pieces that are not put together."""
    schema = view_schema(ref, COLUMNS)

    def begin(reading: Reading) -> Fold[list[Piece]]:
        return Resolution(reading, ref, schema, None).start_pieces

    for pieces in by_ranges(sources, ref, epoch, begin, ranges=Reading.ramped_ranges):
        yield from pieces


def observed_ranges(
    sources: Sources,
    ref: SnapshotRef,
    epoch: Epoch,
    *,
    only: Sequence[str] | None = None,
    after: str = "",
) -> Iterator[pa.Table]:
    """All observations below the prefix that the epoch covers, by the log's columns: range by range of keys,
    those of a range in no order. With `after`, of the keys after that one."""

    def begin(reading: Reading) -> Fold[pa.Table]:
        observed = reading.observations(reading.plan.history)
        return at_once(lambda keys: observed.rows(keys, only))

    return by_ranges(sources, ref, epoch, begin, base=False, keys=after_key(keys_below(ref.prefix), after))


def covered(
    sources: Sources, ref: SnapshotRef, epoch: Epoch, *, only: Sequence[str] | None = None
) -> pa.Table:
    """`observed_ranges` in one table."""
    return pa.concat_tables([SCHEMA.empty_table(), *observed_ranges(sources, ref, epoch, only=only)])


_HISTORIES_AT_ONCE = 10_000
"""Keys that are folded from their whole history together."""


def histories_of(history: Observations, keys: KeyRange, wanted: Sequence[str]) -> Iterator[pa.Table]:
    """The histories of the wanted keys of a range, in order, some at a time: a key may have thousands of
    versions."""
    for start in range(0, len(wanted), _HISTORIES_AT_ONCE):
        some = wanted[start : start + _HISTORIES_AT_ONCE]
        onward = wanted[start + _HISTORIES_AT_ONCE : start + _HISTORIES_AT_ONCE + 1]
        piece = KeyRange(some[0] if start else keys.first, onward[0] if onward else keys.after)
        yield history.rows(piece, some)


class _Folded(NamedTuple):
    """Of a range of keys."""

    base: pa.Table
    changes: Changes | None = None


class Resolution:
    """A view or slice, being folded range by range."""

    def __init__(
        self, reading: Reading, ref: SnapshotRef, schema: pa.Schema, only: Sequence[str] | None
    ) -> None:
        plan = reading.plan
        self._reading = reading
        self._ref = ref
        self._schema = schema
        self._only = only
        self._delta = reading.observations(plan.delta)
        self._history = reading.observations(plan.history)
        if plan.start is None:
            return
        quiet = not plan.side and not reading.plan.tail and not any(part.files for part in plan.delta)
        base = {"key", *schema.names, *(() if quiet else ("version_id",))}
        self._base_schema = pa.schema([field for field in VIEW_SCHEMA if field.name in base])
        self._base = reading.files_window(plan.objects, self._base_schema)
        self._changed = reading.files_window(plan.changed, self._base_schema)
        self._gone = reading.files_window(plan.gone, GONE)
        self._side = reading.files_window(plan.side, SCHEMA)

    def start(self, keys: KeyRange) -> Callable[[], Finish[pa.Table]]:
        """Begin to read a range."""
        return self._start(keys, self._table)

    def start_pieces(self, keys: KeyRange) -> Callable[[], Finish[list[Piece]]]:
        """The same, of what is not put together."""
        return self._start(keys, self._pieces)

    def _start(self, keys: KeyRange, make: Callable[[_Folded], T]) -> Callable[[], Finish[T]]:
        if self._ref.versions == "all":
            return lambda: lambda: make(_Folded(self._all_versions(keys)))
        begin = self._reading.plan.start
        if begin is None:
            delta_rows = self._delta.start(keys, self._only)

            def all_read() -> Finish[T]:
                delta = delta_rows()
                return lambda: make(_Folded(self._since_start(bulkfold(delta, self._ref.at))))

            return all_read
        windows = (self._base, self._changed, self._gone, self._side)
        waits = [window.start(keys, self._only) for window in windows]  # the largest first
        delta_rows = self._delta.start(keys, self._only)

        def read() -> Finish[T]:
            base, changed, gone, side = (wait() for wait in waits)
            delta = delta_rows()
            over = Changes(gone["key"].combine_chunks(), changed)
            return lambda: make(self._fold(keys, _Folded(base, over), side, delta, begin))

        return read

    def _table(self, folded: _Folded) -> pa.Table:
        base, changes = folded
        found = base if changes is None else put_together(base, *changes)
        return pa.table([found[name] for name in self._schema.names], schema=self._schema)

    def _pieces(self, folded: _Folded) -> list[Piece]:
        names = self._schema.names
        if folded.changes is None:
            return list(map(Piece, folded.base.select(names).to_batches(PIECE_ROWS)))
        replaced, rows = folded.changes
        return list(pieces_together(folded.base.select(names), replaced, rows.select(names)))

    def _fold(self, keys: KeyRange, stood: _Folded, side: pa.Table, delta: pa.Table, begin: Start) -> _Folded:
        """The live set of a range, and what brings it from the start to the instant asked for."""
        ref = self._ref
        base, over = stood
        if ref.start is not None:
            base, over = EMPTY_BASE, None
        later = None
        if delta.num_rows or side.num_rows:
            later = self._later(keys, base, over, side, delta, begin)
        if ref.start is not None:
            return _Folded(VIEW_SCHEMA.empty_table(), later)
        if over is None or not (over.rows.num_rows or len(over.replaced)):
            return _Folded(base, later)
        return _Folded(base, over if later is None else over.then(later))

    def _later(
        self,
        keys: KeyRange,
        base: pa.Table,
        over: Changes | None,
        side: pa.Table,
        delta: pa.Table,
        begin: Start,
    ) -> Changes:
        """What has changed since the start."""
        told = settle(base, side, delta, self._ref.at, begin.at, over)
        histories = histories_of(self._history, keys, sorted(told.whole.to_pylist()))
        rows = [told.rows, *(bulkfold(history, self._ref.at) for history in histories)]
        return Changes(told.replaced, self._since_start(pa.concat_tables(rows)))

    def _since_start(self, rows: pa.Table) -> pa.Table:
        """A slice shows of the state at its end what was created in it."""
        if self._ref.start is None:
            return rows
        return rows.filter(pc.greater_equal(rows["event_time"].cast(pa.int64()), self._ref.start))

    def _all_versions(self, keys: KeyRange) -> pa.Table:
        """Keys in which something may have been created since the start are folded from all their history."""
        assert self._ref.start is not None  # noqa: S101  # so says the reference's text form
        delta = self._delta.rows(keys, self._only)
        histories: Iterable[pa.Table] = [delta]
        if self._reading.plan.start is not None:
            side = self._side.rows(keys, self._only)
            created = pc.or_(pc.equal(delta["kind"], CREATED), pc.not_equal(delta["origin"], EVENT))
            touched = {
                *pc.unique(delta.filter(created)["key"]).to_pylist(),
                *pc.unique(side["key"]).to_pylist(),
            }
            histories = histories_of(self._history, keys, sorted(touched))
        tables = [bulkfold_all(history, self._ref.start, self._ref.at) for history in histories]
        return pa.concat_tables([view_schema(self._ref).empty_table(), *tables])


# One key


def resolve_key(sources: Sources, ref: SnapshotRef, epoch: Epoch, key: str) -> ObjectVersion | None:
    """One key of a view or slice, from its own history: agrees with `resolve`, at the cost of that key."""
    if not key.startswith(ref.prefix):
        return None
    version = fold(key_history(sources, ref.bucket, key, epoch), ref.at)
    if version and ref.start is not None and version.event_time < ref.start:
        return None
    return version


def key_history(sources: Sources, bucket: str, key: str, epoch: Epoch) -> list[Observation]:
    """All observations of one key that the epoch covers: its items in the table, and what the archive has.

    What leaves the table does so a day and more after its manifest says so: manifests that were read within
    the last minute tell of all that could be missing.
    """
    found = sources.store.key_history(bucket, key, epoch.cover)
    if not _has_more(sources.archive(bucket, lately=epoch), epoch):
        return found

    def begin(reading: Reading) -> Fold[pa.Table]:
        left = [part for part in reading.plan.history if part.leaving]
        named = [one for one in reading.archive.listed if _covers(epoch, one)]
        windows = [
            reading.window(left, SCHEMA),
            reading.files_window([f for one in named for f in one.files], SCHEMA),
        ]
        return at_once(lambda keys: pa.concat_tables([window.rows(keys, [key]) for window in windows]))

    ref = SnapshotRef(bucket, key, epoch.time, epoch.number)
    tables = by_ranges(sources, ref, epoch, begin, base=False, tail=False, keys=one_key(key))
    return [*found, *(o for table in tables for o in observations_of(table))]


def _has_more(archive: Archive, epoch: Epoch) -> bool:
    """Whether the archive has what the table may not have."""
    if any(s.leaving_since is not None and s.first <= epoch.number for s in archive.segments):
        return True
    return any(_covers(epoch, one) for one in archive.listed)


def _covers(epoch: Epoch, listed: Listed) -> bool:
    return listed.number <= epoch.cover.get(listed.stream, 0)


# What it costs


def explain(sources: Sources, ref: SnapshotRef, epoch: Epoch) -> str:
    """What resolving reads, in words."""
    archive = sources.archive(ref.bucket)
    return make_plan(archive, epoch, ref.at, keys_below(ref.prefix), start=ref.start).in_words()


def bound(sources: Sources, ref: SnapshotRef, epoch: Epoch) -> int:
    """At most so many rows, from manifests and footers alone; an entry of the log counts for 500."""
    with Reading(sources, ref, epoch, keys_below(ref.prefix), tail=False) as reading:
        listed = sum(f.rows for one in reading.archive.listed if _covers(epoch, one) for f in one.files)
        rows = sum(group.rows for group in reading.bounds(reading.plan.files))
        return rows + listed + 500 * reading.plan.entries
