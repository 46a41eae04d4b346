"""Every MLflow run knows its data. Needs `pip install 'snapengine[mlflow]'`, and loads it when it is used.

with mlflow.start_run():
    view = snapengine.view("scans")          # as this run began, and noted in it

snapengine.tracking.views(run_id)            # what a run saw
snapengine.view("scans", at="run:/<id>")     # the very same again
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snapengine.model import RunNote
from snapengine.run_notes import run_named

if TYPE_CHECKING:
    from snapengine.views import View

__all__ = ["NotedView", "note", "views"]


@dataclass(frozen=True, slots=True)
class NotedView:
    """A view that a run noted."""

    note: RunNote

    @property
    def bucket(self) -> str:
        return self.note.bucket

    @property
    def name(self) -> str:
        """As MLflow shows it: bucket and prefix, and what tells it from the run's others."""
        return self.note.name

    @property
    def reference(self) -> str:
        """`snap://…`"""
        return self.note.reference

    @property
    def digest(self) -> str:
        """`sha256:…`; nothing where the run ended before it was known."""
        return self.note.digest

    @property
    def query(self) -> str | None:
        """The condition by which the view was narrowed, unless it speaks of identifying columns."""
        return self.note.query

    def open(self) -> View:
        """The very same view. Raises `DigestDiffers`, and what `snapengine.open_ref` raises."""
        import snapengine
        from snapengine.replaying import opened

        return opened(snapengine._engine(), self.note)


def views(run_id: str) -> list[NotedView]:
    """The views that a run (its id, or `run:/<id>`) noted, by bucket and reference.

    By the table, without the tracking server; of a run that the table does not know, by MLflow. A run that
    was only tracked (`SNAPENGINE_TRACK`) and opened nothing has references without an epoch. Raises
    `NoSuchRun`, `Unreachable`.
    """
    import snapengine
    from snapengine.replaying import notes_of

    return [NotedView(note) for note in notes_of(snapengine._engine(), _run_id(run_id))]


def note(run_id: str, view: View, *, context: str | None = None) -> NotedView:
    """Note in a run that it saw a view: for runs that are not active here, or were made by `MlflowClient`.

    It resolves the view, for its digest, and is done when this returns; noting it again changes nothing.
    `context` is what MLflow shows with it (`training`). Raises `NoSuchRun`, `Unreachable`, and what resolving
    raises.
    """
    from snapengine.tracking.finding import run_found
    from snapengine.tracking.noting import note_now

    source: Any = view.source
    run, _ = run_found(_run_id(run_id))
    return NotedView(note_now(source, run, view, context))


def _run_id(given: str) -> str:
    return run_named(given) or given
