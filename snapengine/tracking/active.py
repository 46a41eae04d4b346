"""The MLflow run that is active here, if MLflow is in use at all."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from snapengine.errors import BadTime
from snapengine.instants import to_millis
from snapengine.run_notes import AT, EVER, run_named


@dataclass(frozen=True, slots=True)
class Run:
    """What noting needs to know of a run."""

    run_id: str
    started_at: int
    """UTC milliseconds."""
    at: int | str
    """The instant of its data: UTC milliseconds, or `run:/<id>` where it replays another run's."""
    experiment: str
    uri: str
    """Where it is tracked."""


class SeveralRuns(Exception):
    """This thread has no run, and other threads have several."""


def active_run() -> Run | None:
    """This thread's innermost run; in a thread that has none, that of the one other thread that has.

    MLflow's runs are of a thread, and the threads that load data are not the one that trains. Raises
    `SeveralRuns` where it cannot be told which is meant.
    """
    mlflow: Any = sys.modules.get("mlflow")
    ask = getattr(mlflow, "active_run", None)
    if ask is None:  # not imported, or not wholly
        return None
    found = ask() or _of_another_thread()
    return None if found is None else run_of(found, mlflow.get_tracking_uri())


def _of_another_thread() -> Any:
    fluent: Any = sys.modules.get("mlflow.tracking.fluent")
    stacks: dict[int, Any] = getattr(
        getattr(fluent, "_active_run_stack", None), "get_all_thread_values", dict
    )()
    runs = {stack[-1].info.run_id: stack[-1] for stack in stacks.values() if stack}
    if len(runs) > 1:
        raise SeveralRuns
    return next(iter(runs.values()), None)


def run_of(run: Any, uri: str) -> Run:
    """Of MLflow's `Run`."""
    started_at = int(run.info.start_time)
    return Run(
        run_id=run.info.run_id,
        started_at=started_at,
        at=_instant(run.data.tags.get(AT), started_at),
        experiment=str(run.info.experiment_id),
        uri=uri,
    )


def _instant(told: str | None, started_at: int) -> int | str:
    """As the run's tag says; by the time that it began where it has none, or one that somebody else set."""
    if told is None:
        return started_at
    try:
        return told if run_named(told) else to_millis(told, now=EVER)
    except BadTime:
        return started_at


def without_credentials(uri: str) -> str:
    """A tracking URI, as it may be kept."""
    parts = urlsplit(uri)
    if not parts.netloc:  # a path, or SQLite's: their slashes are not to be counted anew
        return uri.partition("?")[0]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
