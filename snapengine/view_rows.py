"""A view's rows: resolved once and kept where they are few, else streamed whenever they are needed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pyarrow as pa

from snapengine.after_fork import lock_of
from snapengine.bulkfold import BECAME, VIEW_SCHEMA, version_table, versions_of
from snapengine.digest import digest_batches, digest_pieces
from snapengine.errors import BadData, UsageError
from snapengine.model import Epoch, GoneVersion, ObjectVersion, SnapshotRef
from snapengine.ports import Clock
from snapengine.reference import render_reference
from snapengine.rollup import range_of, roll_up
from snapengine.row_bytes import COLUMNS, Piece
from snapengine.selections import Chosen
from snapengine.settings import Settings

if TYPE_CHECKING:
    from snapengine.stores.objects import VersionFacts

FEW_ROWS = 2_000_000
"""A view of at most so many rows (some 400 MB) is resolved once and kept; a greater one is streamed."""

BATCH_ROWS = 65_536
"""Rows at most in a batch that a view gives."""

_LOOK_UPS = 64
"""So many keys are rather looked up one by one than found by reading all rows."""


class Joined(Protocol):
    """A view's rows, each with its row of metadata: `metadata_rows.joined_schema`, in key order."""

    @property
    def schema(self) -> pa.Schema:
        """All columns that there are; also the identifying ones, where those are not read."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """Local Parquet files with rows of the whole bucket, each file's keys after the one's before it."""
        ...

    def settled(self) -> Joined:
        """The same, or the same without files if too much has changed: only of this `changed` and `batches`
        may be asked. Waits for what is still being read, and raises what went wrong there."""
        ...

    @property
    def changed(self) -> pa.Array[Any] | Sequence[str]:
        """Keys of which the files' rows do not count."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows that count instead, and of the view all that are in no file."""
        ...

    def abandon(self) -> None:
        """No answer is wanted any more: what is still being read for it ends soon."""
        ...

    def verify(self, columns: Sequence[str] | None = None) -> None:
        """Raise `ArchiveDamaged` where what a file has of these columns (None: of all) is not what was
        written. May run while the files are read."""
        ...


class ViewSource(Protocol):
    """What a view reads from; an `Engine` is one. It must pickle.

    Sources that are equal (`==`) give the same rows for the same reference.
    """

    def table(self, ref: SnapshotRef, epoch: Epoch) -> pa.Table:
        """All rows in key order: `VIEW_SCHEMA`, and `became` of a slice of all versions."""
        ...

    def batches(
        self, ref: SnapshotRef, epoch: Epoch, columns: Sequence[str] | None = None, after: str = ""
    ) -> Iterator[pa.RecordBatch]:
        """The same in bounded memory: of the columns those asked for, in that order, and only of the keys
        after `after`, which lies below the prefix or before it. May be run several times at once, and left
        before its end."""
        ...

    def bound(self, ref: SnapshotRef, epoch: Epoch) -> int:
        """At most so many rows, from the plan alone."""
        ...

    def differing(
        self, before_ref: SnapshotRef, before_epoch: Epoch, after_ref: SnapshotRef, after_epoch: Epoch
    ) -> tuple[pa.Table, pa.Table] | None:
        """Of two views or slices (not of all versions) of any prefixes the rows of at least those keys that
        differ, each side in key order; None if they are too many, or not known without reading both."""
        ...

    def explain(self, ref: SnapshotRef, epoch: Epoch) -> str:
        """What resolving reads, in words."""
        ...

    def version(self, ref: SnapshotRef, epoch: Epoch, key: str) -> ObjectVersion | None: ...

    def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes: ...

    def removal(self, bucket: str, version: ObjectVersion) -> str | None:
        """When and why a version was removed, in words, if the log knows."""
        ...

    def audit(self, ref: SnapshotRef, shown: pa.Table) -> list[GoneVersion]: ...


@runtime_checkable
class InPieces(Protocol):
    """A source that can give rows at less cost for those who only need their bytes."""

    def pieces(self, ref: SnapshotRef, epoch: Epoch) -> Iterator[Piece]:
        """All rows in key order, with the digest's columns, in bounded memory."""
        ...


class BaseSource(ViewSource, Protocol):
    """A source of views that can be narrowed."""

    @property
    def settings(self) -> Settings: ...

    @property
    def clock(self) -> Clock: ...

    def read_into(self, bucket: str, version: ObjectVersion, start: int, buffer: memoryview) -> None: ...

    def facts(self, bucket: str, version: ObjectVersion) -> VersionFacts:
        """What S3 says of a version besides its bytes."""
        ...

    def joined(
        self,
        ref: SnapshotRef,
        epoch: Epoch,
        extractor: str,
        *,
        identifying: bool,
        columns: Sequence[str] | None = None,
    ) -> Joined:
        """The rows beside their metadata; with `columns` only those of the extractor's need be read."""
        ...

    def row_schema(self, bucket: str, epoch: Epoch, extractor: str) -> pa.Schema:
        """The columns of the rows that an epoch knows, by `metadata_rows.row_schema`, also the identifying
        ones; of no row those that every row has."""
        ...

    def extracting(self, bucket: str, extractor: str) -> bool:
        """Whether that extractor is switched on for the bucket's new objects."""
        ...

    def chosen(self, ref: SnapshotRef) -> Chosen | None:
        """How a narrowed view came to be, if that was kept."""
        ...

    def keep(self, ref: SnapshotRef, rows: pa.Table, chosen: Chosen) -> None:
        """Keep what a narrowed view's reference selects, for ever. Raises what keeps the table from it; then
        it is kept while this process lasts."""
        ...

    def selected(self, ref: SnapshotRef) -> pa.Table:
        """The same rows. Raises `NoSuchSelection`, and `LogDamaged` if they are not what was kept."""
        ...


class Rows:
    """What a reference shows at an epoch. Thread-safe."""

    def __init__(
        self, source: ViewSource, ref: SnapshotRef, epoch: Epoch, table: pa.Table | None = None
    ) -> None:
        self.source = source
        self.ref = ref
        self.epoch = epoch
        self._lock = lock_of(self)
        self._table = table
        self._bound: int | None = None
        self._count: int | None = None

    @property
    def schema(self) -> pa.Schema:
        return VIEW_SCHEMA.append(BECAME) if self.ref.versions == "all" else VIEW_SCHEMA

    @property
    def known(self) -> pa.Table | None:
        """The rows, if they are in memory."""
        return self._table

    @property
    def known_count(self) -> int | None:
        """How many there are, if that has been found out."""
        return self._count if self._table is None else self._table.num_rows

    def bound(self) -> int:
        """At most so many, without reading them."""
        count = self.known_count
        return self._planned() if count is None else count

    def _planned(self) -> int:
        if self._bound is None:
            self._bound = self.source.bound(self.ref, self.epoch)
        return self._bound

    def whole(self) -> pa.Table:
        """All of them in memory, where they stay."""
        with self._lock:
            if self._table is None:
                self._table = self.source.table(self.ref, self.epoch)
            return self._table

    def few(self) -> pa.Table | None:
        """All of them, if they are in memory or few enough to be; else None."""
        if self._table is None and self._planned() > FEW_ROWS:
            return None
        return self.whole()

    def batches(self, columns: Sequence[str] | None = None, after: str = "") -> Iterator[pa.RecordBatch]:
        """The rows in order, at most `BATCH_ROWS` at a time, of the keys after `after`. Raises `UsageError`
        for a column of none."""
        names = self.schema.names
        wanted = names if columns is None else list(columns)
        if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(names):
            raise UsageError(
                f"columns={columns!r}: name one or more of {', '.join(names)}, each of them once."
            )
        return self._batches(wanted, after)

    def _batches(self, wanted: list[str], after: str) -> Iterator[pa.RecordBatch]:
        if after > self.ref.prefix and not after.startswith(self.ref.prefix):
            return
        table = self.few()
        if table is not None:
            keys = table["key"]
            first = bisect_right(range(table.num_rows), after, key=lambda row: keys[row].as_py())
            yield from table.select(wanted).slice(first).to_batches(max_chunksize=BATCH_ROWS)
            return
        for batch in self.source.batches(self.ref, self.epoch, wanted, after):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)

    def digest(self) -> str:
        if isinstance(self.source, InPieces) and self.few() is None:
            return digest_pieces(self.source.pieces(self.ref, self.epoch))
        return digest_batches(self.batches(COLUMNS))

    def versions(self) -> Iterator[ObjectVersion]:
        for batch in self.batches(VIEW_SCHEMA.names):
            yield from _versions(batch)

    def count(self) -> int:
        count = self.known_count
        if count is None:
            count = self._count = sum(batch.num_rows for batch in self.batches(["key"]))
        return count

    def below(self, prefix: str) -> Rows:
        """Those whose keys start with `prefix`: resolved by themselves if these are not in memory."""
        if self.ref.prefix.startswith(prefix):
            return self
        ref = replace(self.ref, prefix=prefix)
        table = self._table
        if not prefix.startswith(self.ref.prefix):
            table = self.schema.empty_table()
        elif table is not None:
            first, last = range_of(table["key"], prefix)
            table = table.slice(first, last - first)
        return Rows(self.source, ref, self.epoch, table)

    def find(self, key: str) -> ObjectVersion | None:
        """The last row of a key: alone it is looked up rather than resolved with all others."""
        if self._table is None and self.ref.versions == "last":
            return self.source.version(self.ref, self.epoch, key)
        table = self.few()
        if table is None:
            if not key.startswith(self.ref.prefix):
                return None
            same = takewhile(lambda version: version.key == key, self.below(key).versions())
            return next(iter(deque(same, maxlen=1)), None)
        keys = table["key"]
        row = bisect_right(range(table.num_rows), key, key=lambda i: keys[i].as_py()) - 1
        if row < 0 or keys[row].as_py() != key:
            return None
        return next(iter(versions_of(table.slice(row, 1))))

    def of_keys(self, keys: pa.Array[Any]) -> Iterator[pa.RecordBatch]:
        """In order, by `VIEW_SCHEMA`, at least the rows of the keys; a few keys are looked up one by one."""
        if self._table is not None or len(keys) > _LOOK_UPS or self.ref.versions == "all":
            yield from self.batches(VIEW_SCHEMA.names)
            return
        found = (self.find(key) for key in sorted(set(keys.to_pylist())))
        yield from version_table([version for version in found if version is not None]).to_batches()

    def level(self, prefix: str, delimiter: str) -> tuple[list[ObjectVersion], list[str]]:
        """The objects whose keys lack the delimiter after the prefix, and the others' common prefixes."""
        keys = (batch.column(0) for batch in self.batches(["key"]))
        objects, prefixes = roll_up(keys, prefix, delimiter)
        if self._table is not None:
            return list(versions_of(self._table.take(pa.array(objects.rows, pa.int64())))), prefixes
        if len(objects.rows) <= _LOOK_UPS and self.ref.versions == "last":
            return [self._listed(key) for key in objects.keys], prefixes
        return list(self._picked(objects.rows)), prefixes

    def _listed(self, key: str) -> ObjectVersion:
        version = self.find(key)
        if version is None:
            raise BadData(f"{render_reference(self.ref)} lists {key!r}, and a look-up does not find it.")
        return version

    def _picked(self, rows: Sequence[int]) -> Iterable[ObjectVersion]:
        """Rows by number, ascending."""
        start = done = 0
        for batch in self.batches(VIEW_SCHEMA.names):
            end = bisect_left(rows, start + batch.num_rows, lo=done)
            if end > done:
                yield from _versions(
                    batch.take(pa.array([row - start for row in rows[done:end]], pa.int64()))
                )
            start, done = start + batch.num_rows, end
            if done == len(rows):
                return


def _versions(batch: pa.RecordBatch) -> Iterable[ObjectVersion]:
    return versions_of(pa.Table.from_batches([batch]))
