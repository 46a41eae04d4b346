"""Objects a second of exact versions: through a view's filesystem and dataset, beside plain clients.

10,000 objects of 100 KiB and 20 of 64 MiB, each with an old and a new version; the old ones are read. Ours
are `view.fs.cat` and a `DataLoader` over an iterable dataset. Plain clients, which are told keys and version
ids: obstore and boto3 with threads, s3fs with `version_aware`. All read from one SeaweedFS, whose folder is
kept, in turns; every body of every turn is compared with the hash of what was put in.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks._listing_server import alone_in
from benchmarks._read_bucket import (
    LARGE,
    LARGE_BYTES,
    SMALL,
    SMALL_BYTES,
    Counts,
    Filled,
    Put,
    prepare,
    serving,
)
from benchmarks._read_contenders import DATASET, FS, S3FS, Reader, ours, plain_clients
from benchmarks._read_view import view_at_t
from benchmarks.harness import Figure, Result, Target, median_ratio, positive, undisturbed

_FOLDER: Final = Path("~/.cache/snapengine-benchmarks/read_throughput")
_SMALL_THREADS: Final = (4, 8, 16)
_LARGE_THREADS: Final = (2, 4)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--small", type=positive, default=10_000, help="objects of 100 KiB")
    parser.add_argument("--large", type=positive, default=20, help="objects of 64 MiB")
    parser.add_argument("--repetitions", type=positive, default=5, help="of each reader")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="the server's; filled once")


def run(options: argparse.Namespace) -> Result:
    folder: Path = options.folder.expanduser()
    with alone_in(folder):
        filled = prepare(folder, Counts(options.small, options.large))
        with serving(folder) as server:
            small = _measured(filled, SMALL, server.endpoint_url, _SMALL_THREADS, options.repetitions)
            large = _measured(filled, LARGE, server.endpoint_url, _LARGE_THREADS, options.repetitions)
    kib, mib = SMALL_BYTES / 2**20, LARGE_BYTES / 2**20
    ratios = {f"small_{name}": small.to_fastest(name) for name in (FS, DATASET)}
    ratios |= {f"large_{name}": large.to_fastest(name) for name in (FS, DATASET)}
    ratios |= {f"small_{name}_to_s3fs": small.ratio(name, S3FS) for name in (FS, DATASET)}
    return Result(
        name="read_throughput",
        params={
            "small": options.small,
            "large": options.large,
            "repetitions": options.repetitions,
            "fastest_small": small.fastest,
            "fastest_large": large.fastest,
        },
        figures={
            **{f"small_{name}": small.figure(name, 1, "objects/s") for name in small.seconds},
            f"small_{FS}_mib": small.figure(FS, kib, "MiB/s"),
            **{f"large_{name}": large.figure(name, mib, "MiB/s") for name in large.seconds},
            **{f"small_{name}_cpu": small.cpu(name) for name in (FS, DATASET, small.fastest)},
            **{f"large_{name}_cpu": large.cpu(name) for name in (FS, DATASET, large.fastest)},
        },
        ratios=ratios,
        targets={name: Target("at_least", 2.0 if name.endswith("_to_s3fs") else 0.9) for name in ratios},
        correct=small.correct and large.correct,
    )


class _Measured:
    """What the readers of the same objects took, in turns."""

    def __init__(self, objects: Sequence[Put]) -> None:
        self._objects = objects
        self._hashes = [put.sha256 for put in objects]
        self.seconds: dict[str, list[float]] = {}
        self._cpu: dict[str, list[float]] = {}
        self.correct = True
        """Every reader gave every object's bytes, each time."""

    def turn(self, readers: Mapping[str, Reader], *, counts: bool = True) -> None:
        for name, read in readers.items():
            with undisturbed():
                began, used = time.perf_counter(), time.process_time()
                found = read()
                seconds, cpu = time.perf_counter() - began, time.process_time() - used
            if counts:
                self.seconds.setdefault(name, []).append(seconds)
                self._cpu.setdefault(name, []).append(cpu)
            self.correct = self.correct and self._hashes == [hashlib.sha256(one).hexdigest() for one in found]
            del found

    @property
    def fastest(self) -> str:
        """The plain client with the least median."""
        return min(self.seconds.keys() - {FS, DATASET}, key=lambda name: median(self.seconds[name]))

    def ratio(self, name: str, peer: str) -> float:
        """Of speeds, over the turns."""
        return median_ratio(self.seconds[peer], self.seconds[name])

    def to_fastest(self, name: str) -> float:
        return self.ratio(name, self.fastest)

    def figure(self, name: str, each: float, unit: str) -> Figure:
        return Figure.of([len(self._objects) * each / seconds for seconds in self.seconds[name]], unit)

    def cpu(self, name: str) -> Figure:
        """Of this process, the reader's threads included."""
        return Figure.of([1000 * seconds / len(self._objects) for seconds in self._cpu[name]], "ms/object")


def _measured(
    filled: Filled, prefix: str, endpoint: str, threads: Sequence[int], repetitions: int
) -> _Measured:
    """A first turn warms up. Who goes first changes with each turn."""
    objects = filled.old(prefix)
    measured = _Measured(objects)
    with view_at_t(filled, prefix) as view, plain_clients(objects, endpoint, threads) as peers:
        readers = list((ours(view, objects) | peers).items())
        measured.turn(dict(readers), counts=False)
        for number in range(repetitions):
            at = number * 3 % len(readers)
            measured.turn(dict(readers[at:] + readers[:at]))
    return measured
