"""What S3 says of two objects, and whether that shows that they hold the same bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from snapengine.errors import BytesUnavailable
from snapengine.model import ObjectVersion
from snapengine.stores.objects import S3Objects, archived_in

CHECKSUMS: Final = ("CRC64NVME", "SHA256", "SHA1", "CRC32C", "CRC32")
"""S3's additional checksums, as its replies name them after `Checksum`."""

CHUNK: Final = 16 << 20
"""Bytes a request where two objects are compared byte by byte."""

_PLAIN: Final = re.compile(r"[0-9a-f]{32}")
_COMPOSITE: Final = re.compile(r"[0-9a-f]{32}-([0-9]{1,5})")

Verdict = Literal["etag", "checksum", "different", "unknown"]
"""`etag`, `checksum`: these are equal, so the bytes are. `different`: the bytes are not. `unknown`: nothing
that S3 says of both tells."""


class NotAsTold(BytesUnavailable):
    """What S3 gave, or made, is not what it says of the version."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as S3 describes it now."""

    size: int
    """Bytes."""
    etag: str
    """Without quotes."""
    version_id: str | None
    checksums: Mapping[str, str]
    """By algorithm: the value, and whether of the full object or of its parts."""
    md5: bool
    """Its ETag is made of MD5s. It is not where SSE-KMS or SSE-C encrypt it. Source: S3 API Reference,
    "Object", `ETag`."""
    archived: str | None
    """The archive that it must be restored from first."""
    reply: Mapping[str, Any]
    """All that HEAD said, by boto3's names."""


def stored(reply: Mapping[str, Any]) -> Stored:
    """PURE. From a reply to HeadObject with `ChecksumMode="ENABLED"`."""
    kind = reply.get("ChecksumType", "")
    return Stored(
        size=reply["ContentLength"],
        etag=reply["ETag"].strip('"'),
        version_id=reply.get("VersionId"),
        checksums={
            name: f"{reply[f'Checksum{name}']} {kind}" for name in CHECKSUMS if reply.get(f"Checksum{name}")
        },
        md5=not str(reply.get("ServerSideEncryption", "")).startswith("aws:kms")
        and not reply.get("SSECustomerAlgorithm"),
        archived=archived_in(reply),
        reply=reply,
    )


def described(client: Any, bucket: str, version: ObjectVersion) -> Stored:
    """A version of a view as S3 describes it now. Raises as reading it does, `VersionGone` above all."""
    found = stored(S3Objects(client).described(bucket, version, same=True, ChecksumMode="ENABLED"))
    if changed := _changed(version, found):
        raise NotAsTold(
            f"s3://{bucket}/{version.key} version {version.version_id} has {changed}; it is not the object "
            "of the view.",
            version.key,
            version.version_id,
        )
    return found


def _changed(version: ObjectVersion, found: Stored) -> str:
    """How S3 differs from the view, in words; what no event and no listing told is not compared."""
    if version.size is not None and version.size != found.size:
        return f"{found.size:,} bytes where the view knows of {version.size:,}"
    if version.etag is not None and version.etag != found.etag:
        return f"the ETag {found.etag} where the view knows of {version.etag}"
    return ""


def verdict(one: Stored, other: Stored) -> Verdict:
    """PURE. What ETags, sizes and checksums tell of two objects."""
    if one.size != other.size:
        return "different"
    if one.etag == other.etag:
        return "etag"
    for name in one.checksums.keys() & other.checksums.keys():
        if one.checksums[name] == other.checksums[name]:
            return "checksum"
        if one.checksums[name].endswith(" FULL_OBJECT") and other.checksums[name].endswith(" FULL_OBJECT"):
            return "different"
    comparable = one.md5 and other.md5 and _PLAIN.fullmatch(one.etag) and _PLAIN.fullmatch(other.etag)
    return "different" if comparable else "unknown"


def part_count(etag: str | None) -> int | None:
    """PURE. In how many parts an object came, by its ETag; None if in one go, or if that is unknown."""
    match = _COMPOSITE.fullmatch(etag or "")
    return int(match[1]) if match else None


def is_plain(etag: str | None) -> bool:
    """PURE. Whether an ETag has the form of an MD5."""
    return bool(_PLAIN.fullmatch(etag or ""))


def same_bytes(read: Callable[[int, int], bytes], other: Callable[[int, int], bytes], size: int) -> bool:
    """Whether two objects of one size have the same bytes; both are read, as bytes `[start, end)`."""
    for start in range(0, size, CHUNK):
        end = min(start + CHUNK, size)
        if read(start, end) != other(start, end):
            return False
    return True
