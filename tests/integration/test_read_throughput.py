"""`read_throughput`: every body of every reader is compared. How fast they are is not looked at."""

from __future__ import annotations

import argparse
import hashlib
from functools import partial
from pathlib import Path

import pytest

from benchmarks import read_throughput
from benchmarks._read_bucket import Counts, Put, prepare
from benchmarks.harness import Unavailable


def put(key: str, body: bytes) -> Put:
    return Put(key, "v", len(body), "e", hashlib.sha256(body).hexdigest(), 0)


@pytest.mark.parametrize("found", [[b"a"], [b"a", b"c"], [b"b", b"a"], [b"a", b"b", b"b"]])
def test_another_body_than_was_put_is_not_correct_any_more(found: list[bytes]) -> None:
    measured = read_throughput._Measured([put("x", b"a"), put("y", b"b")])
    verdicts = []
    for given in ([b"a", memoryview(b"b")], found, [b"a", b"b"]):
        measured.turn({"reader": partial(list, given)})
        verdicts.append(measured.correct)
    assert verdicts == [True, False, False]


def test_the_fastest_plain_client_is_the_one_that_ours_is_compared_with() -> None:
    measured = read_throughput._Measured([put("x", b"a")])
    measured.seconds |= {"view_fs": [1.0, 1.0], "slow": [3.0, 3.0], "fast": [2.0, 1.5], "dataset": [0.5, 0.5]}
    assert measured.fastest == "fast"
    assert measured.to_fastest("view_fs") == 1.75
    assert measured.ratio("dataset", "slow") == 6


@pytest.mark.services
def test_a_small_run_reads_every_old_version_by_every_reader(tmp_path: Path) -> None:
    for name in ("torch", "obstore", "s3fs"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    options = argparse.Namespace(small=40, large=1, repetitions=1, folder=tmp_path)
    result = read_throughput.run(options)
    assert result.correct
    assert result.ratios.keys() == result.targets.keys()
    assert {"small_view_fs", "small_s3fs", "large_dataset", "large_boto3"} <= result.figures.keys()
    with pytest.raises(Unavailable, match="Remove it"):
        prepare(tmp_path, Counts(small=41, large=1))
