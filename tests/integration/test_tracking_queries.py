"""Metadata that a run asks for by a condition: the condition is noted on the run, unless it may identify."""

from __future__ import annotations

from typing import Any

import mlflow
import pyarrow.compute as pc
import pytest

import snapengine
from snapengine.cautions import RunNotNoted
from tests.mlflow_house import inputs_of, tags_of
from tests.rows_fake import FakeRows, rows_of

Engine = snapengine.Engine

pytestmark = pytest.mark.usefixtures("tracking")

QUERY = "snapengine.query."


@pytest.fixture
def extracted(tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    told = {
        "ct/a": {"version_id": "v1", "Modality": "CT", "PatientID": "p1"},
        "ct/b": {"version_id": "v2", "Modality": "CT", "PatientID": "p1"},
        "mr/c": {"version_id": "v3", "Modality": "MR", "PatientID": "p2"},
    }
    FakeRows(rows_of(told)).into(monkeypatch)
    return tracked_bucket


def queries(run: Any) -> dict[str, str]:
    return {key: text for key, text in tags_of(run).items() if key.startswith(QUERY)}


def test_a_condition_is_noted_on_the_run_with_the_view_that_was_asked(extracted: Engine) -> None:
    with mlflow.start_run() as run:
        view = snapengine.view("scans")
        for _ in range(2):
            assert len(view.metadata(where="Modality = 'CT'", columns=["Modality"])) == 2
        view.metadata_table(where=pc.field("Modality") == "MR", columns=["Modality"])
        view.metadata(columns=["Modality"])
    found = queries(run)
    assert sorted(found.values()) == ['(Modality == "MR")', "Modality = 'CT'"]
    assert all(key.startswith(f"{QUERY}scans.dicom-") for key in found)
    assert set(inputs_of(run)) == {"scans"}
    (kept,) = extracted.store.notes_of_run(run.info.run_id)
    assert (kept.reference, kept.query) == (view.reference, None)


def test_a_question_in_one_call_of_a_prefix_or_of_a_narrowed_view_bears_its_name(extracted: Engine) -> None:
    with mlflow.start_run() as run:
        snapengine.metadata("scans", prefix="ct/", where="Modality = 'CT'", columns=["Modality"])
        view = snapengine.view("scans")
        view.metadata(prefix="mr/", where="Modality = 'MR'", columns=["Modality"])
        some = view.select(["ct/a"])
        some.metadata(where="Modality = 'CT'", columns=["Modality"])
    names = {key.rpartition(".dicom-")[0].removeprefix(QUERY) for key in queries(run)}
    (narrowed,) = names - {"scans.ct", "scans.mr"}
    assert some.ref.selection[7:15] in narrowed


def test_a_condition_that_speaks_of_identifying_columns_is_noted_nowhere(extracted: Engine) -> None:
    with mlflow.start_run() as run:
        view = snapengine.view("scans")
        assert len(view.metadata(where="PatientID = 'p2'", columns=["Modality"])) == 1
        view.metadata_table(where=pc.field("PatientID") == "p2", columns=["Modality"])
    assert queries(run) == {}
    assert not [text for text in tags_of(run).values() if "p2" in text]


@pytest.mark.parametrize("quiet", [False, True])
def test_outside_a_run_or_of_a_view_that_is_not_noted_nothing_is_told(extracted: Engine, quiet: bool) -> None:
    before = snapengine.view("scans")
    with mlflow.start_run() as run:
        view = snapengine.view("scans", note=False) if quiet else before
        assert len(view.metadata(where="Modality = 'CT'", columns=["Modality"])) == 2
    assert tags_of(run) == {}
    assert extracted.store.notes_of_run(run.info.run_id) == []


@pytest.mark.usefixtures("extracted")
def test_what_mlflow_did_not_take_is_told_again_at_the_run_s_end(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = mlflow.MlflowClient.set_tag, []

    def fails_at_first(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 1:
            raise ConnectionError("connection refused")
        real(*given)

    monkeypatch.setattr(mlflow.MlflowClient, "set_tag", fails_at_first)
    with mlflow.start_run() as run:
        snapengine.metadata("scans", where="Modality = 'CT'", columns=["Modality"])
    assert list(queries(run).values()) == ["Modality = 'CT'"]
    assert len(calls) == 2


@pytest.mark.usefixtures("extracted")
def test_what_mlflow_never_takes_is_warned_of_and_the_answer_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: Any) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(mlflow.MlflowClient, "set_tag", gone)
    with pytest.warns(RunNotNoted, match="snapengine.query.scans"), mlflow.start_run() as run:
        frame = snapengine.metadata("scans", where="Modality = 'CT'", columns=["Modality"])
    assert len(frame) == 2
    assert queries(run) == {}
