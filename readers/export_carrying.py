"""PURE: what a copy made by S3 has to be told so that it is as its source, and what then was found equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from hashlib import md5
from typing import Any, Final
from urllib.parse import quote, urlencode

from readers.export_evidence import CHECKSUMS, NotAsTold, Stored, is_plain, verdict
from snapengine.errors import BytesUnavailable
from snapengine.model import NULL_VERSION, ObjectVersion

_ARCHIVED: Final = {"GLACIER", "DEEP_ARCHIVE"}
_HEADERS: Final = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")


def asked_of(bucket: str, version: ObjectVersion, source: Stored) -> dict[str, Any]:
    """Which version is to be copied. The id `null` is used again and again: the ETag says which is meant."""
    return {
        "CopySource": {"Bucket": bucket, "Key": version.key, "VersionId": version.version_id},
        "CopySourceIfMatch": f'"{source.etag}"',
    }


def carried(source: Stored, *, in_place: bool) -> dict[str, Any]:
    """What no copy takes along by itself. What was in an archive comes back to the standard class: it is to
    be read."""
    found = {}
    if redirect := source.reply.get("WebsiteRedirectLocation"):
        found["WebsiteRedirectLocation"] = redirect
    if not in_place:
        return found
    storage_class = source.reply.get("StorageClass")
    if storage_class and storage_class not in _ARCHIVED:
        found["StorageClass"] = storage_class
    encryption = source.reply.get("ServerSideEncryption", "")
    if encryption.startswith("aws:kms"):
        found["ServerSideEncryption"] = encryption
        if key := source.reply.get("SSEKMSKeyId"):
            found["SSEKMSKeyId"] = key
    return found


def described_again(source: Stored, tags: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Metadata, headers, tags and checksum of an upload that is to be as its source."""
    reply = source.reply
    found: dict[str, Any] = {name: reply[name] for name in _HEADERS if reply.get(name)}
    found["Metadata"] = dict(reply.get("Metadata", {}))
    if expires := reply.get("ExpiresString"):
        try:
            found["Expires"] = parsedate_to_datetime(expires)
        except ValueError:
            raise BytesUnavailable(
                f"Its header Expires is {expires!r}, which is no date: what is copied in parts cannot keep "
                "it. Read the object and write it elsewhere by hand."
            ) from None
    if tags:
        found["Tagging"] = urlencode([(tag["Key"], tag["Value"]) for tag in tags], quote_via=quote)
    kind = reply.get("ChecksumType")
    for name in CHECKSUMS:
        # Of parts S3 computes no SHA of the whole (S3 User Guide, "Checking object integrity").
        if name in source.checksums and not (kind == "FULL_OBJECT" and name.startswith("SHA")):
            found["ChecksumAlgorithm"] = name
            if kind:
                found["ChecksumType"] = kind
            break
    return found


def parts_etag(etags: Sequence[str]) -> str:
    """PURE. The ETag that S3 gives to an object of these parts; nothing where theirs are not MD5s."""
    plain = [etag.strip('"') for etag in etags]
    if not all(map(is_plain, plain)):
        return ""
    return f"{md5(b''.join(map(bytes.fromhex, plain)), usedforsecurity=False).hexdigest()}-{len(plain)}"


def found_equal(
    bucket: str, version: ObjectVersion, source: Stored, copy: Stored, made_of: str, named: bool
) -> tuple[str, ...]:
    """What was found equal. Raises `NotAsTold` for a copy that is not as the version."""
    found = verdict(source, copy)
    if found == "different":
        raise NotAsTold(
            f"The copy of s3://{bucket}/{version.key} version {version.version_id} is not as the version: "
            f"{copy.size:,} bytes, ETag {copy.etag}, not {source.size:,} bytes, ETag {source.etag}.",
            version.key,
            version.version_id,
        )
    checked = ["size"] if found == "unknown" else ["size", found]
    if found != "etag" and made_of and made_of == copy.etag:
        checked.append("parts")
    if named and version.version_id != NULL_VERSION:
        checked.append("source")
    return tuple(checked)
