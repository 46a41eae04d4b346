"""`run:/<id>` as a time: the very view that an MLflow run noted, its digest checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from snapengine.cautions import NoDigest, caution
from snapengine.errors import NoSuchRun, UsageError
from snapengine.instants import TimeInput, to_millis
from snapengine.model import RunNote
from snapengine.plugins import installed, load_one
from snapengine.reference import parse_reference
from snapengine.run_notes import fitting, is_own, run_text
from snapengine.verify import checked

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.views import View

_GROUP = "snapengine.runs"


def notes_of(engine: Engine, run_id: str) -> list[RunNote]:
    """What a run noted: by the table, or where that knows nothing of it, by MLflow. Raises `NoSuchRun` where
    neither knows the run."""
    engine.store.check()
    found = engine.store.notes_of_run(run_id)
    for name in installed(_GROUP) if not found else ():
        found += load_one(_GROUP, name)(run_id)
    return found


def view_of_run(engine: Engine, bucket: str, run_id: str, prefix: str, **options: Any) -> View:
    """The view of the bucket that the run noted; of a `prefix` within it, that part.

    Raises `NoSuchRun`, `DigestDiffers`, `UsageError` where several are meant alike.
    """
    notes = _of_bucket(engine, bucket, run_id)
    note = _one(fitting(notes, prefix), notes, bucket, run_id, prefix)
    return engine.within(opened(engine, note, **options), prefix, run_text(run_id))


def slice_of_run(
    engine: Engine,
    bucket: str,
    run_id: str,
    start: TimeInput,
    prefix: str,
    versions: Literal["last", "all"],
    **options: Any,
) -> View:
    """The same of a slice, told from the run's others by its start; a look-back counts from its end."""
    notes = _of_bucket(engine, bucket, run_id)
    found = fitting(notes, prefix, interval=True, every=versions == "all")
    if len(found) > 1:
        found = [note for note in found if _starts(note, start)]
    note = _one(found, notes, bucket, run_id, prefix)
    return engine.within(opened(engine, note, **options), prefix, run_text(run_id))


def _of_bucket(engine: Engine, bucket: str, run_id: str) -> list[RunNote]:
    notes = notes_of(engine, run_id)
    found = [note for note in notes if note.bucket == bucket]
    if not found:
        others = sorted({note.bucket for note in notes})
        seen = f"it saw {', '.join(others)}" if others else "it noted none at all"
        raise NoSuchRun(f"Run {run_id} has noted no view of bucket {bucket}: {seen}.")
    return found


def _one(found: list[RunNote], notes: Iterable[RunNote], bucket: str, run_id: str, prefix: str) -> RunNote:
    """Of several the one of the run's own instant, where there is one."""
    meant = [note for note in found if is_own(note)] or found
    if len({note.reference for note in meant}) == 1:
        return meant[0]
    told = ", ".join(note.reference for note in meant or notes)
    if not meant:
        raise NoSuchRun(
            f"Run {run_id} has noted no such view of bucket {bucket} with the prefix {prefix!r}, but {told}."
        )
    raise UsageError(
        f"Run {run_id} saw several views of bucket {bucket}. Open the one that is meant: {told}."
    )


def opened(engine: Engine, note: RunNote, **options: Any) -> View:
    """The view of a note, its digest checked; where that is not known, a warning says so."""
    view = engine.open_ref(note.reference, **options)
    if note.digest:
        return checked(view, note.digest)
    caution(
        f"Run {note.run_id} noted {note.reference} without a digest, so that it is the same cannot be "
        "checked: it ended before that was computed, or opened nothing itself.",
        NoDigest,
    )
    return view


def _starts(note: RunNote, start: TimeInput) -> bool:
    parsed = parse_reference(note.reference)
    end = to_millis(parsed.at, now=note.noted_at)
    return to_millis(start, now=end) == to_millis(parsed.start, now=end)
