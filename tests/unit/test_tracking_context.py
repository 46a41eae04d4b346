"""The run context provider: environment only, quick, and never a reason for a run to fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import mlflow
import pytest
from mlflow.tracking.context import registry

from snapengine.instants import to_millis
from snapengine.tracking.context import TrackedData
from tests.mlflow_house import tags_of


def test_a_run_says_its_instant_its_buckets_and_references_without_any_code(
    tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENGINE_TRACK", "scans,labels/2026/")
    before = time.time_ns() // 1_000_000
    with mlflow.start_run() as run:
        pass
    tags = tags_of(run)
    at = tags["snapengine.at"]
    assert before <= to_millis(at, now=before + 60_000) <= run.info.start_time
    assert tags == {
        "snapengine.at": at,
        "snapengine.buckets": "scans,labels/2026/",
        "snapengine.view.scans": f"snap://scans@{at}/",
        "snapengine.view.labels.2026": f"snap://labels@{at}/2026/",
    }


def test_nested_and_implicit_runs_carry_the_tags_too(tracking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENGINE_TRACK", "scans")
    with mlflow.start_run(), mlflow.start_run(nested=True) as child:
        pass
    assert tags_of(child)["snapengine.buckets"] == "scans"
    mlflow.log_metric("loss", 1.0)  # starts a run by itself
    implicit = mlflow.active_run()
    mlflow.end_run()
    assert tags_of(implicit)["snapengine.buckets"] == "scans"


def test_without_the_variable_a_run_carries_nothing(tracking: str) -> None:
    with mlflow.start_run() as run:
        pass
    assert tags_of(run) == {}


@pytest.mark.parametrize("track", ["s3://scans", ",", "é", "a/b\x01", "scans," * 2000, "b/" + "é" * 30_000])
@pytest.mark.parametrize("at", [None, "yesterday", "run:/abc", "9" * 30, "2999-01-01"])
def test_a_variable_that_makes_no_sense_is_told_in_a_tag_and_stops_no_run(
    tracking: str, monkeypatch: pytest.MonkeyPatch, track: str, at: str | None
) -> None:
    environment = {"SNAPENGINE_TRACK": track} | ({"SNAPENGINE_AT": at} if at else {})
    monkeypatch.setattr(os, "environ", os.environ | environment)
    with mlflow.start_run() as run:
        pass
    tags = tags_of(run)
    assert tags.get("snapengine.at") == at or at is None
    if track == "s3://scans":
        assert tags["snapengine.ignored"] == "s3://scans"


def test_an_instant_that_is_replayed_is_the_one_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENGINE_TRACK", "scans")
    for given in ("2026-11-20", "1795132800000"):
        monkeypatch.setenv("SNAPENGINE_AT", given)
        assert TrackedData().tags()["snapengine.view.scans"] == "snap://scans@2026-11-20T00:00:00.000Z/"


def test_it_takes_less_than_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENGINE_TRACK", "scans,labels/2026/")
    provider, times = TrackedData(), []
    for _ in range(200):
        begun = time.perf_counter()
        assert provider.in_context()
        provider.tags()
        times.append(time.perf_counter() - begun)
    assert sorted(times)[100] < 0.001


def test_it_is_registered_and_mlflow_loads_nothing_heavy_for_it() -> None:
    assert [p for p in registry._run_context_provider_registry if isinstance(p, TrackedData)]
    code = (
        "import sys, mlflow.tracking.context.abstract_context\n"
        "before = set(sys.modules)\n"
        "import snapengine.tracking.context\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert set(done.stdout.split()) & {"boto3", "botocore", "pyarrow", "pandas", "duckdb"} == set()
