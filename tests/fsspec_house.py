"""A bucket in a real S3 or the embedded cloud, and the log of this process, which is told of each write."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.session import Session

from snapengine import Engine, View
from tests.seed import enable, event, marker, record, removal

AWKWARD = ["a", "/a", "a/", "a//b", "a/../b", "a::b", "a*", "[a]", "a?b", "a#b", "a%2Bb", "a+b", "~a", "é"]


class House:
    """A bucket with a plain client. Events are dated as they happen, so `now` and instants can be told."""

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Path,
        patch: pytest.MonkeyPatch,
        versioning: str | None = "Enabled",
    ) -> None:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("SNAPENGINE_STORE", f"sqlite:///{log}")
        self.s3: Any = boto3.Session(botocore_session=Session()).client("s3")
        self.engine = Engine()
        if not log.exists():
            self.engine.store.create()
        self.bucket = f"b-{uuid4().hex}"
        self.s3.create_bucket(Bucket=self.bucket)
        if versioning is not None:
            self.versioning("Enabled")
            self.versioning(versioning)
        enable(self.engine, self.bucket)

    def versioning(self, status: str) -> None:
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": status})

    def put(self, key: str, body: bytes) -> str:
        return self.put_all({key: body})[key]

    def put_all(self, bodies: Mapping[str, bytes]) -> dict[str, str]:
        """The version ids, by key; all in one epoch."""
        versions, told = {}, []
        for key, body in bodies.items():
            reply = self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
            versions[key] = reply.get("VersionId", "null")
            told.append(event(key, versions[key], 0, size=len(body), etag=reply["ETag"].strip('"')))
        self._tell(*told)
        return versions

    def delete(self, key: str) -> None:
        reply = self.s3.delete_object(Bucket=self.bucket, Key=key)
        self._tell(marker(key, reply["VersionId"], 0))

    def remove(self, key: str, version: str, *, told: bool = True) -> None:
        """For good."""
        self.s3.delete_object(Bucket=self.bucket, Key=key, VersionId=version)
        if told:
            self._tell(removal(key, version, 0))

    def view(self, **options: Any) -> View:
        return self.engine.view(self.bucket, **options)

    def instant(self) -> str:
        """RFC 3339, after all that was told and before all that comes."""
        time.sleep(0.003)
        now = _now()
        time.sleep(0.003)
        from snapengine.instants import render

        return render(now)

    def url(self, key: str, at: str) -> str:
        return f"snap://{self.bucket}@{at}/{key}"

    def _tell(self, *observations: Any) -> None:
        now = _now()
        record(self.engine, [each._replace(event_time=now) for each in observations], self.bucket)


def _now() -> int:
    return time.time_ns() // 1_000_000


def credentials() -> dict[str, str]:
    """What this process's environment says of AWS, for a child's."""
    return {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "SNAPENGINE_"))}
