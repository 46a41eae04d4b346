"""The extract worker: a consumer for each extraction queue, children to extract in, an end in good order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from metadata_extractors.extract_metrics import ExtractMetrics
from metadata_extractors.extract_sink import ExtractSink, Forgetting, Wanted, Work
from metadata_extractors.extracting import Extractors, children
from metadata_extractors.limits import Limits
from metadata_extractors.row_keeping import RowKeeper
from snapengine.engine import Engine
from snapengine.errors import NotFound, SchemaTooNew, SnapEngineError, TryAgain
from snapengine.extraction_tasks import Task, parse_tasks
from snapengine.further_columns import uses_of
from snapengine.log import RowWriter
from snapengine.model import BucketConfig
from snapengine.workers import logs
from snapengine.workers.consumer import IN_HAND as MOST_IN_HAND
from snapengine.workers.consumer import QueueConsumer
from snapengine.workers.epochs import Epochs
from snapengine.workers.failures import plain
from snapengine.workers.http import served
from snapengine.workers.readiness import StoreCheck, not_ready
from snapengine.workers.sqs import SQSQueue

REFRESH: Final = 30.0
"""Seconds after which the registry is read again, for queues that have come or gone."""

DRAIN: Final = 12.0
"""Seconds, once told to stop, in which what is in hand is still begun; what is not comes again."""

GRACE: Final = 20.0
"""Seconds to finish once told to stop; ECS and Kubernetes kill after 30."""

ONCE_PATIENCE: Final = 60.0
"""Seconds of an outage after which a worker that is to end by itself leaves the messages."""

POLLS: Final = 2
"""Long polls at once, for each queue."""

IN_HAND: Final = 200
"""Messages of one queue, for each process, that are received and not dealt with. One may hold a single
object, whose row waits a second or two until it is kept and covered; others are extracted meanwhile."""

CONNECTIONS: Final = 200
"""To SQS, at most."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command's options say."""

    name: str
    """The writer's identity; it chooses the stream."""
    queue_urls: tuple[str, ...] = ()
    """None: the extraction queues of all buckets in the registry."""
    processes: int = 1
    """Objects at once, each in a child process."""
    once: bool = False
    limits: Limits = field(default_factory=Limits)
    http_host: str = "127.0.0.1"
    http_port: int | None = None
    """None: no endpoint."""


class Target(NamedTuple):
    """A queue to consume."""

    url: str
    dead_letter_url: str | None
    """None leaves it to the queue's own redrive policy."""
    buckets: tuple[str, ...]
    required: bool
    """Asked for by name, so that its absence ends the worker."""


def targets(registered: Sequence[BucketConfig], urls: Sequence[str]) -> dict[str, Target]:
    """PURE: by URL the queues asked for, or those of all buckets, disabled ones too: what is left in a queue
    was recorded before."""
    found = urls or [config.extract_queue_url for config in registered if config.extract_queue_url]
    return {url: _target(url, registered, required=bool(urls)) for url in found}


def _target(url: str, registered: Sequence[BucketConfig], *, required: bool) -> Target:
    theirs = [config for config in registered if config.extract_queue_url == url]
    dead = next((c.extract_dead_letter_queue_url for c in theirs if c.extract_dead_letter_queue_url), None)
    return Target(url, dead, tuple(config.bucket for config in theirs), required)


class ExtractWorker:
    """Runs until it is told to stop, or with `once` until its queues are empty."""

    def __init__(self, engine: Engine, options: Options, *, refresh: float = REFRESH) -> None:
        self.metrics = ExtractMetrics()
        self.metrics.watch_in_flight(self._in_flight)
        self._engine = engine
        self._options = options
        self._refresh = refresh
        self._consumers: dict[str, QueueConsumer[list[Task]]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._troubles: dict[str, str] = {}
        self._left = 0
        self._stopping = False
        self._store = StoreCheck(engine.store.check)

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when what was received is extracted, its rows covered by an epoch, and its messages
        deleted; once told to stop, those that were not begun in time are left.

        Raises `TryAgain` if that took longer than the grace after `stop`, or if `once` left messages; they
        are in their queues. Raises `UsageError` for an extractor that cannot be started, `NotFound` for a
        queue that was asked for and is not there, and what the registry raises at the start.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                await self._run(stop, limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TryAgain(
                f"Stopped after {GRACE:.0f} s without having finished what was in hand. Nothing is lost: "
                "those messages come again, to the next worker."
            ) from None
        except ExceptionGroup as group:
            raise plain(group) from group
        if self._options.once and self._left:
            raise TryAgain(f"{self._left} messages were left in their queues; the log says why.")

    async def _run(self, stop: asyncio.Event, limit: asyncio.Timeout) -> None:
        wanted = await self._targets()
        options = self._options
        async with (
            self._engine.async_client("sqs", max_pool_connections=CONNECTIONS) as sqs,
            self._engine.log() as store,
            served(self._options.http_host, self._options.http_port, self.metrics, self.troubles),
            children(self._engine, self._engine.clock, options.processes, options.limits) as (
                extractors,
                pool,
            ),
        ):
            self.metrics.watch_children(lambda: extractors.started)
            await self._start_all(extractors, pool, wanted)
            epochs = Epochs(store, self._engine.clock, self.metrics)
            patience = ONCE_PATIENCE if options.once else math.inf
            rows = RowWriter(store, options.name, self._engine.clock)
            logs.info("started", name=options.name, store=self._engine.settings.store)
            async with (
                epochs.kept(),
                RowKeeper(rows, epochs.covered, self.metrics, patience=patience) as keeper,
                asyncio.TaskGroup() as group,
            ):
                work = Work(
                    extractors,
                    pool,
                    options.processes,
                    Wanted(self._engine.store.config, extractors, pool),
                    Forgetting(store),
                    keeper,
                    self.metrics,
                    patience=patience,
                )
                await self._supervise(_Parts(group, sqs, epochs, work), wanted, stop)
                self._stopping = True
                logs.info("stopping", in_flight=self._in_flight())
                loop = asyncio.get_running_loop()
                limit.reschedule(loop.time() + GRACE)
                last_begun = loop.call_later(DRAIN, work.ending.set)
                for consumer in self._consumers.values():
                    consumer.stop()
                if self._tasks:
                    await asyncio.wait(list(self._tasks.values()))
                last_begun.cancel()
            await epochs.cut_all(everything=options.once)
            logs.info("stopped")

    async def _start_all(
        self, extractors: Extractors, pool: ThreadPoolExecutor, wanted: dict[str, Target]
    ) -> None:
        """Start what the buckets want, so that a missing package ends the worker before it takes anything."""
        buckets = {bucket for target in wanted.values() for bucket in target.buckets}
        names = {
            name
            for config in await asyncio.to_thread(self._engine.store.buckets)
            if config.bucket in buckets
            for name in uses_of(config)
        }
        if names:
            await asyncio.get_running_loop().run_in_executor(pool, extractors.faces, sorted(names))

    async def troubles(self) -> list[str]:
        """Why the worker is not ready, in words; empty if it is."""
        return await not_ready(
            self._store, self._troubles.values(), self._consumers.values(), stopping=self._stopping
        )

    def _in_flight(self) -> int:
        return sum(len(consumer.in_hand) for consumer in self._consumers.values())

    async def _targets(self) -> dict[str, Target]:
        def registered() -> list[BucketConfig]:
            self._engine.store.check()
            return self._engine.store.buckets()

        return targets(await asyncio.to_thread(registered), self._options.queue_urls)

    async def _supervise(self, parts: _Parts, wanted: dict[str, Target], stop: asyncio.Event) -> None:
        """Keep a consumer for each queue until told to stop, or with `once` until all have ended."""
        stopped = asyncio.create_task(stop.wait())
        try:
            if not wanted:
                logs.warning("no-extraction-queue", remedy="Run `snapengine enable-bucket BUCKET --extract`.")
            self._follow(parts, wanted)
            if self._options.once:
                while self._tasks and not stopped.done():
                    await asyncio.wait([stopped, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED)
                return
            while not (await asyncio.wait([stopped], timeout=self._refresh))[0]:
                await self._reread(parts)
        finally:
            stopped.cancel()

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
        for url in self._consumers.keys() - wanted.keys():
            self._consumers[url].stop()
        for url in wanted.keys() - self._consumers.keys():
            queue = SQSQueue(parts.sqs, url)
            self._consumers[url] = QueueConsumer(
                queue,
                self.metrics,
                parse_tasks,
                lambda settle, leave: ExtractSink(parts.work, settle, leave),
                dead_letter_url=wanted[url].dead_letter_url,
                polls=POLLS,
                once=self._options.once,
                limit=min(IN_HAND * self._options.processes, MOST_IN_HAND),
            )
            self._tasks[url] = parts.group.create_task(self._consume(wanted[url]))
            logs.info("consuming", queue=queue.name)
        for target in wanted.values():
            for bucket in target.buckets:
                parts.epochs.watch(bucket)

    async def _consume(self, target: Target) -> None:
        consumer = self._consumers[target.url]
        try:
            await consumer.run()
        except ExceptionGroup as group:
            error = plain(group)
            if target.required or self._options.once or not isinstance(error, NotFound):
                raise
            # One bucket's queue is gone: the others' are not to suffer. The next refresh looks again.
            self.metrics.failed("receive")
            self._troubles[target.url] = str(error)
            logs.error("queue-missing", queue=target.url, **logs.reason(error))
        finally:
            self._left += len(consumer.left)
            del self._consumers[target.url], self._tasks[target.url]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What every consumer shares."""

    group: asyncio.TaskGroup
    sqs: Any
    epochs: Epochs
    work: Work
