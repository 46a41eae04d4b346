"""A bucket at a past T: our view of it, against what lists every version that the bucket has.

SeaweedFS holds the bucket: two versions an object on average, overwritten and deleted before T and after. The
peers are boto3 (ListObjectVersions, folded), rclone (`--s3-version-at`) and s3-pit-restore (`--dry-run`), all
on the same server. Ours is `view`, `to_arrow()` and `digest()` with nothing known before: a new engine, new
clients, no cache, an archive on the same server. The quickest peer is the baseline, and each answer is
compared with what the server's replies said while the bucket was filled.

Filling takes minutes and is done once for each size; the server's folder is kept (`--folder`).
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from platformdirs import user_cache_path

from benchmarks._dynamodb import add_endpoint_option, fresh_table
from benchmarks._listing_archive import Archiver, place_for_archive
from benchmarks._listing_filling import BUCKET, Filled, load_events, prepare
from benchmarks._listing_history import Answer, answer_at, differing
from benchmarks._listing_ours import Seen, digest_of, look, look_from_a_new_process, table_server
from benchmarks._listing_peers import PEERS, Answered, Missing, Peer
from benchmarks._listing_record import Clock, record, stretched
from benchmarks._listing_server import CountingSeaweedFs, alone_in, reaching
from benchmarks.harness import Figure, Result, Target, Unavailable, median_ratio, positive, timed
from snapengine.engine import Engine
from snapengine.settings import Settings
from tools.local_servers import ServiceFailed, ServiceUnavailable

NAMES = [peer.name for peer in PEERS]
LOOKS = 5
"""Views a round: one takes a fraction of a listing."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objects", type=positive, default=100_000, help="in the bucket, over all its time")
    parser.add_argument(
        "--smaller",
        type=positive,
        help="objects of the bucket with which the requests are compared (default: a tenth)",
    )
    parser.add_argument("--rounds", type=positive, default=2, help=f"each peer once, and {LOOKS} views")
    parser.add_argument("--seed", type=int, default=1, help="of what is done to the bucket")
    parser.add_argument("--peers", default=",".join(NAMES), help="some of: %(default)s; boto3 always")
    parser.add_argument(
        "--folder", type=Path, help="for filled servers and peers (default: in the user's cache folder)"
    )
    add_endpoint_option(parser)


def run(options: argparse.Namespace) -> Result:
    chosen = {"boto3", *options.peers.split(",")}
    if unknown := chosen - set(NAMES):
        raise Unavailable(f"There is no peer {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}.")
    folder = options.folder or user_cache_path("snapengine-benchmarks") / "view_vs_listing"
    smaller = options.smaller or max(1, options.objects // 10)
    folder.mkdir(parents=True, exist_ok=True)
    peers, absent = _able([peer for peer in PEERS if peer.name in chosen], folder)
    boto3 = [peer for peer in peers if peer.name == "boto3"]
    try:
        with_all = measure(options, folder, options.objects, peers, options.rounds)
        with_few = measure(options, folder, smaller, boto3, 1)
    except (ServiceUnavailable, ServiceFailed) as problem:
        raise Unavailable(f"SeaweedFS does not run: {problem}") from problem
    return result(with_all, with_few, absent)


@dataclass(slots=True)
class Measured:
    """What was found with a bucket of one size."""

    filled: Filled
    expected: Answer
    table: str
    """Which DynamoDB."""
    record_seconds: float
    """To write the log."""
    archive_seconds: float
    """To make the archive, in so many runs."""
    archive_runs: int
    archive_bytes: int
    plan: str = ""
    """Of the view, in words."""
    views: list[Seen] = field(default_factory=list)
    processes: list[float] = field(default_factory=list)
    peers: dict[str, list[Answered]] = field(default_factory=dict)
    peer_requests: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Peers that began and did not end well, and what they said. They are peers no more."""

    def wrong(self, name: str) -> int:
        """Keys that a peer has wrong, at most, of its runs."""
        return max(differing(self.expected, each.answer) for each in self.peers[name])

    @property
    def views_right(self) -> bool:
        said = digest_of(self.expected)
        return all(each.answer == self.expected and each.said == said for each in self.views)

    @property
    def requests(self) -> int:
        """Of one view to S3, at most."""
        return max(each.s3_requests for each in self.views)

    @property
    def listing_requests(self) -> int:
        return min(self.peer_requests[name] for name in self.peers)


def measure(
    options: argparse.Namespace, folder: Path, objects: int, peers: Sequence[Peer], rounds: int
) -> Measured:
    """Fill a server of this size where there is none, write its log, and ask all, round by round."""
    own = folder / f"objects-{objects}-seed-{options.seed}"
    with alone_in(own):
        filled = prepare(own, objects, options.seed)
        events = load_events(own)
        history = stretched(filled, events)
        with (
            CountingSeaweedFs(own / "server") as server,
            reaching(server),
            table_server(options.endpoint_url) as table,
            fresh_table() as engine,
            place_for_archive() as root,
        ):
            clock = Clock(history.began)
            settings = Settings(store=engine.settings.store, archive=root, cache="off")
            archiver = Archiver(Engine(settings, clock=clock), BUCKET)
            whole = timed(lambda: asyncio.run(record(engine, BUCKET, history, clock, archiver)))
            measured = Measured(
                filled,
                answer_at(events, filled.at),
                table,
                record_seconds=whole - archiver.seconds,
                archive_seconds=archiver.seconds,
                archive_runs=archiver.runs,
                archive_bytes=archiver.bytes(),
            )
            for number in range(rounds):
                _ask_peers(measured, server, folder, peers if number % 2 == 0 else peers[::-1])
                _ask_us(measured, server, engine.settings.store, history.at)
            measured.plan = Engine(settings).view(BUCKET, history.at).explain()
    return measured


def _ask_peers(measured: Measured, server: CountingSeaweedFs, folder: Path, peers: Sequence[Peer]) -> None:
    for peer in peers:
        if peer.name in measured.failures:
            continue
        before = server.requests()
        try:
            answered = peer.ask(server, folder, measured.filled.at)
        except Missing as problem:
            measured.failures[peer.name] = str(problem)
            measured.peers.pop(peer.name, None)
            continue
        measured.peer_requests[peer.name] = server.requests() - before
        measured.peers.setdefault(peer.name, []).append(answered)
        print(f"{peer.name}: {answered.seconds:.2f} s", file=sys.stderr)


def _ask_us(measured: Measured, server: CountingSeaweedFs, store: str, at: int) -> None:
    for _ in range(LOOKS):
        measured.views.append(look(server, store, BUCKET, at))
        print(f"view: {measured.views[-1].seconds:.3f} s", file=sys.stderr)
    measured.processes.append(look_from_a_new_process(store, BUCKET, at, measured.views[-1].said))


def _able(peers: Sequence[Peer], folder: Path) -> tuple[list[Peer], list[str]]:
    """The peers that can run here, and why others cannot."""
    able, absent = [], []
    for peer in peers:
        try:
            peer.prepare(folder)
        except Missing as problem:
            absent.append(f"{peer.name}: {problem}")
        else:
            able.append(peer)
    return able, absent


def result(measured: Measured, fewer: Measured, absent: Sequence[str]) -> Result:
    """The quickest peer, round by round, against the views beside it; the fewest requests to our most."""
    medians = {name: median(each.seconds for each in runs) for name, runs in measured.peers.items()}
    quickest = min(medians, key=lambda name: medians[name])
    views = [each.seconds for each in measured.views]
    beside = [median(views[start : start + LOOKS]) for start in range(0, len(views), LOOKS)]
    speedup = median_ratio([each.seconds for each in measured.peers[quickest]], beside)
    share = measured.requests / measured.listing_requests
    share_of_fewer = fewer.requests / fewer.listing_requests
    failed = [f"{name}: {problem}" for name, problem in measured.failures.items()]
    if speedup <= 1:
        print(f"{quickest} is quicker than the view", file=sys.stderr)
    figures = {
        "view": Figure.of(views, "s"),
        "view_to_arrow": Figure.of([each.to_arrow for each in measured.views], "s"),
        "view_digest": Figure.of([each.digest for each in measured.views], "s"),
        "view_and_python": Figure.of(measured.processes, "s"),
        "view_s3_requests": Figure.of([each.s3_requests for each in measured.views], "requests"),
        "view_dynamodb_requests": Figure.of([each.dynamodb_requests for each in measured.views], "requests"),
    }
    for name, runs in measured.peers.items():
        figures[name] = Figure.of([each.seconds for each in runs], "s")
        figures[f"{name}_s3_requests"] = Figure.of([measured.peer_requests[name]], "requests")
        figures[f"{name}_wrong_keys"] = Figure.of([measured.wrong(name)], "keys")
    figures |= {
        "fill": Figure.of([(measured.filled.ended - measured.filled.began) / 1000], "s"),
        "record": Figure.of([measured.record_seconds], "s"),
        "archive": Figure.of([measured.archive_seconds], "s"),
        "archive_runs": Figure.of([measured.archive_runs], "runs"),
        "archive_size": Figure.of([measured.archive_bytes / 1e6], "MB"),
    }
    return Result(
        name="view_vs_listing",
        params={
            "objects": measured.filled.objects,
            "objects_at_t": len(measured.expected),
            "versions": measured.filled.versions,
            "markers": measured.filled.markers,
            "seed": measured.filled.seed,
            "table": measured.table,
            "baseline": quickest,
            "plan": measured.plan,
            "smaller_objects": fewer.filled.objects,
            "not_run": "; ".join([*absent, *failed]) or "none",
        },
        figures=figures,
        ratios={
            "speedup": speedup,
            "s3_request_share": share,
            "s3_request_share_smaller": share_of_fewer,
            "s3_request_share_growth": share / share_of_fewer if share_of_fewer else math.nan,
        },
        targets={
            "speedup": Target("at_least", 100.0),
            "s3_request_share": Target("at_most", 1 / 20),
            "s3_request_share_growth": Target("at_most", 1.0),
        },
        correct=_correct(measured) and _correct(fewer),
    )


def _correct(measured: Measured) -> bool:
    """Ours and the plain fold have every key right. What another peer has wrong is a figure."""
    return measured.views_right and measured.wrong("boto3") == 0
