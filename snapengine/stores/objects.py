"""Bytes of exact versions from S3. A version that cannot be had is an error; never another object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


class S3Objects:
    """`ObjectReader` over a boto3 S3 client."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    def read(self, bucket: str, version: ObjectVersion, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `[start, end)` of that version; fewer where it ends before.

        The id `null` is used again and again, so a null version is read only if its ETag is still the same.
        """
        stop = version.size if end is None else end
        if version.size is not None and stop is not None:
            stop = min(stop, version.size)
        whole = start == 0 and (stop is None or stop == version.size)
        if stop is not None and start >= stop and not whole:
            return b""
        options: dict[str, Any] = {}
        if not whole:
            options["Range"] = f"bytes={start}-" + ("" if stop is None else str(stop - 1))
        if version.version_id == NULL_VERSION and version.etag:
            options["IfMatch"] = f'"{version.etag}"'
        try:
            reply = self._client.get_object(
                Bucket=bucket, Key=version.key, VersionId=version.version_id, **options
            )
            data = reply["Body"].read()
        except (ClientError, BotoCoreError) as error:
            if version.size is None and isinstance(error, ClientError) and code_of(error) == "InvalidRange":
                return b""  # the object, whose size nobody told, ends before `start`
            raise _translate(error, bucket, version) from error
        expected = stop - start if stop is not None and version.size is not None else len(data)
        if len(data) != expected:
            raise BytesUnavailable(
                f"s3://{bucket}/{version.key} version {version.version_id} gave {len(data)} bytes where the "
                f"view knows of {expected}; it is not the object of the view.",
                version.key,
                version.version_id,
            )
        return data

    def head(self, bucket: str, version: ObjectVersion) -> StoredVersion:
        """What S3 says of that version, without its bytes. Raises as `read` does.

        S3 answers HEAD without a body: a denial, and without `s3:ListBucket` also an absence, is a bare 403.
        """
        try:
            reply = self._client.head_object(Bucket=bucket, Key=version.key, VersionId=version.version_id)
        except (ClientError, BotoCoreError) as error:
            raise _translate(error, bucket, version) from error
        return StoredVersion(reply["ETag"].strip('"'), reply["ContentLength"], _archive(reply))


def _archive(reply: Mapping[str, Any]) -> str | None:
    """Source: S3 API Reference, HeadObject, `x-amz-archive-status`, `x-amz-restore`."""
    if status := reply.get("ArchiveStatus"):  # of Intelligent-Tiering
        return str(status)
    storage_class = reply.get("StorageClass")
    restored = 'ongoing-request="false"' in reply.get("Restore", "")
    return str(storage_class) if storage_class in _ARCHIVED and not restored else None


def _translate(error: ClientError | BotoCoreError, bucket: str, version: ObjectVersion) -> SnapEngineError:
    name = f"s3://{bucket}/{version.key} version {version.version_id}"
    code = code_of(error) if isinstance(error, ClientError) else ""
    if code in _GONE:
        return VersionGone(
            f"{name} is gone from S3: it was removed for good, or overwritten, after the view's instant.",
            version.key,
            version.version_id,
        )
    if code == "InvalidObjectState":
        return VersionArchived(
            f"{name} is in an archived storage class. Restore it (RestoreObject with this version id) "
            "and read again.",
            version.key,
            version.version_id,
        )
    if code.startswith("KMS."):
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
