"""One queue of S3's events: its messages to the writer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ingest_worker.hand_off import HandOff
from ingest_worker.metrics import Metrics
from ingest_worker.records import Parsed, parse_message
from ingest_worker.writer import Log, Writer
from snapengine.log import Committed
from snapengine.ports import Clock
from snapengine.workers.consumer import IN_HAND, Queue, QueueConsumer


class Consumer(QueueConsumer[Sequence[Parsed]]):
    """Commits what the messages of one queue say. `patience` is in seconds: see `Writer`."""

    def __init__(
        self,
        queue: Queue,
        log: Log,
        clock: Clock,
        metrics: Metrics,
        committed: Callable[[Sequence[Committed]], None],
        *,
        dead_letter_url: str | None = None,
        polls: int = 4,
        once: bool = False,
        patience: float = math.inf,
        limit: int = IN_HAND,
        hand_off: HandOff | None = None,
    ) -> None:
        super().__init__(
            queue,
            metrics,
            parse_message,
            lambda settle, leave: Writer(
                log,
                clock,
                metrics,
                settle=settle,
                leave=leave,
                committed=committed,
                patience=patience,
                hand_off=hand_off,
            ),
            dead_letter_url=dead_letter_url,
            polls=polls,
            once=once,
            limit=limit,
        )
