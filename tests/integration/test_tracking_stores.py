"""The same notes by file, SQLite and HTTP tracking, with autologging, and over a server's absence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import mlflow.sklearn
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import snapengine
from snapengine.cautions import RunNotNoted
from snapengine.tracking import note, views
from snapengine.tracking.finding import notes_in_mlflow
from tests.mlflow_house import input_tags_of, inputs_of, tags_of, tracked_at
from tests.mlflow_server import MlflowServer
from tests.seed import T0

Engine = snapengine.Engine


@pytest.fixture(params=["file", "sqlite", "http"])
def any_tracking(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Each kind of tracking store."""
    if request.param == "sqlite":
        yield request.getfixturevalue("tracking")
    elif request.param == "file":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        with tracked_at((tmp_path / "mlruns").as_uri()) as uri:
            yield uri
    else:
        with tracked_at(request.getfixturevalue("mlflow_server").url) as uri:
            yield uri


@pytest.mark.timeout(300)
def test_what_a_run_noted_is_had_back_by_the_table_and_by_mlflow_alone(
    any_tracking: str, tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENGINE_TRACK", "scans")
    with mlflow.start_run() as run:
        whole = snapengine.view("scans", note="training")
        part = snapengine.view("scans", prefix="ct/")
        other = snapengine.view("scans", at=T0 + 1500, prefix="ct/")
        every = snapengine.slice("scans", T0, versions="all")
    run_id = run.info.run_id
    expected = sorted(view.reference for view in (whole, part, other, every))
    kept = tracked_bucket.store.notes_of_run(run_id)
    assert [each.reference for each in kept] == expected
    by_mlflow = notes_in_mlflow(run_id)
    assert by_mlflow == [replace(each, noted_at=each.started_at) for each in kept]
    for name, given in inputs_of(run).items():
        source: Any = mlflow.data.get_source(given.dataset)
        assert source.load().reference == input_tags_of(given)["snapengine.reference"], name
    assert [each.open().reference for each in views(run_id)] == expected
    assert snapengine.view("scans", at=f"run:/{run_id}") == whole
    found = mlflow.MlflowClient().search_runs(
        [run.info.experiment_id], f"tags.`snapengine.view.scans` = '{whole.reference}'"
    )
    assert [each.info.run_id for each in found] == [run_id]


@pytest.mark.timeout(300)
def test_runs_that_autologging_starts_carry_the_tags_and_those_around_it_note_their_views(
    any_tracking: str, tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENGINE_TRACK", "scans")
    samples, labels = np.arange(20.0).reshape(10, 2), np.array([0, 1] * 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's and sklearn's own
        mlflow.sklearn.autolog(log_models=False, log_datasets=True, silent=True)
        try:
            LogisticRegression().fit(samples, labels)
            alone = mlflow.last_active_run()
            with mlflow.start_run() as around:
                view = snapengine.view("scans")
                LogisticRegression().fit(samples, labels)
        finally:
            mlflow.sklearn.autolog(disable=True)
    assert alone is not None
    assert tags_of(alone)["snapengine.buckets"] == "scans"
    assert alone.info.run_id != around.info.run_id
    assert tags_of(around)["snapengine.view.scans"] == view.reference
    given = inputs_of(around)
    assert given["scans"].dataset.digest == view.digest()[7:39]
    assert len(given) == 2  # beside what sklearn was given


@pytest.mark.timeout(400)
def test_a_server_that_goes_away_stops_no_training_and_is_told_later(
    mlflow_server: MlflowServer, tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    with tracked_at(mlflow_server.url):
        run = mlflow.start_run()
        mlflow_server.stop()
        with pytest.warns(RunNotNoted, match="noted in MLflow"):
            view = _train_to_the_end()
        (kept,) = tracked_bucket.store.notes_of_run(run.info.run_id)
        assert (kept.reference, kept.digest) == (view.reference, view.digest())
        assert snapengine.view("scans", at=f"run:/{run.info.run_id}") == view  # no server is needed
        mlflow_server.start()
        note(run.info.run_id, view)
        assert list(inputs_of(run)) == ["scans"]
        assert tracked_bucket.store.notes_of_run(run.info.run_id) == [kept]


def _train_to_the_end() -> snapengine.View:
    """MLflow itself cannot end the run, as its server is gone."""
    view = snapengine.view("scans")
    assert len(view) == 3
    with pytest.raises(mlflow.exceptions.MlflowException):
        mlflow.end_run()
    return view
