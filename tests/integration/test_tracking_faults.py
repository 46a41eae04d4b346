"""Where MLflow is too old, or its server does not answer, training goes on, and ends in time."""

from __future__ import annotations

import sys
from typing import Any

import mlflow
import pytest

import snapengine
from snapengine.cautions import RunNotNoted
from snapengine.tracking.active import without_credentials
from tests.mlflow_house import inputs_of

Engine = snapengine.Engine

pytestmark = pytest.mark.usefixtures("tracking")


def test_a_server_that_does_not_answer_is_asked_once_more_at_the_run_s_end_not_for_every_view(
    tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def silent(*_: Any, **__: Any) -> None:
        asked.append(1)
        error = mlflow.exceptions.MlflowException("API request failed")
        error.__context__ = ConnectionError("connection refused")  # as MLflow raises it
        raise error

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", silent)
    with pytest.warns(RunNotNoted) as warned, mlflow.start_run() as run:
        views = [snapengine.view("scans", prefix=prefix) for prefix in ("", "ct/", "mr/")]
    assert len(asked) == len(views) + 1
    texts = [str(each.message) for each in warned]
    for view in views:
        assert any(f"snapengine runs note {run.info.run_id} '{view.reference}'" in text for text in texts)
    kept = tracked_bucket.store.notes_of_run(run.info.run_id)
    assert [(note.reference, note.digest) for note in kept] == sorted(
        (view.reference, view.digest()) for view in views
    )


def test_an_mlflow_that_is_too_old_for_inputs_stops_no_training(
    tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "snapengine.tracking.telling", None)  # its import raises ImportError
    with pytest.warns(RunNotNoted, match="noted in MLflow"), mlflow.start_run() as run:
        view = snapengine.view("scans")
    (kept,) = tracked_bucket.store.notes_of_run(run.info.run_id)
    assert (kept.reference, kept.digest) == (view.reference, view.digest())
    assert inputs_of(run) == {}


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("file:///data/mlruns", "file:///data/mlruns"),
        ("./mlruns", "./mlruns"),
        ("postgresql://user:secret@host/db?password=secret", "postgresql://host/db"),
        ("https://user:secret@host:5000/a?token=secret#secret", "https://host:5000/a"),
    ],
)
def test_a_tracking_uri_is_kept_as_it_is_but_for_its_credentials(uri: str, kept: str) -> None:
    assert without_credentials(uri) == kept
