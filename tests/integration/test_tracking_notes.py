"""A run notes the views that it opens: once, exactly, and never to the harm of the training."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlflow
import pytest

import snapengine
from snapengine.cautions import RunNotNoted
from snapengine.digest import digest
from snapengine.errors import NoSuchRun, PermissionMissing, Unreachable
from snapengine.instants import render
from snapengine.stores.sqlite import SQLiteStore
from snapengine.tracking import note
from snapengine.tracking.noting import Notebook
from tests.mlflow_house import input_tags_of, inputs_of, tags_of
from tests.rows_fake import FakeRows, rows_of
from tests.seed import T0, event, record

Engine = snapengine.Engine

pytestmark = pytest.mark.usefixtures("tracking")


def noted(engine: Engine, run: Any) -> list[str]:
    """The references in the table."""
    return [each.reference for each in engine.store.notes_of_run(run.info.run_id)]


def late(engine: Engine) -> None:
    """An event that comes in now and tells of an hour ago."""
    ago = (time.time_ns() // 1_000_000 - T0) / 1000 - 3600
    record(engine, [event(f"late/{ago}", "v9", ago)])


def trained() -> tuple[Any, snapengine.View]:
    """A run that reads a view."""
    with mlflow.start_run() as run:
        view = snapengine.view("scans")
        assert len(view) == 3
    return run, view


def test_a_view_in_a_run_is_of_the_run_s_beginning_and_is_noted_with_all_that_tells_it(
    tracked_bucket: Engine,
) -> None:
    with mlflow.start_run() as run:
        view = snapengine.view("scans", prefix="ct/")
    assert view.ref.at == run.info.start_time
    given = inputs_of(run)["scans/ct/"]
    assert given.dataset.digest == view.digest()[7:39]
    assert given.dataset.source_type == "snapengine"
    assert input_tags_of(given) == {"snapengine.reference": view.reference}
    assert tags_of(run) == {
        "snapengine.view.scans.ct": view.reference,
        "snapengine.digest.scans.ct": view.digest(),
    }
    (kept,) = tracked_bucket.store.notes_of_run(run.info.run_id)
    assert (kept.reference, kept.digest, kept.objects, kept.bytes) == (view.reference, view.digest(), 2, 110)
    assert (kept.started_at, kept.name, kept.query) == (run.info.start_time, "scans/ct/", None)
    assert list(tracked_bucket.store.notes("scans")) == [kept]


def test_what_training_opened_is_what_is_noted_while_late_events_land(tracked_bucket: Engine) -> None:
    with mlflow.start_run() as run:
        view = snapengine.view("scans")
        opened = []
        for key in view:
            late(tracked_bucket)
            opened.append(view[key])
    (kept,) = tracked_bucket.store.notes_of_run(run.info.run_id)
    rows = [(v.key, v.version_id, v.etag, v.size) for v in opened]
    assert kept.digest == digest(rows)
    assert len(snapengine.view("scans", at=run.info.start_time)) > len(opened)


def test_a_view_used_twice_is_noted_once_whatever_was_learned_in_between(tracked_bucket: Engine) -> None:
    with mlflow.start_run() as run:
        first = snapengine.view("scans")
        late(tracked_bucket)
        again, part = snapengine.view("scans"), snapengine.view("scans", prefix="ct/")
        assert again == first
        assert part.epoch == first.epoch
    assert noted(tracked_bucket, run) == [first.reference, part.reference]
    assert set(inputs_of(run)) == {"scans", "scans/ct/"}


def test_views_of_other_instants_slices_and_references_have_names_of_their_own(
    tracked_bucket: Engine,
) -> None:
    with mlflow.start_run() as run:
        views = [
            snapengine.view("scans"),
            snapengine.view("scans", at=T0 + 1500),
            snapengine.view("scans", at=T0 + 2500, prefix="ct/"),
            snapengine.slice("scans", T0, T0 + 2500),
            snapengine.slice("scans", T0),
            snapengine.slice("scans", T0, versions="all"),
        ]
        views.append(snapengine.open_ref(views[1].reference))
    expected = {view.reference for view in views}
    assert len(expected) == 6
    given = inputs_of(run)
    assert {input_tags_of(each)["snapengine.reference"] for each in given.values()} == expected
    assert set(noted(tracked_bucket, run)) == expected
    assert "scans" in given
    assert views[4].ref.at == run.info.start_time - 1


def test_a_view_that_is_not_to_be_noted_is_not_and_a_context_is_shown(tracked_bucket: Engine) -> None:
    with mlflow.start_run() as run:
        quiet = snapengine.view("scans", note=False)
        quiet.select(["ct/a"])
        snapengine.slice("scans", T0, note=False)
        snapengine.open_ref(quiet.reference, note=False)
        snapengine.view("scans", prefix="ct/", note="validation")
    assert quiet.ref.at == run.info.start_time
    ((name, given),) = inputs_of(run).items()
    assert (name, input_tags_of(given)["mlflow.data.context"]) == ("scans/ct/", "validation")
    assert len(noted(tracked_bucket, run)) == 1


def test_a_narrowed_view_is_noted_with_its_query(
    tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        "ct/a": {"version_id": "v1", "Modality": "CT", "PatientID": "p1"},
        "ct/b": {"version_id": "v2", "Modality": "CT", "PatientID": "p1"},
        "mr/c": {"version_id": "v3", "Modality": "MR", "PatientID": "p2"},
    }
    FakeRows(rows_of(told)).into(monkeypatch)
    with mlflow.start_run() as run:
        whole = snapengine.view("scans", prefix="")
        chosen = whole.where("Modality = 'CT'")
        hidden = whole.where("PatientID = 'p2'")
    by_reference = {n.reference: n for n in tracked_bucket.store.notes_of_run(run.info.run_id)}
    assert by_reference[chosen.reference].query == "Modality = 'CT'"
    assert by_reference[chosen.reference].digest == chosen.digest()
    assert by_reference[hidden.reference].query is None  # a condition may hold what identifies somebody
    tags = tags_of(run)
    assert "Modality = 'CT'" in tags.values()
    assert not [text for text in tags.values() if "p2" in text]
    assert len(inputs_of(run)) == 3


def test_outside_a_run_a_view_is_of_now_and_noted_nowhere(tracked_bucket: Engine) -> None:
    before = time.time_ns() // 1_000_000
    view = snapengine.view("scans")
    assert before <= view.ref.at <= time.time_ns() // 1_000_000
    assert list(tracked_bucket.store.notes("scans")) == []


def test_a_view_that_was_opened_before_the_run_or_by_an_engine_is_noted_by_one_line(
    tracked_bucket: Engine,
) -> None:
    views = [snapengine.view("scans"), snapengine.Engine().view("scans", prefix="ct/")]
    with mlflow.start_run() as run:
        assert [len(view) for view in views] == [3, 2]
        assert noted(tracked_bucket, run) == []
        for view in views:
            snapengine.tracking.note(run.info.run_id, view)
    assert sorted(noted(tracked_bucket, run)) == sorted(view.reference for view in views)


def test_nested_runs_note_their_own_views(tracked_bucket: Engine) -> None:
    with mlflow.start_run() as parent:
        mine = snapengine.view("scans")
        time.sleep(0.002)
        with mlflow.start_run(nested=True) as child:
            theirs = snapengine.view("scans")
    assert noted(tracked_bucket, parent) == [mine.reference]
    assert noted(tracked_bucket, child) == [theirs.reference]
    assert theirs.ref.at == child.info.start_time > mine.ref.at


def test_threads_that_load_data_for_a_run_see_its_view_and_it_is_noted_once(tracked_bucket: Engine) -> None:
    with mlflow.start_run() as run, ThreadPoolExecutor(8) as pool:
        views = list(pool.map(lambda _: snapengine.view("scans"), range(32)))
    assert len(set(views)) == 1
    assert views[0].ref.at == run.info.start_time
    assert noted(tracked_bucket, run) == [views[0].reference]


def test_each_of_several_threads_notes_in_the_run_that_it_started(tracked_bucket: Engine) -> None:
    def train(_: int) -> tuple[Any, snapengine.View]:
        with mlflow.start_run() as run:
            return run, snapengine.view("scans")

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(train, range(8)))
    for run, view in done:
        assert noted(tracked_bucket, run) == [view.reference]
        assert view.ref.at == run.info.start_time


def test_where_it_cannot_be_told_which_run_is_meant_a_warning_says_so(tracked_bucket: Engine) -> None:
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        runs = [pool.submit(mlflow.start_run).result() for pool in (one, two)]
        with pytest.warns(RunNotNoted, match="Several MLflow runs are active"):
            snapengine.view("scans")
        for pool in (one, two):
            pool.submit(mlflow.end_run).result()
    assert [noted(tracked_bucket, run) for run in runs] == [[], []]


def test_a_table_that_takes_no_note_warns_and_the_run_s_end_tries_again(
    tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = SQLiteStore.put_note, []

    def fails_at_first(store: SQLiteStore, given: Any) -> bool:
        calls.append(given)
        if len(calls) < 3:
            raise Unreachable("The table does not answer.")
        return real(store, given)

    monkeypatch.setattr(SQLiteStore, "put_note", fails_at_first)
    with (
        mlflow.start_run() as run,
        pytest.warns(RunNotNoted, match=r"The table does not answer. It is tried again"),
    ):
        view = snapengine.view("scans")
    assert noted(tracked_bucket, run) == [view.reference]


def test_a_role_that_may_only_read_trains_and_mlflow_has_the_note(
    tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any) -> Any:
        raise PermissionMissing("dynamodb:PutItem is not allowed.")

    monkeypatch.setattr(SQLiteStore, "put_note", denied)
    monkeypatch.setattr(SQLiteStore, "agree_on_epoch", denied)
    with pytest.warns(RunNotNoted) as warned:
        run, view = trained()
    texts = [str(each.message) for each in warned]
    assert f"snapengine runs note {run.info.run_id} '{view.reference}'" in texts[-1]
    assert any("could not settle" in text for text in texts)
    (given,) = inputs_of(run).values()
    assert input_tags_of(given) == {"snapengine.reference": view.reference}
    assert noted(tracked_bucket, run) == []


def test_warnings_that_are_errors_end_no_training(
    tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(*_: Any) -> Any:
        raise PermissionMissing("dynamodb:PutItem is not allowed.")

    monkeypatch.setattr(SQLiteStore, "put_note", denied)
    with mlflow.start_run():  # this suite makes every warning an error
        assert len(snapengine.view("scans")) == 3
    assert "dynamodb:PutItem is not allowed." in caplog.text


def test_a_tracking_server_that_is_gone_stops_no_training_and_the_table_has_the_note(
    tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mlflow.MlflowClient.log_inputs
    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", _gone)
    with pytest.warns(RunNotNoted, match="noted in MLflow") as warned:
        run, view = trained()
    assert "could not be noted in MLflow yet: connection refused. It is" in str(warned[0].message)
    assert f"snapengine runs note {run.info.run_id}" in str(warned[-1].message)
    (kept,) = tracked_bucket.store.notes_of_run(run.info.run_id)
    assert kept.digest == view.digest()
    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", real)
    note(run.info.run_id, snapengine.open_ref(kept.reference))
    assert set(inputs_of(run)) == {"scans"}
    assert tracked_bucket.store.notes_of_run(run.info.run_id) == [kept]


def _gone(*_: Any, **__: Any) -> None:
    raise ConnectionError("connection refused")


def test_a_run_that_mlflow_s_client_made_is_noted_by_name_and_as_often_as_one_likes(
    tracked_bucket: Engine,
) -> None:
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment("other"))
    view = snapengine.view("scans", at=T0 + 2500)
    for _ in range(2):
        made = note(run.info.run_id, view, context="training")
    assert (made.reference, made.digest) == (view.reference, view.digest())
    assert noted(tracked_bucket, run) == [view.reference]
    ((name, given),) = inputs_of(run).items()
    assert name == "scans@2023-11-14T22:13:22.500Z~1"
    assert input_tags_of(given)["mlflow.data.context"] == "training"
    with pytest.raises(NoSuchRun, match="Check MLFLOW_TRACKING_URI"):
        note("0" * 32, view)


def test_a_wait_for_notes_that_somebody_interrupts_ends_the_run_all_the_same(
    tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    run = mlflow.start_run()
    snapengine.view("scans")
    monkeypatch.setattr(Notebook, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mlflow.end_run()
    assert mlflow.get_run(run.info.run_id).info.status == "FINISHED"


def test_a_resumed_run_sees_what_it_saw(tracked_bucket: Engine) -> None:
    with mlflow.start_run() as run:
        first = snapengine.view("scans")
    late(tracked_bucket)
    with mlflow.start_run(run_id=run.info.run_id):
        assert snapengine.view("scans") == first
    assert noted(tracked_bucket, run) == [first.reference]
    assert set(inputs_of(run)) == {"scans"}


def test_with_the_variable_set_the_tags_become_exact(
    tracked_bucket: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENGINE_TRACK", "scans,labels")
    with mlflow.start_run() as run:
        view = snapengine.view("scans")
    tags = tags_of(run)
    assert tags["snapengine.at"] == render(view.ref.at)
    assert tags["snapengine.view.scans"] == view.reference
    assert tags["snapengine.view.labels"] == f"snap://labels@{tags['snapengine.at']}/"


def test_two_runs_of_the_same_data_share_a_dataset_and_keep_their_own_references(
    tracked_bucket: Engine,
) -> None:
    runs, views = [], []
    for _ in range(2):
        with mlflow.start_run() as run:
            views.append(snapengine.view("scans"))
        runs.append(run)
        time.sleep(0.002)
    first, second = (inputs_of(run)["scans"] for run in runs)
    assert views[0] != views[1]
    assert first.dataset.source == second.dataset.source  # as MLflow keeps a dataset once an experiment
    assert [input_tags_of(given)["snapengine.reference"] for given in (first, second)] == [
        view.reference for view in views
    ]
    assert mlflow.data.get_source(second.dataset).load().digest() == views[1].digest()
