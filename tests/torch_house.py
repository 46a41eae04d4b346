"""What tests of the torch readers share: torch, or why it is not there, and buckets of numbered objects."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from snapengine import Engine, Settings
from tests.seed import enable, event, record


def need_torch(*packages: str) -> None:
    """Skip the module where a package is missing; fail in CI (CI=true), where a skip would go unseen."""
    missing = [name for name in ("torch", *packages) if find_spec(name) is None]
    if not missing:
        return
    reason = f"{', '.join(missing)} not installed: pip install -r requirements-torch.txt"
    if os.environ.get("CI") == "true":
        raise ImportError(f"CI must have torch: {reason}")
    pytest.skip(reason, allow_module_level=True)


QUIET = [
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create"
    ),  # more workers than this machine has cores
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata calls it
]


def body(number: int) -> bytes:
    """What object `number` holds."""
    return f"{number:05d} ".encode() * (1 + number % 7)


def key(number: int) -> str:
    return f"ct/{number:05d}"


def number_of(name: str, data: bytes) -> int:
    """For `decode`: the number of an object, if these are its bytes."""
    number = int(name.removeprefix("ct/"))
    assert data == body(number)
    return number


class NumberedBucket:
    """Objects `ct/00000`, `ct/00001`, ... in the environment's S3, told to a table in a file."""

    def __init__(self, folder: Path, count: int) -> None:
        self.s3: Any = boto3.session.Session().client("s3")  # of the environment as it is now
        self.store = f"sqlite:///{folder}/log.db"
        self.tensors = folder / "tensors"
        self.bucket = f"b-{uuid4().hex}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})
        engine = self.engine()
        engine.store.create()
        enable(engine, self.bucket)
        self.seconds = 0
        record(engine, [self.put(key(number), body(number)) for number in range(count)], self.bucket)

    def put(self, name: str, data: bytes) -> Any:
        reply = self.s3.put_object(Bucket=self.bucket, Key=name, Body=data)
        self.seconds += 1
        etag = reply["ETag"].strip('"')
        return event(name, reply.get("VersionId", "null"), self.seconds, size=len(data), etag=etag)

    def engine(self, **settings: Any) -> Engine:
        given = {"tensor_cache": str(self.tensors), "cache": "off"} | settings
        return Engine(Settings(store=self.store, **given))
