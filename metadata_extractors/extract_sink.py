"""Messages to rows: every object of a message through every extractor of its bucket, and the rows kept.

A message is done with once all its rows are in the log and an epoch covers them. One whose objects cannot all
be tried is left, and comes again; the rows of the others are kept all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from metadata_extractors.extracting import OUTAGES, Extractors, Row
from metadata_extractors.lines import Done, Lines
from metadata_extractors.row_keeping import Counts, RowKeeper, keyless
from snapengine.errors import BucketNotEnabled, SnapEngineError, TryAgain, UsageError
from snapengine.extraction_tasks import Task
from snapengine.forgotten import Forgotten, read_forgotten
from snapengine.further_columns import uses_of
from snapengine.model import BucketConfig
from snapengine.ports import LogStore
from snapengine.workers import logs
from snapengine.workers.backoff import delays
from snapengine.workers.consumer import Hand
from snapengine.workers.sqs import Message

T = TypeVar("T")

FORBEARANCE: Final = 120.0
"""Seconds after which an object that cannot be asked for is left, if others of its bucket can be: the trouble
is its own then, and no outage."""

CONFIG_AGE: Final = 2.0
"""Seconds for which a bucket's configuration, and what is forgotten of it, is used again."""

REFUSED_AGE: Final = 60.0
"""Seconds for which extractors that cannot be started are not tried again."""


class WorkCounts(Counts, Protocol):
    """Who counts."""

    def extracted(self, seconds: float) -> None: ...


class Wanted:
    """Which extractors a bucket wants, with which further columns, and whether they are to be had here."""

    def __init__(
        self,
        config_of: Callable[[str], BucketConfig | None],
        extractors: Extractors,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._config_of = config_of
        self._extractors = extractors
        self._pool = pool
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._started: set[tuple[str, ...]] = set()
        self._refused: dict[tuple[str, ...], tuple[float, UsageError]] = {}

    async def of(self, bucket: str) -> tuple[str, ...]:
        """Their names, with further columns as `further_columns.use_of` has them; none for a bucket that
        wants none. Raises `BucketNotEnabled`; `UsageError` where one cannot be started here."""
        known = self._known.get(bucket)
        # That it wants none is never taken from memory: the message may be the first since it does.
        if known is None or not known[1] or time.monotonic() - known[0] > CONFIG_AGE:
            asked = time.monotonic()
            config = await asyncio.to_thread(self._config_of, bucket)
            if config is None:
                raise BucketNotEnabled(f"Bucket {bucket} is not enabled.")
            known = self._known[bucket] = (asked, uses_of(config))
        await self._startable(known[1])
        return known[1]

    async def _startable(self, names: tuple[str, ...]) -> None:
        if not names or names in self._started:
            return
        refused = self._refused.get(names)
        if refused is not None and time.monotonic() - refused[0] < REFUSED_AGE:
            raise refused[1]
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._extractors.faces, names)
        except UsageError as error:
            self._refused[names] = (time.monotonic(), error)
            raise
        self._started.add(names)


class Forgetting:
    """What is forgotten of each bucket, as of a moment ago. Whether a row is stored the log decides anew."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._known: dict[str, tuple[float, Forgotten]] = {}

    async def of(self, bucket: str) -> Forgotten:
        asked = time.monotonic()
        known = self._known.get(bucket)
        if known is None or asked - known[0] > CONFIG_AGE:
            found = await read_forgotten(self._store, bucket, known[1] if known else None)
            known = self._known[bucket] = (asked, found)
        return known[1]


class Work:
    """What all queues of a worker share: extractors and their threads, the keeper of rows, the counts.

    `patience` is how long in seconds an outage is waited out, if it shows as one of `outages`; objects that
    have not been begun when `ending` is set are left.
    """

    def __init__(
        self,
        extractors: Extractors,
        pool: ThreadPoolExecutor,
        count: int,
        wanted: Wanted,
        forgetting: Forgetting,
        keeper: RowKeeper,
        counts: WorkCounts,
        *,
        patience: float,
        forbearance: float = FORBEARANCE,
        outages: tuple[type[SnapEngineError], ...] = OUTAGES,
    ) -> None:
        self._extractors = extractors
        self._pool = pool
        self._lines = Lines(extractors, count)
        self._wanted = wanted
        self._forgetting = forgetting
        self._keeper = keeper
        self._counts = counts
        self._patience = patience
        self._forbearance = forbearance
        self._outages = outages
        self._read_at: dict[str, float] = {}
        self.ending = asyncio.Event()
        self.trouble = keeper.trouble

    async def message(self, tasks: Sequence[Task]) -> list[Exception]:
        """Extract the objects of a message: why some of them could not be tried, or their rows not kept."""
        try:
            names = await self._patiently(tasks[0].bucket, lambda: self._wanted.of(tasks[0].bucket))
        except Exception as error:  # noqa: BLE001  # whatever it is, the message is left
            return [error]
        if not names:
            return []
        done = await asyncio.gather(*(self.object(task, names) for task in tasks), return_exceptions=True)
        failures = []
        for each in done:
            if isinstance(each, Exception):
                failures.append(each)
            elif isinstance(each, BaseException):
                raise each
        return failures

    async def object(self, task: Task, names: Sequence[str]) -> list[Row]:
        """Extract one object and keep its rows; of one that is forgotten there are none. Raises what hinders
        either for too long."""
        forgotten = await self._patiently(task.bucket, lambda: self._forgetting.of(task.bucket))
        if forgotten.covers(task.key, task.version_id, task.etag):
            return []
        rows = await self._patiently(task.bucket, lambda: self._extract(task, names))
        self._read_at[task.bucket] = time.monotonic()
        for row in rows:
            if row.outcome in {"failed", "timeout"}:
                logs.warning(
                    "not-extracted",
                    bucket=task.bucket,
                    version_id=task.version_id,
                    extractor=row.extractor,
                    outcome=row.outcome,
                )
        await asyncio.gather(*(self._keeper.keep(task.bucket, row) for row in rows))
        return rows

    async def _extract(self, task: Task, names: Sequence[str]) -> list[Row]:
        await self._keeper.room()
        done = await asyncio.wrap_future(self._lines.join(task, names, self._pool, self.ending.is_set))
        if done is None:
            done = await asyncio.get_running_loop().run_in_executor(self._pool, self._alone, task, names)
        self._counts.extracted(done.seconds)
        return done.rows

    def _alone(self, task: Task, names: Sequence[str]) -> Done:
        if self.ending.is_set():
            raise TryAgain("Stopping.")
        started = time.monotonic()
        rows = self._extractors.rows(task, names)
        return Done(rows, time.monotonic() - started)

    async def _patiently(self, bucket: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call it, again and again while there is an outage. Raises its error once that is no use."""
        began = time.monotonic()
        pauses = delays()
        while True:
            try:
                found = await call()
            except self._outages as error:
                if self.ending.is_set() or isinstance(error, BucketNotEnabled):
                    raise
                self._counts.failed("read")
                pause = next(pauses)
                waited = time.monotonic() - began
                others_can = self._read_at.get(bucket, 0.0) > began
                if waited + pause > self._patience or (others_can and waited > self._forbearance):
                    raise
                self.trouble[_reading(bucket)] = f"objects cannot be read ({error.code})"
                logs.warning("read-failed", bucket=bucket, again_in=round(pause, 3), code=error.code)
            else:
                self.trouble.pop(_reading(bucket), None)
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.ending.wait()


def _reading(bucket: str) -> str:
    """Commits end their own trouble, and no other."""
    return f"{bucket} (reading)"


class ExtractSink:
    """What a consumer of extraction messages gives them to."""

    def __init__(self, work: Work, settle: Hand, leave: Hand) -> None:
        self._work = work
        self._settle = settle
        self._leave = leave
        self._group = asyncio.TaskGroup()
        self.trouble = work.trouble

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._group.__aexit__(kind, error, tb)

    def take(self, message: Message, parsed: Sequence[Task]) -> bool:
        self._group.create_task(self._message(message, parsed))
        return True

    async def _message(self, message: Message, tasks: Sequence[Task]) -> None:
        failures = await self._work.message(tasks)
        if not failures:
            self._settle([message])
            return
        logs.error(
            "message-left",
            bucket=tasks[0].bucket,
            message=message.id,
            objects=len(tasks),
            not_tried=len(failures),
            **keyless(failures[0]),
        )
        self._leave([message])
