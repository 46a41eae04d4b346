"""PURE: raw record to observation, by the table in SEMANTICS.md. The only place that decodes keys.

What S3 says of other things than an object's coming and going is let by, counted by its type. What may be
a fact but can't be read exactly is refused, with the whole message: a guess would change a past for good.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from ingest_worker.envelopes import TEST_EVENT, RawRecord, raw_records, shown
from snapengine.errors import MalformedMessage
from snapengine.model import (
    CREATED,
    EVENT,
    MARKER_CREATED,
    NULL_VERSION,
    VERSION_DELETED,
    Kind,
    Observation,
)


class Parsed(NamedTuple):
    """What one record says. Without an observation it is to be acknowledged and counted, no more."""

    bucket: str
    """The bucket's name; empty if a record without an observation names none."""
    observation: Observation | None
    event_type: str
    """S3's name without `s3:` (`ObjectCreated:Put`), EventBridge's detail type where S3 has no other word
    for a fact in it (`Object Tags Added`), or `s3:TestEvent`. Short, printable ASCII."""


def parse_message(body: str | bytes) -> list[Parsed]:
    """What a message's body says, record by record, in their order.

    Raises `MalformedMessage`, and nothing else, if any of it can't be read: never is a part lost.
    """
    return [parse(raw) for raw in raw_records(body)]


def parse(raw: RawRecord) -> Parsed:
    """What one raw record says. Raises `MalformedMessage`, and nothing else, for what can't be read."""
    try:
        if raw.form == "s3":
            return _parse_notification(raw.fields)
        if raw.form == "eventbridge":
            return _parse_eventbridge(raw.fields)
    except MalformedMessage as error:
        raise MalformedMessage(f"{_described(raw)}: {error} Its message is set aside as a whole.") from None
    return Parsed(_bucket_if_any(raw.fields, ("Bucket",)), None, TEST_EVENT)


_FACTS: Final[dict[str, Kind]] = {
    "ObjectCreated:Put": CREATED,
    "ObjectCreated:Post": CREATED,
    "ObjectCreated:Copy": CREATED,
    "ObjectCreated:CompleteMultipartUpload": CREATED,
    "ObjectRemoved:Delete": VERSION_DELETED,
    "ObjectRemoved:DeleteMarkerCreated": MARKER_CREATED,
    "LifecycleExpiration:Delete": VERSION_DELETED,
    "LifecycleExpiration:DeleteMarkerCreated": MARKER_CREATED,
}
_EVENTS: Final = {prefix + name: (name, kind) for prefix in ("", "s3:") for name, kind in _FACTS.items()}
"""Records have the name without `s3:`, notification rules and some relays with it."""
_FAMILIES: Final = ("ObjectCreated", "ObjectRemoved", "LifecycleExpiration")


def _parse_notification(record: dict[str, Any]) -> Parsed:
    # First: it says whether the names of events and fields mean what we think they mean.
    _check_version(record.get("eventVersion"), "eventVersion", "2")
    name = record.get("eventName")
    if type(name) is not str:
        raise MalformedMessage(f"eventName is {shown(name)}; expected S3's name of an event.")
    event_name, kind = _EVENTS.get(name) or _unlisted(name)
    if kind is None:
        return Parsed(_bucket_if_any(record, ("s3", "bucket", "name")), None, event_name)
    try:
        s3 = record["s3"]
        bucket = s3["bucket"]["name"]
        fields = s3["object"]
        key = fields["key"]
    except (KeyError, TypeError):
        raise MalformedMessage("bucket.name and object.key are needed and not both there.") from None
    return Parsed(
        _bucket(bucket),
        _observation(
            kind,
            event_name,
            _form_decoded(key),
            _event_time(record.get("eventTime"), "eventTime"),
            fields,
            fields.get("versionId"),
            fields.get("eTag"),
        ),
        event_name,
    )


def _unlisted(name: str) -> tuple[str, Kind | None]:
    """The name and kind of an event that is not among those we know one by one."""
    name = name.removeprefix("s3:")
    family, _, subtype = name.partition(":")
    if not family.startswith(_FAMILIES):
        return _label(name), None
    if family == "ObjectCreated" and subtype and _label(name) == name:
        return name, CREATED
    raise MalformedMessage(
        f"eventName {shown(name)} may tell of a fact, but of none that this version of snapengine knows; "
        "upgrade it, then move the message back from the dead-letter queue."
    )


_CREATED_BY: Final = {
    "PutObject": "ObjectCreated:Put",
    "POST Object": "ObjectCreated:Post",
    "CopyObject": "ObjectCreated:Copy",
    "CompleteMultipartUpload": "ObjectCreated:CompleteMultipartUpload",
}
_DELETIONS: Final[dict[str, tuple[str, Kind]]] = {
    "Permanently Deleted": ("Delete", VERSION_DELETED),
    "Delete Marker Created": ("DeleteMarkerCreated", MARKER_CREATED),
}


def _parse_eventbridge(event: dict[str, Any]) -> Parsed:
    if event.get("source") != "aws.s3":
        raise MalformedMessage(f"source is {shown(event.get('source'))}; only `aws.s3` speaks for S3.")
    detail_type, detail = event["detail-type"], event.get("detail")
    if type(detail_type) is not str:
        raise MalformedMessage(f"detail-type is {shown(detail_type)}; expected text.")
    if not detail_type.startswith(("Object Created", "Object Deleted")):
        return Parsed(_bucket_if_any(event, ("detail", "bucket", "name")), None, _label(detail_type))
    if type(detail) is not dict:
        raise MalformedMessage(f"detail is {shown(detail)}; expected an object.")
    _check_version(detail.get("event-version", "1.0"), "event-version", "1")
    try:
        bucket = detail["bucket"]["name"]
        fields = detail["object"]
        key = fields["key"]
    except (KeyError, TypeError):
        raise MalformedMessage("bucket.name and object.key are needed and not both there.") from None
    event_name, kind = _eventbridge_fact(detail_type, detail)
    # Not decoded: EventBridge has keys as they are, `+` and `%` and all. AWS documents the encoding for
    # notifications alone, and published real events have a bare `=` here, which notifications encode.
    return Parsed(
        _bucket(bucket),
        _observation(
            kind,
            event_name,
            _checked_key(key),
            _event_time(event.get("time"), "time"),
            fields,
            fields.get("version-id"),
            fields.get("etag"),
        ),
        event_name,
    )


def _eventbridge_fact(detail_type: str, detail: dict[str, Any]) -> tuple[str, Kind]:
    """S3's name for the event, and the fact. Where the reason is one we don't know, the fact still is."""
    reason = detail["reason"] if type(detail.get("reason")) is str else ""
    if detail_type == "Object Created":
        return _CREATED_BY.get(reason, "ObjectCreated:*"), CREATED
    deletion = detail.get("deletion-type")
    if detail_type != "Object Deleted" or type(deletion) is not str or deletion not in _DELETIONS:
        raise MalformedMessage(
            f"the event {shown(detail_type)} with deletion-type {shown(deletion)} may tell of a fact, but "
            f"of none that this version of snapengine knows; expected one of {', '.join(_DELETIONS)}."
        )
    subtype, kind = _DELETIONS[deletion]
    family = "LifecycleExpiration" if reason == "Lifecycle Expiration" else "ObjectRemoved"
    return f"{family}:{subtype}", kind


def _observation(
    kind: Kind,
    event_name: str,
    key: str,
    event_time: int,
    fields: dict[str, Any],
    version_id: object,
    etag: object,
) -> Observation:
    sequencer = fields.get("sequencer")
    if sequencer is not None and not (_text(sequencer, "sequencer").isascii() and sequencer.isalnum()):
        raise MalformedMessage(
            f"sequencer is {shown(sequencer)}; order rests on its being ASCII letters and digits."
        )
    size = fields.get("size")
    if size is not None and not (type(size) is int and 0 <= size < _SIZE_LIMIT):
        size = _exact_size(size)
    version_id = NULL_VERSION if version_id is None else _text(version_id, "version id") or NULL_VERSION
    if etag is not None:
        etag = _text(etag, "ETag").strip('"') or None
    if kind == MARKER_CREATED:
        # S3 may report the size and MD5 of nothing. Listings show neither, and the two must match.
        size = etag = None
    return _make(
        (kind, key, version_id, event_time, sequencer, size, etag, None, EVENT, event_name, None, None, None)
    )


_make = Observation._make
_SIZE_LIMIT: Final = 1 << 63
"""Bytes; an object has at most some 2**46, a Parquet column holds less than 2**63."""
_TEXT_LIMIT: Final = 1024
"""Bytes of UTF-8, inclusive: of a key and of a version id as S3 says, of other text to have a limit."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_SECONDS: Final = {f"{second:02}": second * 1000 for second in range(60)}
_FRACTIONS: Final = {"Z": 0} | {f".{millis:03}Z": millis for millis in range(1000)}
_BAD_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_BUCKET_NAME: Final = re.compile("[A-Za-z0-9._-]{1,255}")
_KNOWN_VERSIONS: Final = frozenset(f"{major}.{minor}" for major in (1, 2) for minor in range(10))


def _check_version(version: object, field: str, major: str) -> None:
    """AWS: the major version must be equal; a greater minor one only adds fields and types."""
    if type(version) is str:
        if version in _KNOWN_VERSIONS and version[0] == major:
            return
        found, _, minor = version.partition(".")
        if found == major and minor.isascii() and minor.isdigit():
            return
    raise MalformedMessage(
        f"{field} is {shown(version)}; this version of snapengine reads {major}.x, whatever x is."
    )


def _form_decoded(key: object) -> str:
    """The key of an S3 notification, which is form-encoded: a space is `+`, other characters `%XX`.

    S3 takes no key that is not UTF-8, so bytes that are not come from somebody else; so does a `%` that
    starts no escape: whoever sent that does not encode, and their `+` would be read as a space.
    """
    if type(key) is str and ("%" in key or "+" in key):
        if _BAD_ESCAPE.search(key):
            raise MalformedMessage(f"the key {shown(key)} is not form-encoded, as S3 sends it.")
        try:
            key = unquote_to_bytes(key.replace("+", " ")).decode()
        except UnicodeError:
            raise MalformedMessage(f"the key {shown(key)} is not UTF-8 once decoded.") from None
    return _checked_key(key)


def _checked_key(key: object) -> str:
    if key == "":
        raise MalformedMessage("the key is empty.")
    return _text(key, "key")


def _text(value: object, what: str) -> str:
    """Text that UTF-8 can hold, of at most 1,024 bytes; it may be empty, or have control characters."""
    if type(value) is not str:
        raise MalformedMessage(f"the {what} is {shown(value)}; expected text.")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise MalformedMessage(f"the {what} {shown(value)} has half a surrogate pair in it.") from None
    if length > _TEXT_LIMIT:
        raise MalformedMessage(
            f"the {what} {shown(value)} has {length:,} bytes; the limit is {_TEXT_LIMIT:,}."
        )
    return value


def _bucket(name: object) -> str:
    """Names are parts of the log's item keys, so only those that S3 has ever allowed are let through."""
    if type(name) is not str or not _is_bucket_name(name):
        raise MalformedMessage(f"the bucket's name is {shown(name)}, which S3 does not allow.")
    return name


@lru_cache(maxsize=256)
def _is_bucket_name(name: str) -> bool:
    return _BUCKET_NAME.fullmatch(name) is not None


def _exact_size(size: object) -> int:
    """JSON knows one kind of number, so a relay may have made 1024.0 of 1024; text and booleans are none."""
    if type(size) is float and size.is_integer() and 0 <= size <= 2**53:
        return int(size)
    raise MalformedMessage(f"size is {shown(size)}; expected a number of bytes.")


def _event_time(text: object, field: str) -> int:
    """UTC milliseconds of an RFC 3339 time, finer fractions cut off. EventBridge gives whole seconds."""
    if type(text) is str:
        try:
            return _minute(text[:17]) + _SECONDS[text[17:19]] + _FRACTIONS[text[19:]]
        except (KeyError, ValueError):
            millis = _unusual_time(text)
            if millis is not None:
                return millis
    raise MalformedMessage(
        f"{field} is {shown(text)}; expected a time since 1970 like '2026-11-20T09:00:00.000Z'."
    )


@lru_cache(maxsize=4096)
def _minute(prefix: str) -> int:
    """UTC milliseconds of `YYYY-MM-DDTHH:MM:`; most of a batch's events share a few."""
    if prefix[10:11] != "T" or prefix[16:] != ":":
        raise ValueError(prefix)
    millis = (datetime.fromisoformat(f"{prefix[:16]}Z") - _EPOCH) // _MILLISECOND
    if millis < 0:
        raise ValueError(prefix)
    return millis


def _unusual_time(text: str) -> int | None:
    """With another number of fractional digits than three, or a zone given by its offset."""
    try:
        instant = datetime.fromisoformat(text)
        millis = (instant - _EPOCH) // _MILLISECOND  # TypeError if it has no zone
    except (ValueError, TypeError, OverflowError):
        return None
    return millis if millis >= 0 else None


def _label(name: str) -> str:
    """A type to count by: what was sent, unless no name of S3's looks like it."""
    return name if 0 < len(name) <= 80 and name.isascii() and name.isprintable() else "unrecognised"


def _bucket_if_any(fields: dict[str, Any], path: tuple[str, ...]) -> str:
    """The bucket's name where it should be, or nothing: for records that hold no fact."""
    name: Any = fields
    for step in path:
        name = name.get(step) if type(name) is dict else None
    return name if type(name) is str and _is_bucket_name(name) else ""


def _described(raw: RawRecord) -> str:
    """Which record an error is about, from whatever it has of its names."""
    if raw.form == "s3":
        event, holder = raw.fields.get("eventName"), raw.fields.get("s3")
        version_field = "versionId"
    else:
        event, holder = raw.fields.get("detail-type"), raw.fields.get("detail")
        version_field = "version-id"
    holder = holder if type(holder) is dict else {}
    bucket, fields = holder.get("bucket"), holder.get("object")
    name = bucket.get("name") if type(bucket) is dict else None
    fields = fields if type(fields) is dict else {}
    return (
        f"The event {shown(event)} of key {shown(fields.get('key'))}, "
        f"version {shown(fields.get(version_field))}, in bucket {shown(name)} can't be read"
    )
