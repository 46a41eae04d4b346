"""What a plan names, read range by range of keys: segments, a checkpoint, and the log's tail.

If a file or an entry has moved on to another place since the plan was made, it is made again, and the reading
goes on at the range where it was: whatever is read, it is the same history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import RLock
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import Archive, ArchiveFile, Start, files_from_payload
from snapengine.archive.planning import (
    Bounds,
    Gap,
    KeyRange,
    Part,
    Plan,
    groups_in,
    keys_below,
    make_plan,
    next_key,
    one_key,
    split,
    starting_only,
)
from snapengine.archive.schemas import ROW_GROUP_ROWS
from snapengine.archive.windows import DECODERS, Reader, Window, in_range
from snapengine.errors import ArchiveFileMissing
from snapengine.model import Epoch, LogEntry, SnapshotRef
from snapengine.observation_codec import SCHEMA, decode_table
from snapengine.ports import LogReader

ROWS_AT_ONCE = 262_144
"""Rows that are read for one range of keys, more or less."""
AHEAD = 2
"""Ranges that are read and folded before they are asked for."""
GROUP_ROWS = ROW_GROUP_ROWS
"""Of a file with no more, the row groups are not worth asking for."""
_TRIES = 3


class Sources(Protocol):
    """Where a bucket's history is. An `Engine` is one."""

    @property
    def store(self) -> LogReader: ...

    def archive(self, bucket: str, *, lately: Epoch | None = None) -> Archive:
        """All manifests, as they stand now; with `lately`, as they stood within the last minute, at a time
        when there was that epoch."""
        ...

    def files(self, bucket: str) -> Reader:
        """The archive's files."""
        ...


class Starting:
    """Sources where one start is known, and no other."""

    def __init__(self, sources: Sources, start: Start) -> None:
        self._sources = sources
        self._start = start

    @property
    def store(self) -> LogReader:
        return self._sources.store

    def archive(self, bucket: str, *, lately: Epoch | None = None) -> Archive:
        archive = self._sources.archive(bucket, lately=lately)
        return starting_only(archive, self._start)

    def files(self, bucket: str) -> Reader:
        return self._sources.files(bucket)


class Told(NamedTuple):
    """What an entry of the log's tail tells."""

    stream: int
    number: int
    rows: pa.Table


T = TypeVar("T")
Finish: TypeAlias = Callable[[], T]
"""Makes the rows of a range, or what stands for them, once what it needs has been read."""
Fold: TypeAlias = Callable[[KeyRange], Callable[[], Finish[T]]]
"""Begins to read a range of keys; what it returns waits for that, and then gives what folds it."""


def at_once(rows: Callable[[KeyRange], T]) -> Fold[T]:
    """For what is not worth reading ahead."""
    return lambda keys: lambda: partial(rows, keys)


def by_ranges(
    sources: Sources,
    ref: SnapshotRef,
    epoch: Epoch,
    begin: Callable[[Reading], Fold[T]],
    *,
    base: bool = True,
    tail: bool = True,
    keys: KeyRange | None = None,
    ranges: Callable[[Reading], list[KeyRange]] | None = None,
) -> Iterator[T]:
    """What `begin(reading)` makes of all keys below the reference's prefix (or of `keys`), range by range.

    Without `base` no checkpoint is used, without `tail` the log's entries are left alone. `ranges` says how
    the keys of a reading are cut, if not as its own `ranges` does.
    While one range is used the next is read. Raises `Gap` or `ArchiveFileMissing` if making the plan again
    does not help: then something is lost.
    """
    left: KeyRange | None = keys or keys_below(ref.prefix)
    tries = 0
    while left is not None:
        try:
            with Reading(sources, ref, epoch, left, base=base, tail=tail) as reading:
                fold = begin(reading)
                for done, table in _ahead(fold, (ranges or Reading.ranges)(reading)):
                    last, tries = reading.keys.after, 0
                    left = None if done.after in {None, last} else KeyRange(str(done.after), last)
                    yield table
        except (Gap, ArchiveFileMissing):
            tries += 1
            if tries >= _TRIES:
                raise


def _ahead(fold: Fold[T], ranges: Sequence[KeyRange]) -> Iterator[tuple[KeyRange, T]]:
    """Each range and its rows; meanwhile the next ones are folded, and those after them read."""
    if len(ranges) == 1:
        yield ranges[0], fold(ranges[0])()()
        return
    coming: deque[tuple[KeyRange, Future[T]]] = deque()
    reads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapengine-ranges")
    folds = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapengine-fold")

    def rows(keys: KeyRange) -> Finish[T]:
        return fold(keys)()

    def finished(read: Future[Finish[T]]) -> T:
        return read.result()()

    try:
        for keys in ranges:
            read = reads.submit(rows, keys)
            coming.append((keys, folds.submit(finished, read)))
            if len(coming) > AHEAD:
                done, table = coming.popleft()
                yield done, table.result()
        while coming:
            done, table = coming.popleft()
            yield done, table.result()
    finally:
        reads.shutdown(cancel_futures=True)
        folds.shutdown(cancel_futures=True)


class Observations:
    """Observations from several places, range by range of keys."""

    def __init__(self, reading: Reading, windows: Sequence[Window], schema: pa.Schema) -> None:
        self._reading = reading
        self._windows = windows
        self._schema = schema

    def start(self, keys: KeyRange, only: Sequence[str] | None = None) -> Callable[[], pa.Table]:
        """As `Window.start`."""
        waits = [window.start(keys, only) for window in self._windows]

        def wait() -> pa.Table:
            tail = self._reading.tail(keys).select(self._schema.names)
            if only is not None:
                tail = tail.filter(pc.is_in(tail["key"], value_set=pa.array(only, pa.string())))
            return pa.concat_tables([*(rows() for rows in waits), tail])

        return wait

    def rows(self, keys: KeyRange, only: Sequence[str] | None = None) -> pa.Table:
        return self.start(keys, only)()


class Reading:
    """One plan, being carried out: the log's tail is read at once, files as their ranges come."""

    def __init__(
        self,
        sources: Sources,
        ref: SnapshotRef,
        epoch: Epoch,
        keys: KeyRange,
        *,
        base: bool = True,
        tail: bool = True,
    ) -> None:
        """Without `base` no checkpoint is used; without `tail` the log's entries are left alone."""
        self.epoch = epoch
        self.keys = keys
        self.archive = sources.archive(ref.bucket)
        self.plan: Plan = make_plan(self.archive, epoch, ref.at, keys, start=ref.start, base=base)
        self.pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="snapengine-read")
        self._decoders = ThreadPoolExecutor(max_workers=DECODERS, thread_name_prefix="snapengine-decode")
        self._sources = sources
        self._bucket = ref.bucket
        self._prefix = ref.prefix
        self._lock = RLock()
        self._reader: Reader | None = None
        self._tail: pa.Table | None = None
        self._tail_by_key: pa.Table | None = None
        self._told: list[Told] = []
        self._listed: list[LogEntry] = []
        self._coming = {
            stream: self.pool.submit(self._read_stream, stream, after, to)
            for stream, (after, to) in (self.plan.tail.items() if tail else ())
        }

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self.pool, self._decoders):
            pool.shutdown(wait=True, cancel_futures=True)

    def reader(self) -> Reader:
        """The archive's files; nothing is opened where there are none."""
        with self._lock:
            if self._reader is None:
                self._reader = self._sources.files(self._bucket)
            return self._reader

    # The log's tail

    def _read_stream(self, stream: int, after: int, to: int) -> list[LogEntry | Told]:
        found: list[LogEntry | Told] = []
        for entry in self._sources.store.entries(self._bucket, stream, after, to):
            if entry.form == "stub":
                raise Gap(
                    f"Entry {entry.number} of stream {stream} of bucket {self._bucket} has gone to the "
                    "archive, and no segment holds it."
                )
            if entry.form == "files":
                found.append(entry)
                continue
            table = decode_table(entry.payload)
            if self._prefix:
                table = table.filter(pc.starts_with(table["key"], pattern=self._prefix))
            if table.num_rows:
                found.append(Told(stream, entry.number, table))
        return found

    def told(self) -> list[Told]:
        """The tail's entries that hold observations."""
        with self._lock:
            while self._coming:
                _, stream = self._coming.popitem()
                for one in stream.result():
                    if isinstance(one, Told):
                        self._told.append(one)
                    else:
                        self._listed.append(one)
            return self._told

    def listed(self) -> list[ArchiveFile]:
        """Files that entries of the tail name."""
        return self.listed_after({})

    def listed_after(self, cover: Mapping[int, int]) -> list[ArchiveFile]:
        """Those of entries that `cover` does not cover."""
        self.told()
        named = [one for one in self._listed if one.number > cover.get(one.stream, 0)]
        files = [file for one in named for file in files_from_payload(one.payload)]
        return [file for file in files if file.rows and self.keys.overlaps(file.min_key, file.max_key)]

    def tail(self, keys: KeyRange) -> pa.Table:
        """The tail's observations of a range of keys, by the log's schema."""
        with self._lock:
            if self._tail is None:
                self._tail = pa.concat_tables([SCHEMA.empty_table(), *(one.rows for one in self.told())])
            if keys == keys_below(self._prefix):
                return self._tail
            if self._tail_by_key is None:
                order = pc.sort_indices(self._tail, sort_keys=[("key", "ascending")])
                self._tail_by_key = self._tail.take(order)
        return in_range(self._tail_by_key, keys)

    def tail_after(self, cover: Mapping[int, int]) -> pa.Table:
        """Those of the tail that `cover` does not cover."""
        later = [one.rows for one in self.told() if one.number > cover.get(one.stream, 0)]
        return pa.concat_tables([SCHEMA.empty_table(), *later])

    # Files

    def window(self, parts: Sequence[Part], schema: pa.Schema) -> Window:
        return Window(self.reader, parts, schema, self.pool, self._decoders)

    def files_window(self, files: Sequence[ArchiveFile], schema: pa.Schema) -> Window:
        return Window.of_files(self.reader, files, schema, self.pool, self._decoders)

    def observations(self, parts: Sequence[Part], schema: pa.Schema = SCHEMA) -> Observations:
        """The observations of parts and of the tail."""
        windows = (self.window(parts, schema), self.files_window(self.listed(), schema))
        return Observations(self, windows, schema)

    # Ranges

    def ranges(self) -> list[KeyRange]:
        """The keys in pieces that fit into memory."""
        return self.cut([*self.plan.files, *self.listed()], ROWS_AT_ONCE)

    def ramped_ranges(self) -> list[KeyRange]:
        """As `ranges`, but the first and the last are smaller: while these are read, or used, there is
        nothing else to do. The first has so few row groups that all processors decode them."""
        fine = self.cut([*self.plan.files, *self.listed()], max(1, ROWS_AT_ONCE // 4))
        found: list[KeyRange] = []
        start, count = 0, 2
        while start < len(fine):
            count = max(1, min(count, 4, (len(fine) - start) // 2))
            found.append(KeyRange(fine[start].first, fine[start + count - 1].after))
            start, count = start + count, 2 * count
        return found

    def cut(self, files: Sequence[ArchiveFile], rows: int, others: Sequence[Bounds] = ()) -> list[KeyRange]:
        """The keys in pieces of some `rows` of the files, and of what else there is."""
        known = sum(f.rows for f in files) + sum(bounds.rows for bounds in others)
        if self.keys == one_key(self.keys.first) or known <= rows:
            return [self.keys]
        return split([*self.bounds(files), *others], self.keys, rows)

    def bounds(self, files: Sequence[ArchiveFile]) -> list[Bounds]:
        """Of all row groups that can hold keys of ours; small files count as one."""
        large = [f for f in files if f.rows > GROUP_ROWS]
        found = [Bounds(f.rows, f.min_key, f.max_key) for f in files if f.rows <= GROUP_ROWS]
        for groups in self.pool.map(self._groups, large):
            found += [groups[number] for number in groups_in(groups, self.keys)]
        return found

    def _groups(self, file: ArchiveFile) -> list[Bounds]:
        return [Bounds(*group) for group in self.reader().groups(file)]


def after_key(keys: KeyRange, key: str) -> KeyRange:
    """The part of a range that comes after `key`."""
    return KeyRange(max(keys.first, next_key(key)), keys.after) if key else keys
