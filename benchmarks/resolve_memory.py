"""Streaming the digest of a view of ten million objects: how much memory that takes, and how fast it goes.

Ours is `view.digest()` in a new process, cold: a checkpoint, the segments after it, the log's tail, and
every byte verified. The peer, a new process too, merely reads the digest's four columns of the same
checkpoint's files with `pyarrow`, row group by row group, and does nothing with them. The digest is
compared with that of what the made history says is live, taken row by row when the bucket was made. The
archive is in a folder (`--folder`); it is made once, in some minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._big_bucket import BUCKET, BigBucket, big_buckets, default_folder
from benchmarks.harness import Figure, Result, Target, alternate, median_ratio, positive
from snapengine.row_bytes import COLUMNS
from tools.local_servers import ROOT

TIMEOUT = 900
"""Seconds for one process."""

# What imports leave to be collected is theirs, so it is not in either side's time, as they are not.
# A process begins with the peak of the one that started it, by `ru_maxrss`; Linux tells its own apart.
_PEAK = """\
import gc, json, resource, sys, time
def peak():
    try:
        lines = open("/proc/self/status").read().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
"""

_OURS = f"""\
{_PEAK}
from snapengine.engine import Engine
from snapengine.settings import Settings
import snapengine.archive.cache, snapengine.archive.reading, snapengine.resolver
gc.collect()
started = time.perf_counter()
view = Engine(Settings(store=sys.argv[1], cache="off")).view(sys.argv[2], int(sys.argv[3]))
before = peak()
digest = view.digest()
seconds = time.perf_counter() - started
said = dict(seconds=seconds, rows=0, before=before, peak=peak(), digest=digest)
print(json.dumps(said))
"""

_PEER = f"""\
{_PEAK}
import pyarrow.parquet as pq
gc.collect()
started = time.perf_counter()
before = peak()
rows = 0
for path in sys.argv[2:]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows += file.read_row_group(group, columns=sys.argv[1].split(",")).num_rows
seconds = time.perf_counter() - started
print(json.dumps(dict(seconds=seconds, rows=rows, before=before, peak=peak(), digest="")))
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objects", type=positive, default=10_000_000, help="live ones, a multiple of 1,000")
    parser.add_argument("--repetitions", type=positive, default=7, help="of each side")
    parser.add_argument("--seed", type=int, default=1, help="of what is done to the bucket")
    parser.add_argument("--folder", type=Path, help="for the bucket (default: in the user's cache folder)")


def run(options: argparse.Namespace) -> Result:
    folder = options.folder or default_folder()
    with big_buckets(folder, [options.objects], seed=options.seed, root="file") as (bucket,):
        return measure(bucket, options.repetitions)


@dataclass(frozen=True, slots=True)
class Run:
    """One process."""

    seconds: float
    """Without its imports."""
    rows: int
    before: int
    """Its resident memory at most, KiB, when it had imported what it needs."""
    peak: int
    """The same, in the end."""
    digest: str


def measure(bucket: BigBucket, repetitions: int) -> Result:
    engine = bucket.engine()
    newest = max(engine.archive(BUCKET).checkpoints, key=lambda c: c.epoch)
    files = [str(bucket.folder / "archive" / file.path) for file in newest.objects]
    ours: list[Run] = []
    peers: list[Run] = []

    def digest() -> float:
        ours.append(_run(_OURS, [bucket.settings().store, BUCKET, str(bucket.stamp.at)]))
        return ours[-1].seconds

    def read() -> float:
        peers.append(_run(_PEER, [",".join(COLUMNS), *files]))
        return peers[-1].seconds

    digests, reads = alternate(digest, read, repetitions)
    rows = bucket.made.objects
    peak = max(each.peak for each in ours)
    return Result(
        name="resolve_memory",
        params={
            "objects": rows,
            "observations": bucket.stamp.observations,
            "files": len(files),
            "root": "file",
            "store": "sqlite",
            "repetitions": repetitions,
            "seed": bucket.stamp.seed,
        },
        figures={
            "digest": Figure.of(digests, "s"),
            "digest_rate": Figure.of([rows / s for s in digests], "rows/s"),
            "digest_peak": Figure.of([each.peak / 1024 for each in ours[1:]], "MiB"),
            "imports_alone": Figure.of([each.before / 1024 for each in ours[1:]], "MiB"),
            "bare_read": Figure.of(reads, "s"),
            "bare_read_rate": Figure.of([newest.rows / s for s in reads], "rows/s"),
            "bare_read_peak": Figure.of([each.peak / 1024 for each in peers[1:]], "MiB"),
        },
        ratios={"peak_gib": peak / 2**20, "read_rate": median_ratio(reads, digests) * rows / newest.rows},
        targets={"peak_gib": Target("at_most", 1.0), "read_rate": Target("at_least", 0.5)},
        correct=all(each.digest == bucket.stamp.digest for each in ours)
        and all(each.rows == newest.rows for each in peers),
    )


def _run(code: str, arguments: Sequence[str]) -> Run:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, cwd=ROOT)
    said: Mapping[str, float | int | str] = json.loads(done.stdout)
    return Run(**said)  # type: ignore[arg-type]  # by the names that the code above prints
