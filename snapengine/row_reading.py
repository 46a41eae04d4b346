"""A view's rows with an extractor's rows of metadata: files of a checkpoint, and what they no longer say.

Whoever asks reads the files itself (DuckDB does so in parallel), leaves out the keys that have changed since,
and adds the batches, which are of exactly those keys. Without such files the batches are the whole view.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple
from weakref import finalize

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.local_files import check_blocks, check_readable
from snapengine.archive.manifest import ArchiveFile, Segment, Start
from snapengine.archive.planning import Gap, KeyRange, keys_below, newest_start, row_tail, tile
from snapengine.archive.row_files import RowSchema, members_of
from snapengine.errors import ArchiveFileMissing, UsageError
from snapengine.metadata_rows import conform, joined_schema
from snapengine.model import Epoch, SnapshotRef
from snapengine.ranges import Fold, Reading, Sources, Starting, by_ranges
from snapengine.row_folding import ChangeFold, Tied, WholeFold, full_schema, rows_schema
from snapengine.row_spool import Spool
from snapengine.row_windows import Extracted, RowTail, refusing

MOST_CHANGED = 2_000_000
"""Keys; if more have changed all rows come as batches."""
_TRIES = 3
_ALL = KeyRange("", None)


class _TooMany(Exception):
    pass


class _Unwanted(Exception):
    """Nobody waits for the answer any more."""


class _Changed(NamedTuple):
    keys: pa.Array[Any]
    spool: Spool


@dataclass(frozen=True)
class Joined:
    """See `joined`."""

    schema: pa.Schema
    """`metadata_rows.joined_schema` with all columns, also the identifying ones where those are not read."""
    read: pa.Schema
    """The same without columns that are not read: that of the batches. A file may lack some: those are
    null."""
    files: tuple[Path, ...]
    """Parquet files on this machine, each file's keys after the one's before it. They hold the whole bucket:
    leave out what is not in `keys`, what is earlier than `start`, and the keys that have `changed`."""
    keys: KeyRange
    """Of the view."""
    start: int | None
    """Of a slice (UTC milliseconds, inclusive)."""
    _whole: Callable[[], Iterator[pa.RecordBatch]] = field(repr=False)
    _changes: Future[_Changed] | None = field(default=None, repr=False)
    _verified: tuple[tuple[Path, ArchiveFile, str], ...] = field(default=(), repr=False)
    _unwanted: Event = field(default_factory=Event, repr=False)
    """Tells the thread that reads what has changed to end."""

    def abandon(self) -> None:
        """No answer is wanted any more: what is still being read for it ends with the range of keys that it
        is at."""
        self._unwanted.set()

    def settled(self) -> Joined:
        """The same, or the same without files if too much has changed. What has changed is being read from
        the start: this waits for it, and raises what went wrong there."""
        if self._changes is None:
            return self
        try:
            self._changes.result()
        except _TooMany:
            return replace(self, files=(), _changes=None, _verified=())
        return self

    @property
    def changed(self) -> pa.Array[Any]:
        """Keys, in order, of which the files' rows do not count. Of what is `settled`."""
        return pa.array([], pa.string()) if self._changes is None else self._changes.result().keys

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows that count instead, by `read`: of the changed keys, in key order; where there are no files
        all of the view. May be run several times. Of what is `settled`."""
        return self._whole() if self._changes is None else self._changes.result().spool.batches()

    def verify(self, columns: Sequence[str] | None = None) -> None:
        """Compare what the files have of these columns (None: of all) with what was written.

        Raises `ArchiveDamaged` or `ArchiveFileMissing`, which name the file. Run it beside whatever reads the
        files, and use no answer before it has ended.
        """
        for path, file, name in self._verified:
            check_blocks(path, file, name, self.schema.names if columns is None else columns)


def joined(
    sources: Sources,
    ref: SnapshotRef,
    epoch: Epoch,
    extractor: str,
    identifying: bool,
    columns: Iterable[str] | None = None,
) -> Joined:
    """The rows of a view or slice (a narrowed one's: of the view that it narrows), each with the row that the
    epoch knows of its version. An object without one has null in all columns but the view's.

    Without `identifying` nothing with identifying columns is touched. With `columns` only those of the
    extractor's own are read; names that it does not have are passed over. Raises `UsageError` for a slice of
    all versions, `IdentifyingRefused`, `BadData` if two versions of the extractor contradict each other,
    `ArchiveDamaged`, and what the store and the root raise.
    """
    if ref.versions == "all":
        raise UsageError(
            "A slice of all versions has no one version a key: take a view, or a slice of the last versions."
        )
    wanted = Extracted(extractor, identifying, None if columns is None else frozenset(columns))
    for _ in range(_TRIES - 1):
        try:
            return _joined(sources, ref, epoch, wanted)
        except (Gap, ArchiveFileMissing):  # a checkpoint was retired meanwhile
            continue
    return _joined(sources, ref, epoch, wanted)


def row_schema(sources: Sources, bucket: str, epoch: Epoch, extractor: str) -> pa.Schema:
    """The full schema of the rows that the epoch covers, by `metadata_rows.row_schema`; without any, that of
    an extractor that has no columns of its own. Identifying columns are named, and none is read.

    Raises `BadData` if two versions of the extractor contradict each other.
    """
    return full_schema(_known(sources, bucket, epoch).get(extractor, []), extractor)


def extractors_of(sources: Sources, bucket: str, epoch: Epoch) -> list[str]:
    """Of which the epoch covers a row, by name."""
    return sorted(_known(sources, bucket, epoch))


def _joined(sources: Sources, ref: SnapshotRef, epoch: Epoch, wanted: Extracted) -> Joined:
    begin = newest_start(sources.archive(ref.bucket), ref.at, epoch.number, wanted.extractor)
    members = _known(sources, ref.bucket, epoch).get(wanted.extractor, [])
    read = joined_schema(rows_schema(members, wanted))

    def whole() -> Iterator[pa.RecordBatch]:
        # By all columns rows are told apart that were extracted at the same instant.
        for table in joined_ranges(sources, ref, epoch, wanted._replace(columns=None), begin):
            # Where a range has no row at all its table has no columns of the extractor's.
            yield from conform(table, read).to_batches(max_chunksize=65_536)

    schema = joined_schema(full_schema(members, wanted.extractor))
    found = Joined(schema, read, (), keys_below(ref.prefix), ref.start, whole)
    return found if begin is None else _with_files(sources, ref, epoch, wanted, begin, found)


def _with_files(
    sources: Sources,
    ref: SnapshotRef,
    epoch: Epoch,
    wanted: Extracted,
    begin: Start,
    whole: Joined,
) -> Joined:
    """With the checkpoint's files; what has changed since is read by a thread."""
    folder = Path(tempfile.mkdtemp(prefix="snapengine-"))
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    try:
        reader = sources.files(ref.bucket)
        live = begin.checkpoint.live(wanted.extractor, full=wanted.full)
        stored = tuple(f for f in live if whole.keys.overlaps(f.min_key, f.max_key))
        with refusing(wanted):
            files = tuple(reader.local(file, folder) for file in stored)
            for path, file in zip(files, stored, strict=True):
                check_readable(path, reader.name(file))
    except BaseException:
        remove()
        raise

    unwanted = Event()

    def changed(wanted: Extracted, name: str) -> _Changed:
        changes = _Changes(sources, ref, epoch, wanted, begin, unwanted)
        spool = changes.spooled(Spool(whole.read, folder / name), whole.read)
        return _Changed(changes.keys(), spool)

    def changes() -> _Changed:
        try:
            return changed(wanted, "rows.arrow")
        except Tied:
            return changed(wanted._replace(columns=None), "all.arrow")

    thread = ThreadPoolExecutor(1, thread_name_prefix="snapengine-changes")
    coming = thread.submit(changes)
    thread.shutdown(wait=False)
    verified = tuple(zip(files, stored, map(reader.name, stored), strict=True))
    found = replace(whole, files=files, _changes=coming, _verified=verified, _unwanted=unwanted)
    finalize(found, unwanted.set)
    finalize(found, remove)
    return found


class _Changes:
    """What of a view is not as a checkpoint's files have it."""

    def __init__(
        self,
        sources: Sources,
        ref: SnapshotRef,
        epoch: Epoch,
        wanted: Extracted,
        begin: Start,
        unwanted: Event,
    ) -> None:
        self._sources = Starting(sources, begin)
        self._unwanted = unwanted
        self._ref = ref
        self._epoch = epoch
        self._wanted = wanted
        self._begin = begin
        self._keys: list[pa.Array[Any]] = [pa.array([], pa.string())]

    def spooled(self, spool: Spool, read: pa.Schema) -> Spool:
        """The rows of the keys that changed. Raises `_TooMany`, `_Unwanted`, and `Tied`."""
        view = replace(self._ref, start=None, selection="")
        count = 0

        def begin(reading: Reading) -> Fold[pa.Table]:
            self.fold = ChangeFold(reading, self._sources, view, self._wanted, self._begin)
            return self.fold.start

        def ranges(reading: Reading) -> list[KeyRange]:
            return self.fold.ranges(reading)

        for table in by_ranges(self._sources, view, self._epoch, begin, ranges=ranges):
            if self._unwanted.is_set():
                raise _Unwanted
            changed = pc.unique(table["key"])
            count += len(changed)
            if count > MOST_CHANGED:
                raise _TooMany
            self._keys.append(changed.take(pc.sort_indices(changed)))
            spool.write(conform(_shown(table, self._ref), read).combine_chunks())
        spool.close()
        return spool

    def keys(self) -> pa.Array[Any]:
        """Those that changed, in order."""
        return pa.concat_arrays(self._keys)


def joined_ranges(
    sources: Sources, ref: SnapshotRef, epoch: Epoch, wanted: Extracted, begin: Start | None
) -> Iterator[pa.Table]:
    """All rows of a view or slice by `shown_schema`, range by range of keys; `begin`: where to, if the
    extractor's rows are there."""
    for _, table in folded_ranges(sources, replace(ref, selection=""), epoch, wanted, begin):
        yield _shown(table, ref)


def folded_ranges(
    sources: Sources,
    ref: SnapshotRef,
    epoch: Epoch,
    wanted: Extracted,
    begin: Start | None,
    *,
    whole: bool = True,
    rest: bool = False,
) -> Iterator[tuple[Sequence[RowSchema], pa.Table]]:
    """The results of `WholeFold` or `ChangeFold`, each with the schemas that there are; from a start those of
    a slice still have what is older, and without `whole` they are what is otherwise than the checkpoint has
    it."""
    fold: WholeFold | ChangeFold
    asked = ref if begin is None else replace(ref, start=None)
    known = sources if begin is None else Starting(sources, begin)

    def folding(reading: Reading) -> Fold[pa.Table]:
        nonlocal fold
        if begin is None:
            fold = WholeFold(reading, known, asked, wanted, rest=rest)
        else:
            fold = ChangeFold(reading, known, asked, wanted, begin, whole=whole, rest=rest)
        return fold.start

    def ranges(reading: Reading) -> list[KeyRange]:
        return fold.ranges(reading)

    for table in by_ranges(known, asked, epoch, folding, ranges=ranges):
        yield fold.members, table


def _shown(table: pa.Table, ref: SnapshotRef) -> pa.Table:
    """The rows of a range's result that the view or slice shows."""
    table = table.filter(pc.is_valid(table["event_time"]))
    if ref.start is None:
        return table
    return table.filter(pc.greater_equal(table["event_time"].cast(pa.int64()), ref.start))


def _known(sources: Sources, bucket: str, epoch: Epoch) -> dict[str, list[RowSchema]]:
    """By extractor the schemas of the rows that the epoch covers."""
    for _ in range(_TRIES - 1):
        try:
            return _known_now(sources, bucket, epoch)
        except (Gap, ArchiveFileMissing):
            continue
    return _known_now(sources, bucket, epoch)


def _known_now(sources: Sources, bucket: str, epoch: Epoch) -> dict[str, list[RowSchema]]:
    archive = sources.archive(bucket)
    files: list[ArchiveFile] = []
    to = min(epoch.number, archive.last_epoch)
    for extractor in {f.extractor for s in archive.segments for f in s.files if f.role == "rows"}:
        begin = [start for start in archive.starts if start.epoch <= to and extractor in start.extractors]
        newest = max(begin, key=lambda start: start.epoch, default=None)
        if newest is not None:
            files += newest.last.live(extractor, full=False)[:1]
        files_of = partial(_plain_rows, extractor)
        parts = tile(archive.segments, newest.epoch if newest else 0, to, _ALL, files_of=files_of)
        files += [file for part in parts for file in part.files]
    found: dict[str, list[RowSchema]] = {}
    with ThreadPoolExecutor(8, thread_name_prefix="snapengine-rows") as pool:
        if files:
            reader = sources.files(bucket)
            for file, schema in zip(files, pool.map(reader.schema, files), strict=True):
                members = [one for one in members_of(schema, file.path) if one.first <= epoch.number]
                if members:
                    found.setdefault(file.extractor, []).extend(members)
        tail = RowTail(sources.store, bucket, row_tail(archive, epoch), None, pool)
    for extractor, schemas in tail.schemas.items():
        found.setdefault(extractor, []).extend(RowSchema(schema, 0) for schema in schemas)
    return found


def _plain_rows(extractor: str, segment: Segment) -> tuple[ArchiveFile, ...]:
    return segment.rows_of(extractor, full=False)
