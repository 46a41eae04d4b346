"""The extract worker as a Lambda function on the extraction queue, with partial batch failures
(ReportBatchItemFailures).

One event loop, store client and set of children for each execution environment, kept over its warm
invocations. Nothing runs between two invocations. Only messages whose rows are in the log and covered by an
epoch count as done, so an invocation that times out or is frozen for ever leaves its messages to come again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol

from metadata_extractors.extract_metrics import ExtractMetrics
from metadata_extractors.extract_sink import Forgetting, Wanted, Work
from metadata_extractors.extracting import Extractors
from metadata_extractors.limits import Limits
from metadata_extractors.row_keeping import RowKeeper, keyless
from snapengine.engine import Engine
from snapengine.errors import MalformedMessage, UsageError
from snapengine.extraction_tasks import parse_tasks
from snapengine.log import RowWriter
from snapengine.ports import LogStore
from snapengine.workers import logs
from snapengine.workers.epochs import Epochs

BEGIN_RESERVE: Final = 10.0
"""Seconds before the function's timeout from which on no object is begun."""

END_RESERVE: Final = 2.0
"""Seconds before the function's timeout at which what is not done is given up."""


class Context(Protocol):
    """Lambda's context object, as far as it is needed."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: Any, context: Context) -> dict[str, list[dict[str, str]]]:
    """Lambda's entry point: `metadata_extractors.extract_handler.handler`.

    Returns the messages to be delivered again: those not done, and those that are no extraction messages,
    which SQS moves to the dead-letter queue once they have come often enough. Raises `UsageError` for an
    event that is no batch of SQS messages.
    """
    global _environment  # noqa: PLW0603  # an execution environment is a process; this is what it keeps
    records = _records(event)
    if _environment is None:
        logs.configure()
        _environment = Environment(Engine())
    return {"batchItemFailures": [{"itemIdentifier": each} for each in _environment.handle(records, context)]}


_environment: Environment | None = None


class Environment:
    """What an execution environment keeps."""

    def __init__(self, engine: Engine, limits: Limits | None = None) -> None:
        self._engine = engine
        self._limits = limits
        self._count = len(os.sched_getaffinity(0))
        self._loop = asyncio.new_event_loop()
        self._clients = AsyncExitStack()  # closed with the process; Lambda gives no earlier moment
        self._store: LogStore | None = None
        self._children: tuple[Extractors, ThreadPoolExecutor] | None = None
        self._name = f"{os.environ.get('AWS_LAMBDA_LOG_STREAM_NAME', 'lambda')}-{secrets.token_hex(4)}"
        self._metrics = ExtractMetrics()

    def handle(self, records: Sequence[dict[str, Any]], context: Context) -> list[str]:
        """The ids of the messages that are not done."""
        return self._loop.run_until_complete(self._handle(records, context))

    def close(self) -> None:
        """End the children, the clients and the loop."""
        self._end_children()
        self._loop.run_until_complete(self._clients.aclose())
        self._loop.close()

    async def _handle(self, records: Sequence[dict[str, Any]], context: Context) -> list[str]:
        if self._store is None:
            await asyncio.to_thread(self._engine.store.check)
            self._store = await self._clients.enter_async_context(self._engine.log())
        if self._children is None:
            extractors = Extractors(self._engine, self._engine.clock, self._count, self._limits)
            self._children = extractors, ThreadPoolExecutor(self._count, thread_name_prefix="extract")
        done: set[str] = set()
        try:
            async with asyncio.timeout(_seconds(context, END_RESERVE)):
                await self._batch(records, self._store, *self._children, done, context)
        except TimeoutError:
            logs.error("out-of-time", reason="Give the function more time, or smaller batches.")
            self._end_children()
        failed = [record["messageId"] for record in records if record["messageId"] not in done]
        logs.info("batch", received=len(records), failed=len(failed))
        return failed

    async def _batch(
        self,
        records: Sequence[dict[str, Any]],
        store: LogStore,
        extractors: Extractors,
        pool: ThreadPoolExecutor,
        done: set[str],
        context: Context,
    ) -> None:
        epochs = Epochs(store, self._engine.clock, self._metrics)
        # No patience: SQS delivers again, with a pause of its own, and waiting here is paid for.
        rows = RowWriter(store, self._name, self._engine.clock)
        async with RowKeeper(rows, epochs.covered, self._metrics, patience=0) as keeper:
            wanted = Wanted(self._engine.store.config, extractors, pool)
            forgetting = Forgetting(store)
            work = Work(extractors, pool, self._count, wanted, forgetting, keeper, self._metrics, patience=0)
            last_begun = self._loop.call_later(_seconds(context, BEGIN_RESERVE), work.ending.set)
            try:
                await asyncio.gather(*(_one(work, record, done) for record in records))
            finally:
                last_begun.cancel()

    def _end_children(self) -> None:
        if self._children is not None:
            extractors, pool = self._children
            self._children = None
            extractors.end()
            pool.shutdown(cancel_futures=True)
            extractors.close()


async def _one(work: Work, record: dict[str, Any], done: set[str]) -> None:
    message = record["messageId"]
    try:
        tasks = parse_tasks(record["body"])
    except MalformedMessage as error:
        queue = record.get("eventSourceARN")
        logs.error("malformed-message-left", queue=queue, message=message, **keyless(error))
        return
    failures = await work.message(tasks)
    if failures:
        told = {"bucket": tasks[0].bucket, "message": message, "objects": len(tasks)}
        logs.error("message-left", **told, not_tried=len(failures), **keyless(failures[0]))
        return
    done.add(message)


def _seconds(context: Context, reserve: float) -> float:
    """From now until `reserve` seconds before the function's timeout."""
    return max(0.0, context.get_remaining_time_in_millis() / 1000 - reserve)


def _records(event: Any) -> list[dict[str, Any]]:
    records = event.get("Records") if isinstance(event, dict) else None
    if isinstance(records, list) and all(_is_message(record) for record in records):
        return records
    raise UsageError(
        "The function was called with something that is no batch of SQS messages. Make the extraction queue "
        "its event source, with ReportBatchItemFailures."
    )


def _is_message(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and record.get("eventSource") == "aws:sqs"
        and isinstance(record.get("messageId"), str)
        and isinstance(record.get("body"), str)
    )
