"""A view's rows joined with an extractor's rows of metadata, folded range by range of keys.

A range's result is one table by `shown_schema`: rows of objects that the view shows, and, where they are
asked for, rows without an `event_time`: keys that it does not show, or rows of versions that it does not
show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import ArchiveFile, Start
from snapengine.archive.planning import KeyRange, row_tail
from snapengine.archive.row_files import RowSchema, members_of
from snapengine.archive.schemas import GONE
from snapengine.archive.windows import Window
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.changed_objects import RANGE_ROWS, ObservedChanges, standing
from snapengine.deltafold import Changes, put_together
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
from snapengine.model import CREATED, SLACK_MS, SnapshotRef
from snapengine.observation_codec import SCHEMA
from snapengine.ranges import Finish, Observations, Reading, Sources
from snapengine.resolver import Resolution
from snapengine.row_windows import Extracted, RowTail, RowWindow, archived_rows, of_keys, refusing, row_files


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


class _Stood(NamedTuple):
    """Of a range of keys what the files say that a view begins with."""

    base: pa.Table | None
    """All rows, if all are wanted."""
    over: Changes
    """Of the checkpoint's rows those that do not count, by a differential."""


class ChangeFold:
    """What a view shows otherwise than a checkpoint's files do, because of later observations or rows: those
    of a differential are put together already."""

    def __init__(
        self,
        reading: Reading,
        sources: Sources,
        ref: SnapshotRef,
        wanted: Extracted,
        begin: Start,
        *,
        whole: bool = False,
        rest: bool = False,
    ) -> None:
        """`reading` starts at `begin`, which has the extractor's rows; `ref` is no slice. A range's result
        has every key that changed; with `whole` also all others. `rest` as for `WholeFold`."""
        plan, epoch = reading.plan, reading.epoch.number
        last = begin.last
        self._reading = reading
        self._wanted = wanted
        self._ref = ref
        self._begin = begin
        self._whole = whole
        self._rest = rest
        self._history = reading.observations(plan.history)
        self._delta = reading.observations(plan.delta)
        self._side = reading.files_window(plan.side, SCHEMA)
        self._later = archived_rows(reading, wanted, begin.epoch, epoch)
        self._pending = row_files(reading, last.pending(wanted.extractor, full=wanted.full), wanted)
        self._tail = _tail(reading, sources, ref.bucket, wanted)
        self._earlier: RowWindow | None = None
        live = begin.checkpoint.live(wanted.extractor, full=wanted.full)
        changed = begin.difference.live(wanted.extractor, full=wanted.full) if begin.difference else ()
        with refusing(wanted):
            stored = reading.reader().schema((*changed, *live)[0])
        known = members_of(stored, (*changed, *live)[0].path)
        self.members = [*known, *self._later.members, *_told(self._tail, wanted)]
        self._schema = rows_schema(self.members, wanted)
        self.schema = shown_schema(self._schema)
        self._files, self._live = self._rows_of(live)
        self._changed_files, self._changed = self._rows_of(changed)
        self._gone = reading.files_window(plan.gone, GONE)
        self._objects = reading.files_window(plan.objects, VIEW_SCHEMA)
        self._observed = ObservedChanges(reading, ref.at)

    def _rows_of(self, files: Sequence[ArchiveFile]) -> tuple[Sequence[ArchiveFile], Window]:
        """Of a live set's files those that are needed, and the rows in them."""
        inside = [f for f in files if self._reading.keys.overlaps(f.min_key, f.max_key)]
        stored = pa.schema([])
        if files:
            with refusing(self._wanted):
                stored = self._reading.reader().schema(files[0])
        columns = pa.schema([field for field in stored if field.name in self.schema.names])
        return inside, self._reading.files_window(inside, columns)

    def ranges(self, reading: Reading) -> list[KeyRange]:
        parts = [*reading.plan.delta, *self._later.parts]
        files = [*reading.plan.side, *reading.listed(), *(f for part in parts for f in part.files)]
        files += [*self._changed_files, *reading.plan.gone, *(self._files if self._whole else ())]
        return reading.cut(files, RANGE_ROWS, self._tail.bounds)

    def start(self, keys: KeyRange) -> Callable[[], Finish[pa.Table]]:
        waits = [
            self._side.start(keys),
            self._delta.start(keys),
            self._later.start(keys, self._schema),
            self._pending.start(keys, self._schema),
        ]
        base = self._live.start(keys) if self._whole else None
        changed, gone = self._changed.start(keys), self._gone.start(keys)

        def read() -> Finish[pa.Table]:
            side, delta, later, pending = (wait() for wait in waits)
            over = Changes(_whole(gone()["key"]), self._read_live(changed))
            stood = _Stood(put_together(self._read_live(base), *over) if base else None, over)
            return lambda: self._fold(keys, side, delta, later, pending, stood)

        return read

    def _read_live(self, rows: Callable[[], pa.Table]) -> pa.Table:
        with refusing(self._wanted):
            return conform(rows(), self.schema)

    def _standing(self, keys: KeyRange, stood: _Stood, wanted: pa.Array[Any]) -> pa.Table:
        """What the checkpoint's files, or a differential's, have of these keys."""
        if stood.base is not None:
            return of_keys(stood.base, wanted)
        return standing(
            stood.over, wanted, lambda left: self._read_live(partial(self._live.rows, keys, left))
        )

    def _fold(
        self,
        keys: KeyRange,
        side: pa.Table,
        delta: pa.Table,
        later: pa.Table,
        pending: pa.Table,
        stood: _Stood,
    ) -> pa.Table:
        later = pa.concat_tables([later, self._tail.rows(keys, self._schema)])
        replaced, view = self._observed.of(keys, side, delta, stood.over)
        touched = _without(pc.unique(later["key"]), replaced)
        told = _among(self._standing(keys, stood, touched), later)
        old = view.filter(pc.invert(self._is_new(view, side)))
        as_it_was, there = self._as_it_was(keys, old, later, stood.over)
        view, old = _without_keys(view, as_it_was), _without_keys(old, as_it_was)
        replaced = _without(replaced, as_it_was)
        stays = _among(self._standing(keys, stood, there), old)
        missing = _not_among(old, stays)
        rows = [later, _not_among(pending, missing), self._as_rows(told), self._as_rows(stays)]
        if missing.num_rows:
            rows.append(self._rows_before(keys, sorted(pc.unique(missing["key"]).to_pylist())))
        view = pa.concat_tables([view, told.select(VIEW_SCHEMA.names).cast(VIEW_SCHEMA)])
        view = view.take(pc.sort_indices(view, sort_keys=[("key", "ascending")]))
        found = _among(pa.concat_tables(rows), view)
        if self._wanted.columns is not None and _tied(found):
            raise Tied
        changes = Changes(replaced, join_rows(view, fold_rows(found)).cast(self.schema))
        return self._with_what_stays(keys, stood, changes, [later, pending])

    def _with_what_stays(
        self, keys: KeyRange, stood: _Stood, changes: Changes, rows: Sequence[pa.Table]
    ) -> pa.Table:
        """A range's result; `rows` are those of versions that need not be shown."""
        stays = stood.over.rows if stood.base is None else stood.base
        shown = put_together(stays, *changes)
        found = [shown]
        if stood.base is None:
            gone = pc.unique(pa.concat_arrays([changes.replaced, stood.over.replaced]))
            absent = pa.table({"key": _without(gone, _whole(changes.rows["key"]))})
            found.append(conform(absent, self.schema))
        if self._rest:
            rest = _not_among(fold_rows(pa.concat_tables(rows)), shown)
            found.append(conform(unknown_yet(rest, self._history, keys, self._ref.at), self.schema))
        return pa.concat_tables(found)

    def _as_it_was(
        self, keys: KeyRange, old: pa.Table, later: pa.Table, over: Changes
    ) -> tuple[pa.Array[Any], pa.Array[Any]]:
        """Of these objects the keys of which nothing has changed after all; and those of the others of which
        the live set shows that version id too."""
        same: list[str] = []
        there: list[str] = []
        objects = Changes(over.replaced, over.rows.select(VIEW_SCHEMA.names).cast(VIEW_SCHEMA))
        wanted = pc.unique(old["key"])
        rows = standing(objects, wanted, partial(self._objects.rows, keys))
        stood = {row["key"]: row for row in rows.to_pylist()}
        touched = set(_among(old, later)["key"].to_pylist())
        for row in old.to_pylist():
            before = stood.get(row["key"])
            if before == row and row["key"] not in touched:
                same.append(row["key"])
            elif before is not None and before["version_id"] == row["version_id"]:
                there.append(row["key"])
        return pa.array(same, pa.string()), pa.array(there, pa.string())

    def _is_new(self, view: pa.Table, side: pa.Table) -> pa.ChunkedArray[Any]:
        """Whether a version came to be after the instant at which the view begins, and no listing that is
        known there showed it: its earlier rows are all pending."""
        listed = pc.unique(side.filter(pc.is_valid(side["listing"]))["key"])
        later = pc.greater(view["event_time"].cast(pa.int64()), self._begin.at + SLACK_MS)
        told = pc.and_(pc.equal(view["time"], "event"), pc.is_valid(view["sequencer"]))
        unlisted = pc.invert(pc.is_in(view["key"], value_set=listed))
        return pc.and_(later, pc.and_(told, unlisted))

    def _as_rows(self, joined: pa.Table) -> pa.Table:
        """The rows of metadata in rows of the checkpoint's files."""
        return conform(joined.filter(pc.is_valid(joined["outcome"])), self._schema)

    def _rows_before(self, keys: KeyRange, wanted: Sequence[str]) -> pa.Table:
        """Rows of versions that the live set did not show."""
        if self._earlier is None:
            self._earlier = archived_rows(self._reading, self._wanted, 0, self._begin.epoch)
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
