"""The archive of `view_vs_listing`: on the same server, in a bucket of its own, made as the log grows.

`snapengine archive` runs after each epoch, as every hour would have it. So T has checkpoints before it and
after it, as the policy made them then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import boto3

from snapengine.archiving.run import archive_bucket
from snapengine.engine import Engine
from snapengine.model import Epoch


@dataclass(slots=True)
class Archiver:
    """Brings one bucket's archive up to date, whenever it is told of an epoch, and takes the time."""

    engine: Engine
    bucket: str
    seconds: float = 0.0
    runs: int = 0

    async def __call__(self, _: Epoch) -> None:
        started = time.perf_counter()
        await archive_bucket(self.engine, self.bucket)
        self.seconds += time.perf_counter() - started
        self.runs += 1

    def bytes(self) -> int:
        """Of all files that stand."""
        archive = self.engine.archive(self.bucket)
        return sum(file.size for manifest in archive.standing for file in manifest.files)


@contextmanager
def place_for_archive() -> Iterator[str]:
    """The URL of a root in a bucket that is gone afterwards, on the server that this process reaches."""
    client: Any = boto3.client("s3")
    bucket = f"archive-{token_hex(6)}"
    client.create_bucket(Bucket=bucket)
    try:
        yield f"s3://{bucket}/archive"
    finally:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=bucket, Key=item["Key"])
        client.delete_bucket(Bucket=bucket)
