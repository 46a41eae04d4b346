"""PURE but for the clock itself: one strictly increasing reading for each event.

S3 promises that the sequencers of one key compare like the order of its changes. A wall clock alone does
not: two changes can share a reading, and the clock can be set back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 10**9


@dataclass(frozen=True, slots=True)
class Moment:
    """When an event happened, in nanoseconds since 1970-01-01T00:00:00Z; never the same twice."""

    nanoseconds: int

    @property
    def sequencer(self) -> str:
        """Eighteen upper-case hexadecimal digits, in the form of AWS's sample `0055AED6DCD90281E5`."""
        seconds, rest = divmod(self.nanoseconds, _SECOND)
        return f"00{seconds:08X}{rest:08X}"

    @property
    def text(self) -> str:
        """ISO 8601 in UTC, cut (not rounded) to the millisecond, as in `eventTime`."""
        milliseconds = self.nanoseconds // 10**6
        at = _EPOCH + timedelta(milliseconds=milliseconds)
        return f"{at:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


class EventClock:
    """Hands out moments; safe to call from several threads."""

    def __init__(self, read: Callable[[], int] = time.time_ns) -> None:
        self._read = read
        self._last = 0
        self._lock = threading.Lock()

    def tick(self, not_before: datetime) -> Moment:
        """A moment after every earlier one, and not before `not_before` (UTC if naive, as moto's are).

        An event that seemed to happen before the change it reports would let a view show the object's
        bytes at a time when the listing does not have it.
        """
        changed = not_before if not_before.tzinfo else not_before.replace(tzinfo=UTC)
        floor = (changed - _EPOCH) // timedelta(microseconds=1) * 1000
        with self._lock:
            self._last = max(self._read(), floor, self._last + 1)
            return Moment(self._last)
