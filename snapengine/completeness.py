"""PURE: what a view can promise, from its instant and the watermarks of its epoch alone."""

from __future__ import annotations

from snapengine.instants import render
from snapengine.model import Completeness, Epoch


def completeness(at: int, epoch: Epoch) -> Completeness:
    """The level of a view at `at` resolved at `epoch`. It never changes, as the epoch does not."""
    marks = epoch.watermarks
    recorded = marks.enabled_at is not None and at >= marks.enabled_at
    if marks.baseline_ended is None:
        reason = "The first listing of the bucket (the baseline) had not ended: objects may be missing."
    elif not recorded:
        since = render(marks.enabled_at) if marks.enabled_at is not None else "never"
        reason = (
            f"The bucket was enabled at {since}, after this instant: built from the versions that "
            "still existed then; what was removed before is unknown."
        )
    else:
        reason = (
            f"All that epoch {epoch.number} of {render(epoch.time)} covers; events may still be on their way."
        )
    return Completeness(
        level="provisional",
        watermarks=marks,
        history="recorded" if recorded else "surviving",
        reason=reason,
    )
