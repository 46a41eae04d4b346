"""A run that was started by a machine whose clock is ahead of this one's."""

from __future__ import annotations

import time

import mlflow
import pytest

import snapengine
from snapengine.errors import FutureTime

Engine = snapengine.Engine

pytestmark = pytest.mark.usefixtures("tracking", "tracked_bucket")


def started_ahead(milliseconds: int) -> str:
    """Another rank's run; its id."""
    now = time.time_ns() // 1_000_000
    experiment = mlflow.set_experiment("ranks").experiment_id
    return str(mlflow.MlflowClient().create_run(experiment, start_time=now + milliseconds).info.run_id)


@pytest.mark.parametrize("interval", [False, True])
def test_a_run_that_began_a_little_ahead_of_our_clock_is_waited_for(interval: bool) -> None:
    with mlflow.start_run(run_id=started_ahead(2_500)) as run:
        if interval:
            view = snapengine.slice("scans", "-1h")
            assert view.ref.at == run.info.start_time - 1
        else:
            view = snapengine.view("scans")
            assert view.ref.at == run.info.start_time
    assert time.time_ns() // 1_000_000 + 1_000 >= run.info.start_time


def test_a_run_that_begins_far_ahead_of_our_clock_is_an_error_at_once() -> None:
    with mlflow.start_run(run_id=started_ahead(60_000)) as run:
        begun = time.monotonic()
        with pytest.raises(FutureTime, match=rf"Run {run.info.run_id} .*at most.*NTP"):
            snapengine.view("scans")
        assert time.monotonic() - begun < 4
        assert len(snapengine.view("scans", at="now")) == 3
