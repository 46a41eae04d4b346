"""Roots for the tests of the archive's files, in a folder and in S3 (moto), and rows to put there."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pyarrow as pa
from botocore.config import Config
from moto.server import ThreadedMotoServer

from snapengine.archive.manifest import ArchiveFile
from snapengine.archive.roots import Root, open_root
from snapengine.archive.writing import FileWriter
from snapengine.observation_codec import SCHEMA

SEGMENT = SCHEMA.append(pa.field("epoch", pa.int64(), nullable=False))
SORT = ("key", "event_time", "epoch")
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._"


@dataclass
class RootSite:
    """A root, and its files behind its back."""

    root: Root
    s3: Any = None
    bucket: str = ""
    folder: Path | None = None

    def overwrite(self, path: str, data: bytes) -> None:
        if self.folder:
            (self.folder / path).write_bytes(data)
        else:
            self.s3.put_object(Bucket=self.bucket, Key=f"the/prefix/{path}", Body=data)


@contextmanager
def moto_s3() -> Iterator[Any]:
    """A boto3 client of an S3 that forgets."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            config=Config(retries={"max_attempts": 2}, s3={"addressing_style": "path"}),
        )
    finally:
        server.stop()


def root_site(kind: str, folder: Path, s3: Any) -> RootSite:
    """`kind`: "file" or "s3"."""
    if kind == "file":
        return RootSite(open_root(f"file://{folder}/root", no_client), folder=folder / "root")
    bucket = f"archive-{uuid4().hex}"
    s3.create_bucket(Bucket=bucket)
    return RootSite(open_root(f"s3://{bucket}/the/prefix/", lambda: s3), s3=s3, bucket=bucket)


def no_client() -> Any:
    raise AssertionError("a root in a folder needs no S3 client")


def observed(keys: Sequence[str], *, seed: int = 0, start: int = 1_763_000_000_000) -> pa.Table:
    """Rows of `SEGMENT` as events have them, one a key, with what is random in S3 made random."""
    chance = random.Random(seed)
    times = [start + chance.randrange(30 * 86_400_000) for _ in keys]
    rows: dict[str, list[Any]] = {name: [None] * len(keys) for name in SEGMENT.names}
    rows |= {
        "kind": ["Created"] * len(keys),
        "key": list(keys),
        "version_id": ["".join(chance.choices(_BASE64, k=32)) for _ in keys],
        "event_time": times,
        "sequencer": [f"00{time // 1000:X}{chance.randrange(16**8):08X}" for time in times],
        "size": [chance.randrange(500_000, 540_000) for _ in keys],
        "etag": [f"{chance.randrange(16**32):032x}" for _ in keys],
        "storage_class": ["STANDARD"] * len(keys),
        "origin": ["event"] * len(keys),
        "event_name": ["ObjectCreated:Put"] * len(keys),
        "epoch": [1 + (time - start) // 1000 for time in times],
    }
    return pa.table([pa.array(rows[field.name], field.type) for field in SEGMENT], schema=SEGMENT)


def image_keys(count: int) -> list[str]:
    """In order."""
    return [
        f"ct/patient-{n // 2400:06d}/series-{n // 300 % 8:02d}/IM-{n % 300:04d}.dcm" for n in range(count)
    ]


def put_rows(root: Root, path: str, table: pa.Table) -> ArchiveFile:
    with FileWriter(root, path, "regular", table.schema, sort=SORT) as writer:
        writer.write(table)
    return writer.file
