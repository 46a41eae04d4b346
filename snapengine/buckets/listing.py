"""ListObjectVersions in the order in which S3 lists: versions and delete markers of a key interleaved.

boto3's parsed reply has versions and markers in two lists, and with times in whole seconds their order
cannot be had again. So the reply's XML is read here, as botocore hands it over before it parses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus
from xml.etree.ElementTree import Element

from snapengine.buckets.asking import asking
from snapengine.buckets.clock import ServerClock
from snapengine.buckets.replies import local_name, parse_xml, with_xml
from snapengine.errors import BadData, Unreachable
from snapengine.model import CREATED, MARKER_CREATED, NULL_VERSION, SLACK_MS, Kind

PAGE_SIZE = 1000
"""S3's greatest page; versions and markers each count as one."""

_SLOW_MS = SLACK_MS // 2
_TRIES = 5
_KINDS: dict[str, Kind] = {"Version": CREATED, "DeleteMarker": MARKER_CREATED}


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """A version or a delete marker, as one page shows it."""

    kind: Kind
    """`Created` or `MarkerCreated`."""
    key: str
    version_id: str
    last_modified: int
    """UTC milliseconds; S3 gives whole seconds."""
    etag: str | None
    """Without quotes; None for markers."""
    size: int | None
    """Bytes; None for markers."""
    storage_class: str | None
    is_latest: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One reply. `next_key` is None on the last page."""

    entries: tuple[ListedEntry, ...]
    """As in the XML: keys ascending by their UTF-8 bytes, within a key the newest first."""
    time: int
    """UTC milliseconds by S3's clock, never after the request was evaluated."""
    next_key: str | None
    next_version_id: str | None
    """With it the next page goes on within `next_key`; without it, after that key."""


def list_versions(
    client: Any,
    bucket: str,
    *,
    prefix: str = "",
    after_key: str = "",
    page_size: int = PAGE_SIZE,
    owner: str | None = None,
    clock: ServerClock | None = None,
) -> Iterator[Page]:
    """The pages of all versions and markers of the keys below `prefix` that come after `after_key`.

    `client` is a boto3 S3 client; `owner` is the account that the bucket must belong to. Raises our errors,
    `PermissionMissing` for `s3:ListBucketVersions`, and `BadData` for a reply that cannot be what S3 sends.
    """
    clock = clock or ServerClock()
    request: dict[str, Any] = {
        "Bucket": bucket,
        "MaxKeys": page_size,
        # XML has no way to write most control characters, and keys may hold them.
        "EncodingType": "url",
        **({"Prefix": prefix} if prefix else {}),
        **({"KeyMarker": after_key} if after_key else {}),
        **({"ExpectedBucketOwner": owner} if owner else {}),
    }
    slow = 0
    while True:
        with asking(f"bucket {bucket}"):
            sent = clock.now()
            reply, body = with_xml(
                client, "ListObjectVersions", "list_object_versions", parsed=False, **request
            )
            took = clock.now() - sent
            clock.heard(reply, sent)
        if took > _SLOW_MS:  # when S3 looked is not known well enough: it may have been asked several times
            slow += 1
            if slow >= _TRIES:
                raise Unreachable(
                    f"Listing bucket {bucket}: S3 took {took // 1000} s to answer, {slow} times over."
                )
            continue
        slow = 0
        page = parse_page(body, clock.not_after(sent))
        yield page
        if page.next_key is None:
            return
        marker = (page.next_key, page.next_version_id)
        if marker == (request.get("KeyMarker"), request.get("VersionIdMarker")):
            raise BadData(f"The listing of bucket {bucket} does not get beyond key {page.next_key!r}.")
        request["KeyMarker"] = page.next_key
        request.pop("VersionIdMarker", None)
        if page.next_version_id is not None:
            request["VersionIdMarker"] = page.next_version_id


def parse_page(body: bytes, time: int) -> Page:
    """A page from its XML; `time` is as in `Page`."""
    root = parse_xml(body)
    if local_name(root) not in {"ListVersionsResult", "ListObjectVersionsResult"}:
        raise BadData(f"A listing of versions was asked for, and S3 sent {local_name(root)}.")
    head = {local_name(child): child.text or "" for child in root if local_name(child) not in _KINDS}
    encoded = head.get("EncodingType") == "url"
    entries = tuple(
        _entry(kind, child, encoded=encoded) for child in root if (kind := _KINDS.get(local_name(child)))
    )
    if head.get("IsTruncated", "false").strip().lower() != "true":
        return Page(entries, time, None, None)
    if not head.get("NextKeyMarker"):
        raise BadData("S3 sent part of a listing without saying where the next part begins.")
    next_key = _decoded(head["NextKeyMarker"], encoded=encoded)
    return Page(entries, time, next_key, head.get("NextVersionIdMarker") or None)


def _entry(kind: Kind, element: Element, *, encoded: bool) -> ListedEntry:
    fields = {local_name(child): child.text or "" for child in element}
    try:
        return ListedEntry(
            kind=kind,
            key=_decoded(fields["Key"], encoded=encoded),
            version_id=fields.get("VersionId") or NULL_VERSION,
            last_modified=_millis(fields["LastModified"]),
            etag=fields.get("ETag", "").strip('"') or None if kind == CREATED else None,
            size=int(fields["Size"]) if kind == CREATED else None,
            storage_class=fields.get("StorageClass") or None if kind == CREATED else None,
            is_latest=fields.get("IsLatest", "").lower() == "true",
        )
    except (KeyError, ValueError) as error:
        raise BadData(f"S3 listed a {local_name(element)} that cannot be read: {error!r}.") from error


def _decoded(text: str, *, encoded: bool) -> str:
    """Once, as botocore does it where it asked for the encoding itself: `+` is a space."""
    return unquote_plus(text, errors="strict") if encoded else text


def _millis(text: str) -> int:
    return int(datetime.fromisoformat(text.strip()).timestamp() * 1000 + 0.5)
