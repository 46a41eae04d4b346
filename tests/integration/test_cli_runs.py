"""`snapengine runs`: which runs saw which data, by the table alone; and noting by hand."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import mlflow
import pytest

import snapengine
from snapengine.cli.main import run as command
from snapengine.instants import render
from snapengine.stores.sqlite_database import Database
from tests.mlflow_house import inputs_of
from tests.seed import T0, event, record, removal

Lines = list[dict[str, Any]]
Rows = Callable[..., Lines]


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> Rows:
    """Run a command with `--json`; its lines, or its error."""

    def call(*arguments: str, exits: int = 0) -> Lines:
        capsys.readouterr()
        code = command([*arguments, "--json"])
        output = capsys.readouterr()
        assert code == exits, output.err
        return [json.loads(line) for line in (output.err or output.out).splitlines()]

    return call


@pytest.fixture
def seen(tracked_bucket: snapengine.Engine, tracking: str) -> dict[str, Any]:
    """Three runs: of the whole bucket, of `ct/` before an overwrite, of all versions since."""
    runs = {}
    with mlflow.start_run() as runs["whole"]:
        whole = snapengine.view("scans")
    with mlflow.start_run() as runs["early"]:
        early = snapengine.view("scans", at=T0 + 2500, prefix="ct/")
    record(tracked_bucket, [event("ct/a", "v4", 4), removal("mr/c", "v3", 5)])
    with mlflow.start_run() as runs["versions"]:
        snapengine.slice("scans", T0, T0 + 10_000, versions="all", prefix="ct/")
    with mlflow.start_run() as runs["picked"]:
        snapengine.view("scans", note=False).select(["ct/b"])
    return {name: run.info.run_id for name, run in runs.items()} | {"digest": whole.digest(), "ct": early}


def test_the_runs_of_a_bucket_are_told_with_what_they_saw(seen: dict[str, Any], rows: Rows) -> None:
    found = rows("runs", "scans")
    assert [each["run_id"] for each in found] == [seen["whole"], seen["early"], seen["versions"]]
    assert found[0]["digest"] == seen["digest"]
    assert (found[0]["objects"], found[0]["bytes"], found[0]["name"]) == (3, 120, "scans")
    assert rows("runs", "list", "scans") == found


def test_by_a_digest_those_that_saw_exactly_this(seen: dict[str, Any], rows: Rows) -> None:
    for given in (seen["digest"], seen["digest"][7:39]):
        assert [each["run_id"] for each in rows("runs", "scans", "--digest", given)] == [seen["whole"]]
    assert rows("runs", "scans", "--digest", "0" * 64) == []
    (error,) = rows("runs", "scans", "--digest", "abc", exits=2)
    assert "is no digest" in error["message"]


def test_by_a_key_those_that_had_anything_of_it_and_which_version(seen: dict[str, Any], rows: Rows) -> None:
    def versions(*options: str) -> dict[str, list[str]]:
        return {
            each["run_id"]: [version["version_id"] for version in each["versions"]]
            for each in rows("runs", "scans", *options)
        }

    assert versions("--key", "ct/a") == {
        seen["whole"]: ["v1"],
        seen["early"]: ["v1"],
        seen["versions"]: ["v1", "v4"],
    }
    assert versions("--key", "ct/a", "--version", "v4") == {seen["versions"]: ["v4"]}
    assert versions("--key", "mr/c") == {seen["whole"]: ["v3"]}
    assert versions("--key", "ct/") == {}
    (error,) = rows("runs", "scans", "--version", "v1", exits=2)
    assert "--key" in error["message"]


def test_by_time_those_that_began_since(seen: dict[str, Any], rows: Rows) -> None:
    began = rows("runs", "scans")[1]["started_at"]
    later = [each["run_id"] for each in rows("runs", "scans", "--since", began)]
    assert later == [seen["early"], seen["versions"]]
    assert len(rows("runs", "scans", "--since", "-1h")) == 3
    assert rows("runs", "scans", "--since", render(T0)) == rows("runs", "scans")


def test_a_bucket_that_is_not_enabled_is_an_error_and_not_no_runs(
    tracked_bucket: snapengine.Engine, rows: Rows
) -> None:
    (error,) = rows("runs", "nobody", exits=1)
    assert error["code"] == "bucket-not-enabled"
    assert rows("runs", "scans") == []


def test_people_are_shown_a_table_and_a_count(
    seen: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert command(["runs", "scans", "--key", "ct/a"]) == 0
    output = capsys.readouterr()
    assert re.search(rf"{seen['early']}  v1 +{re.escape(seen['ct'].reference)}\n", output.out)
    assert "3 runs of those that noted what they saw." in output.err


def test_a_run_is_noted_by_hand_in_the_table_in_mlflow_and_in_the_audit_log(
    tracked_bucket: snapengine.Engine, tracking: str, rows: Rows
) -> None:
    with mlflow.start_run() as run:
        pass
    view = snapengine.view("scans", at=T0 + 2500)
    for _ in range(2):
        (told,) = rows("runs", "note", run.info.run_id, view.reference, "--context", "training")
    assert told["digest"] == view.digest()
    assert [each["reference"] for each in rows("runs", "scans")] == [view.reference]
    assert len(inputs_of(run)) == 1
    lines = [line for line in tracked_bucket.store.audit_log() if line.action == "runs note"]
    assert [line.outcome for line in lines] == ["started", "ok"] * 2
    (error,) = rows("runs", "note", "0" * 32, view.reference, exits=1)
    assert error["code"] == "no-such-run"


def test_verifying_a_run_compares_every_view_that_it_noted(
    seen: dict[str, Any],
    rows: Rows,
    tracked_bucket: snapengine.Engine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (told,) = rows("verify", f"run:/{seen['whole']}")
    assert (told["digest_matches"], told["expected"]) == (True, seen["digest"])
    database = Database(tracked_bucket.settings.store.removeprefix("sqlite:///"))
    database.run("UPDATE note SET body = json_set(body, '$.digest', 'sha256:00')")
    (told,) = rows("verify", f"run:/{seen['whole']}", exits=1)
    assert told["digest_matches"] is False
    database.run("UPDATE note SET body = json_set(body, '$.digest', '')")
    assert command(["verify", f"run:/{seen['whole']}"]) == 0
    assert "so that they are the same was not checked" in capsys.readouterr().err
    (error,) = rows("verify", "run:/" + "0" * 32, exits=1)
    assert error["code"] == "no-such-run"


def test_two_runs_are_compared_view_by_view(
    tracked_bucket: snapengine.Engine, tracking: str, rows: Rows
) -> None:
    ids = []
    for prefix in ("", "ct/"):
        with mlflow.start_run() as run:
            snapengine.view("scans")
            snapengine.view("scans", prefix=prefix)
        ids.append(f"run:/{run.info.run_id}")
        now = (time.time_ns() // 1_000_000 - T0) / 1000
        record(tracked_bucket, [event("ct/a", "v4", now), removal("mr/c", "v3", now)])
        time.sleep(0.01)
    only, *changes = rows("diff", *ids)
    changes = [only, *changes]
    assert [(c["event"], c["name"]) for c in changes if "event" in c] == [("only", "scans/ct/")]
    assert sorted(c["key"] for c in changes if "key" in c) == ["ct/a", "mr/c"]
    assert rows("diff", ids[0], ids[0]) == []
    assert rows("diff", "scans", "--from", ids[0], "--to", ids[1]) == [c for c in changes if "key" in c]
    (error,) = rows("diff", ids[0], "--from", "-1d", exits=2)
    assert "diff run:/ID run:/ID" in error["message"]
