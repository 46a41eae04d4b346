"""Where `dicom_headers` runs: one core for what is measured, the others for S3; and the objects in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks._dicom_files import File
from benchmarks._listing_server import reaching
from benchmarks.harness import Unavailable
from snapengine.engine import Engine
from snapengine.model import ObjectVersion
from snapengine.settings import Settings
from tools.local_servers import SeaweedFs, ServiceFailed, ServiceUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET: Final = "scans"


@dataclass(frozen=True, slots=True)
class Stored:
    """An object, and the file that it is."""

    version: ObjectVersion
    file: File


@dataclass(frozen=True, slots=True)
class Stage:
    client: S3Client
    """As the engine makes it."""
    cores: str
    """What runs where."""

    def fill(self, name: str, files: Sequence[File], count: int) -> list[Stored]:
        """So many objects, the files again and again, under keys of their own."""

        def put(number: int) -> Stored:
            file = files[number % len(files)]
            key = f"{name}/{number:06}-{file.name}"
            reply = self.client.put_object(Bucket=BUCKET, Key=key, Body=file.data)
            version = ObjectVersion(
                key,
                reply["VersionId"],
                size=len(file.data),
                etag=reply["ETag"].strip('"'),
                sequencer=None,
                event_time=0,
            )
            return Stored(version, file)

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(put, range(count)))


@contextmanager
def stage() -> Iterator[Stage]:
    """Within, this process and its children have one core, and SeaweedFS those beside it. Raises
    `Unavailable` where SeaweedFS does not run."""
    with tempfile.TemporaryDirectory() as folder, _cores() as (others, own):
        _run_on(others)
        try:
            with SeaweedFs(Path(folder)) as server, reaching(server):
                _run_on(own)
                client = Engine(Settings(store=f"sqlite:///{folder}/log.db")).client("s3")
                client.create_bucket(Bucket=BUCKET)
                client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
                yield Stage(client, _told(others, own))
        except (ServiceUnavailable, ServiceFailed) as problem:
            raise Unavailable(f"SeaweedFS does not run: {problem}") from problem


@contextmanager
def _cores() -> Iterator[tuple[set[int], set[int]]]:
    """Those for the server and the one for us, if this system lets a process choose; then as before."""
    if not hasattr(os, "sched_setaffinity"):
        yield set(), set()
        return
    before = os.sched_getaffinity(0)
    own = {min(before)}
    try:
        yield before - own or own, own
    finally:
        os.sched_setaffinity(0, before)


def _run_on(cores: set[int]) -> None:
    """This thread, and the processes and threads that it starts from now on."""
    if cores:
        os.sched_setaffinity(0, cores)


def _told(others: set[int], own: set[int]) -> str:
    if not own:
        return "not pinned"
    return "server beside" if others != own else "server on the same"
