"""The same 1,000-key prefix in ever larger buckets: a view of it must not cost the bucket's size.

Each view is cold: a new engine and new clients, no cache, nothing known of the archive. It reads manifests
from SQLite and files from SeaweedFS (`--root s3`) or a folder (`--root file`): a checkpoint, the segments
after it and the log's tail. Every view's rows are compared with what the made history says is live. The
buckets are made once, the largest in some minutes, and kept (`--folder`).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from benchmarks._big_bucket import BUCKET, BigBucket, big_buckets, default_folder
from benchmarks._big_rows import PATIENT_OBJECTS
from benchmarks.harness import Figure, Result, Target, Unavailable, median_ratio, positive, undisturbed
from snapengine.archive.manifest import ArchiveFile
from snapengine.archive.reading import ArchiveReader

SIZES = (100_000, 1_000_000, 10_000_000)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="objects of the buckets, ascending"
    )
    parser.add_argument("--repetitions", type=positive, default=11, help="views of each bucket")
    parser.add_argument("--root", choices=["s3", "file"], default="s3", help="where the archives are")
    parser.add_argument("--seed", type=int, default=1, help="of what is done to the buckets")
    parser.add_argument("--folder", type=Path, help="for the buckets (default: in the user's cache folder)")


def run(options: argparse.Namespace) -> Result:
    try:
        sizes = [int(size) for size in options.sizes.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 2 or sizes != sorted(set(sizes)) or sizes[0] < PATIENT_OBJECTS:
        raise Unavailable(f"--sizes {options.sizes}: two or more, ascending, multiples of {PATIENT_OBJECTS}.")
    with big_buckets(
        options.folder or default_folder(), sizes, seed=options.seed, root=options.root
    ) as buckets:
        return measure(buckets, options)


@dataclass(frozen=True, slots=True)
class Look:
    """One cold view of a prefix."""

    clients: float
    """Seconds in which the engine, its S3 client and its database were made."""
    view: float
    """Seconds from then on: the configuration, the epoch, the manifests, the files, the rows."""
    requests: int
    """To the archive's root."""
    bytes: int
    """Read from it."""
    groups: int
    """Row groups read."""
    right: bool


def measure(buckets: Sequence[BigBucket], options: argparse.Namespace) -> Result:
    """All buckets in turns, in another order each time; a first round does not count."""
    chance = random.Random(options.seed)
    looks: list[list[Look]] = [[] for _ in buckets]
    for repetition in range(options.repetitions + 1):
        place = chance.random()
        order = list(enumerate(buckets))
        for number, bucket in order if repetition % 2 else reversed(order):
            found = look(bucket, int(place * bucket.made.patients))
            if repetition:
                looks[number].append(found)
    figures: dict[str, Figure] = {}
    for bucket, seen in zip(buckets, looks, strict=True):
        size = _in_words(bucket.made.objects)
        figures |= {
            f"view_{size}": Figure.of([1000 * each.view for each in seen], "ms"),
            f"with_clients_{size}": Figure.of([1000 * (each.clients + each.view) for each in seen], "ms"),
            f"requests_{size}": Figure.of([each.requests for each in seen], "requests"),
            f"row_groups_{size}": Figure.of([each.groups for each in seen], "row groups"),
            f"bytes_{size}": Figure.of([each.bytes / 2**20 for each in seen], "MiB"),
        }
    smallest, largest = looks[0], looks[-1]
    return Result(
        name="prefix_scaling",
        params={
            "sizes": options.sizes,
            "prefix_objects": PATIENT_OBJECTS,
            "root": options.root,
            "store": "sqlite",
            "repetitions": options.repetitions,
            "seed": options.seed,
        },
        figures=figures,
        ratios={
            "time_growth": median_ratio([each.view for each in largest], [each.view for each in smallest]),
            "with_clients_growth": median_ratio(
                [each.clients + each.view for each in largest],
                [each.clients + each.view for each in smallest],
            ),
        },
        targets={"time_growth": Target("at_most", 1.5)},
        correct=all(each.right for seen in looks for each in seen),
    )


def look(bucket: BigBucket, patient: int) -> Look:
    """Cold, and judged."""
    expected = bucket.made.live_below(patient)
    with undisturbed():
        began = time.perf_counter()
        engine = bucket.engine()
        reader = engine.files(BUCKET)
        with recording(reader) as reads:
            made = time.perf_counter()
            table = engine.view(BUCKET, bucket.stamp.at, prefix=bucket.made.prefix(patient)).to_arrow()
            ended = time.perf_counter()
    requests, size = reader.requests, reader.bytes_read
    groups = sum(len(reader.groups(file) if chosen is None else chosen) for file, chosen in reads)
    right = table.select(expected.column_names).equals(expected) and table.num_rows == PATIENT_OBJECTS
    return Look(made - began, ended - made, requests, size, groups, right)


class recording:  # noqa: N801  # a context manager, used as a function
    """Within, what is read of a reader: files, and their row groups (None: all)."""

    def __init__(self, reader: ArchiveReader) -> None:
        self._reads: list[tuple[ArchiveFile, Sequence[int] | None]] = []
        read = reader.read

        def recorded(file: ArchiveFile, **how: Any) -> pa.Table:
            self._reads.append((file, how.get("groups")))
            return read(file, **how)

        self._patch = patch.object(reader, "read", recorded)

    def __enter__(self) -> list[tuple[ArchiveFile, Sequence[int] | None]]:
        self._patch.start()
        return self._reads

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


def _in_words(objects: int) -> str:
    for unit, name in ((1_000_000, "m"), (1_000, "k")):
        if objects % unit == 0:
            return f"{objects // unit}{name}"
    return str(objects)
