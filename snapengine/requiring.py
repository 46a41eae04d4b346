"""A view of at least a given level: waiting for the workers, or listing the bucket now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from snapengine.completeness import compared_since_enabling, settled_until
from snapengine.errors import NotYetComplete, UsageError
from snapengine.instants import render
from snapengine.model import Level

if TYPE_CHECKING:
    from snapengine.buckets.tools import Tools
    from snapengine.views import View

T = TypeVar("T")

_LEVELS: tuple[Level, ...] = ("provisional", "settled", "verified")
_TICK = 0.5


def require_level(
    tools: Tools, make: Callable[[], View], level: Level, timeout: float, *, fixed: bool
) -> View:
    """The view that `make` gives, once it has the level. Raises `NotYetComplete` after `timeout` seconds.

    `fixed` views have an epoch that was asked for: for them nothing can be waited for.
    """
    if level not in _LEVELS:
        raise UsageError(f"require={level!r}: it is one of {', '.join(_LEVELS)}.")
    end = time.monotonic() + timeout
    while True:
        view = make()
        if _LEVELS.index(view.completeness.level) >= _LEVELS.index(level):
            return view
        hopeless = level == "settled" and not _may_settle(view)
        if fixed or hopeless or time.monotonic() >= end:
            raise NotYetComplete(_in_words(view, level, fixed=fixed))
        if level == "verified":
            _list_now(tools, view, end)
        else:
            time.sleep(min(_TICK, max(0.0, end - time.monotonic())))


def _may_settle(view: View) -> bool:
    """Before a baseline and a listing after it no waiting makes a view settled."""
    marks = view.completeness.watermarks
    return marks.baseline_ended is not None and compared_since_enabling(view.prefix, marks)


def _list_now(tools: Tools, view: View, end: float) -> None:
    """List the view's prefix, and store what was missing; once the view's instant is past by S3's clock."""
    from snapengine.buckets.reconcile import run_reconcile

    async def run() -> None:
        report = await asyncio.wait_for(
            run_reconcile(tools, view.bucket, prefix=view.prefix), max(0.1, end - time.monotonic())
        )
        if report.begun <= view.ref.at and not report.resumed:
            # It began in the same instant, as far as S3's clock is known.
            await asyncio.sleep((view.ref.at - report.begun) / 1000 + _TICK)

    try:
        in_thread(run())
    except TimeoutError:
        raise NotYetComplete(_in_words(view, "verified", fixed=False)) from None


def in_thread(work: Coroutine[Any, Any, T]) -> T:
    """What asynchronous work gives, for a caller who may have a loop running, as a notebook has."""
    with ThreadPoolExecutor(1, thread_name_prefix="snapengine-async") as pool:
        return pool.submit(asyncio.run, work).result()


def _in_words(view: View, level: Level, *, fixed: bool) -> str:
    marks = view.completeness.watermarks
    settled = settled_until(marks)
    until = (
        "no worker has said yet that it had caught up"
        if settled is None or marks.caught_up is None
        else f"workers had caught up to {render(marks.caught_up)}, so it is settled up to {render(settled)}"
    )
    if fixed:
        remedy = "Ask without an epoch."
    elif level == "settled" and not _may_settle(view):
        remedy = f"Run `snapengine reconcile {view.bucket}` first; then a worker has to catch up."
    else:
        remedy = f"Wait longer, or ask for less; `snapengine status {view.bucket}` tells more."
    return f"{view} is {view.completeness.level}, not {level}: {until}. {view.completeness.reason} {remedy}"
