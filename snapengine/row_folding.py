"""A view's rows joined with an extractor's rows of metadata, folded range by range of keys.

A range's result is one table by `shown_schema`: rows of objects that the view shows, and, where they are
asked for, rows without an `event_time`: keys that it does not show, or rows of versions that it does not
show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import Checkpoint
from snapengine.archive.planning import KeyRange, row_tail
from snapengine.archive.row_files import RowSchema, members_of
from snapengine.bulkfold import VIEW_SCHEMA, bulkfold
from snapengine.deltafold import EMPTY_BASE, settle
from snapengine.metadata_rows import (
    conform,
    fold_rows,
    join_rows,
    joined_schema,
    plain_schema,
    ranks,
    row_schema,
    unify,
    version_ids,
)
from snapengine.model import CREATED, SLACK_MS, VERSION_DELETED, SnapshotRef
from snapengine.observation_codec import SCHEMA
from snapengine.ranges import Finish, Observations, Reading, Sources
from snapengine.resolver import Resolution, histories_of
from snapengine.row_windows import Extracted, RowTail, RowWindow, archived_rows, of_keys, refusing, row_files

RANGE_ROWS = 65_536
"""Rows of a range, more or less: they may be wide."""


def rows_schema(members: Sequence[RowSchema], wanted: Extracted) -> pa.Schema:
    """Of all rows together: with all columns, or the plain one, as far as they are needed. Raises `BadData`
    where two versions of the extractor contradict each other."""
    full = full_schema(members, wanted.extractor)
    schema = full if wanted.full else plain_schema(full)
    return pa.schema([field for field in schema if wanted.reads(field.name)])


def full_schema(members: Sequence[RowSchema], extractor: str) -> pa.Schema:
    """The columns of an extractor of which there is no row are those that every row has."""
    if not members:
        return row_schema(pa.schema([]))
    return unify([one.schema for one in members], extractor)


def shown_schema(rows: pa.Schema) -> pa.Schema:
    """Of a range's result, and of a checkpoint's files: `joined_schema`, where any column may be null."""
    return pa.schema([field.with_nullable(True) for field in joined_schema(rows)])


class Tied(Exception):
    """Which of two rows counts cannot be told without all of their columns."""


class WholeFold:
    """All that a view or slice shows, joined with what all epochs tell of its rows."""

    def __init__(
        self, reading: Reading, sources: Sources, ref: SnapshotRef, wanted: Extracted, *, rest: bool = False
    ) -> None:
        """With `rest` also the rows that are pending, for a checkpoint at `ref.at`."""
        self._at = ref.at
        self._rest = rest
        self._view = Resolution(reading, ref, VIEW_SCHEMA, None)
        self._history = reading.observations(reading.plan.history)
        self._rows = archived_rows(reading, wanted, 0, reading.epoch.number)
        self._tail = _tail(reading, sources, ref.bucket, wanted)
        self.members = [*self._rows.members, *_told(self._tail, wanted)]
        self._schema = rows_schema(self.members, wanted)
        self.schema = shown_schema(self._schema)

    def ranges(self, reading: Reading) -> list[KeyRange]:
        files = [*reading.plan.files, *reading.listed(), *self._rows.files]
        return reading.cut(files, RANGE_ROWS, self._tail.bounds)

    def start(self, keys: KeyRange) -> Callable[[], Finish[pa.Table]]:
        view, archived = self._view.start(keys), self._rows.start(keys, self._schema)

        def read() -> Finish[pa.Table]:
            finish, rows = view(), archived()
            return lambda: self._joined(keys, finish(), rows)

        return read

    def _joined(self, keys: KeyRange, view: pa.Table, archived: pa.Table) -> pa.Table:
        rows = fold_rows(pa.concat_tables([archived, self._tail.rows(keys, self._schema)]))
        shown = join_rows(view, _among(rows, view)).cast(self.schema)
        if not self._rest:
            return shown
        rest = unknown_yet(_not_among(rows, view), self._history, keys, self._at)
        return pa.concat_tables([shown, conform(rest, self.schema)])


class ChangeFold:
    """What a view shows otherwise than a checkpoint's files do, because of later observations or rows."""

    def __init__(
        self,
        reading: Reading,
        sources: Sources,
        ref: SnapshotRef,
        wanted: Extracted,
        checkpoint: Checkpoint,
        *,
        whole: bool = False,
        rest: bool = False,
    ) -> None:
        """`reading` begins at the checkpoint, which has the extractor's rows; `ref` is no slice. A range's
        result has every key that changed; with `whole` also all others. `rest` as for `WholeFold`."""
        plan, epoch = reading.plan, reading.epoch.number
        live = checkpoint.live(wanted.extractor, full=wanted.full)
        self._reading = reading
        self._wanted = wanted
        self._ref = ref
        self._checkpoint = checkpoint
        self._whole = whole
        self._rest = rest
        self._history = reading.observations(plan.history)
        self._delta = reading.observations(plan.delta)
        self._side = reading.files_window(plan.side, SCHEMA)
        self._later = archived_rows(reading, wanted, checkpoint.epoch, epoch)
        self._pending = row_files(reading, checkpoint.pending(wanted.extractor, full=wanted.full), wanted)
        self._tail = _tail(reading, sources, ref.bucket, wanted)
        self._earlier: RowWindow | None = None
        with refusing(wanted):
            stored = reading.reader().schema(live[0])
        self.members = [*members_of(stored, live[0].path), *self._later.members, *_told(self._tail, wanted)]
        self._schema = rows_schema(self.members, wanted)
        self.schema = shown_schema(self._schema)
        self._files = tuple(f for f in live if reading.keys.overlaps(f.min_key, f.max_key))
        columns = pa.schema([field for field in stored if field.name in self.schema.names])
        self._live = reading.files_window(self._files, columns)
        self._ids = reading.files_window(plan.objects, pa.schema(EMPTY_BASE.schema))
        self._objects = reading.files_window(plan.objects, VIEW_SCHEMA)

    def ranges(self, reading: Reading) -> list[KeyRange]:
        parts = [*reading.plan.delta, *self._later.parts]
        files = [*reading.plan.side, *reading.listed(), *(f for part in parts for f in part.files)]
        return reading.cut([*files, *(self._files if self._whole else ())], RANGE_ROWS, self._tail.bounds)

    def start(self, keys: KeyRange) -> Callable[[], Finish[pa.Table]]:
        waits = [
            self._side.start(keys),
            self._delta.start(keys),
            self._later.start(keys, self._schema),
            self._pending.start(keys, self._schema),
        ]
        base = self._live.start(keys) if self._whole else None

        def read() -> Finish[pa.Table]:
            side, delta, later, pending = (wait() for wait in waits)
            standing = self._read_live(base) if base else None
            return lambda: self._fold(keys, side, delta, later, pending, standing)

        return read

    def _read_live(self, rows: Callable[[], pa.Table]) -> pa.Table:
        with refusing(self._wanted):
            return conform(rows(), self.schema)

    def _standing(self, keys: KeyRange, base: pa.Table | None, wanted: pa.Array[Any]) -> pa.Table:
        """What the checkpoint's files have of these keys."""
        if base is not None:
            return of_keys(base, wanted)
        if not len(wanted):
            return self.schema.empty_table()
        return self._read_live(lambda: self._live.rows(keys, sorted(wanted.to_pylist())))

    def _fold(
        self,
        keys: KeyRange,
        side: pa.Table,
        delta: pa.Table,
        later: pa.Table,
        pending: pa.Table,
        base: pa.Table | None,
    ) -> pa.Table:
        later = pa.concat_tables([later, self._tail.rows(keys, self._schema)])
        view, replaced = self._observed(keys, side, delta)
        touched = _without(pc.unique(later["key"]), replaced)
        told = _among(self._standing(keys, base, touched), later)
        old = view.filter(pc.invert(self._is_new(view, side)))
        as_it_was, there = self._as_it_was(keys, old, later)
        view, old = _without_keys(view, as_it_was), _without_keys(old, as_it_was)
        replaced = _without(replaced, as_it_was)
        stood = _among(self._standing(keys, base, there), old)
        missing = _not_among(old, stood)
        rows = [later, _not_among(pending, missing), self._as_rows(told), self._as_rows(stood)]
        if missing.num_rows:
            rows.append(self._rows_before(keys, sorted(pc.unique(missing["key"]).to_pylist())))
        view = pa.concat_tables([view, told.select(VIEW_SCHEMA.names).cast(VIEW_SCHEMA)])
        view = view.take(pc.sort_indices(view, sort_keys=[("key", "ascending")]))
        found = _among(pa.concat_tables(rows), view)
        if self._wanted.columns is not None and _tied(found):
            raise Tied
        shown = join_rows(view, fold_rows(found)).cast(self.schema)
        if base is not None:
            gone = pa.concat_arrays([replaced, told["key"].combine_chunks()])
            kept = base.filter(pc.invert(pc.is_in(base["key"], value_set=gone)))
            shown = pa.concat_tables([kept, shown])
            shown = shown.take(pc.sort_indices(shown, sort_keys=[("key", "ascending")]))
            rest = [_not_among(fold_rows(pa.concat_tables([later, pending])), shown)] if self._rest else []
            unknown = [unknown_yet(one, self._history, keys, self._ref.at) for one in rest]
            return pa.concat_tables([shown, *(conform(one, self.schema) for one in unknown)])
        absent = pa.table({"key": _without(replaced, shown["key"].combine_chunks())})
        return pa.concat_tables([shown, conform(absent, self.schema)])

    def _as_it_was(
        self, keys: KeyRange, old: pa.Table, later: pa.Table
    ) -> tuple[pa.Array[Any], pa.Array[Any]]:
        """Of these objects the keys of which nothing has changed after all; and those of the others of which
        the live set shows that version id too."""
        same: list[str] = []
        there: list[str] = []
        wanted = sorted(pc.unique(old["key"]).to_pylist())
        stood = {row["key"]: row for row in self._objects.rows(keys, wanted).to_pylist()} if wanted else {}
        touched = set(_among(old, later)["key"].to_pylist())
        for row in old.to_pylist():
            before = stood.get(row["key"])
            if before == row and row["key"] not in touched:
                same.append(row["key"])
            elif before is not None and before["version_id"] == row["version_id"]:
                there.append(row["key"])
        return pa.array(same, pa.string()), pa.array(there, pa.string())

    def _observed(self, keys: KeyRange, side: pa.Table, delta: pa.Table) -> tuple[pa.Table, pa.Array[Any]]:
        """The objects of the keys of which the live set no longer holds because of observations, and those
        keys."""
        removed = pc.unique(delta.filter(pc.equal(delta["kind"], VERSION_DELETED))["key"])
        ids = self._ids.rows(keys, sorted(removed.to_pylist())) if len(removed) else EMPTY_BASE
        told = settle(ids, side, delta, self._ref.at, self._checkpoint.at)
        whole = histories_of(self._history, keys, sorted(told.whole.to_pylist()))
        objects = [told.rows, *(bulkfold(history, self._ref.at) for history in whole)]
        return pa.concat_tables(objects), pc.unique(told.replaced)

    def _is_new(self, view: pa.Table, side: pa.Table) -> pa.ChunkedArray[Any]:
        """Whether a version came to be after the checkpoint's instant, and no listing that it knows showed
        it: its earlier rows are all pending."""
        listed = pc.unique(side.filter(pc.is_valid(side["listing"]))["key"])
        later = pc.greater(view["event_time"].cast(pa.int64()), self._checkpoint.at + SLACK_MS)
        told = pc.and_(pc.equal(view["time"], "event"), pc.is_valid(view["sequencer"]))
        unlisted = pc.invert(pc.is_in(view["key"], value_set=listed))
        return pc.and_(later, pc.and_(told, unlisted))

    def _as_rows(self, joined: pa.Table) -> pa.Table:
        """The rows of metadata in rows of the checkpoint's files."""
        return conform(joined.filter(pc.is_valid(joined["outcome"])), self._schema)

    def _rows_before(self, keys: KeyRange, wanted: Sequence[str]) -> pa.Table:
        """Rows of versions that the live set did not show."""
        if self._earlier is None:
            self._earlier = archived_rows(self._reading, self._wanted, 0, self._checkpoint.epoch)
        return self._earlier.rows(keys, self._schema, wanted)


def unknown_yet(rows: pa.Table, history: Observations, keys: KeyRange, at: int) -> pa.Table:
    """Of the rows of versions that a live set at `at` does not show those of versions that no listing told
    of, and no event up to `at`."""
    if not rows.num_rows:
        return rows
    told = history.rows(keys, sorted(pc.unique(rows["key"]).to_pylist()))
    listed = pc.is_valid(told["listing"])
    early = pc.less_equal(told["event_time"].cast(pa.int64()), at)
    created = pc.equal(told["kind"], CREATED)
    return _not_among(rows, told.filter(pc.and_(created, pc.or_(listed, early))))


def _tail(reading: Reading, sources: Sources, bucket: str, wanted: Extracted) -> RowTail:
    return RowTail(sources.store, bucket, row_tail(reading.archive, reading.epoch), wanted, reading.pool)


def _told(tail: RowTail, wanted: Extracted) -> list[RowSchema]:
    return [RowSchema(schema, 0) for schema in tail.schemas.get(wanted.extractor, ())]


def _tied(rows: pa.Table) -> bool:
    told = rows.select(["extracted_at", "extractor_version"])
    told = told.append_column("rank", ranks(rows["outcome"])).append_column("id", version_ids(rows))
    return bool(told.group_by(told.column_names).aggregate([]).num_rows < rows.num_rows)


def _among(rows: pa.Table, others: pa.Table) -> pa.Table:
    """The rows of versions that the others have too."""
    if not rows.num_rows:
        return rows
    return rows.filter(pc.is_in(version_ids(rows), value_set=_whole(version_ids(others))))


def _not_among(rows: pa.Table, others: pa.Table) -> pa.Table:
    if not rows.num_rows:
        return rows
    return rows.filter(pc.invert(pc.is_in(version_ids(rows), value_set=_whole(version_ids(others)))))


def _without_keys(table: pa.Table, keys: pa.Array[Any]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["key"], value_set=keys)))


def _without(keys: pa.Array[Any], others: pa.Array[Any]) -> pa.Array[Any]:
    return keys.filter(pc.invert(pc.is_in(keys, value_set=others)))


def _whole(column: pa.ChunkedArray[Any] | pa.Array[Any]) -> pa.Array[Any]:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
