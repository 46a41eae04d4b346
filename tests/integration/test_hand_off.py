"""The worker and extraction's queue, on the embedded cloud: handed on, and lost nowhere on the way."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ingest_worker.lambda_handler import Environment
from ingest_worker.worker import Options, Worker
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.extraction_tasks import Task, parse_tasks
from snapengine.model import BucketConfig
from tests.servers import Endpoint
from tests.worker_fakes import body, record, until
from tests.worker_house import AT_A_STEP, House, Start, starting, wait_until


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


class Site(House):
    """A house whose bucket has extractors, and what was handed on."""

    def __init__(self, environment: dict[str, str], store: str) -> None:
        super().__init__(environment, store)
        self.extract_url = self.extract(self.bucket)

    def extract(self, bucket: str) -> str:
        url = self._queue("Extract", {"VisibilityTimeout": "900"})
        self.change(bucket, extractors=("dicom",), extract_queue_url=url)
        return url

    def change(self, bucket: str, **changes: Any) -> None:
        self.register(replace(self.config(bucket), **changes))

    def config(self, bucket: str) -> BucketConfig:
        config = self.engine.store.config(bucket)
        assert config
        return config

    def handed_on(self, url: str | None = None) -> list[Task]:
        """Those in the queue now; they are taken out of it."""
        found: list[Task] = []
        while messages := self.sqs.receive_message(
            QueueUrl=url or self.extract_url, MaxNumberOfMessages=10
        ).get("Messages"):
            for message in messages:
                found += parse_tasks(message["Body"])
                self.sqs.delete_message(
                    QueueUrl=url or self.extract_url, ReceiptHandle=message["ReceiptHandle"]
                )
        return found


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("snapengine.workers.consumer.LAST_POLL", 1)
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return Site(cloud.environment(), f"sqlite:///{tmp_path / 'log.db'}")


@pytest.fixture
def start(site: Site, tmp_path: Path) -> Iterator[Start]:
    with starting(site.environment, tmp_path) as start:
        yield start


def worker(site: House, **options: Any) -> Worker:
    given: dict[str, Any] = {"name": f"w-{uuid4().hex[:6]}", "buckets": (site.bucket,)} | options
    return Worker(Engine(site.engine.settings), Options(**given), refresh=0.2)


@asynccontextmanager
async def running(each: Worker) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(each.run(stop))
    try:
        yield
        assert not task.done()
        stop.set()
        async with asyncio.timeout(30):
            await task
    finally:
        task.cancel()


def value(each: Worker, name: str, **labels: str) -> float:
    return each.metrics.registry.get_sample_value(f"snapengine_worker_{name}", labels) or 0.0


def test_what_a_worker_takes_in_is_handed_on_packed_and_with_what_s3_said(site: Site, start: Start) -> None:
    keys = [f"Doe^Jane/{number:02}" for number in range(45)]
    removal = record("Doe^Jane/00", site.bucket, name="ObjectRemoved:Delete")
    site.send(body(*(record(key, site.bucket) for key in keys), removal))
    process = start("--once", "--no-http")
    assert process.wait() == 0, process.log.read_text()
    assert site.in_queue() == 0
    assert site.in_queue(site.extract_url) == 3
    tasks = site.handed_on()
    assert sorted(task.key for task in tasks) == keys
    assert tasks[0] == Task(site.bucket, "Doe^Jane/00", "v-Doe^Jane/00", 10, "e", "0055AE", 1_700_000_000_000)
    assert "Jane" not in process.log.read_text()


SEND = "snapengine.workers.sqs.SQSQueue.send"
STEPS = [
    ("snapengine.stores.sqlite_log.SQLiteLog.put_entry", "after"),
    ("snapengine.stores.sqlite_log.SQLiteLog.mark_done", "after"),
    (SEND, "before"),
    (SEND, "after"),
    ("snapengine.workers.sqs.SQSQueue.delete", "before"),
]


def test_killed_between_the_commit_and_the_deletion_it_hands_on_every_version_all_the_same(
    site: Site, start: Start
) -> None:
    killed = {}
    for number, (step, when) in enumerate(STEPS):
        bucket = f"{site.bucket}-{number}"
        url = site.enable(bucket)
        extract_url = site.extract(bucket)
        site.send_keys("k1", "k2", bucket=bucket, url=url)
        at = (step, when, str(int(signal.SIGKILL)))
        process = start(*at, "--no-http", "--bucket", bucket, prelude=AT_A_STEP)
        killed[bucket] = url, extract_url, process
    for _, _, process in killed.values():
        assert process.wait() == -signal.SIGKILL, process.log.read_text()
    survivor = start("--no-http")
    wait_until(lambda: all(site.in_queue(url) == 0 for url, _, _ in killed.values()))
    survivor.popen.send_signal(signal.SIGTERM)
    assert survivor.wait() == 0, survivor.log.read_text()
    times = {}
    for (step, when), (bucket, (_, extract_url, _)) in zip(STEPS, killed.items(), strict=True):
        assert set(site.keys(bucket)) == {"k1", "k2"}
        handed = Counter(task.key for task in site.handed_on(extract_url))
        assert set(handed) == {"k1", "k2"}, (step, when)
        times[step, when] = max(handed.values())
    assert times[SEND, "after"] >= 2, "once before the kill and once after it"


async def test_a_queue_that_is_gone_holds_the_messages_until_it_is_there_again(site: Site) -> None:
    site.sqs.delete_queue(QueueUrl=site.extract_url)
    each = worker(site)
    async with running(each):
        site.send_keys("k")
        await until(lambda: value(each, "failures_total", step="hand-off") >= 2)
        await until(lambda: site.keys() == ["k"])  # what is committed is seen meanwhile
        assert site.in_queue() == 1
        troubles = [trouble for trouble in await each.troubles() if "hand-off" in trouble]
        assert f"snapengine enable-bucket {site.bucket} --extract dicom" in troubles[0]
        url = site.extract(site.bucket)
        await until(lambda: value(each, "messages_deleted_total") == 1)
        assert await each.troubles() == []
    assert [task.key for task in site.handed_on(url)] == ["k"]
    assert site.keys() == ["k"]


async def test_it_is_switched_on_and_off_without_a_restart(site: Site) -> None:
    site.change(site.bucket, extractors=())
    each = worker(site)
    async with running(each):
        for number, extractors in enumerate([(), ("dicom",), ()]):
            site.change(site.bucket, extractors=extractors)
            await asyncio.sleep(0.3)  # longer than what it knows is used
            site.send_keys(f"k{number}")
            await until(lambda number=number: value(each, "messages_deleted_total") == number + 1)  # type: ignore[misc]  # bound at once
    assert [task.key for task in site.handed_on()] == ["k1"]
    assert value(each, "handed_off_total", bucket=site.bucket) == 1


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 30_000


def invoked(environment: Environment, *bodies: str) -> list[str]:
    records = [
        {"messageId": f"m{n}", "body": text, "eventSource": "aws:sqs"} for n, text in enumerate(bodies)
    ]
    return environment.handle(records, Context())


def test_the_lambda_function_hands_on_too_and_gives_back_what_it_could_not(site: Site) -> None:
    environment = Environment(Engine(site.engine.settings))
    try:
        assert invoked(environment, body(record("k", site.bucket))) == []
        assert [task.key for task in site.handed_on()] == ["k"]
        site.sqs.delete_queue(QueueUrl=site.extract_url)
        bodies = body(record("l", site.bucket)), body(record("l", site.bucket, name="ObjectTagging:Put"))
        assert invoked(environment, *bodies) == ["m0"]
        assert site.keys() == ["k", "l"]
    finally:
        environment._loop.run_until_complete(environment._clients.aclose())
        environment._loop.close()


def test_the_lambda_function_makes_no_client_for_buckets_without_extractors(site: Site) -> None:
    site.change(site.bucket, extractors=())
    environment = Environment(Engine(site.engine.settings))
    try:
        assert invoked(environment, body(record("k", site.bucket))) == []
        assert environment._sqs is None
    finally:
        environment._loop.run_until_complete(environment._clients.aclose())
        environment._loop.close()


@pytest.mark.services
def test_it_works_with_elasticmq_and_dynamodb_local(
    elasticmq_server: Endpoint, dynamodb_local_server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = elasticmq_server.environment() | dynamodb_local_server.environment()
    environment["AWS_ENDPOINT_URL"] = elasticmq_server.endpoint_url
    environment["AWS_ENDPOINT_URL_DYNAMODB"] = dynamodb_local_server.endpoint_url
    for name, setting in environment.items():
        monkeypatch.setenv(name, setting)
    site = Site(environment, f"dynamodb://worker-{uuid4().hex[:6]}")
    long = {f"{number:03}" + "é" * 500 for number in range(120)}
    records = [record(key, site.bucket) for key in long]
    for each in records:
        each["s3"]["object"]["versionId"] = uuid4().hex
    for start in range(0, len(records), 20):
        site.send(json.dumps({"Records": records[start : start + 20]}))
    asyncio.run(worker(site, once=True).run(asyncio.Event()))
    assert site.in_queue() == 0
    assert {task.key for task in site.handed_on()} == long
