"""What a run noted, by MLflow alone: for runs of which the table knows nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mlflow import MlflowClient, get_tracking_uri
from mlflow.exceptions import MlflowException

from snapengine.errors import BadReference, NoSuchRun, Unreachable
from snapengine.model import RunNote
from snapengine.reference import parse_reference
from snapengine.run_notes import reference_of, views_of
from snapengine.tracking.active import Run, run_of, without_credentials
from snapengine.tracking.dataset import SOURCE_TYPE


def run_found(run_id: str) -> tuple[Run, Any]:
    """A run of the tracking server of this process: what noting needs, and MLflow's own.

    Raises `NoSuchRun`, `Unreachable`.
    """
    uri = get_tracking_uri()
    shown = without_credentials(uri)
    try:
        found = MlflowClient(tracking_uri=uri).get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "Invalid run ID" in str(error):
            raise NoSuchRun(f"There is no run {run_id} at {shown}. Check MLFLOW_TRACKING_URI.") from error
        raise Unreachable(f"{shown} cannot be asked for run {run_id}: {error}") from error
    return run_of(found, uri), found


def notes_in_mlflow(run_id: str) -> list[RunNote]:
    """By the run's inputs, then by its tags. Of what was tracked and not opened there is a reference without
    an epoch, and no digest. The same errors."""
    run, found = run_found(run_id)
    notes = {note.reference: note for note in _of_inputs(run, found)}
    names = {note.name for note in notes.values()}
    for reference, digest in views_of(found.data.tags):
        if (
            reference not in notes
            and (note := _note(run, reference, digest or ""))
            and note.name not in names
        ):
            notes[reference] = note
    return sorted(notes.values(), key=lambda note: (note.bucket, note.reference))


def _of_inputs(run: Run, found: Any) -> Iterator[RunNote]:
    """The exact reference is in the input's tags: the dataset may be an earlier run's, of the same data."""
    for given in found.inputs.dataset_inputs if found.inputs else ():
        if given.dataset.source_type != SOURCE_TYPE:
            continue
        source = json.loads(given.dataset.source)
        reference = reference_of({tag.key: tag.value for tag in given.tags}) or source["reference"]
        profile = json.loads(given.dataset.profile or "{}")
        note = _note(
            run,
            reference,
            source.get("digest", ""),
        )
        if note is not None:
            counts = {"objects": profile.get("num_rows"), "bytes": profile.get("bytes")}
            yield replace(note, name=given.dataset.name, **counts)


def _note(run: Run, reference: str, digest: str) -> RunNote | None:
    try:
        parsed = parse_reference(reference)
    except BadReference:  # a tag that somebody else wrote
        return None
    return RunNote(
        run_id=run.run_id,
        bucket=parsed.bucket,
        name=f"{parsed.bucket}/{parsed.prefix}" if parsed.prefix else parsed.bucket,
        reference=reference,
        started_at=run.started_at,
        noted_at=run.started_at,
        digest=digest,
        experiment=run.experiment,
        tracking=without_credentials(run.uri),
    )
