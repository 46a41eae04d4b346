"""PURE: what a view can promise, from its instant and the watermarks of its epoch alone."""

from __future__ import annotations

from snapengine.instants import render
from snapengine.model import Completeness, Epoch, History, Level, Watermarks


def completeness(at: int, prefix: str, epoch: Epoch, *, start: int | None = None) -> Completeness:
    """The level of a view of `prefix` at `at`, resolved at `epoch`. It is as fixed as the epoch.

    Of a slice, `start` is its beginning: what its history is, hangs on that too.
    """
    marks = epoch.watermarks
    level, reason = _level(at, prefix, epoch)
    history, remark = _history(at if start is None else start, at, marks)
    return Completeness(level, marks, history, reason + remark)


def _history(first: int, at: int, marks: Watermarks) -> tuple[History, str]:
    """What the recording covers of `[first, at]`, and what to say if that is not all."""
    if marks.enabled_at is None:
        return "surviving", " Since when S3 has told of every change of the bucket was not known either."
    if first < marks.enabled_at:
        return "surviving", (
            f" The bucket was enabled at {render(marks.enabled_at)}, after that: what was removed earlier is "
            "unknown, and only what had survived is here."
        )
    if marks.disabled_at is not None and at > marks.disabled_at:
        return "ended", (
            f" The bucket was disabled at {render(marks.disabled_at)}: what happened since then is unknown."
        )
    return "recorded", ""


def verified_since(prefix: str, marks: Watermarks) -> int | None:
    """When the newest complete listing that includes all of `prefix` began, if there was one."""
    return max((time for listed, time in marks.verified.items() if prefix.startswith(listed)), default=None)


def compared_since_enabling(prefix: str, marks: Watermarks) -> bool:
    """Whether a complete listing has been compared with the log since the bucket was (last) enabled: before
    that a gap in the recording may hide removals, and no queue tells."""
    verified = verified_since(prefix, marks)
    return verified is not None and marks.enabled_at is not None and verified >= marks.enabled_at


def settled_until(marks: Watermarks) -> int | None:
    """The last instant of which the events are presumed to have come."""
    return None if marks.caught_up is None else marks.caught_up - marks.settle_ms


def _level(at: int, prefix: str, epoch: Epoch) -> tuple[Level, str]:
    marks = epoch.watermarks
    covered = f"All that epoch {epoch.number} of {render(epoch.time)} covers"
    if epoch.number == 0:
        return "provisional", "No epoch had been cut: nothing was known of the bucket."
    if marks.baseline_ended is None:
        return (
            "provisional",
            f"{covered}; its first listing (the baseline) had not ended: objects may be missing.",
        )
    verified, settled = verified_since(prefix, marks), settled_until(marks)
    if verified is not None and at < verified:
        return "verified", (
            f"A complete listing begun at {render(verified)}, after this instant, is part of it: every "
            "version that existed then and still did at the listing is here."
        )
    if not compared_since_enabling(prefix, marks):
        return "provisional", f"{covered}; no complete listing has been compared with it since the first."
    if settled is not None and at <= settled:
        return "settled", (
            f"Workers had read all events sent before {render(settled + marks.settle_ms)}, "
            f"{marks.settle_ms // 1000} s and more after this instant."
        )
    return "provisional", f"{covered}; events of this instant may still be on their way."
