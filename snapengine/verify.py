"""Whether a view is still what it was: its digest, and in S3 each of its versions, without reading bytes."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

from snapengine.digest import short
from snapengine.errors import DigestDiffers, PermissionMissing, SnapEngineError, UsageError, VersionGone
from snapengine.instants import render
from snapengine.model import NULL_VERSION, GoneVersion, ObjectVersion
from snapengine.stores.objects import StoredVersion
from snapengine.views import View

WORKERS = 24
"""Requests at once: below the connections that a client keeps."""
_AHEAD = 8 * WORKERS

Kind = Literal["gone", "archived", "denied", "different", "unreadable"]


class Heads(Protocol):
    """Asks S3 for a version without its bytes; an `Engine` does."""

    def head(self, bucket: str, version: ObjectVersion) -> StoredVersion: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """A version that cannot be had from S3 as the view shows it."""

    kind: Kind
    """`gone` for good; `archived`: must be restored first; `denied` to these credentials; `different` ETag
    or size; `unreadable`: S3 gives another reason."""
    key: str
    version_id: str
    detail: str
    """What was found, in words."""
    since: int | None = None
    """Of one that is gone, if the log knows: UTC milliseconds."""


def digest_given(text: str) -> str:
    """A digest as somebody wrote it: `sha256:<64 hex>`, or its short form. Raises `UsageError`."""
    match = re.fullmatch(r"(?:sha256:)?([0-9a-f]{64}|[0-9a-f]{32})", text.strip().lower())
    if not match:
        raise UsageError(
            f"{text!r} is no digest: it is `sha256:` and 64 hex digits (or the first 32 of them), as "
            "`snapengine ls --summary` prints it."
        )
    return f"sha256:{match[1]}"


def same_digest(given: str, found: str) -> bool:
    """Whether a view's digest is the one given, in full or in its short form."""
    return given == found or given.removeprefix("sha256:") == short(found)


def checked(view: View, digest: str) -> View:
    """The view, if its digest is the one given, in full or short. Raises `DigestDiffers`."""
    found = view.digest()
    if not same_digest(digest, found):
        raise DigestDiffers(
            f"{view.reference} has the digest {found}; it was noted with {digest}. Either this is another "
            "table than it was noted in, or the log has been changed."
        )
    return view


def differences(heads: Heads, view: View) -> Generator[Difference | None, None, None]:
    """For each of the view's versions, in order: how S3 differs from it, or None if it does not.

    Raises what keeps S3 from being asked at all: `Unreachable`, `CredentialsMissing`.
    """
    gone = {(each.key, each.version_id): each for each in view.audit()}

    def look(version: ObjectVersion) -> Difference | None:
        return _difference(heads, view.bucket, version, gone)

    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="snapengine-verify")
    waiting: deque[Future[Difference | None]] = deque()
    try:
        for version in view.versions():
            waiting.append(pool.submit(look, version))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _difference(
    heads: Heads, bucket: str, version: ObjectVersion, gone: Mapping[tuple[str, str], GoneVersion]
) -> Difference | None:
    def differs(kind: Kind, detail: str, since: int | None = None) -> Difference:
        return Difference(kind, version.key, version.version_id, detail, since)

    known = gone.get((version.key, version.version_id))
    try:
        stored = heads.head(bucket, version)
    except VersionGone:
        if known is None:
            return differs("gone", "S3 has no such version, and the log does not know why")
        return differs("gone", f"since {render(known.since)}: {known.why}", known.since)
    except PermissionMissing:
        return differs(
            "denied",
            "s3:GetObjectVersion is not allowed; or it is gone, which S3 does not say without s3:ListBucket",
        )
    except SnapEngineError as error:
        if type(error) is not SnapEngineError:
            raise
        return differs("unreadable", str(error))
    changes = _changes(version, stored)
    if changes and version.version_id == NULL_VERSION:  # the id is used again and again
        if known is None:
            return differs("gone", f"overwritten: {changes}")
        return differs("gone", f"since {render(known.since)}: {known.why}", known.since)
    if changes:
        return differs("different", changes)
    if stored.archived:
        return differs("archived", f"in {stored.archived}: restore it before it can be read")
    return None


def _changes(version: ObjectVersion, stored: StoredVersion) -> str:
    """What is not as the view shows it, in words. What no event and no listing told is not compared."""
    found = []
    if version.etag is not None and version.etag != stored.etag:
        found.append(f"ETag {stored.etag}, not {version.etag}")
    if version.size is not None and version.size != stored.size:
        found.append(f"{stored.size:,} bytes, not {version.size:,}")
    return "; ".join(found)
