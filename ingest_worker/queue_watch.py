"""Looks at a queue again and again, and raises the caught-up watermarks of the buckets that it speaks for.

What a lost reply means: a watermark is raised again to the same or a later instant, which the store allows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ingest_worker.metrics import Metrics
from ingest_worker.watermark import CONFIRM, Reading, caught_up, instant_of_request, surely_ours
from snapengine.ports import Clock, LogStore
from snapengine.workers import logs
from snapengine.workers.failures import plain
from snapengine.workers.sqs import Backlog, Message

EVERY: Final = 10.0
"""Seconds between two looks at least. A long poll has to come back in between, which takes up to 20 s where
the queue is empty: a worker that receives nothing because it cannot is no witness."""

APART: Final = 10_000
"""Milliseconds by which a watermark is raised at least, whoever raised it last: each time cuts an epoch."""

REMEMBERED: Final = 60
"""Readings; of ten minutes or more."""

_STILL_HIDDEN: Final = 0.9
"""Of its visibility timeout, for how long a message counts as hidden from others since it was extended."""


class Queue(Protocol):
    """`snapengine.workers.sqs.SQSQueue`. Its methods raise nothing but `SnapEngineError`."""

    name: str

    async def backlog(self) -> Backlog: ...

    async def url_of(self, arn: str) -> str: ...

    def another(self, url: str) -> Queue: ...


class Hands(Protocol):
    """`ingest_worker.consumer.Consumer`: what it has in hand of the queue, and whether it gets anything."""

    in_hand: set[Message]
    visibility: int
    dead_letter_url: str | None
    looked_up: asyncio.Event
    """Set once the two above are known."""
    answered: asyncio.Event
    """Set by each poll that SQS answers."""


class QueueWatch:
    """Watches one queue, for the buckets that `buckets` says are registered with it at the moment.

    `raised` is told of each watermark once it is stored: an epoch is to carry it.
    """

    def __init__(
        self,
        queue: Queue,
        hands: Hands,
        store: LogStore,
        clock: Clock,
        metrics: Metrics,
        buckets: Callable[[], Sequence[str]],
        raised: Callable[[str, int], None],
    ) -> None:
        self._queue = queue
        self._hands = hands
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._buckets = buckets
        self._raised = raised
        self._begun = clock()
        self._known: dict[str, int] = {}
        self._readings: deque[Reading] = deque(maxlen=REMEMBERED)
        self._dead_letter_urls: dict[str, str] = {}
        self._held = False
        self._reported: str | None = None

    def behind(self) -> float:
        """Seconds that the lowest of the buckets' watermarks lies in the past; where this worker knows of
        none, those since it began to watch."""
        instants = [self._known.get(bucket, self._begun) for bucket in self._buckets()]
        return max(0, self._clock() - min(instants)) / 1000 if instants else 0.0

    async def run(self) -> None:
        """Until cancelled. Failures are logged, and hold the watermark where it is."""
        await self._hands.looked_up.wait()
        while True:
            self._hands.answered.clear()
            try:
                await self.look()
            except Exception as raised:  # noqa: BLE001  # whatever it is, the messages go on being consumed
                self._failed(plain(raised))
            await asyncio.sleep(EVERY)
            await self._hands.answered.wait()

    async def look(self) -> None:
        """Take a reading, and raise the watermarks if it confirms an earlier one."""
        last = await self._read()
        self._note_dead_letters(last.dead)
        instant = caught_up(self._readings, last, confirm=CONFIRM)
        self._readings.append(last)
        if instant is not None:
            await self._raise_all(instant)
        self._reported = None

    async def _read(self) -> Reading:
        """The dead-letter queues come after the queue: what moves from one to the other is seen in one."""
        loop, hands = asyncio.get_running_loop(), self._hands
        before = frozenset(hands.in_hand)
        clock, taken = self._clock(), loop.time()
        backlog = await self._queue.backlog()
        answered = loop.time()
        ours = surely_ours(before, hands.in_hand, answered - _STILL_HIDDEN * hands.visibility)
        oldest = min((message.sent for message in before | hands.in_hand), default=None)
        dead = [await queue.backlog() for queue in await self._dead_letter_queues(backlog)]
        return Reading(
            taken=taken,
            asked=instant_of_request(clock, answered - taken, backlog.date),
            visible=backlog.visible,
            in_flight=backlog.in_flight,
            delayed=backlog.delayed,
            ours=ours,
            oldest=oldest,
            dead=sum(each.visible + each.in_flight + each.delayed for each in dead),
        )

    async def _dead_letter_queues(self, backlog: Backlog) -> list[Queue]:
        """Where this worker sets messages aside, and where SQS does: the same, as a rule."""
        known, arn = self._hands.dead_letter_url, backlog.dead_letter_arn
        urls = [known] if known else []
        if arn and not (known and is_of(known, arn)):
            if arn not in self._dead_letter_urls:
                self._dead_letter_urls[arn] = await self._queue.url_of(arn)
            urls.append(self._dead_letter_urls[arn])
        return [self._queue.another(url) for url in dict.fromkeys(urls)]

    async def _raise_all(self, to: int) -> None:
        failures = []
        for bucket in self._buckets():
            try:
                await self._raise(bucket, to)
            except Exception as error:  # noqa: BLE001  # one bucket's failure is not the next one's
                failures.append(error)
        if failures:
            raise failures[0]

    async def _raise(self, bucket: str, to: int) -> None:
        stored = (await self._store.watermarks(bucket)).caught_up
        if stored is None or to - stored >= APART:
            await self._store.raise_caught_up(bucket, to)
            self._raised(bucket, to)
            stored = to
        self._known[bucket] = stored

    def _note_dead_letters(self, dead: int) -> None:
        """Say so, once, when they begin to hold the watermark, and when they no longer do."""
        if dead and not self._held:
            logs.error("watermark-held", queue=self._queue.name, dead_letters=dead, remedy=_REMEDY)
        elif self._held and not dead:
            logs.info("watermark-released", queue=self._queue.name)
        self._held = bool(dead)

    def _failed(self, error: Exception) -> None:
        """Count every failure, but log one that stays once: it may last for days."""
        self._metrics.failed("watermark")
        fields = logs.reason(error)
        if fields["code"] != self._reported:
            self._reported = fields["code"]
            logs.warning("watermark-failed", queue=self._queue.name, **fields)


def is_of(url: str, arn: str) -> bool:
    """Whether a queue's URL (`https://HOST/ACCOUNT/NAME`) and ARN (`arn:aws:sqs:REGION:ACCOUNT:NAME`) agree.

    The Region is not compared: a dead-letter queue is in its queue's.
    """
    return url.split("/")[-2:] == arn.split(":")[-2:]


_REMEDY: Final = (
    "No view of a later instant becomes `settled` until the dead-letter queue is empty. Redrive its messages "
    "to the queue, or delete those that are no events; see docs/worker.md, Dead letters."
)
