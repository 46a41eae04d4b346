"""Log lines: one JSON object each, and no key of an object in any."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from ingest_worker.command import worker
from ingest_worker.envelopes import shown
from ingest_worker.metrics import Metrics, Step
from ingest_worker.records import parse_message
from ingest_worker.targets import targets
from snapengine.errors import BucketNotEnabled, MalformedMessage, Unreachable, UsageError
from snapengine.testing.store_contract import config
from snapengine.workers import logs
from snapengine.workers.failures import plain
from tests.worker_fakes import body


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is written from here on; the loggers are put back as they were."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    root.handlers[:], root.level = before


def line(stream: io.StringIO) -> dict[str, Any]:
    (text,) = stream.getvalue().splitlines()
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_a_line_is_one_json_object_with_time_level_and_event(written: io.StringIO) -> None:
    logs.warning("something", queue="events", text="two\nlines")
    found = line(written)
    assert found["time"].endswith("Z")
    assert len(found["time"]) == len("2026-11-20T09:00:00.000Z")
    assert {name: found[name] for name in ("level", "event", "queue", "text")} == {
        "level": "warning",
        "event": "something",
        "queue": "events",
        "text": "two\nlines",
    }


def test_warnings_of_libraries_come_in_the_same_form_and_their_chatter_does_not(written: io.StringIO) -> None:
    logging.getLogger("botocore").info("chatter")
    logging.getLogger("botocore").warning("trouble %s", "here")
    assert line(written)["event"] == "trouble here"
    assert line(written)["logger"] == "botocore"


def test_an_exception_that_a_library_logs_comes_with_its_reason(written: io.StringIO) -> None:
    logging.getLogger("asyncio").error("unhandled", exc_info=ValueError("of 'Doe^Jane'"))
    assert line(written)["reason"] == "ValueError: of '…'"


@pytest.mark.parametrize(
    "key",
    [
        "Doe^Jane",
        "O'Doe^Jane",
        'say "Doe^Jane"',
        "'Doe^Jane' \"Doe^Jane\", Doe^Jane",
        "ends with \\' Doe^Jane\\",
        "can't Doe^Jane",
        "x" * 300 + "Doe^Jane",
        "'" * 57 + '"' * 57 + "Doe^Jane",
    ],
)
def test_values_are_masked_whatever_quotes_they_have(key: str) -> None:
    text = (
        f"The event of key {shown(key)}, in bucket {shown('scans')} can't be read: size is {shown({key: 1})}."
    )
    masked = logs.masked(text)
    assert "Jane" not in masked
    assert masked.startswith("The event of key '…', in bucket")


@given(st.lists(st.sampled_from(["'", '"', "\\", "Doe^Jane", "\n", "_", " ", "x" * 20]), max_size=40))
def test_no_part_of_a_value_is_left_over_where_it_was_shortened(parts: list[str]) -> None:
    key = "".join(parts)
    assert len(shown(key)) <= 120
    for value in (key, key.encode(), {key: [key]}):
        masked = logs.masked(f"The key {shown(value)}, of which {shown(None)} is known, can't be read.")
        assert "Jane" not in masked
        assert masked.endswith("can't be read.")


def test_of_a_malformed_message_the_reason_stays_readable_without_its_key() -> None:
    broken = json.loads(body("Doe^Jane"))
    broken["Records"][0]["eventTime"] = "yesterday"
    with pytest.raises(MalformedMessage) as raised:
        parse_message(json.dumps(broken))
    reason = logs.reason(raised.value)["reason"]
    assert "Jane" not in reason
    assert "eventTime is '…'; expected a time" in reason


def test_other_errors_of_ours_are_logged_in_full() -> None:
    assert logs.reason(Unreachable('No answer from "http://127.0.0.1"')) == {
        "code": "unreachable",
        "reason": 'No answer from "http://127.0.0.1"',
    }


def test_a_group_of_our_errors_comes_down_to_the_first() -> None:
    ours = Unreachable("x")
    assert plain(ExceptionGroup("a", [ExceptionGroup("b", [ours])])) is ours
    mixed = ExceptionGroup("a", [ours, ValueError("y")])
    assert plain(mixed) is mixed
    assert plain(ours) is ours


QUEUED = config(queue_url="q/scans", dead_letter_queue_url="q/dead")


def test_all_queues_of_the_registry_are_consumed_unless_some_are_asked_for() -> None:
    disabled = config(bucket="off", queue_url="q/off", enabled=False)
    gone = config(bucket="gone", queue_url=None, enabled=False)
    same = config(bucket="twin", queue_url="q/scans")
    found = targets([QUEUED, disabled, gone, same, config(bucket="bare")], [], [])
    assert list(found) == ["q/scans", "q/off"]
    assert found["q/off"].vouches_for == ()
    assert found["q/scans"].dead_letter_url == "q/dead"
    assert found["q/scans"].buckets == ("scans", "twin")
    assert not found["q/scans"].required


def test_buckets_and_queues_asked_for_are_consumed_alone() -> None:
    other = config(bucket="other", queue_url="q/other")
    found = targets([QUEUED, other], ["scans"], ["q/elsewhere"])
    assert list(found) == ["q/elsewhere", "q/scans"]
    assert found["q/elsewhere"].dead_letter_url is None
    assert all(target.required for target in found.values())


def test_a_bucket_asked_for_without_a_queue_is_an_error() -> None:
    with pytest.raises(BucketNotEnabled, match="enable-bucket unknown"):
        targets([QUEUED], ["unknown"], [])
    with pytest.raises(UsageError, match="--queue-url"):
        targets([config()], ["scans"], [])


def test_every_metric_and_every_option_has_its_line_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "worker.md").read_text()
    for metric in Metrics().registry.collect():
        suffix = "_total" if metric.type == "counter" else ""
        assert f"| `{metric.name}{suffix}" in text, metric.name
    for step in get_args(Step):
        assert f"`{step}`" in text
    app = typer.Typer()
    app.command()(worker)
    for parameter in typer.main.get_command(app).params:
        for option in parameter.opts:
            assert option in {"--install-completion", "--show-completion"} or f"| `{option}" in text, option
