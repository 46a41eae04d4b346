"""Two ranks with three spawned workers each, killed in the middle of an epoch, and gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from snapengine.devcloud import DevCloud
from tests.torch_house import NumberedBucket, key, need_torch
from tests.torch_training import EVERY

need_torch("torchdata")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

COUNT = 47
"""Objects: no multiple of the six workers, nor of the two ranks."""
STOP = 5
"""The last state is of step 3, so two batches of each rank come again."""
SECONDS = 120


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def bucket(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NumberedBucket:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return NumberedBucket(tmp_path, COUNT)


@contextmanager
def ranks(folder: Path, bucket: NumberedBucket, *arguments: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Both ranks of a training; however it ends, none of them nor of their workers is left."""
    environment = os.environ | {
        "TRAINING_FOLDER": str(folder),
        "TRAINING_STORE": bucket.store,
        "TRAINING_BUCKET": bucket.bucket,
        "TRAINING_MEETING": str(folder / f"meeting-{uuid4().hex}"),
        "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.torch_training", str(folder), *arguments]
    running = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    try:
        yield running
    finally:
        for process in running:
            if process.poll() is None:
                kill_with_workers(process.pid)
            process.wait(SECONDS)


def kill_with_workers(pid: int) -> None:
    """SIGKILL for the rank first: its workers find it gone."""
    rank = psutil.Process(pid)
    workers = rank.children(recursive=True)
    rank.kill()
    rank.wait(SECONDS)
    for worker in workers:
        if worker.is_running():
            worker.kill()


def taken(folder: Path) -> list[list[tuple[int, list[str]]]]:
    """By rank, each step and its keys."""
    files = [folder / f"taken-{rank}" for rank in range(2)]
    return [[tuple(json.loads(line)) for line in file.read_text().splitlines()] for file in files]


def wait_for(paths: list[Path], running: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + SECONDS
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, "the ranks did not come so far"
        assert all(process.poll() is None for process in running), "a rank ended"
        time.sleep(0.05)


@pytest.mark.parametrize("style", ["iterable", "map"])
def test_each_sample_comes_once_though_the_ranks_were_killed(
    bucket: NumberedBucket, tmp_path: Path, style: str
) -> None:
    with ranks(tmp_path, bucket, style, str(STOP)) as running:
        wait_for([tmp_path / f"stopped-{rank}" for rank in range(2)], running)
        for process in running:
            kill_with_workers(process.pid)
    before = taken(tmp_path)
    assert [max(step for step, _ in steps) for steps in before] == [STOP, STOP]
    assert resolutions(tmp_path) == ["table"]

    for rank in range(2):
        (tmp_path / f"taken-{rank}").unlink()
    (tmp_path / "resolved").unlink()
    with ranks(tmp_path, bucket, style) as running:
        assert [process.wait(SECONDS) for process in running] == [0, 0]
    after = taken(tmp_path)
    assert resolutions(tmp_path) == ["table"]

    kept = [keys for steps in before for step, keys in steps if step <= EVERY]
    lost = [keys for steps in before for step, keys in steps if step > EVERY]
    later = [keys for steps in after for _, keys in steps]
    once = Counter(one for keys in [*kept, *later] for one in keys)
    assert once == Counter(key(number) for number in range(COUNT)), "up to the states, and from them on"
    again = [keys for steps in after for step, keys in steps if step <= STOP]
    assert sorted(again) == sorted(lost), "what came after the last states comes again, batch for batch"


def resolutions(folder: Path) -> list[str]:
    """What was asked of the table for rows, by ranks and workers together."""
    return [line.split()[0] for line in (folder / "resolved").read_text().splitlines()]
