"""What noting a view of 100,000 objects adds to a run: before training can start, and in all.

Runs are in pairs, in turns: both open a view of the same bucket, read all its rows, do the same work in
Python, and end; one notes the view (in SQLite, and in MLflow's SQLite tracking), the other does not
(`note=False`). So what is compared includes what noting in a thread takes from the training.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from benchmarks.harness import Figure, Result, Target, positive, undisturbed

BUCKET = "scans"
RUN_SECONDS = 60.0
START_SECONDS = 0.1
_T0 = 1_700_000_000_000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objects", type=positive, default=100_000, help="in the view")
    parser.add_argument("--repetitions", type=positive, default=9, help="pairs of runs")
    parser.add_argument("--work", type=positive, default=3_000_000, help="steps of the training in each run")


@dataclass(frozen=True, slots=True)
class Run:
    """One run, in seconds."""

    opened: float
    """Until the view is there."""
    resolved: float
    """Until all its rows are: training can start."""
    whole: float
    """Until MLflow has been told of its end."""
    right: bool


def run(options: argparse.Namespace) -> Result:
    with tempfile.TemporaryDirectory(prefix="snapengine-tracking-") as name:
        environment = {
            "SNAPENGINE_STORE": f"sqlite:///{name}/log.db",
            "AWS_REGION": os.environ.get("AWS_REGION", "us-east-1"),
        }
        with patch.dict(os.environ, environment):
            return measure(Path(name), options)


def measure(folder: Path, options: argparse.Namespace) -> Result:
    import mlflow

    _fill(options.objects)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("overhead", str(folder / "artifacts")))
    pairs: list[tuple[Run, Run]] = []
    for repetition in range(options.repetitions + 1):
        order = (True, False) if repetition % 2 else (False, True)
        by_noting = {noting: _one(options, noting=noting) for noting in order}
        if repetition:
            pairs.append((by_noting[True], by_noting[False]))
    added_start = [noted.resolved - plain.resolved for noted, plain in pairs]
    added = [noted.whole - plain.whole for noted, plain in pairs]
    return Result(
        name="tracking_overhead",
        params={
            "objects": options.objects,
            "work": options.work,
            "repetitions": options.repetitions,
            "store": "sqlite",
            "tracking": "sqlite",
        },
        figures={
            "view_noted": Figure.of([1000 * noted.opened for noted, _ in pairs], "ms"),
            "view_plain": Figure.of([1000 * plain.opened for _, plain in pairs], "ms"),
            "start_noted": Figure.of([1000 * noted.resolved for noted, _ in pairs], "ms"),
            "start_plain": Figure.of([1000 * plain.resolved for _, plain in pairs], "ms"),
            "added_before_training": Figure.of([1000 * each for each in added_start], "ms"),
            "added_in_all": Figure.of([1000 * each for each in added], "ms"),
        },
        ratios={
            "of_100_ms_before_training": statistics.median(added_start) / START_SECONDS,
            "of_a_60_second_run": statistics.median(added) / RUN_SECONDS,
        },
        targets={
            "of_100_ms_before_training": Target("at_most", 1.0),
            "of_a_60_second_run": Target("at_most", 0.05),
        },
        correct=all(each.right for pair in pairs for each in pair),
    )


def _one(options: argparse.Namespace, *, noting: bool) -> Run:
    import mlflow

    import snapengine
    from snapengine.tracking import views

    with undisturbed():
        active = mlflow.start_run()
        began = time.perf_counter()
        view = snapengine.view(BUCKET, note=noting)
        opened = time.perf_counter()
        rows = view.to_arrow().num_rows
        resolved = time.perf_counter()
        _train(options.work)
        mlflow.end_run()
        ended = time.perf_counter()
    noted = snapengine._engine().store.notes_of_run(active.info.run_id)
    right = rows == options.objects and bool(noted) == noting
    if noting:
        (kept,) = views(active.info.run_id)
        inputs = mlflow.get_run(active.info.run_id).inputs
        right = (
            right and kept.digest == view.digest() and inputs is not None and len(inputs.dataset_inputs) == 1
        )
    return Run(opened - began, resolved - began, ended - began, right)


def _train(steps: int) -> float:
    weight = 0.5
    for step in range(steps):
        weight += 1e-6 * ((step & 7) - weight)
    return weight


def _fill(objects: int) -> None:
    """A bucket in the log, as a worker has it."""
    import asyncio

    from snapengine import Engine
    from snapengine.log import EpochCutter, StreamWriter
    from snapengine.model import CREATED, BucketConfig, Observation

    engine = Engine()
    engine.store.create()
    engine.store.put_config(
        BucketConfig(BUCKET, "us-east-1", "123456789012", enabled_at=_T0, baseline_ended=_T0)
    )
    landed = [
        Observation(CREATED, f"ct/{n:07d}.dcm", f"v{n:031d}", _T0 + n, f"{n:018X}", 524_288, f"{n:032x}")
        for n in range(objects)
    ]

    async def put() -> None:
        async with engine.log() as log:
            await StreamWriter(log, "bench", engine.clock).append(BUCKET, landed)
            await EpochCutter(log, BUCKET, engine.clock).cut()

    asyncio.run(put())
