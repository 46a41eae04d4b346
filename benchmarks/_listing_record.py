"""The bucket's log for `view_vs_listing`, as workers would have written it from the events of its filling.

The filling takes minutes and history takes days, so its times are stretched: a second of filling is an hour
of the log. An epoch is cut every hour of it in which something happened. Order and T stay in place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmarks._listing_filling import Filled
from snapengine.engine import Engine
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BucketConfig, Epoch, Observation
from snapengine.observation_codec import MAX_ROWS

STRETCH = 3_600
EPOCH_MS = 3_600_000
"""Between two epochs, in the log's time."""
DELAY_MS = 2_000
"""From an event to its message's commit, in the log's time."""
WORKERS = 4


@dataclass(frozen=True, slots=True)
class History:
    """What the log is to hold, in its own time (UTC milliseconds)."""

    events: Sequence[Observation]
    at: int
    """T."""
    began: int
    ended: int


class Clock:
    """What time it is in the log; epochs and writers ask it."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def stretched(filled: Filled, events: Sequence[Observation]) -> History:
    """The filling ends when it ended, and began the longer ago."""

    def place(time: int) -> int:
        return filled.ended - (filled.ended - time) * STRETCH

    moved = [event._replace(event_time=place(event.event_time)) for event in events]
    return History(moved, place(filled.at), place(filled.began), filled.ended)


def config_of(history: History, bucket: str) -> BucketConfig:
    """The bucket was enabled, and listed, while it was empty."""
    return BucketConfig(
        bucket=bucket,
        region="us-east-1",
        account="123456789012",
        enabled_at=history.began,
        baseline_started=history.began,
        baseline_ended=history.began,
    )


async def record(
    engine: Engine,
    bucket: str,
    history: History,
    clock: Clock,
    after_epoch: Callable[[Epoch], Awaitable[None]] | None = None,
) -> Epoch:
    """Commit the events in full batches, worker after worker, and cut the epochs; returns the last."""
    engine.store.put_config(config_of(history, bucket))
    async with engine.log() as log:
        writers = [StreamWriter(log, f"worker-{number}", clock) for number in range(WORKERS)]
        cutter = EpochCutter(log, bucket, clock)
        batches = 0
        for window, events in groupby(history.events, key=lambda event: event.event_time // EPOCH_MS):
            waiting = list(events)
            for start in range(0, len(waiting), MAX_ROWS):
                batch = waiting[start : start + MAX_ROWS]
                clock.now = batch[-1].event_time + DELAY_MS
                await writers[batches % WORKERS].append(bucket, batch)
                batches += 1
            clock.now = (window + 1) * EPOCH_MS + DELAY_MS
            epoch = await cutter.cut()
            if after_epoch:
                await after_epoch(epoch)
    return epoch
