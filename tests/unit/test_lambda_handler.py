"""The worker as a Lambda function: partial batch failures, and an environment that is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest_worker import lambda_handler
from ingest_worker.lambda_handler import Batches, handler
from snapengine.errors import Unreachable, UsageError
from snapengine.log import EpochCutter, StreamWriter
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import Database
from snapengine.testing.store_contract import BUCKET, config, observation
from tests.contract.lossy import LossyStore
from tests.worker_fakes import NOT_JSON, TEST_EVENT, Gate, Lines, Store, body, now, record


class Context:
    """Lambda's context, with a clock that stands still."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self._seconds * 1000)


def sqs_record(message_id: str, text: str) -> dict[str, Any]:
    return {
        "messageId": message_id,
        "receiptHandle": "r",
        "body": text,
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1700000000000"},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:events",
        "awsRegion": "us-east-1",
    }


async def handled(store: Any, *messages: str, seconds: float = 60.0) -> list[str]:
    """The failures of a batch with messages m0, m1, …"""
    records = [sqs_record(f"m{i}", text) for i, text in enumerate(messages)]
    return await Batches(store, "w", now).handle(records, Context(seconds))


async def test_a_batch_is_committed_covered_and_reported_as_done() -> None:
    store = Store()
    assert await handled(store.log, *(body(f"k{i}") for i in range(10))) == []
    assert sorted(o.key for o in store.observed()) == [f"k{i}" for i in range(10)]


async def test_test_events_are_acknowledged() -> None:
    assert await handled(Store().log, TEST_EVENT, body(record("k", name="ObjectAcl:Put"))) == []


async def test_only_what_cannot_be_parsed_is_reported_and_its_reason_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines, store = Lines(caplog), Store()
    assert await handled(store.log, body("k0"), NOT_JSON, body("k2")) == ["m1"]
    assert sorted(o.key for o in store.observed()) == ["k0", "k2"]
    (line,) = lines.of("malformed-message-left")
    assert line["message"] == "m1"
    assert line["queue"].endswith(":events")
    assert "not JSON" in line["reason"]
    assert "Jane" not in lines.text


async def test_messages_of_a_bucket_that_is_not_enabled_are_reported() -> None:
    store = Store()
    mixed = body("k1", record("k1", "unknown"))
    assert await handled(store.log, body("k0"), mixed, body(record("k2", "unknown"))) == ["m1", "m2"]
    assert sorted(o.key for o in store.observed()) == ["k0", "k1"]


async def test_what_the_store_did_not_take_is_reported_without_waiting() -> None:
    store = Store()
    lossy = LossyStore(store.log)
    lossy.fail("put_entry", "before")
    assert await handled(lossy, body("k0"), body("k1")) == ["m0", "m1"]
    assert await handled(lossy, body("k0"), body("k1")) == []
    assert await store.keys() == ["k0", "k1"]


async def test_what_is_not_committed_in_time_is_reported_and_nothing_runs_on() -> None:
    store = Store()
    gate = Gate(store.log, "mark_done")
    before = asyncio.all_tasks()
    assert await handled(gate, body("k0"), seconds=3.2) == ["m0"]
    assert asyncio.all_tasks() == before


async def test_with_no_time_left_everything_is_reported() -> None:
    assert await handled(Store().log, body("k0"), seconds=0.5) == ["m0"]


async def test_a_young_epoch_is_waited_for_so_that_nothing_stays_uncovered() -> None:
    store = Store()
    await StreamWriter(store.log, "other", now).append(BUCKET, [observation(1)])
    first = await EpochCutter(store.log, BUCKET, now).cut()
    assert await handled(store.log, body("k0")) == []
    second = store.reader.newest_epoch(BUCKET)
    assert second
    assert second.time >= first.time + 1_000
    assert len(store.observed()) == 2


async def test_committed_messages_are_done_even_if_the_epoch_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines, store = Lines(caplog), Store()
    assert await handled(NoEpochs(store.log), body("k0")) == []
    assert lines.of("epoch-failed")[0]["code"] == "unreachable"
    assert await store.keys() == ["k0"]


async def test_an_epoch_not_cut_in_time_is_left_to_the_next_invocation() -> None:
    store = Store()
    gate = Gate(store.log, "put_epoch")
    batches = Batches(gate, "w", now)
    assert await batches.handle([sqs_record("m0", body("k0"))], Context(1.2)) == ["m0"]
    assert await batches.handle([sqs_record("m0", body("k0"))], Context(3.5)) == []
    assert store.observed() == []
    gate.open()
    assert await batches.handle([sqs_record("m1", body("k1"))], Context()) == []
    assert {o.key for o in store.observed()} == {"k0", "k1"}


class NoEpochs:
    """A store that cuts none."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def newest_epoch(self, bucket: str) -> Any:
        raise Unreachable("no answer")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize(
    "event",
    [
        {},
        [],
        None,
        {"Records": "x"},
        {"Records": [record("k")]},
        json.loads(body("k")),
        {"source": "aws.s3", "detail-type": "Object Created"},
        {"Records": [{"eventSource": "aws:sqs"}]},
        {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "x"}}]},
    ],
)
def test_an_event_that_is_no_batch_of_sqs_messages_is_refused(event: Any) -> None:
    with pytest.raises(UsageError, match="no batch of SQS messages"):
        handler(event, Context())


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SQLiteStore]:
    """A function whose environment is new, and its store."""
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path / 'log.db'}")
    monkeypatch.setattr(lambda_handler, "_environment", None)
    monkeypatch.setattr("snapengine.workers.logs.configure", lambda: None)  # caplog has the root logger here
    store = SQLiteStore(Database(str(tmp_path / "log.db")))
    store.create()
    store.put_config(config())
    yield store
    if lambda_handler._environment:
        lambda_handler._environment._loop.close()


def test_the_handler_answers_in_lambdas_form_and_keeps_its_environment(deployed: SQLiteStore) -> None:
    answer = handler({"Records": [sqs_record("m0", body("k0")), sqs_record("m1", NOT_JSON)]}, Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m1"}]}
    kept = lambda_handler._environment
    assert handler({"Records": [sqs_record("m2", body("k2"))]}, Context()) == {"batchItemFailures": []}
    assert lambda_handler._environment is kept
    epoch = deployed.newest_epoch(BUCKET)
    assert epoch
    keys = {o.key for key in ("k0", "k2") for o in deployed.key_history(BUCKET, key, epoch.cover)}
    assert keys == {"k0", "k2"}


def test_an_empty_batch_is_no_failure(deployed: SQLiteStore) -> None:
    assert handler({"Records": []}, Context()) == {"batchItemFailures": []}
