"""S3's clock, as far as its replies let us know it: bounds that no answer oversteps.

A reply's `Date` is a whole second, S3's clock cut off. Of a reply with `Date` d that was requested at our
time s and read at our time r, S3's clock less ours lies between d - r and d + 1 s - s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any

_DRIFT = 0.0005
"""How fast two clocks may part: NTP slews by no more than 500 parts in a million."""
_SECOND = 1000.0


def monotonic_ms() -> float:
    """Milliseconds that no one sets back or forth."""
    return time.monotonic_ns() / 1_000_000


class ServerClock:
    """Bounds for S3's clock, UTC milliseconds. Better with every reply; thread-safe.

    Each bound loosens with its age by the drift, so that of a long listing the newest replies count most.
    S3's own servers are taken to agree with each other.
    """

    def __init__(self, now: Callable[[], float] = monotonic_ms) -> None:
        self.now = now
        self._lock = Lock()
        self._least: float | None = None  # of S3's clock less ours, as if it were measured at our time 0
        self._most: float | None = None
        self._newest = 0.0

    def observe(self, date: float, sent: float, received: float) -> None:
        """Take in a reply: its `Date` in UTC milliseconds, and our times before and after."""
        least = date - received + _DRIFT * received
        most = date + _SECOND - sent - _DRIFT * sent
        with self._lock:
            self._least = least if self._least is None else max(self._least, least)
            self._most = most if self._most is None else min(self._most, most)
            self._newest = max(self._newest, received)

    def heard(self, reply: Mapping[str, Any], sent: float) -> None:
        """Take in a boto3 reply that has just been read, to a call begun at `sent` by our clock."""
        if (date := date_of(reply)) is not None:
            self.observe(date, sent, self.now())

    def not_after(self, moment: float) -> int:
        """S3's clock at our `moment`, or a little earlier; by our own clock if no reply had a `Date`."""
        if self._least is None:
            return self._own(moment)
        backwards = max(0.0, self._newest - moment)  # there the drift works the other way
        return int(moment + self._least - _DRIFT * (moment + 2 * backwards))

    def about(self, moment: float) -> int:
        """S3's clock at our `moment`: our own wall clock, unless S3's replies have shown that to be off. For
        instants that people read; no order of facts may rest on it."""
        own = self._own(moment)
        if self._least is None or self._most is None:
            return own
        most = int(moment + self._most + _DRIFT * moment) + 1
        return max(self.not_after(moment), min(own, most))

    def _own(self, moment: float) -> int:
        return int(time.time() * 1000 - (self.now() - moment))


def date_of(reply: Mapping[str, Any]) -> int | None:
    """The `Date` of a boto3 reply in UTC milliseconds; S3 always sends one, other servers may not."""
    text = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if not text:
        return None
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1000
    except ValueError:
        return None
