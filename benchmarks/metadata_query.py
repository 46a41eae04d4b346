"""CT scans of all male patients over 50, of ten million objects as they were at a past instant.

Ours is `view.metadata_table(where=...)` in a new process, cold: the view is opened, what came after the
checkpoint is joined with its rows and put in the place of what the checkpoint's files say, every byte that
was used is verified, and objects without a row are counted. The peer, a new process too, is DuckDB asked for
the same columns of the same files with the same condition: it knows nothing of the view, and so answers as of
the checkpoint. Ours is compared with the objects that are live in the made history and answer the question by
their numbers, without any SQL; the peer with what `pyarrow` finds in the files. The bucket is in a folder
(`--folder`); it is made once, in some minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks._big_bucket import BUCKET, BigBucket, big_buckets, default_folder
from benchmarks._big_metadata import EXTRACTOR, QUESTION, answers
from benchmarks.harness import Figure, Result, Target, alternate, median_ratio, positive
from snapengine.archive.manifest import ArchiveFile
from tools.local_servers import ROOT

TIMEOUT = 900
"""Seconds for one process."""

# What imports leave to be collected is theirs, so it is not in either side's time, as they are not.
# A process begins with the peak of the one that started it, by `ru_maxrss`; Linux tells its own apart.
_COMMON = """\
import gc, hashlib, json, resource, sys, time
def peak():
    try:
        lines = open("/proc/self/status").read().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
def say(table, seconds):
    most = peak()
    pairs = sorted(zip(table["key"].to_pylist(), table["version_id"].to_pylist()))
    found = hashlib.sha256(repr(pairs).encode()).hexdigest()
    print(json.dumps(dict(seconds=seconds, rows=table.num_rows, peak=most, found=found)))
"""

_OURS = f"""\
{_COMMON}
import duckdb
from metadata_extractors import frame, querying
from snapengine.engine import Engine
from snapengine.settings import Settings
import snapengine.resolver, snapengine.row_reading
gc.collect()
started = time.perf_counter()
view = Engine(Settings(store=sys.argv[1], cache="off")).view(sys.argv[2], int(sys.argv[3]))
table = view.metadata_table(sys.argv[4], where=sys.argv[5], columns=[])
seconds = time.perf_counter() - started
about = json.loads(table.schema.metadata[b"snapengine"])
assert about["without_row"] == 0, about
say(table, seconds)
"""

_PEER = f"""\
{_COMMON}
import duckdb
import pyarrow
gc.collect()
started = time.perf_counter()
connection = duckdb.connect()
connection.execute("SET enable_progress_bar = false")
files = connection.read_parquet(sys.argv[2:])
query = f"SELECT key, version_id, size, event_time FROM files WHERE {{sys.argv[1]}}"
table = connection.sql(query).to_arrow_table()
seconds = time.perf_counter() - started
say(table, seconds)
"""  # noqa: S608  # the condition is ours


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objects", type=positive, default=10_000_000, help="live ones, a multiple of 1,000")
    parser.add_argument("--repetitions", type=positive, default=7, help="of each side")
    parser.add_argument("--seed", type=int, default=1, help="of what is done to the bucket")
    parser.add_argument("--folder", type=Path, help="for the bucket (default: in the user's cache folder)")


def run(options: argparse.Namespace) -> Result:
    folder = options.folder or default_folder()
    with big_buckets(folder, [options.objects], seed=options.seed, root="file", metadata=True) as (bucket,):
        return measure(bucket, options.repetitions)


@dataclass(frozen=True, slots=True)
class Run:
    """One process."""

    seconds: float
    """Without its imports."""
    rows: int
    peak: int
    """Its resident memory at most, KiB, before the answer was compared."""
    found: str
    """A hash of the keys and version ids."""


def measure(bucket: BigBucket, repetitions: int) -> Result:
    engine = bucket.engine()
    newest = max(engine.archive(BUCKET).checkpoints, key=lambda c: c.epoch)
    live = [f for f in newest.files if f.role == "live_identifying" and f.extractor == EXTRACTOR]
    paths = [str(bucket.folder / "archive" / file.path) for file in live]
    ours: list[Run] = []
    peers: list[Run] = []

    def ask() -> float:
        arguments = [bucket.settings().store, BUCKET, str(bucket.stamp.at), EXTRACTOR, QUESTION]
        ours.append(_run(_OURS, arguments))
        return ours[-1].seconds

    def ask_duckdb() -> float:
        peers.append(_run(_PEER, [QUESTION, *paths]))
        return peers[-1].seconds

    asked, directly = alternate(ask, ask_duckdb, repetitions)
    truth, in_files = _truth(bucket), _in_files(bucket, live)
    return Result(
        name="metadata_query",
        params={
            "objects": bucket.made.objects,
            "rows": sum(file.rows for file in live),
            "files": len(live),
            "bytes": sum(file.size for file in live),
            "found": ours[-1].rows,
            "root": "file",
            "store": "sqlite",
            "repetitions": repetitions,
            "seed": bucket.stamp.seed,
        },
        figures={
            "query": Figure.of(asked, "s"),
            "query_peak": Figure.of([each.peak / 1024 for each in ours[1:]], "MiB"),
            "duckdb": Figure.of(directly, "s"),
            "duckdb_peak": Figure.of([each.peak / 1024 for each in peers[1:]], "MiB"),
        },
        ratios={
            "query_to_duckdb": median_ratio(asked, directly),
            "peak_gib": max(each.peak for each in ours) / 2**20,
        },
        targets={"query_to_duckdb": Target("at_most", 1.5), "peak_gib": Target("at_most", 1.0)},
        correct=all(each.found == truth for each in ours) and all(each.found == in_files for each in peers),
    )


def _truth(bucket: BigBucket) -> str:
    """Of what is live at the instant, by what the made history says."""
    lots = (lot.live for lot in bucket.made.all_lots())
    return _hash(live.filter(pa.array(answers(live))) for live in lots)


def _in_files(bucket: BigBucket, files: Sequence[ArchiveFile]) -> str:
    """By `pyarrow`, of what the peer reads."""
    condition = (
        (pc.field("Modality") == "CT") & (pc.field("PatientSex") == "M") & (pc.field("PatientAgeYears") > 50)
    )
    columns = ["key", "version_id", "Modality", "PatientSex", "PatientAgeYears"]
    tables = (
        group.filter(condition)
        for file in files
        for group in _groups(bucket.folder / "archive" / file.path, columns)
    )
    return _hash(tables)


def _groups(path: Path, columns: Sequence[str]) -> Iterable[pa.Table]:
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=list(columns))


def _hash(tables: Iterable[pa.Table]) -> str:
    pairs = [
        pair
        for table in tables
        for pair in zip(table["key"].to_pylist(), table["version_id"].to_pylist(), strict=True)
    ]
    return hashlib.sha256(repr(sorted(pairs)).encode()).hexdigest()


def _run(code: str, arguments: Sequence[str]) -> Run:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, cwd=ROOT)
    said: Mapping[str, float | int | str] = json.loads(done.stdout)
    return Run(**said)  # type: ignore[arg-type]  # by the names that the code above prints
