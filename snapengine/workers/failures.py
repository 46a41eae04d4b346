"""PURE: the one error that a group of tasks' errors comes down to."""

from __future__ import annotations

from snapengine.errors import SnapEngineError


def plain(error: Exception) -> Exception:
    """The first error of ours in a group that holds nothing else; whatever else there is, as it is.

    A task group wraps what its tasks raise, however deep, and only the plain error says what to do next.
    """
    if not isinstance(error, ExceptionGroup):
        return error
    ours, others = error.split(SnapEngineError)
    if ours is None or others is not None:
        return error
    first: Exception = ours
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first
