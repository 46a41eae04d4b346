"""One object version to its rows: reads exactly it, runs extractors in children, a row for each outcome."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, NamedTuple, Protocol, Self

import pyarrow as pa

from metadata_extractors.base import Extraction, ObjectFacts, Outcome
from metadata_extractors.limits import Face, Limits, spec_of
from metadata_extractors.ranged import RangedReader
from metadata_extractors.sandbox import Sandbox
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
from snapengine.metadata_rows import ROW_FIELDS, row_schema
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
        self._slots = [_Slot(limits or Limits(), columns) for _ in range(count)]
        self._free: queue.LifoQueue[_Slot] = queue.LifoQueue()
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
    def _slot(self) -> Iterator[_Slot]:
        slot = self._free.get()
        try:
            yield slot
        except OSError as error:
            raise TryAgain(f"No child process can be started: {error.strerror}.") from error
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
    schema = row_schema(face.schema)
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
        size = f"what was read takes {batch.nbytes:,} bytes; a row may take {MAX_ROW_BYTES:,}"
        return row_of(task, name, face, Extraction("failed", problems=(size,)), at)
    return Row(extractor_of(name), found.outcome, batch)


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

    def read(self, start: int, end: int) -> bytes:
        if self._unread is not None:
            raise self._unread
        try:
            return self.source.read(self.task.bucket, self._version(), start, end)
        except OUTAGES:
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
            except OUTAGES:
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


class _Slot:
    """A child for one thread at a time."""

    def __init__(self, limits: Limits, columns: Sequence[str] | None = None) -> None:
        self._limits = limits
        self._columns = columns
        self._names: tuple[str, ...] = ()
        self._sandbox: Sandbox | None = None
        self._started = 0
        self._over = Event()

    @property
    def started(self) -> int:
        return self._started + (self._sandbox.started if self._sandbox else 0)

    def sandbox(self, names: Sequence[str]) -> Sandbox:
        """One that has these extractors, and those that were asked for before."""
        if self._sandbox is None or not set(names) <= set(self._names):
            wanted = tuple(dict.fromkeys((*self._names, *names)))
            if self._over.is_set():
                raise TryAgain("The extraction was ended.")
            fresh = Sandbox([spec_of(name, self._columns) for name in wanted], self._limits)
            _ = fresh.faces  # one that cannot be started replaces none that can
            self.close()
            self._sandbox, self._names = fresh, wanted
            if self._over.is_set():  # meanwhile
                fresh.end()
        return self._sandbox

    def end(self) -> None:
        self._over.set()
        sandbox = self._sandbox
        if sandbox is not None:
            sandbox.end()

    def close(self) -> None:
        if self._sandbox is not None:
            self._started += self._sandbox.started
            self._sandbox.close()
            self._sandbox = None
