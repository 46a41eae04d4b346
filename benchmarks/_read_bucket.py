"""The bucket of `read_throughput`, filled once: small and large objects, each with an old and a new version.

In the folder: `server/` is SeaweedFS' own, `versions.parquet` has what its replies said with the hash of each
body, and `filled.json`, written last, says what is there. Without it the filling is begun again.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.config import Config

from benchmarks._listing_server import reaching
from benchmarks.harness import Unavailable
from tools.local_servers import SeaweedFs, ServiceFailed, ServiceUnavailable

BUCKET: Final = "scans"
SMALL, LARGE = "small/", "large/"
SMALL_BYTES, LARGE_BYTES = 100 * 1024, 64 * 2**20
_FORMAT: Final = 1
_THREADS: Final = 4
_PAUSE: Final = 1.1
"""Seconds before and after T, so that no event is of T's second."""
_SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("version_id", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("sha256", pa.string()),
        ("event_time", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Objects of each size; each has two versions."""

    small: int
    large: int


@dataclass(frozen=True, slots=True)
class Put:
    """A version, as S3's reply and its body tell of it."""

    key: str
    version_id: str
    size: int
    etag: str
    sha256: str
    """In hexadecimal digits."""
    event_time: int
    """UTC milliseconds, after the reply."""


@dataclass(frozen=True, slots=True)
class Filled:
    at: int
    """T, in UTC milliseconds: after the old version of every object, and before the new one of any."""
    puts: list[Put]
    """In the order of their times."""

    def old(self, prefix: str) -> list[Put]:
        """What is there at T, by key."""
        found = (put for put in self.puts if put.event_time <= self.at and put.key.startswith(prefix))
        return sorted(found, key=lambda put: put.key)


def prepare(folder: Path, counts: Counts) -> Filled:
    """What is in the folder, having filled it where it was not. Raises `Unavailable` where no server runs."""
    stamp, table = folder / "filled.json", folder / "versions.parquet"
    wanted = {"format": _FORMAT, **asdict(counts)}
    if not stamp.exists():
        server = folder / "server"
        shutil.rmtree(server, ignore_errors=True)
        print(f"filling {server}, once", file=sys.stderr)
        with serving(folder):
            at, puts = _fill(counts)
        pq.write_table(pa.Table.from_pylist([asdict(put) for put in puts], _SCHEMA), table)
        unfinished = folder / "filled.json.new"
        unfinished.write_text(json.dumps({**wanted, "at": at}))
        unfinished.rename(stamp)
    body = json.loads(stamp.read_text())
    if {name: body.get(name) for name in wanted} != wanted:
        raise Unavailable(f"{folder} holds {body}. Remove it, or give another --folder.")
    return Filled(body["at"], [Put(**row) for row in pq.read_table(table).to_pylist()])


@contextmanager
def serving(folder: Path) -> Iterator[SeaweedFs]:
    """Within, the folder's server runs, and AWS clients of this process and its children reach it."""
    try:
        with SeaweedFs(folder / "server") as server, reaching(server):
            yield server
    except (ServiceUnavailable, ServiceFailed) as problem:
        raise Unavailable(f"SeaweedFS does not run: {problem}") from problem


def _fill(counts: Counts) -> tuple[int, list[Put]]:
    client: Any = boto3.client("s3", config=Config(max_pool_connections=_THREADS))
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    objects = [(f"{SMALL}{number:05}.bin", SMALL_BYTES) for number in range(counts.small)]
    objects += [(f"{LARGE}{number:02}.bin", LARGE_BYTES) for number in range(counts.large)]

    def put(key: str, size: int, generation: int) -> Put:
        body = random.Random(f"{generation} {key}").randbytes(size)
        reply = client.put_object(Bucket=BUCKET, Key=key, Body=body)
        sha256 = hashlib.sha256(body).hexdigest()
        return Put(key, reply["VersionId"], size, reply["ETag"].strip('"'), sha256, _now())

    def all_of(generation: int) -> list[Put]:
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda named: put(named[0], named[1], generation), objects))

    old = all_of(1)
    time.sleep(_PAUSE)
    at = _now()
    time.sleep(_PAUSE)
    return at, sorted([*old, *all_of(2)], key=lambda put: put.event_time)


def _now() -> int:
    return time.time_ns() // 1_000_000
