"""A worker's surroundings for tests: a store and queues to consume, and workers as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3

from snapengine.engine import Engine
from snapengine.model import BucketConfig
from snapengine.observation_codec import decode
from snapengine.settings import Settings
from tests.worker_fakes import body, record

COMMAND = "import typer; from ingest_worker.command import worker; typer.run(worker)"
VISIBILITY = 1


class House:
    """A store, a bucket with its queue and dead-letter queue, and the means to look at them."""

    def __init__(self, environment: dict[str, str], store: str) -> None:
        self.environment = {**environment, "SNAPENGINE_STORE": store}
        self.engine = Engine(Settings(store=store))
        self.engine.store.create()
        self.sqs: Any = boto3.client("sqs", endpoint_url=environment["AWS_ENDPOINT_URL"])
        self.bucket = f"scans-{uuid4().hex[:8]}"
        self.dead_url = self._queue("dead", {})
        self.url = self.enable(self.bucket)

    def _queue(self, purpose: str, attributes: dict[str, str]) -> str:
        name = f"{self.bucket}-{purpose}-{uuid4().hex[:4]}"
        return str(self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    def enable(self, bucket: str) -> str:
        """Register a bucket with a queue of its own, which is given."""
        found = self.sqs.get_queue_attributes(QueueUrl=self.dead_url, AttributeNames=["QueueArn"])
        policy = {"deadLetterTargetArn": found["Attributes"]["QueueArn"], "maxReceiveCount": "100"}
        settings = {"VisibilityTimeout": str(VISIBILITY), "RedrivePolicy": json.dumps(policy)}
        url = self._queue("events", settings)
        self.register(BucketConfig(bucket, "us-east-1", "123456789012", streams=2, queue_url=url))
        return url

    def register(self, config: BucketConfig) -> None:
        self.engine.store.put_config(config)

    def send(self, *bodies: str, url: str | None = None) -> None:
        for start in range(0, len(bodies), 10):
            entries = [
                {"Id": str(i), "MessageBody": text} for i, text in enumerate(bodies[start : start + 10])
            ]
            reply = self.sqs.send_message_batch(QueueUrl=url or self.url, Entries=entries)
            assert not reply.get("Failed")

    def send_keys(self, *keys: str, bucket: str | None = None, url: str | None = None) -> None:
        self.send(*(body(record(key, bucket or self.bucket)) for key in keys), url=url)

    def keys(self, bucket: str | None = None) -> list[str]:
        """Those that the newest epoch knows of. On a busy machine one may be told twice, as SQS allows."""
        bucket = bucket or self.bucket
        epoch = self.engine.store.newest_epoch(bucket)
        return sorted(
            {
                observation.key
                for stream, last in sorted(epoch.cover.items() if epoch else ())
                for entry in self.engine.store.entries(bucket, stream, 0, last)
                for observation in decode(entry.payload)
            }
        )

    def in_queue(self, url: str | None = None) -> int:
        """Messages there, whether hidden or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=url or self.url, AttributeNames=names)
        return sum(int(found["Attributes"][name]) for name in names)

    def dead(self) -> list[Any]:
        found = self.sqs.receive_message(
            QueueUrl=self.dead_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        )
        return list(found.get("Messages", []))


class Process:
    """A worker (`snapengine worker`, unless told otherwise), and what it logged."""

    def __init__(
        self,
        environment: dict[str, str],
        log: Path,
        *options: str,
        prelude: str = "",
        command: str = COMMAND,
    ) -> None:
        self.log = log
        with log.open("ab") as stderr:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", prelude + command, *options], env=environment, stderr=stderr
            )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    def wait(self, seconds: float = 30) -> int:
        return self.popen.wait(seconds)

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(10)


Start = Callable[..., Process]


@contextmanager
def starting(environment: dict[str, str], logs: Path, command: str = COMMAND) -> Iterator[Start]:
    """Starts workers within; ends those that a failed test left."""
    started: list[Process] = []

    def start(*options: str, prelude: str = "") -> Process:
        log = logs / f"worker-{len(started)}.log"
        started.append(Process(environment, log, *options, prelude=prelude, command=command))
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            each.end()


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def state(pid: int) -> str:
    """A process's state by Linux's /proc: `T` for one that is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


AT_A_STEP = """
import functools, os, pkgutil, signal, sys
path, when, sent = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))
owner, _, name = path.rpartition(".")
owner = pkgutil.resolve_name(owner)
step = getattr(owner, name)

@functools.wraps(step)
async def struck(*arguments):
    if when == "before":
        os.kill(os.getpid(), sent)
    reply = await step(*arguments)
    if when == "after":
        os.kill(os.getpid(), sent)
    return reply

setattr(owner, name, struck)
"""
"""Python that sends its own process a signal before or after each call of one method."""
