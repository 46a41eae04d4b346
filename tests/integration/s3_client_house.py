"""A bucket on a real S3 server or in the embedded cloud, and an engine that is told of each write at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.session import Session

from snapengine import Engine, Settings, View
from tests.seed import enable, event, marker, record, removal


class House:
    """A bucket with a plain client, and an engine over a log of its own."""

    def __init__(
        self, environment: Mapping[str, str], log: Path, patch: pytest.MonkeyPatch, versioning: str | None
    ) -> None:
        for name, value in environment.items():
            patch.setenv(name, value)
        self.s3: Any = boto3.Session(botocore_session=Session()).client("s3")
        self.engine = Engine(Settings(store=f"sqlite:///{log}"))
        self.engine.store.create()
        self.bucket = f"b-{uuid4().hex}"
        self.old: Any = None
        self.s3.create_bucket(Bucket=self.bucket)
        if versioning is not None:
            self.versioning("Enabled")
            self.versioning(versioning)
        enable(self.engine, self.bucket)

    @property
    def is_seaweedfs(self) -> bool:
        """Which keeps some keys as others: docs/services.md."""
        said = self.s3.head_bucket(Bucket=self.bucket)["ResponseMetadata"]["HTTPHeaders"]
        return "seaweedfs" in said.get("server", "").lower()

    def versioning(self, status: str) -> None:
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": status})

    def put(self, key: str, body: bytes, ago: int = 0, **options: Any) -> str:
        """The version id. The event is told as of `ago` milliseconds before it was."""
        reply = self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **options)
        version = reply.get("VersionId", "null")
        self._tell(event(key, version, 0, size=len(body), etag=reply["ETag"].strip(chr(34))), ago=ago)
        return str(version)

    def put_many(self, keys: list[str], body: bytes = b"x") -> None:
        told = []
        for key in keys:
            reply = self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
            etag = reply["ETag"].strip('"')
            told.append(event(key, reply.get("VersionId", "null"), 0, size=len(body), etag=etag))
        self._tell(*told)

    def put_in_parts(self, key: str, *bodies: bytes) -> str:
        place = {"Bucket": self.bucket, "Key": key}
        upload = self.s3.create_multipart_upload(**place)["UploadId"]
        parts = []
        for number, body in enumerate(bodies, 1):
            part = self.s3.upload_part(**place, UploadId=upload, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        reply = self.s3.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})
        version = str(reply.get("VersionId", "null"))
        self._tell(event(key, version, 0, size=sum(map(len, bodies)), etag=reply["ETag"].strip('"')))
        return version

    def delete(self, key: str) -> None:
        reply = self.s3.delete_object(Bucket=self.bucket, Key=key)
        self._tell(marker(key, reply["VersionId"], 0))

    def remove(self, key: str, version: str, *, told: bool = True) -> None:
        self.s3.delete_object(Bucket=self.bucket, Key=key, VersionId=version)
        if told:
            self._tell(removal(key, version, 0))

    def view(self, prefix: str = "") -> View:
        return self.engine.view(self.bucket, prefix=prefix)

    def _tell(self, *observations: Any, ago: int = 0) -> None:
        now = time.time_ns() // 1_000_000 - ago
        told = [each._replace(event_time=now, storage_class="STANDARD") for each in observations]
        record(self.engine, told, self.bucket)


def shape(value: Any) -> Any:
    """What kinds of values are where."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value).__name__
