"""Bytes of exact versions from S3. A version that cannot be had is an error; never another object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from snapengine.aws_errors import code_of, translate
from snapengine.errors import (
    BytesUnavailable,
    PermissionMissing,
    SnapEngineError,
    VersionArchived,
    VersionGone,
)
from snapengine.model import NULL_VERSION, ObjectVersion
from snapengine.stores.lean_gets import LeanGets

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_GONE = {"NoSuchVersion", "NoSuchKey", "404", "MethodNotAllowed", "405", "PreconditionFailed", "412"}


_ARCHIVED = {"GLACIER", "DEEP_ARCHIVE"}


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version as S3 describes it now."""

    etag: str
    """Without quotes."""
    size: int
    """Bytes."""
    archived: str | None
    """The archive that it must be restored from before it can be read, or None."""


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What S3 says of a version besides its bytes."""

    size: int
    """Bytes."""
    last_modified: int
    """UTC milliseconds; S3 tells whole seconds."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By boto3's name (`ContentType`, `ETag`, `StorageClass`, ...), those of `HEADERS` that it has."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the writer sent as `x-amz-meta-*`."""
    tags: Mapping[str, str] | None = None
    """As they are now: they can be changed in place. None where they are not to be had."""


HEADERS: Final = (
    "ContentType",
    "ContentEncoding",
    "ContentLanguage",
    "ContentDisposition",
    "CacheControl",
    "ETag",
    "StorageClass",
    "ServerSideEncryption",
)

_SUCCESSOR_MS: Final = 1_000
"""A `null` version that was modified later than this after its event is another one: S3 tells `LastModified`
in whole seconds, and the event comes after it."""


class S3Objects:
    """`ObjectReader` over a boto3 S3 client."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._lean = LeanGets(client)

    def read_into(self, bucket: str, version: ObjectVersion, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes from `start` on, all of which the version has. Raises as `read`
        does, with anything in the buffer then."""
        if not (_provable(version) and self._lean.read_into(bucket, version, start, buffer)):
            buffer[:] = self._read(bucket, version, start, start + len(buffer))

    def read(self, bucket: str, version: ObjectVersion, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `[start, end)` of that version; fewer where it ends before.

        The id `null` is used again and again, so a null version is read only if its ETag is still the same;
        where nobody told its ETag, only if it was not modified later.
        """
        stop = version.size if end is None else end
        if version.size is not None and stop is not None:
            stop = min(stop, version.size)
        whole = start == 0 and (stop is None or stop == version.size)
        if stop is not None and start >= stop and not whole:
            return b""
        if _provable(version):
            data = self._lean.read(bucket, version, start, stop)
            if data is not None:
                return data
        return self._read(bucket, version, start, stop)

    def _read(self, bucket: str, version: ObjectVersion, start: int, stop: int | None) -> bytes:
        """By the client; `stop` is not after the version's end."""
        options: dict[str, Any] = {}
        if start > 0 or (stop is not None and stop != version.size):
            options["Range"] = f"bytes={start}-" + ("" if stop is None else str(stop - 1))
        if version.version_id == NULL_VERSION and version.etag:
            options["IfMatch"] = f'"{version.etag}"'
        try:
            reply = self._client.get_object(
                Bucket=bucket, Key=version.key, VersionId=version.version_id, **options
            )
            if not _provable(version) and is_successor(version, reply["LastModified"]):
                reply["Body"].close()
                raise gone(bucket, version)
            data = reply["Body"].read()
        except (ClientError, BotoCoreError) as error:
            if version.size is None and isinstance(error, ClientError) and code_of(error) == "InvalidRange":
                return b""  # the object, whose size nobody told, ends before `start`
            raise refusal_of(error, bucket, version) from error
        expected = stop - start if stop is not None and version.size is not None else len(data)
        if len(data) != expected:
            raise BytesUnavailable(
                f"s3://{bucket}/{version.key} version {version.version_id} gave {len(data)} bytes where the "
                f"view knows of {expected}; it is not the object of the view.",
                version.key,
                version.version_id,
            )
        if _provable(version):
            self._lean.learn(bucket, version)
        return data

    def head(self, bucket: str, version: ObjectVersion) -> StoredVersion:
        """What S3 says of that version, without its bytes. Raises as `read` does.

        S3 answers HEAD without a body: a denial, and without `s3:ListBucket` also an absence, is a bare 403.
        """
        reply = self.described(bucket, version)
        return StoredVersion(reply["ETag"].strip('"'), reply["ContentLength"], archived_in(reply))

    def facts(self, bucket: str, version: ObjectVersion) -> VersionFacts:
        """Headers, user metadata and tags of that version. Raises as `read` does; an archived version has
        them all the same.

        The id `null` is used again and again: it is asked for by its ETag, and once more after the tags, for
        which S3 takes no condition. Of a successor with the same bytes the time tells.
        """
        reply = self.described(bucket, version, same=True)
        tags = self._tags(bucket, version)
        if version.version_id == NULL_VERSION:
            self.described(bucket, version, same=True)
        return VersionFacts(
            size=reply["ContentLength"],
            last_modified=_millis(reply["LastModified"]),
            headers={name: str(reply[name]) for name in HEADERS if reply.get(name)},
            metadata=dict(reply.get("Metadata", {})),
            tags=tags,
        )

    def described(
        self, bucket: str, version: ObjectVersion, *, same: bool = False, **options: Any
    ) -> Mapping[str, Any]:
        """The reply to HEAD of that version, with more `options` of the client's. Raises as `read` does.

        `same`: only if a null version is still the one that is meant.
        """
        null = version.version_id == NULL_VERSION
        if same and null and version.etag:
            options["IfMatch"] = f'"{version.etag}"'
        try:
            reply: Mapping[str, Any] = self._client.head_object(
                Bucket=bucket, Key=version.key, VersionId=version.version_id, **options
            )
        except (ClientError, BotoCoreError) as error:
            raise refusal_of(error, bucket, version) from error
        if same and is_successor(version, reply["LastModified"]):
            raise gone(bucket, version)
        return reply

    def _tags(self, bucket: str, version: ObjectVersion) -> dict[str, str] | None:
        try:
            reply = self._client.get_object_tagging(
                Bucket=bucket, Key=version.key, VersionId=version.version_id
            )
        except (ClientError, BotoCoreError) as error:
            translated = refusal_of(error, bucket, version)
            # A right of its own (s3:GetObjectVersionTagging); some servers give none of archived versions.
            if isinstance(translated, PermissionMissing | VersionArchived):
                return None
            raise translated from error
        return {tag["Key"]: tag["Value"] for tag in reply.get("TagSet", [])}


def archived_in(reply: Mapping[str, Any]) -> str | None:
    """The archive that a version must be restored from before it can be read, by a reply to HEAD; or None.

    Source: S3 API Reference, HeadObject, `x-amz-archive-status`, `x-amz-restore`.
    """
    if status := reply.get("ArchiveStatus"):  # of Intelligent-Tiering
        return str(status)
    storage_class = reply.get("StorageClass")
    restored = 'ongoing-request="false"' in reply.get("Restore", "")
    return str(storage_class) if storage_class in _ARCHIVED and not restored else None


def _millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _provable(version: ObjectVersion) -> bool:
    """Whether its id, or its ETag, tells it from its successors."""
    return version.version_id != NULL_VERSION or version.etag is not None


def is_successor(version: ObjectVersion, last_modified: datetime) -> bool:
    """Whether what S3 has under the id of a null version was modified after that version: it is another."""
    late = _millis(last_modified) > version.event_time + _SUCCESSOR_MS
    return late and version.version_id == NULL_VERSION


def gone(bucket: str, version: ObjectVersion) -> VersionGone:
    return VersionGone(
        f"s3://{bucket}/{version.key} version {version.version_id} is gone from S3: it was removed for good, "
        "or overwritten, after the view's instant.",
        version.key,
        version.version_id,
    )


def refusal_of(error: ClientError | BotoCoreError, bucket: str, version: ObjectVersion) -> SnapEngineError:
    """Our error for one that S3 gave to whoever asked for a version."""
    name = f"s3://{bucket}/{version.key} version {version.version_id}"
    code = code_of(error) if isinstance(error, ClientError) else ""
    if code in _GONE:
        return gone(bucket, version)
    if code == "InvalidObjectState":
        return VersionArchived(
            f"{name} is in an archived storage class. Restore it (RestoreObject with this version id) "
            "and read again.",
            version.key,
            version.version_id,
        )
    if code.startswith("KMS.") and "Throttling" not in code:
        return BytesUnavailable(
            f"{name} cannot be decrypted ({code}): its KMS key is disabled, gone or not shared.",
            version.key,
            version.version_id,
        )
    translated = translate(error, name)
    if isinstance(translated, PermissionMissing):
        return PermissionMissing(
            f"AWS denied reading {name}. Allow s3:GetObjectVersion (and kms:Decrypt where the object is "
            "encrypted with a KMS key) for this role.",
            action="s3:GetObjectVersion",
        )
    return translated
