"""Every form of S3 event that we know of, as files: see tests/events/INDEX.md."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_worker.records import Parsed, parse_message
from snapengine.errors import MalformedMessage
from snapengine.model import Observation

EVENTS = Path(__file__).parents[1] / "events"
CORPUS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(EVENTS.glob("*.json"))
}


def text_of(body: object) -> str:
    return body if isinstance(body, str) else json.dumps(body)


def expected(record: dict[str, Any]) -> Parsed:
    observation = record["observation"]
    return Parsed(
        record["bucket"],
        observation and Observation(**observation),
        record["event_type"],
    )


@pytest.mark.parametrize("name", [name for name, event in CORPUS.items() if "expect" in event])
def test_an_event_of_the_corpus_says_what_its_file_expects(name: str) -> None:
    event = CORPUS[name]
    body = text_of(event["body"])
    records = [expected(record) for record in event["expect"]]
    assert parse_message(body) == records
    assert parse_message(body.encode()) == records


@pytest.mark.parametrize("name", [name for name, event in CORPUS.items() if "malformed" in event])
def test_a_malformed_event_of_the_corpus_is_refused_with_the_reason_in_its_file(name: str) -> None:
    event = CORPUS[name]
    body = text_of(event["body"])
    for form in (body, body.encode()):
        with pytest.raises(MalformedMessage) as raised:
            parse_message(form)
        assert event["malformed"] in str(raised.value)
        assert len(str(raised.value)) < 1000


def test_the_index_names_every_file_with_its_source_and_no_other() -> None:
    rows = [
        line for line in (EVENTS / "INDEX.md").read_text(encoding="utf-8").splitlines() if ".json |" in line
    ]
    assert rows == [f"| {name}.json | {CORPUS[name]['source']} |" for name in sorted(CORPUS)]


def test_every_file_of_the_corpus_either_expects_something_or_is_malformed() -> None:
    for name, event in CORPUS.items():
        assert event.keys() in ({"source", "body", "expect"}, {"source", "body", "malformed"}), name


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value, with each of its keys or positions."""
    if isinstance(value, dict | list):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, step
            yield from places(inner)


near_misses = """
    null 2. 2.² 3.0 s3: ObjectRemoved: ObjectCreated: ObjectCreated:* % + %zz %FF -0 1e5
    2026-11-20T09:00:61.000Z ٢026-11-20T09:00:00Z 2026-11-20T09:00:٠٠Z 2026-W47-5T09:00:00.000Z
"""
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63 - 1, 2**63, 10**400, -1, 0.5, 1024.0, 1e300, float("inf"), float("nan")])
    | st.text(max_size=20)
    | st.sampled_from(["", "\ud800", "0" * 2000, *near_misses.split()]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
objects = [event["body"] for event in CORPUS.values() if isinstance(event["body"], dict)]


def check(body: str | bytes) -> None:
    """Nothing but `MalformedMessage` comes out, and what does not is fit to be stored."""
    try:
        said = parse_message(body)
    except MalformedMessage as error:
        str(error).encode()
        return
    assert said
    for bucket, observation, event_type in said:
        (bucket + event_type).encode("ascii")
        if observation is None:
            continue
        assert bucket
        assert 1 <= len(observation.key.encode()) <= 1024
        assert 1 <= len(observation.version_id.encode()) <= 1024
        assert type(observation.event_time) is int
        assert 0 <= observation.event_time < 2**48
        assert observation.size is None or (type(observation.size) is int and 0 <= observation.size < 2**63)
        assert observation.sequencer is None or observation.sequencer.encode("ascii").isalnum()
        assert observation.etag is None or observation.etag.encode()
        assert observation.event_name == event_type


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(objects), st.data())
def test_a_field_of_any_event_may_be_lost_or_replaced_by_anything(body: Any, data: st.DataObject) -> None:
    changed = copy.deepcopy(body)
    wrapped = changed.get("Message")
    target = changed
    if isinstance(wrapped, str) and wrapped.startswith("{"):
        target = json.loads(wrapped)
    container, step = data.draw(st.sampled_from(list(places(target))))
    if data.draw(st.booleans()):
        del container[step]
    else:
        container[step] = data.draw(json_values)
    if target is not changed:
        changed["Message"] = json.dumps(target)
    check(json.dumps(changed))


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([text_of(body) for body in objects]).map(str.encode), st.data())
def test_any_bytes_of_an_event_may_be_overwritten(body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body)))
    check(body[:at] + data.draw(st.binary(max_size=4)) + body[at + data.draw(st.integers(0, 4)) :])
