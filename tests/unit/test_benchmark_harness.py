"""The benchmarks' harness: what it prints, when it fails, and in which order it measures. Never how fast."""

from __future__ import annotations

import argparse
import gc
import json
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.__main__ import main, names
from benchmarks.harness import (
    Figure,
    Result,
    Target,
    Unavailable,
    alternate,
    median_ratio,
    run_command,
    undisturbed,
)

GOOD = Result(
    name="stub",
    params={"rows": 3},
    figures={"ours": Figure(12.0, "ms", 10.0, 15.0), "peer": Figure(10.0, "ms", 9.0, 11.0)},
    ratios={"time": 1.2},
    targets={"time": Target("at_most", 1.3)},
    correct=True,
)
SLOW = replace(GOOD, ratios={"time": 1.31})
WRONG = replace(GOOD, correct=False)


class Stub:
    """A benchmark that finds what it is told to."""

    __doc__ = "A stub."

    def __init__(self, found: Result | Unavailable) -> None:
        self._found = found

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, default=3)

    def run(self, options: argparse.Namespace) -> Result:
        if isinstance(self._found, Unavailable):
            raise self._found
        return replace(self._found, params={"rows": options.rows})


@pytest.mark.parametrize(("found", "status"), [(GOOD, 0), (SLOW, 1), (WRONG, 1), (Unavailable("no Java"), 2)])
def test_the_command_fails_when_an_answer_is_wrong_or_a_target_missed(
    found: Result | Unavailable, status: int
) -> None:
    assert run_command("stub", Stub(found), ["--json"]) == status
    assert run_command("stub", Stub(found), []) == status


def test_json_is_one_object_with_every_figure_in_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    run_command("stub", Stub(SLOW), ["--json", "--rows", "7"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["name", "params", "figures", "ratios", "targets", "correct", "ok"]
    assert found["params"]["rows"] == 7
    assert found["figures"]["ours"] == {"value": 12.0, "unit": "ms", "least": 10.0, "most": 15.0}
    assert found["ratios"] == {"time": 1.31}
    assert found["targets"] == {"time": {"at_most": 1.3}}
    assert (found["correct"], found["ok"]) == (True, False)


def test_the_table_says_which_target_is_missed_and_which_answer_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_command("stub", Stub(replace(SLOW, correct=False)), [])
    shown = capsys.readouterr().out
    assert "time   1.31  at most 1.3  MISSED" in shown
    assert "correct: NO   ok: NO" in shown


def test_what_is_missing_is_said_on_stderr_and_stdout_stays_empty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_command("stub", Stub(Unavailable("no `java` on PATH; install a JDK")), ["--json"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "stub: no `java` on PATH; install a JDK\n"


@pytest.mark.parametrize(
    ("target", "ratio", "met"),
    [
        (Target("at_most", 5.0), 5.0, True),
        (Target("at_most", 5.0), 5.01, False),
        (Target("at_least", 0.8), 0.8, True),
        (Target("at_least", 0.8), 0.79, False),
        (Target("at_most", 5.0), math.nan, False),
        (Target("at_least", 0.8), math.nan, False),
    ],
)
def test_a_target_is_met_at_its_limit_and_not_beyond(target: Target, ratio: float, met: bool) -> None:
    assert target.met_by(ratio) is met
    assert replace(GOOD, ratios={"time": ratio}, targets={"time": target}).ok is met


def test_a_target_whose_ratio_was_not_measured_is_missed() -> None:
    assert not replace(GOOD, ratios={}).ok


def test_the_median_is_quoted_and_one_slow_repetition_does_not_move_it() -> None:
    assert Figure.of([3.0, 1.0, 2.0, 900.0, 2.5], "ms") == Figure(2.5, "ms", 1.0, 900.0)


def test_a_ratio_is_of_what_was_measured_side_by_side() -> None:
    assert median_ratio([1.0, 20.0, 3.0], [2.0, 40.0, 30.0]) == 0.5


def test_repetitions_alternate_and_so_does_who_goes_first() -> None:
    order = []

    def measure(who: str) -> Iterator[float]:
        for number in range(10):
            order.append(who)
            yield number

    ours, peer = measure("ours"), measure("peer")
    samples = alternate(lambda: next(ours), lambda: next(peer), 3)
    assert order == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert samples == ([1, 2, 3], [1, 2, 3]), "the first round warms up and does not count"


def test_a_benchmark_that_fails_leaves_the_garbage_collector_as_it_was() -> None:
    during = []

    @undisturbed()
    def fail() -> None:
        during.append(gc.get_freeze_count())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert during[0] > 0
    assert gc.get_freeze_count() == 0


def test_without_a_name_the_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert {"ingest", "point_lookup"} <= set(names())
    for name in names():
        assert f"\n{name} " in shown


def test_an_unknown_name_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imgest"]) == 2
    assert f"no benchmark 'imgest'; there are: {', '.join(names())}." in capsys.readouterr().err
