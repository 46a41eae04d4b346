"""Each request of an S3 client for an object, asked of the version that a view shows; its reply, checked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from readers.errors import ABSENT_IN_HEAD, NOT_OFFERED, s3_error
from readers.s3_answers import refusal, told
from snapengine.errors import BytesUnavailable, NoSuchKey, SnapEngineError, VersionGone
from snapengine.model import NULL_VERSION, ObjectVersion
from snapengine.stores.objects import gone, is_successor
from snapengine.views import View

OBJECTS: Final = frozenset({"GetObject", "HeadObject", "GetObjectAttributes", "GetObjectTagging"})
_WITH_BYTES: Final = frozenset({"GetObject", "HeadObject"})
_ABSENT: Final = frozenset({"NoSuchVersion", "NoSuchKey", "404", "MethodNotAllowed", "405"})
_CONDITIONS: Final = frozenset({304, 412, 416})
"""Statuses that depend on which object it is: of a null version's successor they say nothing."""
_KEPT: Final = 4096
"""Versions that are remembered."""
_LOOK_UPS: Final = 64
"""After so many, a view of at most 2,000,000 objects is rather resolved than asked key by key."""


class Pinning:
    """The versions that a client asks for. Thread-safe."""

    def __init__(self, view: View, client: Any) -> None:
        self._view = view
        self._client = client
        self._looked_up = 0
        self._version = lru_cache(maxsize=_KEPT)(self._look_up)

    def pin(
        self, operation: str, asked: Mapping[str, Any], *, signing: bool
    ) -> tuple[dict[str, Any], ObjectVersion]:
        """The parameters with the version's id, and the version. `signing`: for a URL that others may ask.

        Raises the `ClientError` that S3 would answer with, or that says why a view cannot.
        """
        try:
            version = self._version(asked["Key"])
        except NoSuchKey as error:
            if operation == "HeadObject":
                raise refusal(self._client, operation, ABSENT_IN_HEAD, f"Not Found: {error}") from error
            details = {"Key": asked["Key"]}
            raise refusal(self._client, operation, s3_error(error), str(error), **details) from error
        except SnapEngineError as error:
            raise told(self._client, operation, error) from error
        wanted = asked.get("VersionId", version.version_id)
        if wanted != version.version_id:
            message = f"{self._view} shows version {version.version_id} of {version.key!r}, not {wanted}."
            raise self._no_such_version(operation, message, version.key, wanted)
        if signing and version.version_id == NULL_VERSION:
            raise refusal(
                self._client,
                operation,
                NOT_OFFERED,
                f"{version.key!r} has the version id `null`, which S3 gives again: a URL would serve "
                "whatever is under it then. Read it through the client.",
            )
        return dict(asked, VersionId=version.version_id), version

    def check(
        self, operation: str, asked: Mapping[str, Any], version: ObjectVersion, reply: Any, parsed: Any
    ) -> None:
        """Look at a reply before the caller sees it. Raises `ClientError` where it is not of that version."""
        try:
            self._check(operation, asked, version, reply, parsed)
        except BaseException:
            body = parsed.get("Body")
            if hasattr(body, "close"):
                body.close()
            raise

    def _look_up(self, key: str) -> ObjectVersion:
        self._looked_up += 1
        if self._looked_up > _LOOK_UPS:
            self._view.rows_if_few()
        return self._view[key]

    def _check(
        self, operation: str, asked: Mapping[str, Any], version: ObjectVersion, reply: Any, parsed: Any
    ) -> None:
        if reply.status_code >= 300:
            if parsed.get("Error", {}).get("Code") in _ABSENT:
                raise self._unavailable(operation, gone(self._view.bucket, version))
            unsure = reply.status_code in _CONDITIONS
        else:
            wrong = _otherness(operation, asked, version, reply, parsed)
            if wrong is not None:
                raise self._unavailable(operation, wrong)
            unsure = operation not in _WITH_BYTES
        if unsure and version.version_id == NULL_VERSION:
            self._look_again(asked)

    def _look_again(self, asked: Mapping[str, Any]) -> None:
        """Raise what HEAD says if a null version is no longer the one that was meant."""
        kept = ("Bucket", "Key", "RequestPayer", "ExpectedBucketOwner")
        self._client.head_object(**{name: asked[name] for name in kept if name in asked})

    def _unavailable(self, operation: str, error: BytesUnavailable) -> Exception:
        if not isinstance(error, VersionGone):
            return told(self._client, operation, error)
        version = ObjectVersion(error.key, error.version_id, None, None, 0)
        try:
            why = self._view.source.removal(self._view.bucket, version)
        except SnapEngineError as unknown:
            why = f"(Why, the log could not be asked: {unknown})"
        return self._no_such_version(operation, f"{error} {why or ''}".rstrip(), error.key, error.version_id)

    def _no_such_version(self, operation: str, message: str, key: str, version_id: str) -> Exception:
        answer = s3_error(VersionGone(""))
        return refusal(self._client, operation, answer, message, Key=key, VersionId=version_id)


def _otherness(
    operation: str, asked: Mapping[str, Any], version: ObjectVersion, reply: Any, parsed: Mapping[str, Any]
) -> BytesUnavailable | None:
    """PURE. What shows that a reply is not of that version; None if nothing does."""
    bucket = asked["Bucket"]
    if "LastModified" in parsed and is_successor(version, parsed["LastModified"]):
        return gone(bucket, version)
    etag = str(parsed.get("ETag") or "").strip('"')
    if version.etag is not None and "ETag" in parsed and etag != version.etag:
        null = version.version_id == NULL_VERSION
        return gone(bucket, version) if null else _other(bucket, version, f"the ETag {etag!r}")
    unnamed = NULL_VERSION if operation in _WITH_BYTES else version.version_id
    named = reply.headers.get("x-amz-version-id", unnamed)
    if named != version.version_id:
        return _other(bucket, version, f"version {named}")
    size = _size(asked, reply, parsed)
    if version.size is not None and size is not None and size != version.size:
        return _other(bucket, version, f"{size} bytes")
    return None


def _size(asked: Mapping[str, Any], reply: Any, parsed: Mapping[str, Any]) -> int | None:
    """Of the whole object, where the reply tells it."""
    if reply.status_code == 206 or "PartNumber" in asked:
        total = str(reply.headers.get("content-range", "")).rpartition("/")[2]
        return int(total) if total.isascii() and total.isdigit() else None
    found = parsed.get("ObjectSize", parsed.get("ContentLength"))
    return None if found is None else int(found)


def _other(bucket: str, version: ObjectVersion, what: str) -> BytesUnavailable:
    return BytesUnavailable(
        f"Asked for s3://{bucket}/{version.key} version {version.version_id}, S3 answered with {what}; it is "
        "not the object of the view.",
        version.key,
        version.version_id,
    )
