"""Crashes, sleep and outages on real servers: what is lost, invented, wrong or changed by them.

(a) Workers on ElasticMQ and DynamoDB Local, killed (SIGKILL) before, after or in the middle of each request
    that they make, and put to sleep (SIGSTOP, SIGCONT) with a commit stamped and not sent, for seconds and
    one for minutes; events come out of order, late, and more than once.
(b) Baselines and reconciles of SeaweedFS, killed likewise; a tenth of the events between them is lost.
(c) The table's and the queue's server, ended under load and started again.
What is right is known from plain dictionaries, and in (b) from the server's own listings.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks._faults_judge import Verdict
from benchmarks._faults_listings import kill_listings
from benchmarks._faults_stage import VISIBILITY
from benchmarks._faults_tally import Tally
from benchmarks._faults_workers import kill_workers, restart_servers
from benchmarks.harness import Figure, Result, Target, Unavailable, positive
from tools.local_servers import DynamoDbLocal, ElasticMq, SeaweedFs, ServiceFailed, ServiceUnavailable


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=positive, default=200, help="of workers, baselines and reconciles")
    parser.add_argument("--pauses", type=positive, default=20, help="of workers")
    parser.add_argument(
        "--long-pause", type=positive, default=120, help="seconds at least for which one worker sleeps"
    )
    parser.add_argument("--outages", type=positive, default=4, help="of each of the two servers")
    parser.add_argument("--seed", type=int, default=1, help="of what happens, and of where it is struck")


def run(options: argparse.Namespace) -> Result:
    started = time.monotonic()
    try:
        tally, verdict = everything(options)
    except (ServiceUnavailable, ServiceFailed) as problem:
        raise Unavailable(f"A server does not run: {problem}.") from problem
    for note in verdict.notes:
        print(note, file=sys.stderr)
    return result(options, tally, verdict, time.monotonic() - started)


def everything(options: argparse.Namespace) -> tuple[Tally, Verdict]:
    tally, verdict, seed = Tally(), Verdict(), options.seed
    of_listings = options.kills // 4
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="snapengine-faults-")))
        queue = stack.enter_context(ElasticMq(folder / "queue"))
        with DynamoDbLocal() as table:
            _add(
                (tally, verdict),
                kill_workers(
                    (table, queue),
                    _new(folder, "a"),
                    kills=options.kills - of_listings,
                    pauses=options.pauses,
                    long_pause=options.long_pause,
                    seed=seed,
                ),
            )
            with SeaweedFs(folder / "s3") as s3:
                _add(
                    (tally, verdict),
                    kill_listings((table, queue, s3), _new(folder, "b"), kills=of_listings, seed=seed),
                )
        with DynamoDbLocal(folder / "table") as table:
            _add(
                (tally, verdict),
                restart_servers(table, queue, _new(folder, "c"), rounds=options.outages, seed=seed),
            )
    return tally, verdict


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _add(total: tuple[Tally, Verdict], part: tuple[Tally, Verdict]) -> None:
    total[0].add(part[0])
    total[1].add(part[1])


def result(options: argparse.Namespace, tally: Tally, verdict: Verdict, seconds: float) -> Result:
    counts = {
        "kills_asked": options.kills,
        "kills": tally.kills.total(),
        "steps": len(tally.kills),
        "restarts": tally.restarts,
        "pauses": tally.pauses,
        "outages": tally.outages,
        "messages": tally.messages,
        "duplicates": tally.duplicates,
        "reorderings": tally.reorderings,
        "losses": tally.losses,
        "strikes_missed": tally.missed,
        "observations_repeated": verdict.repeated,
        "views": verdict.views,
        "references": verdict.references,
        "observations_lost": verdict.lost,
        "observations_invented": verdict.invented,
        "views_wrong": verdict.wrong,
        "references_changed": verdict.changed,
    }
    figures = {name: Figure.of([float(count)], "count") for name, count in counts.items()}
    return Result(
        name="faults",
        params={
            "seed": options.seed,
            "visibility_seconds": VISIBILITY,
            "struck": ", ".join(f"{step} ×{count}" for step, count in sorted(tally.kills.items())),
        },
        figures=figures
        | {"longest_pause": Figure.of([tally.longest], "s"), "seconds": Figure.of([seconds], "s")},
        ratios={
            "kills_done": tally.kills.total() / options.kills,
            "long_pause_done": tally.longest / options.long_pause,
        },
        targets={
            "kills_done": Target("at_least", 1.0),
            "long_pause_done": Target("at_least", 1.0),
        },
        correct=verdict.clean,
    )
