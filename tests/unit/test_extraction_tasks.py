"""The messages that hand created versions to extraction: whole, small enough, and never half understood."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine.errors import MalformedMessage
from snapengine.extraction_tasks import MAX_BYTES, MAX_TASKS, Task, messages_of, parse_tasks, tasks_of
from snapengine.model import CREATED, MARKER_CREATED, VERSION_DELETED, Observation

texts = st.text(min_size=1, max_size=1024).filter(lambda text: len(text.encode()) <= 1024)
numbers = st.integers(0, 2**63 - 1)
tasks = st.builds(
    Task,
    st.sampled_from(["scans", "b" * 63]),
    texts,
    texts,
    st.none() | numbers,
    st.none() | texts,
    st.none() | texts,
    numbers,
)

WHOLE: dict[str, Any] = {
    "extraction": 1,
    "bucket": "scans",
    "objects": [{"key": "ct/1.dcm", "version_id": "v1", "event_time": 1}],
}


def an_object(**changes: Any) -> dict[str, Any]:
    return {**WHOLE, "objects": [{**WHOLE["objects"][0], **changes}]}


@given(st.lists(tasks, max_size=50))
def test_every_task_comes_back_as_it_was_and_in_its_order(sent: list[Task]) -> None:
    found = [task for body in messages_of(sent) for task in parse_tasks(body)]
    assert found == sorted(sent, key=lambda task: [t.bucket for t in sent].index(task.bucket))


@pytest.mark.parametrize("character", ["k", "\0", "é", "🧠", "\uffff", '"'])
@pytest.mark.parametrize("count", [1, 20, 21, 60])
def test_messages_of_the_longest_texts_are_small_enough_for_sqs_and_hold_only_characters_that_it_takes(
    character: str, count: int
) -> None:
    text = character * (1024 // len(character.encode()))
    sent = [Task("b" * 63, text, text, 2**63 - 1, text, text, number) for number in range(count)]
    bodies = messages_of(sent)
    assert max(map(len, bodies)) <= MAX_BYTES < 256 * 1024
    assert all(body.isascii() and body.isprintable() for body in bodies)
    assert [task for body in bodies for task in parse_tasks(body)] == sent


def test_small_tasks_are_packed_as_full_as_may_be_and_buckets_kept_apart() -> None:
    sent = [Task(bucket, f"k{n}", "v", 1, "e", "s", 1) for n in range(30) for bucket in ("a-bucket", "scans")]
    packs = [parse_tasks(body) for body in messages_of(sent)]
    assert [len(pack) for pack in packs] == [MAX_TASKS, 10, MAX_TASKS, 10]
    assert [{task.bucket for task in pack} for pack in packs] == [{"a-bucket"}] * 2 + [{"scans"}] * 2


def test_nothing_to_hand_on_makes_no_message() -> None:
    assert messages_of([]) == []


def test_only_created_versions_are_tasks_and_each_once() -> None:
    created = Observation(CREATED, "k", "v", 5, "0055", 10, "e")
    others = [Observation(kind, "k", "v", 5, "0055") for kind in (MARKER_CREATED, VERSION_DELETED)]
    again_null = created._replace(version_id="null", etag="f")
    found = tasks_of("scans", [created, *others, created, again_null])
    assert found == [
        Task("scans", "k", "v", 10, "e", "0055", 5),
        Task("scans", "k", "null", 10, "f", "0055", 5),
    ]


def test_fields_that_a_later_version_adds_are_let_be() -> None:
    body = json.dumps({**an_object(colour="red"), "sent_by": "worker"}).encode()
    assert parse_tasks(body) == [Task("scans", "ct/1.dcm", "v1", None, None, None, 1)]


@pytest.mark.parametrize(
    "document",
    [
        [],
        "extraction",
        {},
        {"Records": []},
        {**WHOLE, "extraction": 2},
        {**WHOLE, "extraction": True},
        {**WHOLE, "extraction": 1.0},
        {**WHOLE, "bucket": ""},
        {**WHOLE, "bucket": None},
        {**WHOLE, "objects": []},
        {**WHOLE, "objects": WHOLE["objects"] * (MAX_TASKS + 1)},
        {**WHOLE, "objects": {"key": "k"}},
        {**WHOLE, "objects": ["Doe^Jane"]},
        an_object(key=""),
        an_object(key="k" * 1025),
        an_object(key="\ud800"),
        an_object(key=["Doe^Jane"]),
        an_object(version_id=None),
        an_object(size=-1),
        an_object(size=True),
        an_object(size=2**63),
        an_object(etag=7),
        an_object(sequencer=""),
        an_object(event_time=None),
        an_object(event_time=1.5),
        an_object(event_time="Doe^Jane"),
    ],
)
def test_what_is_not_wholly_a_task_is_refused_and_not_repeated(document: Any) -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse_tasks(json.dumps(document))
    assert "Doe" not in str(refused.value)


@pytest.mark.parametrize(
    "body", ["", "{", b"\xff", "[" * 100_000, '{"extraction":' + "1" * 5000 + "}", "NaN"]
)
def test_what_is_not_json_is_refused(body: str | bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_tasks(body)


@given(
    st.binary()
    | st.text()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
    .map(lambda value: {**WHOLE, "objects": [value]})
    .map(json.dumps)
    | st.dictionaries(
        st.sampled_from(["key", "version_id", "size", "etag", "sequencer", "event_time"]),
        st.none() | st.text() | st.integers(),
    ).map(lambda fields: json.dumps(an_object(**fields)))
)
def test_nothing_but_a_malformed_message_comes_of_arbitrary_text_bytes_and_json(body: str | bytes) -> None:
    try:
        assert parse_tasks(body)
    except MalformedMessage as error:
        str(error).encode()
