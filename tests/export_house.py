"""A watched bucket and another one, in any S3, whose log is told of each write by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3

from readers.export import Exported, Options, export
from readers.export_paths import OURS
from snapengine import Engine, Settings, View
from snapengine.engine import wall_clock
from tests.seed import T0, enable, event, marker, record

MIB = 1 << 20
AWKWARD = ["a", "/a", "a/", "a//b", "a/../b", "a::b", "a*", "[a]", "a?b", "a#b", "a%2Bb", "a+b", "~a", "é"]


class House:
    """What the environment's S3 has of it, and an engine on a SQLite log."""

    def __init__(self, log: Path, *, versioning: str | None = "Enabled") -> None:
        self.s3: Any = boto3.client("s3")
        self.store = f"sqlite:///{log}"
        self.engine = Engine(Settings(store=self.store))
        self.engine.store.create()
        self.bucket, self.other = f"b-{uuid4().hex}", f"o-{uuid4().hex}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.s3.create_bucket(Bucket=self.other)
        if versioning is not None:
            self.versioning("Enabled")
            self.versioning(versioning)
        enable(self.engine, self.bucket)

    def versioning(self, status: str) -> None:
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": status})

    def put(self, key: str, body: bytes, **options: Any) -> str:
        """The version's id."""
        reply = self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **options)
        self._tell(key, reply, len(body))
        return str(reply.get("VersionId", "null"))

    def upload(self, key: str, *parts: bytes, **options: Any) -> str:
        """A multipart upload; its ETag."""
        upload = self.s3.create_multipart_upload(Bucket=self.bucket, Key=key, **options)["UploadId"]
        done = []
        for number, body in enumerate(parts, 1):
            reply = self.s3.upload_part(
                Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=number, Body=body
            )
            done.append({"PartNumber": number, "ETag": reply["ETag"]})
        reply = self.s3.complete_multipart_upload(
            Bucket=self.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": done}
        )
        self._tell(key, reply, sum(map(len, parts)))
        return str(reply["ETag"].strip('"'))

    def delete(self, key: str) -> str:
        """The marker's id."""
        version = self.s3.delete_object(Bucket=self.bucket, Key=key)["VersionId"]
        record(self.engine, [marker(key, version, self._now())], self.bucket)
        return str(version)

    def view(self, **options: Any) -> View:
        return self.engine.view(self.bucket, **options)

    def later(self) -> int:
        """An instant after all that was told, and before all that comes; epoch milliseconds."""
        time.sleep(0.005)
        instant = wall_clock()
        time.sleep(0.005)
        return instant

    def _tell(self, key: str, reply: Mapping[str, Any], size: int) -> None:
        etag = reply["ETag"].strip('"')
        told = event(key, reply.get("VersionId", "null"), self._now(), size=size, etag=etag)
        record(self.engine, [told], self.bucket)

    def _now(self) -> float:
        return (wall_clock() - T0) / 1000

    def export(self, view: View, prefix: str = "", **options: Any) -> Exported:
        """Export to the other bucket."""
        return export(self.engine, view, f"s3://{self.other}/{prefix}", Options(**options))

    def bodies(self, prefix: str = "") -> dict[str, bytes]:
        """What is in the other bucket, but for manifests."""
        return {
            key.removeprefix(prefix): body
            for key, body in self.live(self.other, prefix).items()
            if not key.startswith(prefix + OURS)
        }

    def live(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """What a bucket shows now."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {key: self.s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def manifest(self, done: Exported) -> list[dict[str, Any]]:
        key = done.manifest.removeprefix(f"s3://{self.other}/")
        text = self.s3.get_object(Bucket=self.other, Key=key)["Body"].read().decode("ascii")
        return [json.loads(line) for line in text.splitlines()]


@contextmanager
def requests_seen(engine: Engine, *operations: str) -> Iterator[list[Mapping[str, Any]]]:
    """The parameters of what the engine's new S3 clients ask within, of these operations."""
    seen: list[Mapping[str, Any]] = []
    make: Callable[[Any], Any] = engine.client

    def client(service: Any) -> Any:
        made = make(service)
        for operation in operations:
            made.meta.events.register(
                f"before-parameter-build.s3.{operation}", lambda params, **_: seen.append(dict(params))
            )
        return made

    engine.client = client  # type: ignore[method-assign]  # within alone
    try:
        yield seen
    finally:
        del engine.client
