"""One queue's messages to a sink and out of the queue: long polls, visibility, deletion, setting aside.

What a lost reply means: a received message that never arrived here is hidden for its visibility timeout and
comes again; a deletion is repeated, which SQS allows; a message sent to the dead-letter queue may be there
twice. A message is deleted only after all that it asks for is done, so each of these costs a repetition at
most.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Final, Generic, Protocol, TypeVar

from snapengine.errors import MalformedMessage, NotFound, SnapEngineError
from snapengine.workers import logs
from snapengine.workers.backoff import delays
from snapengine.workers.metrics import WorkerMetrics
from snapengine.workers.sqs import BATCH, Attributes, Failure, Message, came_before, sent

LONG_POLL: Final = 20
"""Seconds; SQS's limit. The client's read timeout is longer."""

LAST_POLL: Final = 2
"""Seconds that a poll waits where the queue is to be emptied once. A poll of 0 s asks only some of SQS's
servers and may miss messages; any longer one asks all of them."""

IN_HAND: Final = 2_000
"""Messages of one queue that are received and not dealt with; beyond it no more are asked for. Enough to fill
several batches while others are being written."""

TRIES: Final = 5
"""Of a deletion, and of receiving where the queue is to be emptied once."""

DELETERS: Final = 4


Parsed = TypeVar("Parsed")
Taken_contra = TypeVar("Taken_contra", contravariant=True)


class Sink(Protocol[Taken_contra]):
    """Where messages go, as an asynchronous context: on a regular exit it finishes what it holds; on an
    exception it drops that, and the messages come again."""

    trouble: dict[str, str]
    """Why it gets nowhere at the moment, by bucket."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def take(self, message: Message, parsed: Taken_contra) -> bool:
        """Take what a message says, without waiting. False if there is nothing to do: it may be deleted."""
        ...


Hand = Callable[[Sequence[Message]], None]


class Queue(Protocol):
    """`snapengine.workers.sqs.SQSQueue`. Its methods raise nothing but `SnapEngineError`."""

    name: str

    async def attributes(self) -> Attributes: ...

    async def url_of(self, arn: str) -> str: ...

    async def receive(self, *, wait: int, visibility: int) -> list[dict[str, Any]]: ...

    async def delete(self, messages: Sequence[Message]) -> list[Failure]: ...

    async def extend(self, messages: Sequence[Message], visibility: int) -> list[Failure]: ...

    async def send_on(self, url: str, raw: dict[str, Any], reason: str) -> None: ...


class QueueConsumer(Generic[Parsed]):
    """Consumes one queue, until it is stopped or, with `once`, until the queue is empty.

    `parse` reads a message's body, and raises `MalformedMessage` for one to be set aside. `sink` is made with
    two functions: the first it calls with messages that are done with, the second with those to come again.
    """

    def __init__(
        self,
        queue: Queue,
        metrics: WorkerMetrics,
        parse: Callable[[str], Parsed],
        sink: Callable[[Hand, Hand], Sink[Parsed]],
        *,
        dead_letter_url: str | None = None,
        polls: int = 4,
        once: bool = False,
        limit: int = IN_HAND,
    ) -> None:
        self.in_hand: set[Message] = set()
        self.left: set[str] = set()
        """With `once`, the ids of messages left in the queue, whatever the reason: each is tried once."""
        self.visibility = 30
        self.dead_letter_url = dead_letter_url
        self.looked_up = asyncio.Event()
        """Set once the queue has told the two above."""
        self.answered = asyncio.Event()
        """Set by each poll that SQS answers."""
        self._queue = queue
        self._metrics = metrics
        self._polls = polls
        self._once = once
        self._limit = max(limit, BATCH)
        self._asked_for = 0
        self._room = asyncio.Event()
        self._deletions: asyncio.Queue[Sequence[Message]] = asyncio.Queue()
        self._trouble: str | None = "not reached yet"
        self._stopped = False
        self._given_back: list[Message] = []
        self._receiving: asyncio.Task[None] | None = None
        self._parse = parse
        self._sink = sink(self._settle, self._leave)

    def stop(self) -> None:
        """Receive no more; `run` returns when what is in hand has been dealt with. What is left by then is
        shown to other workers at once.

        Long polls are cut off at once. Messages that SQS hands to one of them at this very moment come again
        when their visibility timeout is over.
        """
        self._stopped = True
        if self._receiving:
            self._receiving.cancel()

    def troubles(self) -> list[str]:
        """What is wrong at the moment, in words."""
        own = [f"Queue {self._queue.name}: {self._trouble}"] if self._trouble else []
        return own + [f"Bucket {bucket}: {reason}" for bucket, reason in self._sink.trouble.items()]

    async def run(self) -> None:
        """Raises `NotFound`, in a group, if there is no such queue at the start; with `once` any error that
        stays. Otherwise errors are logged, and what failed is tried again.
        """
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(self._delete_settled()) for _ in range(DELETERS)]
            helpers.append(group.create_task(self._keep_hidden()))
            async with self._sink:
                self._receiving = group.create_task(self._receive())
                if self._stopped:
                    self._receiving.cancel()
                await asyncio.wait([self._receiving])
            await self._deletions.join()
            for chunk in _chunks(self._given_back):
                await self._show(chunk)
            for helper in helpers:
                helper.cancel()

    async def _receive(self) -> None:
        await self._look_up()
        self.looked_up.set()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._polls):
                group.create_task(self._poll())

    async def _look_up(self) -> None:
        """Learn the visibility timeout and the dead-letter queue."""
        for tried, pause in enumerate(delays(), start=1):
            try:
                visibility, arn = await self._queue.attributes()
                self.visibility = visibility or 30  # with 0, SQS hides nothing: everybody gets everything
                if arn and not self.dead_letter_url:
                    self.dead_letter_url = await self._queue.url_of(arn)
            except NotFound:
                raise
            except SnapEngineError as error:
                await self._try_later(error, tried, pause)
            else:
                break
        if not self.dead_letter_url:
            logs.warning("no-dead-letter-queue", queue=self._queue.name)

    async def _poll(self) -> None:
        wait = LAST_POLL if self._once else LONG_POLL
        pauses, tried = delays(), 0
        while True:
            await self._wait_for_room()
            self._asked_for += BATCH
            try:
                raws = await self._queue.receive(wait=wait, visibility=self.visibility)
            except SnapEngineError as error:
                tried += 1
                await self._try_later(error, tried, next(pauses))
                continue
            finally:
                self._asked_for -= BATCH
            self._trouble = None
            self.answered.set()
            pauses, tried = delays(), 0
            raws = [raw for raw in raws if raw["MessageId"] not in self.left]
            if raws:
                for message, raw, malformed in self._take(raws):
                    await self._set_aside(message, raw, malformed)
            elif self._once:
                return  # the others go on while they are given anything; the last one leaves it empty

    async def _try_later(self, error: SnapEngineError, tried: int, pause: float) -> None:
        self._failed("receive", error, again_in=round(pause, 3))
        self._trouble = str(error)
        if self._once and tried >= TRIES:
            raise error
        await asyncio.sleep(pause)

    async def _wait_for_room(self) -> None:
        while len(self.in_hand) + self._asked_for + BATCH > self._limit:
            self._room.clear()
            await self._room.wait()

    def _take(self, raws: Sequence[dict[str, Any]]) -> list[tuple[Message, dict[str, Any], MalformedMessage]]:
        """Give the sink what it can take. Returns what can't be parsed."""
        self._metrics.received.inc(len(raws))
        now = asyncio.get_running_loop().time()
        nothing_to_do = []
        malformed = []
        for raw in raws:
            message = Message(raw["MessageId"], raw["ReceiptHandle"], now, sent(raw))
            message.shared = came_before(raw)
            self.in_hand.add(message)
            try:
                parsed = self._parse(raw["Body"])
            except MalformedMessage as error:
                malformed.append((message, raw, error))
            else:
                if not self._sink.take(message, parsed):
                    nothing_to_do.append(message)
        self._settle(nothing_to_do)
        return malformed

    async def _set_aside(self, message: Message, raw: dict[str, Any], malformed: MalformedMessage) -> None:
        """Send it to the dead-letter queue, and only then delete it here.

        If that fails it stays: SQS itself moves it once it has come often enough.
        """
        self._metrics.malformed.inc()
        url = self.dead_letter_url
        known = {"queue": self._queue.name, "message": message.id, **logs.reason(malformed)}
        if url is None:
            logs.error("malformed-message-left", dead_letter_queue=None, **known)
            self._leave([message])
            return
        try:
            await self._queue.send_on(url, raw, str(malformed))
        except SnapEngineError as error:
            self._failed("set-aside", error, message=message.id)
            logs.error("malformed-message-left", dead_letter_queue=url, **known)
            self._leave([message])
            return
        self._metrics.set_aside.inc()
        logs.error("malformed-message-set-aside", dead_letter_queue=url, **known)
        self._settle([message])

    def _leave(self, messages: Sequence[Message]) -> None:
        """Let them come again, when their visibility timeout is over; that is pause enough."""
        self._note_left(messages)
        self._put_down(messages)
        if self._stopped:
            self._given_back += messages

    def _note_left(self, messages: Sequence[Message]) -> None:
        self._metrics.left.inc(len(messages))
        if self._once:
            self.left.update(message.id for message in messages)

    def _settle(self, messages: Sequence[Message]) -> None:
        for message in messages:
            message.settled = True
        for chunk in _chunks(messages):
            self._deletions.put_nowait(chunk)

    def _put_down(self, messages: Sequence[Message]) -> None:
        self.in_hand.difference_update(messages)
        self._room.set()

    async def _delete_settled(self) -> None:
        while True:
            chunk = await self._deletions.get()
            await self._delete(chunk)
            self._put_down(chunk)
            self._deletions.task_done()

    async def _delete(self, messages: Sequence[Message]) -> None:
        for pause in islice(delays(), TRIES):
            try:
                failures = await self._queue.delete(messages)
            except SnapEngineError as error:
                self._failed("delete", error, again_in=round(pause, 3))
            else:
                self._metrics.deleted.inc(len(messages) - len(failures))
                self._refused("delete", failures)
                messages = [f.message for f in failures if not f.final]
                if not messages:
                    return
            await asyncio.sleep(pause)
        self._note_left(messages)
        ids = [message.id for message in messages]
        logs.error("not-deleted", queue=self._queue.name, messages=ids, reason="They will come again.")

    async def _keep_hidden(self) -> None:
        """Extend the visibility of what is in hand for longer than half of its timeout."""
        loop = asyncio.get_running_loop()
        await self.looked_up.wait()
        while True:
            await asyncio.sleep(self.visibility / 4)
            old = loop.time() - self.visibility / 2
            async with asyncio.TaskGroup() as group:
                for chunk in _chunks([m for m in self.in_hand if m.extended <= old]):
                    group.create_task(self._extend(chunk))

    async def _extend(self, messages: Sequence[Message]) -> None:
        asked_at = asyncio.get_running_loop().time()
        try:
            failures = await self._queue.extend(messages, self.visibility)
        except SnapEngineError as error:
            self._failed("visibility", error)  # the next round tries again
            return
        failures = [f for f in failures if f.message in self.in_hand]
        self._refused("visibility", failures)
        failed = {f.message: f for f in failures}
        for message in messages:
            if message not in failed:
                message.shared = message.shared or asked_at - message.extended > self.visibility
                message.extended = asked_at
            elif failed[message].final:
                message.extended = math.inf  # it comes again, here or elsewhere; that is a duplicate

    async def _show(self, messages: Sequence[Message]) -> None:
        """To other workers, which would wait for the visibility timeout, if it does not work."""
        try:
            self._refused("visibility", await self._queue.extend(messages, 0))
        except SnapEngineError as error:
            self._failed("visibility", error)

    def _failed(self, step: str, error: SnapEngineError, **fields: Any) -> None:
        self._metrics.failed(step)
        logs.warning(f"{step}-failed", queue=self._queue.name, **fields, **logs.reason(error))

    def _refused(self, step: str, failures: Sequence[Failure]) -> None:
        """Entries of a batch call that SQS did not carry out."""
        for failure in failures:
            self._metrics.failed(step)
            logs.warning(
                f"{step}-failed", queue=self._queue.name, message=failure.message.id, code=failure.code
            )


def _chunks(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    for start in range(0, len(messages), BATCH):
        yield messages[start : start + BATCH]
