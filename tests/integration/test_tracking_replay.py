"""Back again: the very view that a run noted, by `run:/<id>`, by `SNAPENGINE_AT`, in other processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

import snapengine
from snapengine.cautions import NoDigest
from snapengine.errors import BadTime, DigestDiffers, NoSuchRun, UsageError
from snapengine.instants import render
from snapengine.stores.sqlite_database import Database
from snapengine.tracking import views
from tests.mlflow_house import inputs_of, tags_of
from tests.seed import T0, event, record, removal

Engine = snapengine.Engine


def changed(engine: Engine) -> None:
    """What was known is no longer all: an overwrite, a removal, and a late event of an hour ago."""
    now = (time.time_ns() // 1_000_000 - T0) / 1000
    record(
        engine,
        [
            event("ct/a", f"v{now}", now),
            removal("ct/b", "v2", now),
            event(f"late/{now}", "v9", now - 3600),
        ],
    )


@pytest.fixture
def run_id(tracked_bucket: Engine, tracking: str) -> str:
    """A run that saw `scans`, `scans/ct/`, a slice and what was chosen; the bucket has changed since."""
    with mlflow.start_run() as run:
        whole = snapengine.view("scans")
        snapengine.view("scans", prefix="ct/")
        snapengine.slice("scans", T0)
        whole.select(["ct/a", "mr/c"])
    changed(tracked_bucket)
    return str(run.info.run_id)


def keys(view: snapengine.View) -> list[tuple[str, str]]:
    return [(version.key, version.version_id) for version in view.versions()]


ALL = [("ct/a", "v1"), ("ct/b", "v2"), ("mr/c", "v3")]


def test_a_run_s_view_is_had_again_whatever_has_changed_and_was_learned(run_id: str) -> None:
    assert keys(snapengine.view("scans")) != ALL
    again = snapengine.view("scans", at=f"run:/{run_id}")
    assert keys(again) == ALL
    assert again.reference in {noted.reference for noted in views(run_id)}
    part = snapengine.view("scans", at=f"run:/{run_id}", prefix="ct/")
    assert keys(part) == ALL[:2]
    assert keys(snapengine.view("scans", at=f"run:/{run_id}", prefix="ct/b")) == ALL[1:2]
    assert keys(snapengine.slice("scans", T0, f"run:/{run_id}")) == ALL


def test_every_view_that_a_run_noted_is_listed_and_opens(run_id: str) -> None:
    noted = views(run_id)
    assert [each.bucket for each in noted] == ["scans"] * 4
    assert len({each.name for each in noted}) == 4
    for each in noted:
        assert each.open().digest() == each.digest
    assert [len(each.open()) for each in noted if "?" in each.name] == [2]


def test_what_a_run_did_not_see_is_not_made_up(run_id: str, tracked_bucket: Engine) -> None:
    with pytest.raises(NoSuchRun, match="it saw scans"):
        snapengine.view("labels", at=f"run:/{run_id}")
    with pytest.raises(NoSuchRun, match="Check MLFLOW_TRACKING_URI"):
        snapengine.view("scans", at="run:/" + "0" * 32)
    with pytest.raises(NoSuchRun, match="no such view"):
        snapengine.slice("scans", T0, f"run:/{run_id}", versions="all")
    with pytest.raises(UsageError, match="epoch of its own"):
        snapengine.view("scans", at=f"run:/{run_id}", epoch=1)
    with pytest.raises(BadTime, match="names no run"):
        snapengine.view("scans", at="run:/a/b")
    with pytest.raises(BadTime, match="for no other time"):
        snapengine.slice("scans", f"run:/{run_id}", "now")


def test_a_run_of_several_instants_is_asked_which_is_meant(tracked_bucket: Engine, tracking: str) -> None:
    with mlflow.start_run() as run:
        first = snapengine.view("scans", at=T0 + 1500)
        snapengine.view("scans", at=T0 + 2500)
    at = f"run:/{run.info.run_id}"
    with pytest.raises(UsageError, match="several views") as refused:
        snapengine.view("scans", at=at)
    assert first.reference in str(refused.value)
    with mlflow.start_run(run_id=run.info.run_id):
        own = snapengine.view("scans")
    assert snapengine.view("scans", at=at) == own


def test_a_view_that_is_no_longer_what_was_noted_is_not_given(
    tracked_bucket: Engine, tracking: str, run_id: str
) -> None:
    database = Database(tracked_bucket.settings.store.removeprefix("sqlite:///"))
    database.run("UPDATE note SET body = json_set(body, '$.digest', 'sha256:' || hex(zeroblob(32)))")
    with pytest.raises(DigestDiffers, match="has the digest"):
        snapengine.view("scans", at=f"run:/{run_id}")
    with pytest.raises(DigestDiffers):
        views(run_id)[0].open()


def test_a_run_that_ended_before_its_digest_was_known_is_given_with_a_warning(
    tracked_bucket: Engine, run_id: str
) -> None:
    database = Database(tracked_bucket.settings.store.removeprefix("sqlite:///"))
    database.run("UPDATE note SET body = json_set(body, '$.digest', '')")
    with pytest.warns(NoDigest, match="cannot be checked"):
        assert keys(snapengine.view("scans", at=f"run:/{run_id}")) == ALL


def test_a_run_that_was_tracked_without_code_is_replayed_by_its_tags(
    tracked_bucket: Engine, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENGINE_TRACK", "scans/ct/")
    with mlflow.start_run() as run:
        pass
    changed(tracked_bucket)
    (noted,) = views(run.info.run_id)
    assert (noted.bucket, noted.digest) == ("scans", "")
    with pytest.warns(NoDigest, match="opened nothing itself"):
        assert keys(snapengine.view("scans", at=f"run:/{run.info.run_id}")) == ALL[:2]


def trained() -> tuple[Any, list[list[tuple[str, str]]]]:
    """Training code that names no instant."""
    with mlflow.start_run() as run:
        whole = snapengine.view("scans")
        shown = [
            keys(whole),
            keys(snapengine.view("scans", prefix="ct/")),
            keys(snapengine.slice("scans", "-9000d")),
            keys(snapengine.slice("scans", "2001-01-01", versions="all")),
            keys(whole.select([key for key in whole if key.startswith("mr/")])),
        ]
    return run, shown


def test_an_earlier_run_s_data_are_replayed_by_unchanged_code(
    tracked_bucket: Engine, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, shown = trained()
    changed(tracked_bucket)
    second, other = trained()
    assert other != shown
    monkeypatch.setenv("SNAPENGINE_AT", f"run:/{first.info.run_id}")
    third, again = trained()
    assert again == shown
    digests = [
        {name: tag for name, tag in tags_of(run).items() if "digest" in name} for run in (first, third)
    ]
    assert sorted(digests[0].values()) == sorted(digests[1].values())
    assert tags_of(third)["snapengine.at"] == f"run:/{first.info.run_id}"
    assert {n.reference for n in views(third.info.run_id)} == {n.reference for n in views(first.info.run_id)}
    monkeypatch.setenv("SNAPENGINE_AT", f"run:/{third.info.run_id}")  # a replay of the replay
    assert trained()[1] == shown
    monkeypatch.delenv("SNAPENGINE_AT")
    with mlflow.start_run(run_id=second.info.run_id):
        assert keys(snapengine.view("scans")) == other[0]


def test_a_fixed_instant_and_a_look_back_may_be_set_too(
    tracked_bucket: Engine, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENGINE_AT", "2023-11-14T22:13:21.500Z")
    assert keys(snapengine.view("scans")) == ALL[:1]
    monkeypatch.setenv("SNAPENGINE_AT", str(T0 + 2500))
    assert keys(snapengine.view("scans")) == ALL[:2]
    assert keys(snapengine.view("scans", at=T0 + 1500)) == ALL[:1]  # what the code names stands
    monkeypatch.setenv("SNAPENGINE_AT", "-24h")
    with mlflow.start_run() as run:
        view = snapengine.view("scans")
        assert snapengine.view("scans") == view
    assert render(view.ref.at) == tags_of(run)["snapengine.at"]
    assert 0 <= run.info.start_time - 86_400_000 - view.ref.at < 60_000
    assert set(inputs_of(run)) == {"scans"}


RANK = """
import json, sys, time
import mlflow, snapengine
mlflow.start_run()
view = snapengine.view("scans")
print(json.dumps([view.reference, view.digest(), sorted(view)]), flush=True)
sys.stdin.readline()
mlflow.end_run()
"""


def rank(tracking: str, run_id: str, code: str = RANK) -> subprocess.Popen[str]:
    """A process that shares a run."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking, "MLFLOW_RUN_ID": run_id}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.slow
def test_ranks_that_share_a_run_see_one_view_and_note_it_once(tracked_bucket: Engine, tracking: str) -> None:
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment("ranks"))
    ranks = [rank(tracking, run.info.run_id) for _ in range(2)]
    try:
        first = [told(each) for each in ranks]
        changed(tracked_bucket)
        ranks.append(rank(tracking, run.info.run_id))
        seen = [*first, told(ranks[2])]
        for each in ranks:
            each.communicate("\n", timeout=60)
        assert [each.returncode for each in ranks] == [0, 0, 0]
    finally:
        for each in ranks:
            each.kill()
            each.wait(30)
    assert seen == [seen[0]] * 3
    (kept,) = tracked_bucket.store.notes_of_run(run.info.run_id)
    assert [kept.reference, kept.digest] == seen[0][:2]
    assert list(inputs_of(run)) == ["scans"]


@pytest.mark.slow
def test_a_run_that_is_killed_has_noted_what_it_saw(tracked_bucket: Engine, tracking: str) -> None:
    client = mlflow.MlflowClient()
    run = client.create_run(client.create_experiment("killed"))
    code = RANK.replace(
        "mlflow.start_run()",
        "import snapengine.tracking.facts as facts\n"
        "facts.facts_of = lambda *_: time.sleep(600)  # a bucket that takes long\n"
        "mlflow.start_run()",
    )
    process = rank(tracking, run.info.run_id, code)
    try:
        reference, _, _ = told(process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    (kept,) = tracked_bucket.store.notes_of_run(run.info.run_id)
    assert (kept.reference, kept.digest) == (reference, "")


FORK = """
import multiprocessing, os
import mlflow, snapengine
from snapengine.tracking.noting import NOTEBOOK

def load(view, done):
    assert not NOTEBOOK._jobs
    done.put([view["ct/a"].version_id, len(view)])

context = multiprocessing.get_context("fork")
done = context.SimpleQueue()
with mlflow.start_run() as run:
    view = snapengine.view("scans")
    children = [context.Process(target=load, args=(view, done), daemon=True) for _ in range(2)]
    for child in children: child.start()
    for child in children: child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert [done.get(), done.get()] == [["v1", 3]] * 2
print(run.info.run_id)
"""


@pytest.mark.slow
def test_processes_that_are_forked_while_a_run_lasts_read_its_view(
    tracked_bucket: Engine, tracking: str, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(FORK)
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "MLFLOW_TRACKING_URI": tracking},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (kept,) = tracked_bucket.store.notes_of_run(done.stdout.split()[-1])
    assert kept.objects == 3


FORKS = """
import multiprocessing, time
import mlflow, snapengine

def load():
    assert snapengine.view("scans", note=False)["ct/a"].version_id == "v1"

context = multiprocessing.get_context("fork")
for number in range(5):
    with mlflow.start_run():
        snapengine.view("scans")
        children = [context.Process(target=load, daemon=True) for _ in range(12)]
        for child in children:  # the note is in another place each time
            child.start()
            time.sleep(0.003 * number)
        for child in children:
            child.join(30)
        assert [child.exitcode for child in children] == [0] * 12, number
"""


@pytest.mark.slow
def test_processes_that_are_forked_while_mlflow_is_told_open_views_of_their_own(
    tracked_bucket: Engine, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(FORKS)
    done = subprocess.run(
        [sys.executable, script],
        env={
            **{name: value for name, value in os.environ.items() if name != "MLFLOW_EXPERIMENT_ID"},
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
