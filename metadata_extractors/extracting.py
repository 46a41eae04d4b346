"""One object version to its rows: reads exactly it, runs extractors in children, a row for each outcome."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, Self

import pyarrow as pa

from metadata_extractors.base import Extraction, ObjectFacts, Outcome
from metadata_extractors.limits import Face, Limits
from metadata_extractors.packing import extract_pack
from metadata_extractors.packs import Pack, Told, Untried
from metadata_extractors.ranged import RangedReader
from metadata_extractors.sandbox import Sandbox
from metadata_extractors.slots import Slot
from snapengine.errors import (
    NotFound,
    Refused,
    SnapEngineError,
    TryAgain,
    VersionArchived,
    VersionGone,
)
from snapengine.extraction_tasks import Task
from snapengine.further_columns import extractor_of
from snapengine.metadata_rows import ROW_FIELDS
from snapengine.model import NULL_VERSION, ObjectVersion
from snapengine.ports import Clock

OUTAGES: Final = (TryAgain, Refused, NotFound)
"""Errors that no object is to blame for: S3 or the table is away, throttles, denies, or lacks the bucket."""

MAX_ROW_BYTES: Final = 4 * 1024 * 1024
"""Of a row in memory, as hundreds wait for company; what the log takes is far less (380 KB, compressed)."""


class Facts(Protocol):
    """`snapengine.stores.objects.VersionFacts`."""

    @property
    def size(self) -> int: ...

    @property
    def last_modified(self) -> int: ...

    @property
    def headers(self) -> Any: ...

    @property
    def metadata(self) -> Any: ...

    @property
    def tags(self) -> Any: ...


class Source(Protocol):
    """Where versions are read; an `Engine` is one. Raises nothing but `SnapEngineError`."""

    def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes: ...

    def facts(self, bucket: str, version: ObjectVersion) -> Facts: ...


class Row(NamedTuple):
    """What one extractor made of one version."""

    extractor: str
    outcome: Outcome
    batch: pa.RecordBatch
    """One row, by `metadata_rows.row_schema`."""


class Extractors:
    """Runs extractors over versions, by at most `count` threads at once, each with a child process.

    Names of extractors may have further columns after them: see `snapengine.further_columns.use_of`.
    The children are started when they are needed, and know the extractors that were asked for until then.
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        count: int,
        limits: Limits | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        """`columns`: those of every extractor (None: its usual ones)."""
        self._source = source
        self._clock = clock
        self._slots = [Slot(limits or Limits(), columns) for _ in range(count)]
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()
        for slot in self._slots:
            self._free.put(slot)

    def rows(self, task: Task, names: Sequence[str]) -> list[Row]:
        """A row of each extractor, in their order. What is wrong with the object is an outcome.

        Raises `TryAgain`, `Refused` or `NotFound` where S3 cannot be asked, and for a child that cannot be
        started; `UsageError` for an extractor that is not installed or cannot be loaded.
        """
        with self._slot() as slot:
            sandbox = slot.sandbox(names)
            reading = _Reading(self._source, task)
            reader = RangedReader(reading.read, task.size, task.key, reading.facts)
            return [self._row(task, name, sandbox, reader) for name in names]

    def pack(
        self, tasks: Sequence[Task], names: Sequence[str], ending: Callable[[], bool] = lambda: False
    ) -> list[list[Row] | Exception | None]:
        """`rows` of each of these objects, for a fraction of the time that they take one by one: they share
        messages to a child. What S3 did not give stands in the object's place; None is for one that was not
        tried by itself, as S3 was found to be away, or nothing more was to be begun. Raises as `rows` does.
        """
        with self._slot() as slot:
            sandbox = slot.sandbox(names)
            readings = [_Reading(self._source, task) for task in tasks]
            readers = [
                RangedReader(reading.read, task.size, task.key, reading.facts)
                for reading, task in zip(readings, tasks, strict=True)
            ]

            def over() -> bool:
                return ending() or any(reading.away for reading in readings)

            found: list[list[Row] | Exception] = [[] for _ in tasks]
            for name in names:
                left = [place for place, each in enumerate(found) if isinstance(each, list)]
                if not left:
                    break
                pack = extract_pack(sandbox, name, [readers[place] for place in left], over)
                rows = rows_of(
                    [tasks[place] for place in left], name, sandbox.faces[name], pack, self._clock()
                )
                for place, row in zip(left, rows, strict=True):
                    before = found[place]
                    if isinstance(row, Row) and isinstance(before, list):
                        before.append(row)
                    elif isinstance(row, Exception):
                        found[place] = _no_child(row) if isinstance(row, OSError) else row
            return [None if isinstance(each, Untried) else each for each in found]

    def faces(self, names: Sequence[str]) -> dict[str, Face]:
        """Version and columns of each extractor, as a child has them. Raises as `rows` does."""
        with self._slot() as slot:
            known = slot.sandbox(names).faces
            return {name: known[name] for name in names}

    @property
    def started(self) -> int:
        """Children until now."""
        return sum(slot.started for slot in self._slots)

    def end(self) -> None:
        """End what is being extracted; whoever waits for it gets `TryAgain`. Any thread may call it."""
        for slot in self._slots:
            slot.end()

    def close(self) -> None:
        """End the children. Nobody may be extracting."""
        for slot in self._slots:
            slot.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @contextmanager
    def _slot(self) -> Iterator[Slot]:
        slot = self._free.get()
        try:
            yield slot
        except OSError as error:
            raise _no_child(error) from error
        finally:
            self._free.put(slot)

    def _row(self, task: Task, name: str, sandbox: Sandbox, reader: RangedReader) -> Row:
        try:
            found = sandbox.extract(name, reader)
        except _Unread as unread:
            found = Extraction(unread.outcome, problems=(str(unread),))
        return row_of(task, name, sandbox.faces[name], found, self._clock())


@asynccontextmanager
async def children(
    source: Source, clock: Clock, count: int, limits: Limits | None = None
) -> AsyncIterator[tuple[Extractors, ThreadPoolExecutor]]:
    """So many children, and as many threads to talk to them; however it ends, none is left."""
    extractors = Extractors(source, clock, count, limits)
    pool = ThreadPoolExecutor(count, thread_name_prefix="extract")
    try:
        yield extractors, pool
    finally:
        extractors.end()
        await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        extractors.close()


def row_of(task: Task, name: str, face: Face, found: Extraction, at: int) -> Row:
    """The row of an extraction that ended `at` (UTC milliseconds)."""
    schema = face.of_rows
    told = [
        task.key,
        task.version_id,
        task.etag,
        task.sequencer,
        face.version,
        found.outcome,
        "; ".join(found.problems) or None,
        at,
    ]
    arrays = [pa.array([value], field.type) for value, field in zip(told, ROW_FIELDS, strict=True)]
    arrays += [
        pa.array([found.values.get(field.name)], field.type) for field in list(schema)[len(ROW_FIELDS) :]
    ]
    batch = pa.record_batch(arrays, schema=schema)
    if batch.nbytes > MAX_ROW_BYTES:
        return _too_long(task, name, face, batch.nbytes, at)
    return Row(extractor_of(name), found.outcome, batch)


def rows_of(tasks: Sequence[Task], name: str, face: Face, pack: Pack, at: int) -> list[Row | Exception]:
    """`row_of` each object of a pack, built together; what a reader raised, but for its word on the object,
    stays as it is."""
    told = [Told(each.outcome, (str(each),)) if isinstance(each, _Unread) else each for each in pack.found]
    known = [each if isinstance(each, Told) else Told("failed", ()) for each in told]
    columns: list[list[object]] = [
        [task.key for task in tasks],
        [task.version_id for task in tasks],
        [task.etag for task in tasks],
        [task.sequencer for task in tasks],
        [face.version for _ in tasks],
        [each.outcome for each in known],
        ["; ".join(each.problems) or None for each in known],
        [at for _ in tasks],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ROW_FIELDS, strict=True)]
    whole = pa.record_batch([*arrays, *pack.rows.columns], schema=face.of_rows)
    whole_bytes = whole.nbytes  # of each part it would cost more than to make it
    found: list[Row | Exception] = []
    for place, (task, each) in enumerate(zip(tasks, told, strict=True)):
        if isinstance(each, Exception):
            found.append(each)
            continue
        batch = whole.slice(place, 1)
        if whole_bytes > MAX_ROW_BYTES and batch.nbytes > MAX_ROW_BYTES:
            found.append(_too_long(task, name, face, batch.nbytes, at))
        else:
            found.append(Row(extractor_of(name), each.outcome, batch))
    return found


def _too_long(task: Task, name: str, face: Face, size: int, at: int) -> Row:
    said = f"what was read takes {size:,} bytes; a row may take {MAX_ROW_BYTES:,}"
    return row_of(task, name, face, Extraction("failed", problems=(said,)), at)


def _no_child(error: OSError) -> TryAgain:
    return TryAgain(f"No child process can be started: {error.strerror}.")


class _Unread(Exception):
    """The object cannot be read, and it is the object's doing; the text names no key."""

    def __init__(self, outcome: Outcome, problem: str) -> None:
        super().__init__(problem)
        self.outcome = outcome


@dataclass(slots=True)
class _Reading:
    """Reads of one version for one extractor after the other: what failed for good is not asked again."""

    source: Source
    task: Task
    _unread: _Unread | None = None
    _facts: ObjectFacts | None = None
    away: bool = False
    """S3 did not answer."""

    def read(self, start: int, end: int) -> bytes:
        if self._unread is not None:
            raise self._unread
        try:
            return self.source.read(self.task.bucket, self._version(), start, end)
        except OUTAGES as error:
            self.away = isinstance(error, TryAgain)
            raise
        except SnapEngineError as error:
            self._unread = _unread(error)
        except _Unread as unread:
            self._unread = unread
        raise self._unread

    def facts(self) -> ObjectFacts:
        if self._facts is None:
            try:
                told = self.source.facts(self.task.bucket, self._version())
            except OUTAGES as error:
                self.away = isinstance(error, TryAgain)
                raise
            except SnapEngineError as error:
                raise _unread(error) from error
            self._facts = ObjectFacts(
                told.size, told.last_modified, dict(told.headers), dict(told.metadata), told.tags
            )
        return self._facts

    def _version(self) -> ObjectVersion:
        task = self.task
        if task.version_id == NULL_VERSION and not task.etag:
            raise _Unread("failed", "a null version without an ETag cannot be told from its successors")
        return ObjectVersion(
            task.key, task.version_id, task.size, task.etag, task.event_time, sequencer=task.sequencer
        )


def _unread(error: SnapEngineError) -> _Unread:
    if isinstance(error, VersionGone):
        return _Unread("gone", "S3 no longer has this version")
    if isinstance(error, VersionArchived):
        return _Unread("archived", "the version is in an archived storage class")
    return _Unread("failed", f"S3 does not give the object ({error.code})")
