"""The worker: a consumer for each queue, epochs, the endpoint, and an end in good order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from ingest_worker.consumer import Consumer
from ingest_worker.hand_off import HandOff
from ingest_worker.metrics import Metrics
from ingest_worker.queue_watch import QueueWatch
from ingest_worker.targets import Target, targets
from snapengine.engine import Engine
from snapengine.errors import NotFound, SchemaTooNew, SnapEngineError, TryAgain
from snapengine.log import StreamWriter
from snapengine.model import BucketConfig
from snapengine.ports import LogStore
from snapengine.workers import logs
from snapengine.workers.epochs import Epochs
from snapengine.workers.failures import plain
from snapengine.workers.http import served
from snapengine.workers.readiness import StoreCheck, not_ready
from snapengine.workers.sqs import SQSQueue

REFRESH: Final = 30.0
"""Seconds after which the registry is read again: for buckets newly enabled, and for those no more."""

GRACE: Final = 20.0
"""Seconds to finish what is in hand once told to stop; ECS and Kubernetes kill after 30."""

ONCE_PATIENCE: Final = 60.0
"""Seconds of an outage after which a worker that is to end by itself leaves the messages."""

CONNECTIONS: Final = 1_000
"""To SQS, at most. Each long poll holds one, and a deletion must never wait for one."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command's options say."""

    name: str
    """The writer's identity; it chooses the stream. No two workers need the same, or different ones."""
    buckets: tuple[str, ...] = ()
    queue_urls: tuple[str, ...] = ()
    polls: int = 4
    """At once, for each queue."""
    once: bool = False
    archive_every: float | None = None
    """Seconds from the start of a round of archiving to the next; None: no archiving."""
    http_host: str = "127.0.0.1"
    http_port: int | None = None
    """None: no endpoint."""


class Worker:
    """Runs until it is told to stop, or with `once` until its queues are empty."""

    def __init__(
        self, engine: Engine, options: Options, *, grace: float = GRACE, refresh: float = REFRESH
    ) -> None:
        self.metrics = Metrics()
        self.metrics.watch_in_flight(self._in_flight)
        self.metrics.watch_behind(self._behind)
        self._engine = engine
        self._options = options
        self._grace = grace
        self._refresh = refresh
        self._consumers: dict[str, Consumer] = {}
        self._watches: dict[str, QueueWatch] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._vouched: dict[str, tuple[str, ...]] = {}
        self._troubles: dict[str, str] = {}
        self._left = 0
        self._stopping = False
        self._store = StoreCheck(self._check_store)

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when all that was received is committed, deleted and covered by an epoch.

        Raises `TryAgain` if that took longer than the grace after `stop`, or if `once` left messages; they
        are in their queues. Raises what the registry raises at the start, and `NotFound` for a queue that
        was asked for and is not there.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                await self._run(stop, limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TryAgain(
                f"Stopped after {self._grace:.0f} s without having finished what was in hand. Nothing is "
                "lost: those messages come again, to the next worker."
            ) from None
        except ExceptionGroup as group:
            raise plain(group) from group
        if self._options.once and self._left:
            raise TryAgain(f"{self._left} messages were left in their queues; the log says why.")

    async def _run(self, stop: asyncio.Event, limit: asyncio.Timeout) -> None:
        wanted = await self._targets()
        async with (
            self._engine.async_client("sqs", max_pool_connections=CONNECTIONS) as sqs,
            self._engine.log() as store,
        ):
            epochs = Epochs(store, self._engine.clock, self.metrics)
            log = StreamWriter(store, self._options.name, self._engine.clock)
            logs.info("started", name=self._options.name, store=self._engine.settings.store)
            async with (
                served(self._options.http_host, self._options.http_port, self.metrics, self.troubles),
                epochs.kept(),
                asyncio.TaskGroup() as group,
            ):
                self._vouched = {url: target.vouches_for for url, target in wanted.items()}
                if self._options.archive_every is not None:
                    group.create_task(self._archiving(self._options.archive_every, stop))
                hand_off = self._hand_off(sqs)
                await self._supervise(_Parts(group, sqs, store, log, epochs, hand_off), wanted, stop)
                self._stopping = True
                logs.info("stopping", in_flight=self._in_flight())
                limit.reschedule(asyncio.get_running_loop().time() + self._grace)
                for consumer in self._consumers.values():
                    consumer.stop()
            await epochs.cut_all(everything=self._options.once)
            logs.info("stopped")

    async def _archiving(self, every: float, stop: asyncio.Event) -> None:
        from ingest_worker.archiving import archive_rounds  # most workers never need Parquet

        await archive_rounds(self._engine, self._served, every, stop, self.metrics)

    def _hand_off(self, sqs: Any) -> HandOff:
        async def queue_of(url: str) -> SQSQueue:
            return SQSQueue(sqs, url)

        return HandOff(self._engine.store.config, queue_of, self.metrics, config_age=self._refresh)

    def _served(self) -> list[str]:
        """The enabled buckets whose queues are consumed here."""
        return sorted({bucket for buckets in self._vouched.values() for bucket in buckets})

    async def troubles(self) -> list[str]:
        """Why the worker is not ready, in words; empty if it is."""
        return await not_ready(
            self._store, self._troubles.values(), self._consumers.values(), stopping=self._stopping
        )

    def _in_flight(self) -> int:
        return sum(len(consumer.in_hand) for consumer in self._consumers.values())

    def _behind(self) -> float:
        return max((watch.behind() for watch in self._watches.values()), default=0.0)

    async def _targets(self) -> dict[str, Target]:
        registered = await asyncio.to_thread(self._registered)
        return targets(registered, self._options.buckets, self._options.queue_urls)

    # Both in threads: the store's client blocks, and so does building it.

    def _registered(self) -> list[BucketConfig]:
        self._engine.store.check()
        return self._engine.store.buckets()

    def _check_store(self) -> None:
        self._engine.store.check()

    async def _supervise(self, parts: _Parts, wanted: dict[str, Target], stop: asyncio.Event) -> None:
        """Keep a consumer for each queue until told to stop, or with `once` until all have ended."""
        stopped = asyncio.create_task(stop.wait())
        try:
            if not wanted:
                logs.warning("no-bucket-enabled", remedy="Run `snapengine enable-bucket BUCKET`.")
            self._follow(parts, wanted)
            if self._options.once:
                await self._ended(stopped)
                return
            while not (await asyncio.wait([stopped], timeout=self._refresh))[0]:
                await self._reread(parts)
        finally:
            stopped.cancel()

    async def _ended(self, stopped: asyncio.Task[bool]) -> None:
        while self._tasks and not stopped.done():
            await asyncio.wait([stopped, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED)

    async def _reread(self, parts: _Parts) -> None:
        try:
            wanted = await self._targets()
        except SchemaTooNew:
            raise  # somebody has upgraded the table: what is in hand is left to the workers that know it
        except SnapEngineError as error:
            self.metrics.failed("registry")
            self._troubles["registry"] = str(error)
            logs.warning("registry-failed", **logs.reason(error))
            return
        self._troubles.clear()
        self._follow(parts, wanted)

    def _follow(self, parts: _Parts, wanted: dict[str, Target]) -> None:
        self._vouched = {url: target.vouches_for for url, target in wanted.items()}
        for url in self._consumers.keys() - wanted.keys():
            self._consumers[url].stop()
        for url in wanted.keys() - self._consumers.keys():
            queue = SQSQueue(parts.sqs, url)
            self._consumers[url] = Consumer(
                queue,
                parts.log,
                self._engine.clock,
                self.metrics,
                parts.epochs.note,
                dead_letter_url=wanted[url].dead_letter_url,
                polls=self._options.polls,
                once=self._options.once,
                patience=ONCE_PATIENCE if self._options.once else math.inf,
                hand_off=parts.hand_off,
            )
            self._tasks[url] = parts.group.create_task(self._consume(parts, wanted[url], queue))
            logs.info("consuming", queue=queue.name)
        for target in wanted.values():
            for bucket in target.buckets:
                parts.epochs.watch(bucket)

    async def _consume(self, parts: _Parts, target: Target, queue: SQSQueue) -> None:
        consumer = self._consumers[target.url]
        try:
            async with self._watched(parts, queue, consumer):
                await consumer.run()
        except ExceptionGroup as group:
            error = plain(group)
            ends = target.required or (self._options.once and target.vouches_for)
            if ends or not isinstance(error, NotFound):
                raise
            if not target.vouches_for:  # `disable-bucket` has deleted it: there is nothing left to take
                logs.info("queue-gone", queue=queue.name)
                return
            # One bucket's queue is gone: the others' are not to suffer. The next refresh looks again.
            self.metrics.failed("receive")
            self._troubles[target.url] = str(error)
            logs.error("queue-missing", queue=target.url, **logs.reason(error))
        finally:
            self._left += len(consumer.left)
            del self._consumers[target.url], self._tasks[target.url]

    @asynccontextmanager
    async def _watched(self, parts: _Parts, queue: SQSQueue, consumer: Consumer) -> AsyncIterator[None]:
        """Within, the watermarks of the queue's buckets are raised; but not with `once`, as that takes longer
        than emptying a queue."""
        if self._options.once:
            yield
            return
        watch = self._watches[queue.url] = QueueWatch(
            queue,
            consumer,
            parts.store,
            self._engine.clock,
            self.metrics,
            lambda: self._vouched.get(queue.url, ()),
            parts.epochs.note_raised,
        )
        task = parts.group.create_task(watch.run())
        try:
            yield
        finally:
            task.cancel()
            del self._watches[queue.url]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What every consumer shares."""

    group: asyncio.TaskGroup
    sqs: Any
    store: LogStore
    log: StreamWriter
    epochs: Epochs
    hand_off: HandOff
