"""The caught-up watermark as workers keep it: processes of their own, on the embedded cloud's queues."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ingest_worker.worker import Options, Worker
from snapengine.buckets.status import bucket_status
from snapengine.completeness import completeness
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.model import Epoch
from snapengine.observation_codec import decode
from snapengine.settings import Settings
from tests.integration.bucket_site import open_site
from tests.servers import Endpoint
from tests.worker_fakes import NOT_JSON, now, until
from tests.worker_house import AT_A_STEP, House, Process, Start, starting, state, wait_until

QUICK = """
import snapengine.workers.consumer, ingest_worker.queue_watch as watch
snapengine.workers.consumer.LONG_POLL = 1
watch.EVERY, watch.CONFIRM, watch.APART = 0.1, 1.0, 300
"""
"""Python that has a worker look more often than it would, and wait for less."""


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def house(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return House(cloud.environment(), f"sqlite:///{tmp_path / 'log.db'}")


@pytest.fixture
def start(house: House, tmp_path: Path) -> Iterator[Start]:
    with starting(house.environment, tmp_path) as start:
        yield start


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `QUICK`, in this process."""
    monkeypatch.setattr("snapengine.workers.consumer.LONG_POLL", 1)
    for name, value in {"EVERY": 0.1, "CONFIRM": 1.0, "APART": 300}.items():
        monkeypatch.setattr(f"ingest_worker.queue_watch.{name}", value)


def epochs(engine: Engine, bucket: str) -> list[Epoch]:
    newest = engine.store.newest_epoch(bucket)
    found = [engine.store.epoch(bucket, number) for number in range(1, newest.number + 1 if newest else 1)]
    return [epoch for epoch in found if epoch]


def carried(engine: Engine, bucket: str) -> int:
    """The watermark of the newest epoch."""
    epoch = engine.store.newest_epoch(bucket)
    return (epoch.watermarks.caught_up if epoch else None) or 0


def keys_of(engine: Engine, bucket: str, epoch: Epoch) -> set[str]:
    return {
        observation.key
        for stream, last in epoch.cover.items()
        for entry in engine.store.entries(bucket, stream, 0, last)
        for observation in decode(entry.payload)
    }


class Sent:
    """Keys and the instant by which each had been sent."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.by: dict[str, int] = {}

    def send(self, key: str) -> None:
        self._house.send_keys(key)
        self.by[key] = now()

    def check(self) -> None:
        """Every epoch covers what was sent before its watermark."""
        engine, bucket = self._house.engine, self._house.bucket
        for epoch in epochs(engine, bucket):
            covered = keys_of(engine, bucket, epoch)
            passed = {key for key, by in self.by.items() if (epoch.watermarks.caught_up or 0) > by}
            assert passed <= covered, f"epoch {epoch.number} lacks {passed - covered}"


def test_with_one_worker_stalled_one_crashed_and_one_message_dead_no_epoch_says_more_than_it_has(
    house: House, start: Start
) -> None:
    sent = Sent(house)
    # Longer than it takes to look twice: what is stalled and crashed must be seen in flight.
    house.sqs.set_queue_attributes(QueueUrl=house.url, Attributes={"VisibilityTimeout": "6"})
    sent.send("stalled")
    put_entry, mark_done = (f"snapengine.stores.sqlite_log.SQLiteLog.{s}" for s in ("put_entry", "mark_done"))
    sleeper = start(put_entry, "before", str(int(signal.SIGSTOP)), "--no-http", prelude=QUICK + AT_A_STEP)
    wait_until(lambda: state(sleeper.popen.pid) == "T")
    sent.send("crashed")
    crasher = start(mark_done, "before", str(int(signal.SIGKILL)), "--no-http", prelude=QUICK + AT_A_STEP)
    assert crasher.wait() == -signal.SIGKILL
    one, two = (start("--no-http", prelude=QUICK) for _ in range(2))
    for number in range(20):
        sent.send(f"k{number:02}")
        time.sleep(0.05)
    house.send(NOT_JSON)
    dead = now()
    wait_until(lambda: bool(one.of("watermark-held") or two.of("watermark-held")))
    wait_until(lambda: set(house.keys()) == set(sent.by))
    sent.send("after the dead letter")
    wait_until(lambda: set(house.keys()) == set(sent.by))
    time.sleep(1.5)  # a watermark that did not mind would have been raised by now
    assert carried(house.engine, house.bucket) <= dead
    house.sqs.purge_queue(QueueUrl=house.dead_url)
    wait_until(lambda: carried(house.engine, house.bucket) > max(sent.by.values()))
    sleeper.popen.send_signal(signal.SIGKILL)
    stop(one, two)
    sent.check()


def stop(*processes: Process) -> None:
    for each in processes:
        each.popen.send_signal(signal.SIGTERM)
    for each in processes:
        assert each.wait() == 0, each.log.read_text()


def test_what_was_put_into_s3_becomes_settled_and_status_says_how_far(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_site(cloud, tmp_path, monkeypatch)
    asyncio.run(site.enable())
    site.engine.store.put_config(replace(site.config(), settle_ms=500))
    with starting(dict(os.environ), tmp_path) as start:
        process = start("--no-http", prelude=QUICK)
        asyncio.run(verify(site.engine, site.bucket))
        site.s3.put_object(Bucket=site.bucket, Key="k", Body=b"1")
        put = now()

        def settled() -> bool:
            epoch = site.engine.store.newest_epoch(site.bucket)
            return epoch is not None and completeness(put, "", epoch).level == "settled"

        wait_until(settled)
        found = bucket_status(site.engine, site.bucket)
        assert found.errors == ()
        assert found.caught_up
        assert found.caught_up >= put + 500
        assert found.behind_ms is not None
        assert 0 <= found.behind_ms < 20_000
        assert site.view().keys() == {"k"}
        stop(process)


async def verify(engine: Engine, bucket: str) -> None:
    """As if the bucket had just been listed again: `settled` rests on that too."""
    async with engine.log() as log:
        await log.note_verified(bucket, "", now())


@contextmanager
def idle(house: House, start: Start, *options: str) -> Iterator[Process]:
    process = start("--no-http", *options, prelude=QUICK)
    yield process
    stop(process)


def test_a_queue_given_by_url_speaks_for_the_buckets_registered_with_it_and_no_others(
    house: House, start: Start
) -> None:
    config = house.engine.store.config(house.bucket)
    assert config
    house.register(replace(config, bucket="twin"))
    house.register(replace(config, bucket="off", enabled=False))
    house.enable("elsewhere")
    with idle(house, start, "--queue-url", house.url):
        wait_until(lambda: carried(house.engine, house.bucket) > 0 and carried(house.engine, "twin") > 0)
    assert carried(house.engine, "off") == 0
    assert carried(house.engine, "elsewhere") == 0


def test_emptying_once_vouches_for_nothing(house: House, start: Start) -> None:
    house.send_keys("k")
    assert start("--once", "--no-http", prelude=QUICK).wait() == 0
    assert house.keys() == ["k"]
    assert carried(house.engine, house.bucket) == 0


async def catches_up(house: House) -> None:
    options: dict[str, Any] = {"name": uuid4().hex, "buckets": (house.bucket,)}
    worker = Worker(Engine(Settings(store=house.engine.settings.store)), Options(**options))
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    await asyncio.to_thread(house.send_keys, "k")
    sent = now()
    await until(lambda: task.done() or carried(house.engine, house.bucket) > sent)
    behind = worker.metrics.registry.get_sample_value("snapengine_worker_behind_seconds")
    assert behind is not None
    assert 0 <= behind < 20
    stop.set()
    await task
    assert house.keys() == ["k"]


@pytest.mark.usefixtures("_quick")
async def test_the_gauge_tells_how_far_the_watermark_lies_behind(house: House) -> None:
    await catches_up(house)


@pytest.mark.services
@pytest.mark.usefixtures("_quick")
async def test_it_works_with_elasticmq_and_dynamodb_local(
    elasticmq_server: Endpoint, dynamodb_local_server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = elasticmq_server.environment() | dynamodb_local_server.environment()
    environment["AWS_ENDPOINT_URL"] = elasticmq_server.endpoint_url
    environment["AWS_ENDPOINT_URL_DYNAMODB"] = dynamodb_local_server.endpoint_url
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    await catches_up(House(environment, f"dynamodb://watermark-{uuid4().hex[:6]}"))
