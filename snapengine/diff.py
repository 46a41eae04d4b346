"""PURE: what changed between two views."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from operator import attrgetter

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.bulkfold import VIEW_SCHEMA, versions_of
from snapengine.model import ObjectVersion
from snapengine.row_bytes import encoded_rows

_WINDOW = 65_536


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. `before` is None if it was added, `after` if it was removed."""

    key: str
    before: ObjectVersion | None
    after: ObjectVersion | None

    @property
    def kind(self) -> str:
        """`added`, `removed` or `changed`."""
        if self.before is None:
            return "added"
        return "changed" if self.after else "removed"


@dataclass(frozen=True, slots=True)
class Diff:
    """The keys that differ between two views, in key order. Held as columns: a row becomes a `Change` when
    it is asked for."""

    before: str
    """The reference of the one view."""
    after: str
    added_rows: pa.Table = field(repr=False, hash=False)
    """Rows of `VIEW_SCHEMA` that only the later view has, in key order."""
    removed_rows: pa.Table = field(repr=False, hash=False)
    changed_before: pa.Table = field(repr=False, hash=False)
    """Of the keys that both views have with different data the rows before, and in `changed_after` after."""
    changed_after: pa.Table = field(repr=False, hash=False)

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(self)

    @property
    def added(self) -> list[ObjectVersion]:
        return list(versions_of(self.added_rows))

    @property
    def removed(self) -> list[ObjectVersion]:
        return list(versions_of(self.removed_rows))

    @property
    def changed(self) -> list[tuple[ObjectVersion, ObjectVersion]]:
        return list(self._changed())

    def _changed(self) -> Iterator[tuple[ObjectVersion, ObjectVersion]]:
        return zip(versions_of(self.changed_before), versions_of(self.changed_after), strict=True)

    def __len__(self) -> int:
        return int(self.added_rows.num_rows + self.removed_rows.num_rows + self.changed_after.num_rows)

    def __iter__(self) -> Iterator[Change]:
        return merge(
            (Change(new.key, None, new) for new in versions_of(self.added_rows)),
            (Change(old.key, old, None) for old in versions_of(self.removed_rows)),
            (Change(old.key, old, new) for old, new in self._changed()),
            key=attrgetter("key"),
        )

    def __str__(self) -> str:
        return (
            f"{self.added_rows.num_rows} added, {self.changed_after.num_rows} changed, "
            f"{self.removed_rows.num_rows} removed"
        )

    def _repr_html_(self) -> str:
        from snapengine.notebook import diff_html

        return diff_html(self)


def diff_tables(before_ref: str, before: pa.Table, after_ref: str, after: pa.Table) -> Diff:
    """The differences of two tables of `VIEW_SCHEMA`, both in key order, with one row a key."""
    return diff_batches(
        before_ref,
        before.to_batches(max_chunksize=_WINDOW),
        after_ref,
        after.to_batches(max_chunksize=_WINDOW),
    )


def diff_batches(
    before_ref: str, before: Iterable[pa.RecordBatch], after_ref: str, after: Iterable[pa.RecordBatch]
) -> Diff:
    """The same of rows that come in batches: but for the rows that differ, memory is bounded.

    Rows are the same if what the digest covers is: that a time became better known is no change of the data.
    """
    empty = VIEW_SCHEMA.empty_table()
    added, removed, changed_before, changed_after = [empty], [empty], [empty], [empty]
    for old, new in _windows(before, after):
        if not old.num_rows and not new.num_rows:
            continue
        old_keys, new_keys = old["key"].combine_chunks(), new["key"].combine_chunks()
        in_both, in_old = pc.is_in(old_keys, value_set=new_keys), pc.is_in(new_keys, value_set=old_keys)
        removed.append(old.filter(pc.invert(in_both)))
        added.append(new.filter(pc.invert(in_old)))
        changed_before.append(old.filter(in_both))
        changed_after.append(new.filter(in_old))
    return Diff(
        before_ref,
        after_ref,
        *(
            pa.concat_tables(parts).combine_chunks()
            for parts in (added, removed, changed_before, changed_after)
        ),
    )


def _windows(
    before: Iterable[pa.RecordBatch], after: Iterable[pa.RecordBatch]
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The rows of either side that the other does not have just so, one range of keys after another."""
    olds, news = _filled(before), _filled(after)
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        if old is None or new is None:
            yield _table(old), _table(new)
            old, new = next(olds, None), next(news, None)
            continue
        last = min(_last(old), _last(new))
        old_rows, new_rows = _up_to(old, last), _up_to(new, last)
        yield _differing(old.slice(0, old_rows), new.slice(0, new_rows))
        old = old.slice(old_rows) if old_rows < old.num_rows else next(olds, None)
        new = new.slice(new_rows) if new_rows < new.num_rows else next(news, None)


def _differing(old: pa.RecordBatch, new: pa.RecordBatch) -> tuple[pa.Table, pa.Table]:
    old_bytes, new_bytes = encoded_rows(old), encoded_rows(new)
    if old_bytes.equals(new_bytes):
        return _table(None), _table(None)
    old_same = pc.is_in(old_bytes, value_set=new_bytes)
    new_same = pc.is_in(new_bytes, value_set=old_bytes)
    return _table(old.filter(pc.invert(old_same))), _table(new.filter(pc.invert(new_same)))


def _filled(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (batch.select(VIEW_SCHEMA.names) for batch in batches if batch.num_rows)


def _table(batch: pa.RecordBatch | None) -> pa.Table:
    return VIEW_SCHEMA.empty_table() if batch is None else pa.Table.from_batches([batch]).cast(VIEW_SCHEMA)


def _last(batch: pa.RecordBatch) -> str:
    return str(batch["key"][batch.num_rows - 1].as_py())


def _up_to(batch: pa.RecordBatch, key: str) -> int:
    """How many of the rows have no greater key: Python compares text as UTF-8 bytes compare."""
    keys = batch["key"]
    return bisect_right(range(batch.num_rows), key, key=lambda row: keys[row].as_py())
