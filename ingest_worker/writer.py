"""Observations to the log, in batches across messages; a message is settled once all that it says is in.

What a lost reply means: the commit is tried again, and what had landed is then in the log twice, which
changes no answer (facts commute, and repetition does nothing). So a message that comes again is committed
again.
Duplicates are counted, not dropped: one may be dropped only if an identical observation is in an earlier
*epoch*, and to know that costs more than the write unit that it would save.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from ingest_worker.hand_off import HandOff
from ingest_worker.metrics import Metrics, Step
from ingest_worker.records import Parsed
from snapengine.errors import BucketNotEnabled, NotFound, Refused, TryAgain
from snapengine.log import Committed
from snapengine.model import Observation
from snapengine.observation_codec import MAX_ROWS
from snapengine.ports import Clock
from snapengine.workers import logs
from snapengine.workers.backoff import delays
from snapengine.workers.failures import plain
from snapengine.workers.sqs import Message

MAX_AGE: Final = 0.2
"""Seconds that an observation waits for company at most."""

COMMITS_AT_ONCE: Final = 4
"""A bucket's puts go one after the other, but the by-key items of several entries are written at once."""

HAND_OFFS_AT_ONCE: Final = 4
"""Of a bucket: in an outage so many try again, and log it, and the rest wait behind them."""

_OUTAGES: Final = (TryAgain, Refused, NotFound)
"""Errors that no message is to blame for: the store is away, throttles, denies, or has lost its table."""


Item = tuple[Message, Observation]
T = TypeVar("T")


class Log(Protocol):
    """`snapengine.log.StreamWriter`, as far as it is needed here."""

    async def append(self, bucket: str, observations: Sequence[Observation]) -> list[Committed]: ...


class Writer:
    """Gathers observations by bucket and commits each batch when it is full or old enough.

    `settle` gets messages of which everything is committed, `leave` those that cannot be; the reason has then
    been logged. An outage of the store is nobody's fault: the batch is tried again for `patience` seconds, as
    giving the messages back would move them towards the dead-letter queue. If a batch fails for another
    reason, its halves are tried, so that one observation that the store will not take keeps no other from
    the log. The messages of a bucket that is not enabled are left at once, to be moved to the dead-letter
    queue by SQS or to be taken by a worker that knows the bucket.

    With `hand_off`, versions that were created are handed to extraction after the commit, and only then are
    their messages settled. An outage there is waited out like one of the store; batches that come after go on
    being committed meanwhile.

    An asynchronous context: on a regular exit it commits what it holds; on an exception it drops that, and
    the messages come again.
    """

    def __init__(
        self,
        log: Log,
        clock: Clock,
        metrics: Metrics,
        *,
        settle: Callable[[Sequence[Message]], None],
        leave: Callable[[Sequence[Message]], None],
        committed: Callable[[Sequence[Committed]], None],
        patience: float,
        hand_off: HandOff | None = None,
        max_rows: int = MAX_ROWS,
        max_age: float = MAX_AGE,
    ) -> None:
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._settle = settle
        self._leave = leave
        self._committed = committed
        self._patience = patience
        self._hand_off = hand_off
        self._max_rows = max_rows
        self._max_age = max_age
        self._gathered: dict[str, list[Item]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._hand_off_slots: dict[str, asyncio.Semaphore] = {}
        self._recent = _Recent()
        self._group = asyncio.TaskGroup()
        self.trouble: dict[str, str] = {}
        """Why commits or hand-offs fail at the moment, by bucket."""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for bucket in list(self._gathered):
            if error is None:
                self._flush(bucket)
            else:
                self._timers.pop(bucket).cancel()
        await self._group.__aexit__(kind, error, tb)

    def take(self, message: Message, parsed: Sequence[Parsed]) -> bool:
        """Take what a message says. False if that is nothing to keep: the caller may acknowledge it at once.

        Never waits: bounding what is in hand is the caller's part.
        """
        for bucket, observation, event_type in parsed:
            if observation is None:
                self._metrics.no_fact(event_type)
                continue
            message.open += 1
            items = self._gathered.get(bucket)
            if items is None:
                items = self._gathered[bucket] = []
                loop = asyncio.get_running_loop()
                self._timers[bucket] = loop.call_later(self._max_age, self._flush, bucket)
            items.append((message, observation))
            if len(items) >= self._max_rows:
                self._flush(bucket)
        return message.open > 0

    def _flush(self, bucket: str) -> None:
        self._timers.pop(bucket).cancel()
        self._group.create_task(self._commit(bucket, self._gathered.pop(bucket)))

    async def _commit(self, bucket: str, items: Sequence[Item]) -> None:
        async with self._slots.setdefault(bucket, asyncio.Semaphore(COMMITS_AT_ONCE)):
            try:
                await self._append(bucket, items)
            finally:
                self.trouble.pop(bucket, None)

    async def _append(self, bucket: str, items: Sequence[Item]) -> None:
        observations = [observation for _, observation in items]
        try:
            places = await self._patiently(
                bucket, "commit", lambda: self._timed(self._log.append(bucket, observations))
            )
        except _OUTAGES as error:
            self._give_up(bucket, items, error)
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, only the messages to blame are left
            await self._halve(bucket, items, error)
            return
        duplicates = self._recent.add(observations)
        self._metrics.committed(bucket, observations, duplicates, self._clock())
        self._committed(places)
        if self._hand_off is None or self._hand_off.needless(bucket):
            self._close(items)
        else:  # apart, so that the next batch is committed meanwhile
            parcel = self._hand_off.parcel(bucket, observations)
            self._group.create_task(self._hand_on(bucket, items, parcel))

    async def _timed(self, commit: Awaitable[T]) -> T:
        started = asyncio.get_running_loop().time()
        done = await commit
        self._metrics.flush.observe(asyncio.get_running_loop().time() - started)
        return done

    async def _hand_on(
        self, bucket: str, items: Sequence[Item], parcel: Callable[[], Awaitable[None]]
    ) -> None:
        async with self._hand_off_slots.setdefault(bucket, asyncio.Semaphore(HAND_OFFS_AT_ONCE)):
            try:
                await self._patiently(bucket, "hand-off", parcel)
            except Exception as error:  # noqa: BLE001  # whatever it is, the messages are left to come again
                self._give_up(bucket, items, error)
            else:
                self._close(items)
            finally:
                self.trouble.pop(_trouble_of(bucket, "hand-off"), None)

    async def _patiently(self, bucket: str, step: Step, call: Callable[[], Awaitable[T]]) -> T:
        """Call it, again and again while there is an outage. Raises its error once patience is over."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience
        pauses = delays()
        while True:
            try:
                return await call()
            except Exception as raised:
                error = plain(raised)
                self._metrics.failed(step)
                pause = next(pauses)
                hopeless = isinstance(error, BucketNotEnabled) or not isinstance(error, _OUTAGES)
                if hopeless or loop.time() + pause > give_up_at:
                    raise error from raised
                self.trouble[_trouble_of(bucket, step)] = str(error)
                logs.warning(f"{step}-failed", bucket=bucket, again_in=round(pause, 3), **logs.reason(error))
            await asyncio.sleep(pause)

    async def _halve(self, bucket: str, items: Sequence[Item], error: Exception) -> None:
        if len(items) == 1:
            self._give_up(bucket, items, error)
            return
        logs.warning("batch-refused", bucket=bucket, observations=len(items), **logs.reason(error))
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            # Should every observation be refused, the pause keeps this from being a hot loop.
            await asyncio.sleep(0.05)
            await self._append(bucket, half)

    def _close(self, items: Sequence[Item]) -> None:
        settled = []
        for message, _ in items:
            message.open -= 1
            if not message.open and not message.left:
                settled.append(message)
        if settled:
            self._settle(settled)

    def _give_up(self, bucket: str, items: Sequence[Item], error: Exception) -> None:
        messages = [m for m in dict.fromkeys(message for message, _ in items) if not m.left]
        for message in messages:
            message.left = True
        logs.error(
            "messages-left",
            bucket=bucket,
            count=len(messages),
            messages=[message.id for message in messages[:10]],
            **logs.reason(error),
        )
        self._leave(messages)


def _trouble_of(bucket: str, step: Step) -> str:
    """Commits end one by one, and end no trouble of another step."""
    return bucket if step == "commit" else f"{bucket} ({step})"


class _Recent:
    """The observations committed lately, by hash: two generations of at most `half` each."""

    def __init__(self, half: int = 25_000) -> None:
        self._half = half
        self._new: set[int] = set()
        self._old: set[int] = set()

    def add(self, observations: Sequence[Observation]) -> int:
        """How many of them were there already, or are twice among them."""
        hashes = set(map(hash, observations))
        fresh = hashes - self._new - self._old
        if len(self._new) + len(fresh) > self._half:
            self._new, self._old = set(), self._new
        self._new |= fresh
        return len(observations) - len(fresh)
