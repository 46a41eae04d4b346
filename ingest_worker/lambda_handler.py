"""The same path as a Lambda function on the queue, with partial batch failures (ReportBatchItemFailures).

One event loop, client and writer for each execution environment, kept over its warm invocations. Nothing
runs between two invocations: all tasks have ended when the handler returns. Only what is committed counts as
done, so an invocation that times out or is frozen and never thawed leaves its messages to come again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol

from ingest_worker.hand_off import HandOff, Receiver
from ingest_worker.metrics import Metrics
from ingest_worker.records import parse_message
from ingest_worker.writer import Log, Writer
from snapengine.engine import Engine
from snapengine.errors import MalformedMessage, UsageError
from snapengine.log import Committed, StreamWriter
from snapengine.ports import Clock, LogStore
from snapengine.workers import logs
from snapengine.workers.epochs import Epochs
from snapengine.workers.sqs import Message, SQSQueue

COMMIT_RESERVE: Final = 3.0
"""Seconds before the function's timeout at which messages not yet committed are given up."""

EPOCH_RESERVE: Final = 1.0
"""Seconds before the function's timeout at which waiting for an epoch ends."""


class Context(Protocol):
    """Lambda's context object, as far as it is needed."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: Any, context: Context) -> dict[str, list[dict[str, str]]]:
    """Lambda's entry point: `ingest_worker.lambda_handler.handler`.

    Returns the messages to be delivered again: those not committed, and those that can't be parsed, which
    SQS moves to the dead-letter queue once they have come often enough. Raises `UsageError` for an event
    that is no batch of SQS messages.
    """
    global _environment  # noqa: PLW0603  # an execution environment is a process; this is what it keeps
    records = _records(event)
    if _environment is None:
        logs.configure()
        _environment = Environment(Engine())
    return {"batchItemFailures": [{"itemIdentifier": each} for each in _environment.handle(records, context)]}


class Environment:
    """What an execution environment keeps."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.new_event_loop()
        self._clients = AsyncExitStack()  # closed with the process; Lambda gives no earlier moment
        self._sqs: Any = None
        self._batches: Batches | None = None

    def handle(self, records: Sequence[dict[str, Any]], context: Context) -> list[str]:
        return self._loop.run_until_complete(self._handle(records, context))

    async def _handle(self, records: Sequence[dict[str, Any]], context: Context) -> list[str]:
        if self._batches is None:
            await asyncio.to_thread(self._engine.store.check)
            store = await self._clients.enter_async_context(self._engine.log())
            name = f"{os.environ.get('AWS_LAMBDA_LOG_STREAM_NAME', 'lambda')}-{secrets.token_hex(4)}"
            metrics = Metrics()
            hand_off = HandOff(self._engine.store.config, self._queue_of, metrics)
            self._batches = Batches(store, name, self._engine.clock, metrics, hand_off)
        return await self._batches.handle(records, context)

    async def _queue_of(self, url: str) -> Receiver:
        if self._sqs is None:  # only where something is handed off
            self._sqs = await self._clients.enter_async_context(self._engine.async_client("sqs"))
        return SQSQueue(self._sqs, url)


class Batches:
    """Commits batches of SQS messages, and has an epoch cover them."""

    def __init__(
        self,
        store: LogStore,
        name: str,
        clock: Clock,
        metrics: Metrics | None = None,
        hand_off: HandOff | None = None,
    ) -> None:
        self._log: Log = StreamWriter(store, name, clock)
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._hand_off = hand_off
        self._epochs = Epochs(store, clock, self._metrics)

    async def handle(self, records: Sequence[dict[str, Any]], context: Context) -> list[str]:
        """The ids of the messages that are not done with."""
        done: set[str] = set()
        buckets: set[str] = set()
        try:
            async with asyncio.timeout(_seconds(context, COMMIT_RESERVE)):
                await self._commit(records, done, buckets)
        except TimeoutError:
            logs.error("out-of-time", reason="Give the function more time, or smaller batches.")
        failed = [record["messageId"] for record in records if record["messageId"] not in done]
        await self._cover(buckets, context)
        logs.info("batch", received=len(records), failed=len(failed))
        return failed

    async def _commit(self, records: Sequence[dict[str, Any]], done: set[str], buckets: set[str]) -> None:
        def settle(messages: Sequence[Message]) -> None:
            done.update(message.id for message in messages)

        def committed(places: Sequence[Committed]) -> None:
            buckets.update(place.bucket for place in places)
            self._epochs.note(places)

        # No patience: SQS delivers again, with a pause of its own, and waiting here is paid for.
        async with Writer(
            self._log,
            self._clock,
            self._metrics,
            settle=settle,
            leave=lambda _: None,  # whatever is not settled is reported
            committed=committed,
            patience=0,
            hand_off=self._hand_off,
        ) as writer:
            for record in records:
                message = Message(record["messageId"])
                try:
                    parsed = parse_message(record["body"])
                except MalformedMessage as error:
                    logs.error(
                        "malformed-message-left",
                        queue=record.get("eventSourceARN"),
                        message=message.id,
                        **logs.reason(error),
                    )
                else:
                    if not writer.take(message, parsed):
                        settle([message])

    async def _cover(self, buckets: set[str], context: Context) -> None:
        """Have an epoch cover what was committed, waiting until the last one is a second old.

        To wait is to know that it becomes visible: there may be no later invocation. If time runs out, or
        the cut fails, it is done by whoever cuts next, as the messages are committed all the same.
        """
        try:
            async with asyncio.timeout(_seconds(context, EPOCH_RESERVE)), asyncio.TaskGroup() as group:
                for bucket in buckets:
                    group.create_task(self._epochs.cover(bucket))
        except TimeoutError:
            logs.warning("epoch-late", buckets=sorted(buckets))
        except ExceptionGroup as errors:
            for error in errors.exceptions:
                logs.warning("epoch-failed", **logs.reason(error))


_environment: Environment | None = None


def _seconds(context: Context, reserve: float) -> float:
    """From now until `reserve` seconds before the function's timeout."""
    return max(0.0, context.get_remaining_time_in_millis() / 1000 - reserve)


def _records(event: Any) -> list[dict[str, Any]]:
    records = event.get("Records") if isinstance(event, dict) else None
    if isinstance(records, list) and all(_is_message(record) for record in records):
        return records
    raise UsageError(
        "The function was called with something that is no batch of SQS messages. Make the bucket's queue "
        "its event source, with ReportBatchItemFailures; S3, SNS and EventBridge must not call it directly."
    )


def _is_message(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and record.get("eventSource") == "aws:sqs"
        and isinstance(record.get("messageId"), str)
        and isinstance(record.get("body"), str)
    )
