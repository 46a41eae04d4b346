"""MLflow's run context provider: with `SNAPENGINE_TRACK` set every run says which buckets it is of, and when.

MLflow asks it before the run exists, several times for a run of autologging. So it looks at nothing but the
environment and the clock, and writes nothing.
"""

from __future__ import annotations

import os
import time
from typing import Final

from mlflow.tracking.context.abstract_context import RunContextProvider

from snapengine.errors import SnapEngineError
from snapengine.instants import to_millis
from snapengine.run_notes import tracking_tags

TRACK: Final = "SNAPENGINE_TRACK"
AT: Final = "SNAPENGINE_AT"


class TrackedData(RunContextProvider):
    """The tags `snapengine.at`, `snapengine.buckets` and `snapengine.view.*` of a new run."""

    def in_context(self) -> bool:
        return bool(os.environ.get(TRACK) or os.environ.get(AT))

    def tags(self) -> dict[str, str]:
        return tracking_tags(os.environ.get(TRACK, ""), _instant(), replaying=bool(os.environ.get(AT)))


def _instant() -> int | str:
    """`SNAPENGINE_AT` in UTC milliseconds, or as it is where it is no time (`run:/<id>`); else now."""
    now = time.time_ns() // 1_000_000
    given = os.environ.get(AT)
    if not given:
        return now
    try:
        return to_millis(int(given) if given.isascii() and given.isdigit() else given, now=now)
    except (SnapEngineError, ValueError):  # whoever opens a view is told; here nobody could be
        return given
