"""A view's objects as objects of another bucket or prefix, copied by S3 itself and compared afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from readers.export_copying import Copier, Place
from readers.export_evidence import described, same_bytes, stored, verdict
from readers.export_order import side_by_side
from readers.export_outcomes import Conflict, Outcome, problem_of
from readers.export_paths import OURS, odd_keys
from snapengine.aws_errors import translate, translated
from snapengine.errors import SnapEngineError, UsageError, VersionGone
from snapengine.model import ObjectVersion
from snapengine.reference import checked_bucket
from snapengine.views import View

SCHEME = "s3://"


@dataclass(frozen=True, slots=True)
class Listed:
    """An object that is at the destination already."""

    key: str
    """Below the destination's prefix."""
    size: int
    """Bytes."""
    etag: str


@dataclass(frozen=True, slots=True)
class Job:
    """A version, and what is where its copy goes."""

    version: ObjectVersion
    there: Listed | None


@dataclass(slots=True)
class Prefix:
    """A prefix of a bucket that a view is exported to."""

    bucket: str
    prefix: str
    view: View
    copier: Copier
    overwrite: bool = False
    workers: int = 24

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing keeps another export out: each copy is made on condition that nothing came to be there."""
        yield

    def odd(self, keys: Iterator[str]) -> Iterator[tuple[str, str]]:
        return odd_keys(keys, self.prefix)

    def name(self, key: str) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}{key}"

    def standing(self, versions: Iterator[ObjectVersion]) -> Iterator[tuple[ObjectVersion | None, str]]:
        """Each with `new`, `there` (an object of its size and ETag) or `other`, by a listing; and None with
        `beside` for each object that is there and none of them."""
        for version, there in side_by_side(versions, self._listed()):
            if version is None:
                if there is not None and not there.key.startswith(OURS):
                    yield None, "beside"
            elif there is None:
                yield version, "new"
            else:
                same = (there.size, there.etag) == (version.size, version.etag)
                yield version, "there" if same else "other"

    def jobs(self, versions: Iterator[ObjectVersion]) -> Iterator[Job]:
        for version, there in side_by_side(versions, self._listed()):
            if version is not None:
                yield Job(version, there)

    def put(self, job: Job) -> Outcome:
        """Copy one, unless it is there."""
        version, name = job.version, self.name(job.version.key)
        try:
            if job.there is not None and (found := self._there(version, job.there, name)):
                return found
            if job.there is not None and not self.overwrite:
                raise Conflict(f"{name} is there and is not this version: it is left as it is (--overwrite).")
            condition = {"IfMatch": f'"{job.there.etag}"'} if job.there else {"IfNoneMatch": "*"}
            place = Place(self.bucket, self.prefix + version.key, condition)
            copied = self.copier.copy(self.view.bucket, version, place)
        except SnapEngineError as error:
            return problem_of(self._why(error, version), version, name)
        copy = copied.stored
        return Outcome("copied", version, name, copied.checked, copy.size, copy.etag, copy.version_id)

    def keep_manifest(self, spooled: Path, name: str) -> str:
        """The manifest's address, once it is there, whole."""
        key = f"{self.prefix}{OURS}{name}"
        with translated(f"bucket {self.bucket}"):
            self.copier.client.upload_file(
                str(spooled), self.bucket, key, ExtraArgs={"ContentType": "application/x-ndjson"}
            )
        return f"{SCHEME}{self.bucket}/{key}"

    def _listed(self) -> Iterator[Listed]:
        pages = self.copier.client.get_paginator("list_objects_v2")
        with translated(f"bucket {self.bucket}"):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for found in page.get("Contents", ()):
                    key = found["Key"].removeprefix(self.prefix)
                    yield Listed(key, found["Size"], found["ETag"].strip('"'))

    def _there(self, version: ObjectVersion, there: Listed, name: str) -> Outcome | None:
        """The outcome, if what is there has the version's bytes."""
        if there.size == version.size and there.etag == version.etag:
            return Outcome("there", version, name, ("size", "etag"), there.size, there.etag)
        if version.size is not None and there.size != version.size:
            return None
        source = described(self.copier.client, self.view.bucket, version)
        reply = self._asked("head_object", version, there, ChecksumMode="ENABLED")
        copy = stored(reply)
        found: str = verdict(source, copy)
        if found == "unknown":
            found = "bytes" if self._same(version, there) else "different"
        if found == "different":
            return None
        return Outcome("there", version, name, ("size", found), copy.size, copy.etag, copy.version_id)

    def _same(self, version: ObjectVersion, there: Listed) -> bool:
        def read(start: int, end: int) -> bytes:
            reply = self._asked("get_object", version, there, Range=f"bytes={start}-{end - 1}")
            data: bytes = reply["Body"].read()
            return data

        return same_bytes(lambda start, end: self.view.read_version(version, start, end), read, there.size)

    def _asked(self, method: str, version: ObjectVersion, there: Listed, **options: Any) -> Mapping[str, Any]:
        """Of what was listed, and of nothing else."""
        key = self.prefix + version.key
        try:
            reply: Mapping[str, Any] = getattr(self.copier.client, method)(
                Bucket=self.bucket, Key=key, IfMatch=f'"{there.etag}"', **options
            )
        except (ClientError, BotoCoreError) as error:
            raise translate(error, f"{SCHEME}{self.bucket}/{key}") from error
        return reply

    def _why(self, error: SnapEngineError, version: ObjectVersion) -> SnapEngineError:
        """Of a version that is gone also what the log knows of it."""
        if isinstance(error, VersionGone) and (reason := self.view.why_gone(version)):
            return VersionGone(f"{error} {reason}", version.key, version.version_id)
        return error


def prefix_of(destination: str, view: View, copier: Copier, *, overwrite: bool) -> Prefix:
    """From `s3://BUCKET/PREFIX/`. Raises `UsageError` for another form, and for the view's own prefix."""
    bucket, _, prefix = destination.removeprefix(SCHEME).partition("/")
    checked_bucket(bucket)
    if prefix and not prefix.endswith("/"):
        raise UsageError(f"{destination}: a prefix ends in a slash. Write {destination}/.")
    own = view.prefix.startswith(prefix) or prefix.startswith(view.prefix)
    if bucket == view.bucket and own:
        raise UsageError(
            f"{destination} and {view.reference} share keys: what is exported there would be part of what is "
            "exported. Choose another bucket or prefix; `snapengine rollback` brings a bucket back in place."
        )
    return Prefix(bucket, prefix, view, copier, overwrite)
