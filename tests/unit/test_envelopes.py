"""Bodies of queue messages to raw records. The forms themselves are in tests/events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_worker.envelopes import MAX_WRAPPERS, RawRecord, raw_records, shown
from snapengine.errors import MalformedMessage

RECORD = {"eventName": "ObjectCreated:Put", "anything": ["at", {"all": None}]}
EVENT = {"detail-type": "Object Created", "detail": {}}
TEST = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "scans"}


def sns(message: object, times: int = 1) -> str:
    body = json.dumps(message)
    for _ in range(times):
        body = json.dumps({"Type": "Notification", "Message": body})
    return body


@pytest.mark.parametrize("wrappers", range(MAX_WRAPPERS))
@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ({"Records": [RECORD]}, [RawRecord("s3", RECORD)]),
        ({"Records": [RECORD, {}]}, [RawRecord("s3", RECORD), RawRecord("s3", {})]),
        (EVENT, [RawRecord("eventbridge", EVENT)]),
        (TEST, [RawRecord("test", TEST)]),
    ],
    ids=["one-record", "two-records", "eventbridge", "test-event"],
)
def test_each_form_is_found_under_none_or_a_few_sns_notifications(
    inner: dict[str, Any], expected: list[RawRecord], wrappers: int
) -> None:
    assert raw_records(sns(inner, wrappers)) == expected
    assert raw_records(sns(inner, wrappers).encode()) == expected


def test_wrappers_without_end_are_refused() -> None:
    with pytest.raises(MalformedMessage, match="more than 3 SNS notifications"):
        raw_records(sns({"Records": [RECORD]}, MAX_WRAPPERS + 1))


def test_a_confirmation_that_sns_asks_for_is_refused_with_the_way_out() -> None:
    body = json.dumps({"Type": "SubscriptionConfirmation", "TopicArn": "arn:aws:sns:eu-central-1:1:t"})
    with pytest.raises(MalformedMessage, match=r"not an event\. Subscribe the queue as `sqs`"):
        raw_records(body)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"Records":[{"a":'])
def test_nesting_without_end_is_refused_and_not_a_crash(opening: str) -> None:
    with pytest.raises(MalformedMessage, match="nested too deeply"):
        raw_records(opening * 200_000)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused_wherever_they_stand(constant: str) -> None:
    with pytest.raises(MalformedMessage, match=f"{constant} is not JSON"):
        raw_records(f'{{"Records": [{{"unused": {constant}}}]}}')


def test_an_integer_of_more_digits_than_python_reads_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="not JSON"):
        raw_records('{"Records": [{"unused": ' + "9" * 100_000 + "}]}")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "latin-1", "utf-8-sig"])
def test_bytes_in_another_encoding_than_utf_8_are_refused(encoding: str) -> None:
    body = json.dumps({"Records": [{"key": "é"}]}, ensure_ascii=False)
    with pytest.raises(MalformedMessage):
        raw_records(body.encode(encoding))


def test_an_error_shows_little_of_a_large_body() -> None:
    for body in (
        "x" * 1_000_000,
        json.dumps(["x" * 1_000_000] * 10),
        '{"Records": "' + "x" * 1_000_000 + '"}',
    ):
        with pytest.raises(MalformedMessage) as raised:
            raw_records(body)
        assert len(str(raised.value)) < 1000


@given(
    st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_whatever_an_error_shows_is_short_and_printable(value: object) -> None:
    assert len(shown(value)) < 5000
    shown(value).encode()


@settings(max_examples=300, deadline=None)
@given(
    st.binary()
    | st.text()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.text() | st.sampled_from(["Records", "Type", "Message", "Event", "detail-type"]), inner
            )
        ),
    ).map(json.dumps)
)
def test_nothing_but_a_malformed_message_comes_of_arbitrary_text_bytes_and_json(body: str | bytes) -> None:
    try:
        assert raw_records(body)
    except MalformedMessage as error:
        str(error).encode()
