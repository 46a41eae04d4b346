"""PURE: from what a queue was seen to hold, up to when all that was sent to it is committed.

A message stays in its queue until all that it says is committed, whoever has it: a stalled or crashed
worker's is in flight, and visible again afterwards. So if a queue holds nothing but what this worker has in
hand, everything sent before is committed, except what is in hand and what was set aside.

SQS counts approximately: its counts "may not achieve consistency until at least 1 minute after the producers
stop sending messages" (API reference, GetQueueAttributes). So one look at a queue vouches for nothing; it
takes a second one a minute later that finds nothing amiss.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from snapengine.workers.sqs import Message

CONFIRM: Final = 60.0
"""Seconds between the look that a watermark comes from and the look that confirms it."""


class Reading(NamedTuple):
    """One look at a queue, at its dead-letter queues after it, and at what this worker has in hand."""

    taken: float
    """Seconds, by a clock that never goes back: when it began."""
    asked: int
    """UTC milliseconds by SQS's clock; not after SQS was asked."""
    visible: int
    in_flight: int
    """Received by whomever, and not deleted."""
    delayed: int
    ours: int
    """Of those in flight, how many surely are in this worker's hands."""
    oldest: int | None
    """When the oldest message in this worker's hands was sent; UTC milliseconds."""
    dead: int
    """Messages in its dead-letter queues, whether hidden or not."""


def vouched(reading: Reading) -> int | None:
    """The instant before which everything sent is committed, by this reading alone; None if it can't tell.

    In flight must be exactly what this worker has. More is in other hands; less shows that a count is old.
    A dead letter may have been sent at any time since the last reading without one, and stays unread.
    """
    if reading.visible or reading.delayed or reading.dead or reading.in_flight != reading.ours:
        return None
    return reading.asked if reading.oldest is None else min(reading.asked, reading.oldest)


def caught_up(earlier: Iterable[Reading], last: Reading, *, confirm: float = CONFIRM) -> int | None:
    """The instant before which everything sent is committed, in UTC milliseconds; None if it can't be told.

    Rests on the last reading and on the newest of the others that is at least `confirm` seconds older. What
    those between say does not matter: a queue may fill and be emptied in the meantime.
    """
    now = vouched(last)
    before = [
        (reading.taken, instant)
        for reading in earlier
        if reading.taken <= last.taken - confirm and (instant := vouched(reading)) is not None
    ]
    return min(now, max(before)[1]) if before and now is not None else None


def surely_ours(before: Iterable[Message], after: Collection[Message], hidden_since: float) -> int:
    """How many messages SQS counted as in flight because of us, if it counted between `before` and `after`.

    Those in hand at both moments that nobody can have deleted (it was not asked for here, and no other worker
    ever had them) and that were still hidden: their visibility was extended at or after `hidden_since`, by
    the loop's clock.
    """
    return sum(
        message in after
        and not message.settled
        and not message.shared
        and hidden_since <= message.extended < math.inf
        for message in before
    )


def instant_of_request(clock: int, elapsed: float, date: str | None) -> int:
    """When SQS was asked, by its own clock or ours, whichever is behind; UTC milliseconds.

    `clock` is ours at the request, `elapsed` the seconds until the reply, `date` the reply's Date header: in
    whole seconds, so never too late (RFC 9110, 5.6.7). Messages bear SQS's time; with ours taken too, a wrong
    Date can only hold a watermark back.
    """
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return clock
    return min(clock, math.floor((theirs - elapsed) * 1000))
