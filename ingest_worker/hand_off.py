"""Created versions, once committed, to the queue of extraction; only then are their own messages deleted.

What a lost reply does: what had been taken is sent again, and so is all of a batch after a crash. The same
version is then extracted twice, which gives one row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from ingest_worker.metrics import Metrics
from snapengine.errors import NotFound, SnapEngineError, TryAgain
from snapengine.extraction_tasks import MAX_BYTES, messages_of, tasks_of
from snapengine.model import BucketConfig, Observation
from snapengine.workers.sqs import BATCH, NotSent

CONFIG_AGE: Final = 30.0
"""Seconds for which a bucket's configuration is not read again, nor `enable-bucket --extract` heard of."""


class Receiver(Protocol):
    """`snapengine.workers.sqs.SQSQueue`, as far as it is needed here."""

    async def send(self, bodies: Sequence[str]) -> list[NotSent]: ...


class HandOff:
    """Knows which buckets have extractors, and sends what is for them.

    `config_of` blocks, and is called in a thread; `queue_of` gives the queue of a URL.
    """

    def __init__(
        self,
        config_of: Callable[[str], BucketConfig | None],
        queue_of: Callable[[str], Awaitable[Receiver]],
        metrics: Metrics,
        *,
        config_age: float = CONFIG_AGE,
    ) -> None:
        self._config_of = config_of
        self._queue_of = queue_of
        self._metrics = metrics
        self._config_age = config_age
        self._known: dict[str, tuple[float, BucketConfig | None]] = {}

    def needless(self, bucket: str) -> bool:
        """Whether the bucket is known to have no extractors: there is nothing to wait for then."""
        read_at, config = self._known.get(bucket, (None, None))
        fresh = read_at is not None and asyncio.get_running_loop().time() < read_at + self._config_age
        return fresh and not _wanted(config)

    def parcel(self, bucket: str, observations: Sequence[Observation]) -> Callable[[], Awaitable[None]]:
        """A call that returns once the created versions among the observations are in the queue, or the
        bucket has no extractors any more. It raises what keeps it; called again, it goes on where it was."""
        bodies: list[str] | None = None
        count = 0

        async def send() -> None:
            nonlocal bodies, count
            config = await self._config(bucket)
            if config is None or not _wanted(config):
                return
            if bodies is None:
                tasks = tasks_of(bucket, observations)
                bodies, count = messages_of(tasks), len(tasks)
            if bodies:
                await self._send(config, bodies)
                self._metrics.handed_off.labels(bucket).inc(count)

        return send

    async def _config(self, bucket: str) -> BucketConfig | None:
        now = asyncio.get_running_loop().time()
        if bucket not in self._known or now >= self._known[bucket][0] + self._config_age:
            self._known[bucket] = now, await asyncio.to_thread(self._config_of, bucket)
        return self._known[bucket][1]

    async def _send(self, config: BucketConfig, bodies: list[str]) -> None:
        """Send them all, taking out of the list what the queue has."""
        if config.extract_queue_url is None:
            raise _no_queue(config, "none is registered.")
        try:
            queue = await self._queue_of(config.extract_queue_url)
            while bodies:
                batch = _first(bodies)
                not_sent = await queue.send(batch)
                bodies[: len(batch)] = [each.body for each in not_sent]
                if not_sent:
                    raise _refused(config, not_sent, len(batch))
        except NotFound as error:
            raise _no_queue(config, str(error)) from error


def _wanted(config: BucketConfig | None) -> bool:
    """Whether what is created in the bucket is to be handed on: late events of a disabled one, whose queue
    has gone, are not."""
    return bool(config and config.extractors and (config.enabled or config.extract_queue_url))


def _first(bodies: Sequence[str]) -> list[str]:
    """As many as one call takes. They are ASCII: a character is a byte."""
    room = MAX_BYTES
    for count, body in enumerate(bodies[:BATCH]):
        room -= len(body)
        if room < 0:
            return list(bodies[: max(1, count)])
    return list(bodies[:BATCH])


def _refused(config: BucketConfig, not_sent: Sequence[NotSent], of: int) -> SnapEngineError:
    codes = ", ".join(sorted({each.code for each in not_sent}))
    text = f"Queue {config.extract_queue_url} did not take {len(not_sent)} of {of} messages ({codes})."
    return (SnapEngineError if any(each.final for each in not_sent) else TryAgain)(text)


def _no_queue(config: BucketConfig, why: str) -> NotFound:
    return NotFound(
        f"The versions created in bucket {config.bucket} cannot be handed to extraction, as its queue for "
        f"them is not to be found: {why} Until it is there, their messages wait. `snapengine enable-bucket "
        f"{config.bucket} --extract {','.join(config.extractors)}` makes it again, `--no-extract` ends it."
    )
