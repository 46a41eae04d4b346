"""What the worker's tests share: events as S3 sends them, a queue in memory, a log that can be slow."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from snapengine.errors import Unreachable
from snapengine.log import EpochCutter
from snapengine.model import Observation
from snapengine.observation_codec import decode
from snapengine.ports import LogStore
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import Database
from snapengine.stores.sqlite_log import SQLiteLog
from snapengine.testing.store_contract import BUCKET, T, config
from snapengine.workers.logs import JSONFormatter
from snapengine.workers.sqs import Attributes, Backlog, Failure, Message

TEST_EVENT = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": BUCKET})
NOT_JSON = '{"Records": [{"key": "Doe^Jane"'


def now() -> int:
    return time.time_ns() // 1_000_000


def record(key: str, bucket: str = BUCKET, name: str = "ObjectCreated:Put") -> dict[str, Any]:
    """One record of an S3 notification."""
    return {
        "eventVersion": "2.6",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": "2023-11-14T22:13:20.000Z",
        "eventName": name,
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
            "object": {"key": key, "size": 10, "eTag": "e", "versionId": f"v-{key}", "sequencer": "0055AE"},
        },
    }


def body(*records: dict[str, Any] | str) -> str:
    """A message of these records; a text is a key."""
    return json.dumps({"Records": [record(r) if isinstance(r, str) else r for r in records]})


class Store:
    """A SQLite log in memory with `buckets` registered, and what is in it."""

    def __init__(self, *buckets: str, streams: int = 2) -> None:
        database = Database(":memory:")
        self.log: LogStore = SQLiteLog(database)
        self.reader = SQLiteStore(database)
        for bucket in buckets or (BUCKET,):
            self.reader.put_config(replace(config(streams=streams), bucket=bucket))

    def observed(self, bucket: str = BUCKET) -> list[Observation]:
        """All that epochs cover."""
        epoch = self.reader.newest_epoch(bucket)
        return [
            observation
            for stream, last in sorted(epoch.cover.items() if epoch else ())
            for entry in self.reader.entries(bucket, stream, 0, last)
            for observation in decode(entry.payload)
        ]

    async def committed(self, bucket: str = BUCKET) -> list[Observation]:
        """All that is in the log, whether or not an epoch covered it before."""
        await EpochCutter(self.log, bucket, lambda: T).cut()
        return self.observed(bucket)

    async def keys(self, bucket: str = BUCKET) -> list[str]:
        return sorted(o.key for o in await self.committed(bucket))


class Gate:
    """Passes calls on to a store; those of the steps that are shut wait until they are opened."""

    def __init__(self, store: LogStore, *shut: str) -> None:
        self._store = store
        self._shut = set(shut)
        self._opened = asyncio.Event()
        self.waiting = 0

    def open(self) -> None:
        self._opened.set()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in self._shut:
            return call

        async def wait_and_call(*arguments: Any) -> Any:
            self.waiting += 1
            await self._opened.wait()
            return await call(*arguments)

        return wait_and_call


class FakeQueue:
    """A queue in memory, as SQS is in what matters here. `faults` holds, for each call, what its next calls
    raise: before doing anything, or after having done it if the error is in a list.
    """

    def __init__(self, *bodies: str, visibility: int = 30, dead_letter: FakeQueue | None = None) -> None:
        self.name = "events"
        self.bodies: dict[str, str] = {}
        self.attributes_of: dict[str, dict[str, Any]] = {}
        self.sent_at: dict[str, int] = {}
        self.received: dict[str, int] = {}
        self.faults: dict[str, list[Exception | list[Exception]]] = {}
        self.refusals: list[tuple[str, bool]] = []
        """(code, final): entries that the next calls to `delete` say they did not carry out, one a call."""
        self.calls: list[str] = []
        self.visibility = visibility
        self.dead_letter = dead_letter
        self.hides = True
        """False: its visibility timeouts are over before anybody could do anything."""
        self._hidden_until: dict[str, float] = {}
        self._receipts: dict[str, str] = {}
        self._ids = itertools.count(1)
        for text in bodies:
            self.send(text)

    def send(self, text: str, attributes: dict[str, Any] | None = None, *, at: int | None = None) -> None:
        message_id = f"m{next(self._ids)}"
        self.bodies[message_id] = text
        self.attributes_of[message_id] = attributes or {}
        self.sent_at[message_id] = now() if at is None else at

    async def attributes(self) -> Attributes:
        self._strike("attributes")
        return Attributes(self.visibility, "arn:dead" if self.dead_letter else None)

    async def backlog(self) -> Backlog:
        self._strike("backlog")
        clock = asyncio.get_running_loop().time()
        hidden = sum(self._hidden_until.get(each, 0) > clock for each in self.bodies)
        return Backlog(len(self.bodies) - hidden, hidden, 0, "arn:dead" if self.dead_letter else None)

    def another(self, url: str) -> FakeQueue:
        assert url == "url:dead"
        assert self.dead_letter
        return self.dead_letter

    async def url_of(self, arn: str) -> str:
        assert arn == "arn:dead"
        return "url:dead"

    async def receive(self, *, wait: int, visibility: int) -> list[dict[str, Any]]:
        self._strike("receive")
        found = self._take(visibility)
        if not found:
            await asyncio.sleep(0.02)  # the long poll, shortened
            found = self._take(visibility)
        return found

    def _take(self, visibility: int) -> list[dict[str, Any]]:
        clock = asyncio.get_running_loop().time()
        visible = [each for each in self.bodies if self._hidden_until.get(each, 0) <= clock][:10]
        for each in visible:
            self.received[each] = self.received.get(each, 0) + 1
            self._hidden_until[each] = clock + (visibility if self.hides else 0)
            self._receipts[each] = f"{each}/{self.received[each]}"
        return [
            {
                "MessageId": each,
                "ReceiptHandle": self._receipts[each],
                "Body": self.bodies[each],
                "Attributes": {
                    "SentTimestamp": str(self.sent_at[each]),
                    "ApproximateReceiveCount": str(self.received[each]),
                },
                "MessageAttributes": self.attributes_of[each],
            }
            for each in visible
        ]

    async def delete(self, messages: Sequence[Message]) -> list[Failure]:
        assert 1 <= len(messages) <= 10
        self.calls.append("delete")
        self._strike("delete")
        failures = []
        if self.refusals:
            code, final = self.refusals.pop(0)
            failures = [Failure(messages[0], code, final)]
        for message in messages[len(failures) :]:
            self.bodies.pop(message.id, None)
        return failures

    async def extend(self, messages: Sequence[Message], visibility: int) -> list[Failure]:
        self.calls.append("extend")
        self._strike("extend")
        for message in messages:
            self._hidden_until[message.id] = asyncio.get_running_loop().time() + visibility
        return []

    async def send_on(self, url: str, raw: dict[str, Any], reason: str) -> None:
        assert url == "url:dead"
        assert self.dead_letter
        self._strike("send_on")
        self.dead_letter.send(raw["Body"], {"reason": reason})

    def _strike(self, call: str) -> None:
        if self.faults.get(call):
            fault = self.faults[call].pop(0)
            raise fault if isinstance(fault, Exception) else fault[0]


def gone(times: int = 1) -> list[Exception | list[Exception]]:
    """Faults of a network that is away for so many calls."""
    return [Unreachable("no answer") for _ in range(times)]


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something to become true; fail if it doesn't."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.01)


class Lines:
    """What was logged, as it would be written."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.INFO, "snapengine.worker")

    @property
    def text(self) -> str:
        return "\n".join(JSONFormatter().format(each) for each in self._caplog.records)

    def of(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(JSONFormatter().format(each)) for each in self._caplog.records]
        return [line for line in lines if line["event"] == event]
