"""A history, and the command run on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import boto3

from snapengine import Engine
from snapengine.devcloud import DevCloud
from snapengine.instants import render
from tests.seed import T0, enable, event, record, removal

Lines = list[dict[str, Any]]

EARLY, LATE = render(T0 + 10_000), render(T0 + 200_000)

Failing = Callable[..., dict[str, str]]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snapengine", *arguments]


def snapengine(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def keys(lines: Lines) -> list[str]:
    return [line["key"] for line in lines]


class Bucket:
    """A versioned bucket in the cloud, and a log that is told of what a test chooses to tell it."""

    def __init__(self, cloud: DevCloud, engine: Engine) -> None:
        self.s3: Any = boto3.client("s3", **cloud.client_arguments())
        self.engine = engine
        self.name = f"b-{uuid4().hex}"
        self.s3.create_bucket(Bucket=self.name)
        self.s3.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})
        enable(engine, self.name)

    def put(self, key: str, *, told: bool = True, etag: str | None = None, **options: Any) -> str:
        """The version's id."""
        reply = self.s3.put_object(Bucket=self.name, Key=key, Body=b"body of " + key.encode(), **options)
        version = str(reply["VersionId"])
        if told:
            seen = event(key, version, 1, size=8 + len(key), etag=etag or reply["ETag"].strip('"'))
            record(self.engine, [seen], self.name)
        return version

    def remove(self, key: str, version: str, *, told: bool = True) -> None:
        self.s3.delete_object(Bucket=self.name, Key=key, VersionId=version)
        if told:
            record(self.engine, [removal(key, version, 500)], self.name)
