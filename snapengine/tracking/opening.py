"""Views as a run sees them: of its own instant unless another is asked for, at one epoch, and noted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from getpass import getuser
from typing import TYPE_CHECKING, Any

from snapengine.errors import FutureTime, NotYetComplete, SnapEngineError
from snapengine.instants import GRACE_MS, TimeInput, render, to_millis
from snapengine.model import SnapshotRef
from snapengine.run_notes import RUN
from snapengine.tracking.active import Run, SeveralRuns, active_run
from snapengine.tracking.noting import NOTEBOOK, warn

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.views import View

AT = "SNAPENGINE_AT"
_NAMES = ("snapshot:", RUN)
_MINUTE = 60_000
_CLOCKS_MS = 5_000
"""So far beyond the grace the clock of the machine that started a run may be ahead of ours."""

Note = bool | str
"""Whether a view is noted in the active run; text is the context that MLflow shows with it."""


def view(
    engine: Engine, bucket: str, at: TimeInput, note: Note, *, pin: bool = False, **options: Any
) -> View:
    """`Engine.view`; `at` None is the instant that `SNAPENGINE_AT` names, or that the active run began, or
    now."""
    run = _run()
    instant = _default(engine, run) if at is None else at
    own = at is None and run is not None

    def make(**changes: Any) -> View:
        return engine.view(bucket, instant, **(options | changes))

    opened = make()
    if run is not None and options.get("epoch") is None and _lasts(instant):
        opened, agreed = _agreed(engine, run, opened, make)
        own = own and agreed
    return _noted(engine, run, opened, note, own=own, pin=pin)


def slice_(engine: Engine, bucket: str, start: TimeInput, end: TimeInput, note: Note, **options: Any) -> View:
    """`Engine.slice`; `end` None as `at` for a view, and a look-back for `start` then counts from there."""
    run = _run()
    last = _default(engine, run) if end is None else end
    first = to_millis(start, now=last) if end is None and isinstance(last, int) else start

    def make(**changes: Any) -> View:
        return engine.slice(bucket, first, last, **(options | changes))

    opened = make()
    own = run is not None
    if run is not None and options.get("epoch") is None and _lasts(last):
        opened, own = _agreed(engine, run, opened, make)
    return _noted(engine, run, opened, note, own=own)


def open_ref(engine: Engine, reference: str, note: Note, **options: Any) -> View:
    """`Engine.open_ref`, noted."""
    return _noted(engine, _run(), engine.open_ref(reference, **options), note, own=False)


def default_instant(run: Run | None) -> TimeInput:
    """Where no instant is asked for. A look-back in `SNAPENGINE_AT` counts from the run's beginning, as
    exactly as its tag tells that."""
    given = os.environ.get(AT)
    if not given:
        return "now" if run is None else run.at
    if given.isascii() and given.isdigit():
        return int(given)
    if run is None or _lasts(given) or given.startswith(_NAMES):
        return given
    counted = to_millis(given, now=run.started_at)
    return run.at if isinstance(run.at, int) and abs(run.at - counted) < _MINUTE else counted


def _default(engine: Engine, run: Run | None) -> TimeInput:
    """The same, once it is past by our clock: a machine whose clock is ahead may have started the run. Raises
    `FutureTime` where it is too far ahead for that."""
    instant = default_instant(run)
    if run is None or not isinstance(instant, int):
        return instant
    end = time.monotonic() + _CLOCKS_MS / 1000
    while (ahead := instant - engine.clock() - GRACE_MS) > 0:
        if ahead > (end - time.monotonic()) * 1000:
            raise FutureTime(
                f"Run {run.run_id} is to see {render(instant)}, and here it is {render(engine.clock())}: "
                f"views wait for {_CLOCKS_MS / 1000:g} seconds at most. Set the clocks right (NTP), or "
                "name the instant."
            )
        time.sleep(ahead / 1000)
    return instant


def _run() -> Run | None:
    try:
        return active_run()
    except SeveralRuns:
        warn(
            "Several MLflow runs are active in other threads and none in this one: what is opened here is of "
            "now, and noted in none. Open it where its run is active, or name the instant, and note it with "
            "`snapengine.tracking.note(run_id, view)`."
        )
        return None


def _lasts(at: TimeInput) -> bool:
    """Whether the same is meant if it is asked for again, or by another process of the run."""
    return not (isinstance(at, str) and (at.strip() == "now" or at.strip().startswith(("-", *_NAMES))))


def _agreed(engine: Engine, run: Run, opened: View, make: Callable[..., View]) -> tuple[View, bool]:
    """The same view at the epoch that all processes of the run take, and whether it is that."""
    ref: SnapshotRef = opened.ref
    try:
        epoch = engine.store.agree_on_epoch(run.run_id, ref.bucket, ref.at, ref.epoch)
    except SnapEngineError as error:
        warn(
            f"Run {run.run_id} could not settle in the table at which epoch it sees {ref.bucket}: {error} "
            "Its other processes may see another."
        )
        return opened, False
    if epoch == ref.epoch:
        return opened, True
    try:
        return make(epoch=epoch), True
    except NotYetComplete:  # a level is asked for that the run's epoch has not
        return opened, False


def _noted(
    engine: Engine, run: Run | None, opened: View, note: Note, *, own: bool, pin: bool = False
) -> View:
    if run is None or not note:
        if pin:
            from snapengine import pinning

            pinning.pin(engine, opened, creator=engine.settings.actor or getuser())
        return opened

    def keep(view: View, pin: bool = False) -> None:
        NOTEBOOK.begin(engine, run, view, own=own, context=note if isinstance(note, str) else None, pin=pin)
        view.noted_by(keep, partial(NOTEBOOK.tell_query, engine, run, view, own=own))

    keep(opened, pin)
    return opened
