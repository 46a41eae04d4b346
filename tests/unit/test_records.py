"""Raw records to observations. Whole messages, form by form, are in tests/events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ingest_worker.envelopes import RawRecord
from ingest_worker.records import parse
from snapengine.errors import MalformedMessage
from snapengine.model import Observation

NOTIFICATION_FIELDS = {"version_id": "versionId", "etag": "eTag"}
EVENTBRIDGE_FIELDS = {"version_id": "version-id", "etag": "etag"}


def notification(
    name: str = "ObjectCreated:Put",
    key: object = "k",
    time: object = "2026-11-20T09:00:00.123Z",
    version: object = "2.6",
    **fields: object,
) -> RawRecord:
    named = {NOTIFICATION_FIELDS.get(field, field): value for field, value in fields.items()}
    s3 = {"bucket": {"name": "scans"}, "object": {"key": key, **named}}
    return RawRecord("s3", {"eventVersion": version, "eventName": name, "eventTime": time, "s3": s3})


def eventbridge(
    detail_type: str = "Object Created",
    key: object = "k",
    time: object = "2026-11-20T09:00:00Z",
    detail: dict[str, Any] | None = None,
    **fields: object,
) -> RawRecord:
    named = {EVENTBRIDGE_FIELDS.get(field, field): value for field, value in fields.items()}
    inner = {"bucket": {"name": "scans"}, "object": {"key": key, **named}, **(detail or {})}
    return RawRecord(
        "eventbridge", {"source": "aws.s3", "detail-type": detail_type, "time": time, "detail": inner}
    )


def observed(raw: RawRecord) -> Observation:
    observation = parse(raw).observation
    assert observation is not None
    return observation


def as_s3_encodes(key: str) -> str:
    """As HTML forms encode, but for the slash (minio/minio#11665)."""
    return quote_plus(key, safe="/*")


keys = st.text(min_size=1, max_size=1024).filter(lambda key: len(key.encode()) <= 1024)
awkward_keys = st.text(st.sampled_from("+% /=&?#é🧠\0\n\x7f2Bb"), min_size=1, max_size=200)


@given(keys | awkward_keys)
def test_every_key_comes_back_as_it_was_from_a_notification_and_from_eventbridge(key: str) -> None:
    assert observed(notification(key=as_s3_encodes(key))).key == key
    assert observed(notification(key=quote_plus(key, safe=""))).key == key
    assert observed(eventbridge(key=key)).key == key


@given(keys)
def test_a_key_is_decoded_once_and_not_twice(key: str) -> None:
    once = as_s3_encodes(key)
    assume(len(once) <= 1024)
    assert observed(notification(key=as_s3_encodes(once))).key == once


@pytest.mark.parametrize("key", ["é" * 512, "k" * 1024, "🧠" * 256])
def test_a_key_of_1024_bytes_is_read_and_one_of_1025_refused(key: str) -> None:
    assert observed(notification(key=as_s3_encodes(key))).key == key
    for raw in (notification(key=as_s3_encodes(key + "x")), eventbridge(key=key + "x")):
        with pytest.raises(MalformedMessage, match="1,025 bytes; the limit is 1,024"):
            parse(raw)


@pytest.mark.parametrize("key", [None, 7, True, ["k"], {"k": 1}, ""])
def test_what_is_no_key_is_refused(key: object) -> None:
    for raw in (notification(key=key), eventbridge(key=key)):
        with pytest.raises(MalformedMessage, match="key is"):
            parse(raw)


@pytest.mark.parametrize("key", ["%", "a%", "a%2", "%zz", "%+1", "%\u06602"])
def test_a_percent_sign_that_starts_no_escape_betrays_a_sender_that_does_not_encode(key: str) -> None:
    with pytest.raises(MalformedMessage, match="not form-encoded"):
        parse(notification(key=key))
    assert observed(eventbridge(key=key)).key == key


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59)))  # noqa: DTZ001 - made UTC below
def test_every_time_since_1970_is_read_to_the_millisecond_and_finer_fractions_are_cut_off(
    moment: datetime,
) -> None:
    moment = moment.replace(tzinfo=UTC)
    millis = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    seconds = moment.strftime("%Y-%m-%dT%H:%M:%S").zfill(19)
    fraction = f"{moment.microsecond:06}"
    assert observed(notification(time=f"{seconds}.{fraction[:3]}Z")).event_time == millis
    assert observed(notification(time=f"{seconds}.{fraction}Z")).event_time == millis
    assert observed(notification(time=f"{seconds}.{fraction}999Z")).event_time == millis
    assert observed(notification(time=f"{seconds}.{fraction[:3]}+00:00")).event_time == millis
    assert observed(eventbridge(time=f"{seconds}Z")).event_time == millis // 1000 * 1000


@pytest.mark.parametrize(
    "time",
    [
        None,
        0,
        1795165200123,
        "",
        "now",
        "2026-11-20",
        "2026-11-20T09:00:00",
        "2026-11-20T09:00:00.123",
        "2026-11-20T09:00:60.000Z",
        "2026-11-20T09:60:00.000Z",
        "2026-11-31T09:00:00.000Z",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:30:00.000+01:00",
        "٢٠٢٦-11-20T09:00:00.000Z",
        "2026-11-20T09:00: 1.000Z",
        "2026-11-20T09:00-00.000Z",
        "2026-11-20T09:00:00.1_3Z",
        "2026-11-20T09:00:00.123Z\ud800",
    ],
)
def test_what_is_no_time_of_a_zone_since_1970_is_refused(time: object) -> None:
    for raw in (notification(time=time), eventbridge(time=time)):
        with pytest.raises(MalformedMessage, match=r"[tT]ime is .*; expected a time since 1970"):
            parse(raw)


@pytest.mark.parametrize("version_id", ["null", "", None])
def test_absent_empty_and_null_version_ids_are_one(version_id: object) -> None:
    for make in (notification, eventbridge):
        assert observed(make(version_id=version_id)).version_id == "null"
        assert observed(make()).version_id == "null"


@pytest.mark.parametrize("form", [notification, eventbridge])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version_id", 7),
        ("version_id", "v" * 1025),
        ("version_id", "\udfff"),
        ("etag", 7),
        ("etag", "e" * 1025),
        ("etag", "\udfff"),
        ("sequencer", 7),
        ("sequencer", ""),
        ("sequencer", "0055 AED6"),
        ("sequencer", "٠٥"),
        ("sequencer", "0" * 1025),
        ("size", -1),
        ("size", 2**63),
        ("size", 0.5),
        ("size", 1e300),
        ("size", -1.0),
        ("size", False),
        ("size", "7"),
        ("size", []),
    ],
)
def test_a_field_that_could_not_be_stored_as_it_came_is_refused(form: Any, field: str, value: object) -> None:
    with pytest.raises(MalformedMessage, match=rf"(?i){field.replace('_', ' ')} .*set aside as a whole"):
        parse(form(**{field: value}))


@given(st.integers(0, 2**63 - 1))
def test_sizes_are_exact(size: int) -> None:
    assert observed(notification(size=size)).size == size
    if size <= 2**53:
        assert observed(notification(size=float(size))).size == size


def test_quotes_of_an_etag_are_stripped_and_an_empty_one_is_none() -> None:
    assert observed(notification(etag='"abc-2"')).etag == "abc-2"
    assert observed(eventbridge(etag='"abc-2"')).etag == "abc-2"
    assert observed(notification(etag='""')).etag is None


def test_a_marker_has_neither_size_nor_etag_as_in_a_listing() -> None:
    raw = notification("ObjectRemoved:DeleteMarkerCreated", size=0, etag="d41d8cd98f00b204e9800998ecf8427e")
    assert observed(raw) == Observation(
        "MarkerCreated", "k", "null", 1795165200123, event_name="ObjectRemoved:DeleteMarkerCreated"
    )


@pytest.mark.parametrize("version", [f"2.{minor}" for minor in [*range(7), 10, 999]])
def test_every_minor_version_is_read(version: str) -> None:
    assert observed(notification(version=version)).key == "k"


@pytest.mark.parametrize(
    "version", ["1.0", "3.0", "20.0", "2", "2.", "2.x", "2.0.0", " 2.0", "2.²", 2.1, None]
)
def test_another_major_version_or_none_is_refused_even_for_types_that_are_let_by(version: object) -> None:
    for name in ("ObjectCreated:Put", "ObjectTagging:Put"):
        with pytest.raises(MalformedMessage, match=r"eventVersion is .* reads 2\.x"):
            parse(notification(name, version=version))


@pytest.mark.parametrize(
    "name",
    [
        "ObjectRemoved:Shred",
        "s3:ObjectRemoved:DeleteAllVersions",
        "ObjectRemoved",
        "ObjectRemoved:*",
        "LifecycleExpiration:",
        "LifecycleExpiration:Archive",
        "ObjectCreated",
        "ObjectCreated:",
        "ObjectCreatedTwice:Put",
        "ObjectCreated:\n",
        "ObjectCreated:" + "x" * 100,
    ],
)
def test_an_event_that_may_tell_of_a_fact_we_do_not_know_is_never_let_by(name: str) -> None:
    with pytest.raises(MalformedMessage, match="may tell of a fact"):
        parse(notification(name))


@given(
    st.text(min_size=1).filter(lambda name: not name.startswith(("Object", "Lifecycle", "s3:"))),
    st.none() | st.integers(),
)
def test_any_other_type_is_let_by_whatever_its_fields(name: str, odd: object) -> None:
    raw = notification(name, key=odd, time=odd, size="odd", version_id=odd)
    bucket, observation, event_type = parse(raw)
    assert (bucket, observation) == ("scans", None)
    assert event_type in (name, "unrecognised")
    assert event_type.isascii()
    assert parse(RawRecord("s3", {**raw.fields, "s3": odd})) == ("", None, event_type)


@pytest.mark.parametrize("name", ["a#b", "a/b", "a b", "", "é", "a\n", "b" * 256, None, 7, ["b"]])
def test_a_bucket_name_that_s3_does_not_allow_is_refused(name: object) -> None:
    raw = notification()
    raw.fields["s3"]["bucket"]["name"] = name
    with pytest.raises(MalformedMessage, match="the bucket's name is"):
        parse(raw)


@pytest.mark.parametrize("name", ["scans", "my.bucket-1", "Legacy_Bucket", "b" * 255])
def test_a_bucket_name_that_s3_has_ever_allowed_is_read(name: str) -> None:
    raw = notification()
    raw.fields["s3"]["bucket"]["name"] = name
    assert parse(raw).bucket == name


@pytest.mark.parametrize("reason", [None, 7, ["PutObject"], {}, "RenameObject"])
def test_eventbridge_facts_are_known_without_their_reason(reason: object) -> None:
    assert observed(eventbridge(detail={"reason": reason})).event_name == "ObjectCreated:*"
    deleted = eventbridge("Object Deleted", detail={"reason": reason, "deletion-type": "Permanently Deleted"})
    assert observed(deleted)[:1] == ("VersionDeleted",)
    assert observed(deleted).event_name == "ObjectRemoved:Delete"


@pytest.mark.parametrize("deletion", [None, 7, [], {}, "", "Soft Deleted", "permanently deleted"])
def test_an_eventbridge_deletion_of_a_type_we_do_not_know_is_refused(deletion: object) -> None:
    with pytest.raises(MalformedMessage, match="may tell of a fact"):
        parse(eventbridge("Object Deleted", detail={"deletion-type": deletion}))


@pytest.mark.parametrize("detail_type", ["Object Created Again", "Object Deleted Twice"])
def test_an_eventbridge_type_that_resembles_a_fact_is_refused(detail_type: str) -> None:
    with pytest.raises(MalformedMessage, match="may tell of a fact"):
        parse(eventbridge(detail_type))


def test_an_error_names_the_event_the_key_the_version_and_the_bucket() -> None:
    with pytest.raises(MalformedMessage) as raised:
        parse(notification("ObjectRemoved:Delete", key="ct%2F1", version_id="v1", size=-1))
    assert str(raised.value) == (
        "The event 'ObjectRemoved:Delete' of key 'ct%2F1', version 'v1', in bucket 'scans' can't be read: "
        "size is -1; expected a number of bytes. Its message is set aside as a whole."
    )
