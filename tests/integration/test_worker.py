"""The worker on queues of the embedded cloud: as a process that is ended and killed, and from within."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ingest_worker.worker import Options, Worker
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import BucketNotEnabled, NotFound, TryAgain, Unreachable, UsageError
from snapengine.ports import LogStore
from snapengine.settings import Settings
from tests.servers import Endpoint
from tests.worker_fakes import NOT_JSON, TEST_EVENT, Gate, Lines, body, record, until
from tests.worker_house import AT_A_STEP, VISIBILITY, House, Start, starting, state, wait_until


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def house(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """On the embedded cloud's queues, with a store in SQLite."""
    monkeypatch.setattr("snapengine.workers.consumer.LAST_POLL", 1)
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return House(cloud.environment(), f"sqlite:///{tmp_path / 'log.db'}")


# As a process


@pytest.fixture
def start(house: House, tmp_path: Path) -> Iterator[Start]:
    with starting(house.environment, tmp_path) as start:
        yield start


def test_once_it_empties_the_queue_into_the_log_and_exits_with_0(house: House, start: Start) -> None:
    house.send_keys(*(f"k{number:02}" for number in range(12)))
    house.send(TEST_EVENT, NOT_JSON)
    process = start("--once", "--no-http", "--name", "cron")
    assert process.wait() == 0, process.log.read_text()
    assert house.in_queue() == 0
    assert house.keys() == [f"k{number:02}" for number in range(12)]
    (dead,) = house.dead()
    assert dead["Body"] == NOT_JSON
    assert "not JSON" in dead["MessageAttributes"]["snapengine-reason"]["StringValue"]
    assert process.of("started")[0]["name"] == "cron"
    assert len(process.of("malformed-message-set-aside")) == 1
    text = process.log.read_text()
    assert len(process.lines()) == len(text.splitlines()), text
    assert "Jane" not in text
    assert "k01" not in text


def test_a_worker_archives_its_buckets_on_request(house: House, start: Start, tmp_path: Path) -> None:
    environment = {**house.environment, "SNAPENGINE_ARCHIVE": f"file://{tmp_path}/root"}
    house.environment.update(environment)
    house.send_keys("a", "b")
    process = start("--archive", "1s", "--no-http", "--bucket", house.bucket)
    wait_until(lambda: sum(line["observations"] for line in process.of("archived")) == 2)
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0, process.log.read_text()
    assert sum(s.rows for s in house.engine.archive(house.bucket).segments) == 2


@pytest.mark.parametrize("options", [("--archive", "5"), ("--archive", "5m", "--once")])
def test_archiving_that_cannot_be_meant_is_refused(start: Start, options: tuple[str, ...]) -> None:
    assert start(*options).wait() != 0


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()


def test_it_tells_of_itself_and_on_sigterm_finishes_and_exits_with_0(house: House, start: Start) -> None:
    process = start("--http-port", "0", "--bucket", house.bucket)
    wait_until(lambda: bool(process.of("http-listening")))
    listening = process.of("http-listening")[0]
    assert listening["host"] == "127.0.0.1"
    port = listening["port"]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", port)) != 0
    house.send_keys("k1", "k2")
    house.send(body(record("k3", house.bucket, name="ObjectTagging:Put")))
    wait_until(lambda: f'observations_total{{bucket="{house.bucket}"}} 2.0' in get(port, "/metrics")[1])
    wait_until(lambda: get(port, "/readyz") == (200, '{"ready": true, "reasons": []}'))
    assert get(port, "/healthz") == (200, '{"healthy": true}')
    wait_until(lambda: house.in_queue() == 0)
    text = get(port, "/metrics")[1]
    assert "snapengine_worker_messages_received_total 3.0" in text
    assert 'snapengine_worker_unknown_types_total{type="ObjectTagging:Put"} 1.0' in text
    assert "snapengine_worker_duplicates_total 0.0" in text
    assert 'snapengine_worker_failures_total{step="commit"} 0.0' in text
    assert f'snapengine_worker_lag_seconds{{bucket="{house.bucket}"}}' in text
    assert f'snapengine_worker_epochs_total{{bucket="{house.bucket}"}}' in text
    assert "snapengine_worker_in_flight_messages 0.0" in text
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0, process.log.read_text()
    assert house.keys() == ["k1", "k2"]
    assert process.lines()[-1]["event"] == "stopped"


STEPS = [
    "snapengine.stores.sqlite_log.SQLiteLog.put_entry",
    "snapengine.stores.sqlite_log.SQLiteLog.put_by_key",
    "snapengine.stores.sqlite_log.SQLiteLog.mark_done",
    "snapengine.stores.sqlite_log.SQLiteLog.put_epoch",
    "snapengine.workers.sqs.SQSQueue.delete",
]


def test_killed_at_any_step_it_loses_nothing(house: House, start: Start) -> None:
    killed = {}
    # After one step is before the next; so this is between any two.
    for number, (step, when) in enumerate([*((step, "before") for step in STEPS), (STEPS[-1], "after")]):
        bucket = f"{house.bucket}-{number}"
        url = house.enable(bucket)
        house.send_keys("k1", "k2", bucket=bucket, url=url)
        at = (step, when, str(int(signal.SIGKILL)))
        killed[bucket] = url, start(*at, "--no-http", "--bucket", bucket, prelude=AT_A_STEP)
    for _, process in killed.values():
        assert process.wait() == -signal.SIGKILL, process.log.read_text()
    survivor = start("--no-http")
    wait_until(lambda: all(house.in_queue(url) == 0 for url, _ in killed.values()))
    survivor.popen.send_signal(signal.SIGTERM)
    assert survivor.wait() == 0, survivor.log.read_text()
    for bucket in killed:
        assert set(house.keys(bucket)) == {"k1", "k2"}


@pytest.mark.parametrize("step", [STEPS[0], STEPS[2]])
def test_a_worker_that_slept_through_anothers_work_wakes_and_harms_nothing(
    house: House, start: Start, step: str
) -> None:
    house.send_keys("k1", "k2")
    sleeper = start(step, "before", str(int(signal.SIGSTOP)), "--no-http", prelude=AT_A_STEP)
    wait_until(lambda: state(sleeper.popen.pid) == "T")
    other = start("--no-http")
    wait_until(lambda: house.in_queue() == 0)
    other.popen.send_signal(signal.SIGTERM)
    assert other.wait() == 0, other.log.read_text()
    before = house.keys()
    assert set(before) == {"k1", "k2"}
    sleeper.popen.send_signal(signal.SIGTERM)

    def woken() -> bool:
        sleeper.popen.send_signal(signal.SIGCONT)  # again and again: it stops at each call of the step
        return sleeper.popen.poll() is not None

    wait_until(woken)
    assert sleeper.popen.returncode == 0, sleeper.log.read_text()
    assert set(house.keys()) == {"k1", "k2"}
    assert len(house.keys()) >= len(before)


# From within


class SlowEngine(Engine):
    """An engine whose log goes through a gate."""

    def __init__(self, settings: Settings, *shut: str) -> None:
        super().__init__(settings)
        self._shut = shut
        self.gate: Gate

    @asynccontextmanager
    async def log(self) -> AsyncIterator[LogStore]:
        async with super().log() as store:
            self.gate = Gate(store, *self._shut)
            yield self.gate


def worker(house: House, *, engine: Engine | None = None, grace: float = 10, **options: Any) -> Worker:
    given: dict[str, Any] = {"name": f"w-{uuid4().hex[:6]}", "buckets": (house.bucket,)} | options
    return Worker(engine or Engine(house.engine.settings), Options(**given), grace=grace, refresh=0.2)


@asynccontextmanager
async def running(each: Worker) -> AsyncIterator[asyncio.Event]:
    """Running within; told to stop, and ended, after."""
    stop = asyncio.Event()
    task = asyncio.create_task(each.run(stop))
    try:
        yield stop
        assert not task.done()
        stop.set()
        async with asyncio.timeout(30):
            await task
    finally:
        task.cancel()


def value(each: Worker, name: str, **labels: str) -> float:
    return each.metrics.registry.get_sample_value(f"snapengine_worker_{name}", labels) or 0.0


async def test_two_workers_on_one_queue_share_the_work_and_lose_nothing(house: House) -> None:
    keys = [f"k{number:02}" for number in range(40)]
    house.send_keys(*keys)
    one, two = worker(house), worker(house)
    async with running(one), running(two):
        await until(lambda: value(one, "messages_deleted_total") + value(two, "messages_deleted_total") >= 40)
    assert house.in_queue() == 0
    assert sorted(set(house.keys())) == keys


async def test_a_message_stays_hidden_while_its_write_is_slow(house: House) -> None:
    engine = SlowEngine(house.engine.settings, "put_entry")
    each = worker(house, engine=engine)
    house.send_keys("k")
    async with running(each):
        await until(lambda: value(each, "in_flight_messages") == 1)
        received_at = time.monotonic()
        await until(lambda: time.monotonic() - received_at > 2 * VISIBILITY)
        assert value(each, "messages_received_total") == 1
        engine.gate.open()
        await until(lambda: value(each, "messages_deleted_total") == 1)
    assert value(each, "messages_received_total") == 1
    assert house.keys() == ["k"]


async def test_if_what_is_in_hand_cannot_be_finished_in_time_the_end_is_an_error(house: House) -> None:
    engine = SlowEngine(house.engine.settings, "put_entry")
    each = worker(house, engine=engine, grace=0.3)
    house.send_keys("k")
    with pytest.raises(TryAgain, match="come again"):
        async with running(each):
            await until(lambda: value(each, "in_flight_messages") == 1)
    assert house.in_queue() == 1


async def test_a_bucket_enabled_while_the_worker_runs_is_picked_up_and_one_without_a_queue_let_go(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(caplog)
    each = worker(house, buckets=())
    async with running(each):
        await until(lambda: len(lines.of("consuming")) == 1)
        url = house.enable("later")
        house.send_keys("k", bucket="later", url=url)
        await until(lambda: house.keys("later") == ["k"])
        config = house.engine.store.config("later")
        assert config
        house.register(replace(config, enabled=False, queue_url=None))
        await until(lambda: url not in each._consumers)
        house.send_keys("l", bucket="later", url=url)
        house.send_keys("k")
        await until(lambda: house.keys() == ["k"])
    assert house.in_queue(url) == 1


async def test_what_a_disabled_buckets_queue_still_holds_is_taken_and_vouches_for_nothing(
    house: House,
) -> None:
    url = house.enable("later")
    config = house.engine.store.config("later")
    assert config
    house.register(replace(config, enabled=False, disabled_at=1))
    house.send_keys("k", bucket="later", url=url)
    each = worker(house, buckets=())
    async with running(each):
        await until(lambda: house.keys("later") == ["k"] and house.in_queue(url) == 0)
        assert each._vouched[url] == ()


async def test_a_disabled_buckets_queue_that_is_gone_is_no_trouble(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(caplog)
    config = house.engine.store.config(house.bucket)
    assert config
    house.register(replace(config, bucket="off", queue_url=f"{house.url}-gone", enabled=False, disabled_at=1))
    house.send_keys("k")
    each = worker(house, buckets=())
    async with running(each):
        await until(lambda: house.keys() == ["k"] and bool(lines.of("queue-gone")))
        assert await each.troubles() == []
    assert not lines.of("queue-missing")
    await worker(house, buckets=(), once=True).run(asyncio.Event())


async def test_a_queue_that_is_asked_for_and_missing_ends_the_worker(house: House) -> None:
    missing = f"{house.url}-missing"
    with pytest.raises(NotFound, match="There is no queue"):
        await worker(house, buckets=(), queue_urls=(missing,)).run(asyncio.Event())
    with pytest.raises(BucketNotEnabled):
        await worker(house, buckets=("unknown",)).run(asyncio.Event())


async def test_a_bucket_whose_queue_is_missing_keeps_no_other_from_the_log(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(caplog)
    config = house.engine.store.config(house.bucket)
    assert config
    house.register(replace(config, bucket="odd", queue_url=f"{house.url}-missing"))
    house.send_keys("k")
    each = worker(house, buckets=())
    async with running(each):
        await until(lambda: house.keys() == ["k"])
        await until(lambda: bool(lines.of("queue-missing")))
        assert any("There is no queue" in trouble for trouble in await each.troubles())


async def test_messages_that_are_left_make_emptying_once_an_error(house: House) -> None:
    house.send(body(record("k", "not-enabled")), body(record("k", house.bucket)))
    with pytest.raises(TryAgain, match="1 messages were left"):
        await worker(house, once=True).run(asyncio.Event())
    assert house.keys() == ["k"]
    assert house.in_queue() == 1


async def test_it_is_not_ready_while_the_store_is_away(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Lines(caplog)
    each = worker(house, http_port=0)
    away = Unreachable("No answer from the store.")

    def check() -> None:
        raise away

    async with running(each):
        await until(lambda: bool(lines.of("http-listening")))
        monkeypatch.setattr(each._engine.store, "check", check)
        port = lines.of("http-listening")[0]["port"]
        status, text = await asyncio.to_thread(get, port, "/readyz")
        assert status == 503
        assert "No answer from the store." in json.loads(text)["reasons"]
        assert (await asyncio.to_thread(get, port, "/healthz"))[0] == 200


async def test_a_port_that_is_taken_is_an_error_that_names_the_options(house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="--http-port"):
            await worker(house, http_port=taken.getsockname()[1]).run(asyncio.Event())


# On other servers


def test_it_works_with_dynamodb_of_the_embedded_cloud(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, setting in cloud.environment().items():
        monkeypatch.setenv(name, setting)
    emptied_once(House(cloud.environment(), "dynamodb://worker-test"))


@pytest.mark.services
def test_it_works_with_elasticmq_and_dynamodb_local(
    elasticmq_server: Endpoint, dynamodb_local_server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = elasticmq_server.environment() | dynamodb_local_server.environment()
    environment["AWS_ENDPOINT_URL"] = elasticmq_server.endpoint_url
    environment["AWS_ENDPOINT_URL_DYNAMODB"] = dynamodb_local_server.endpoint_url
    for name, setting in environment.items():
        monkeypatch.setenv(name, setting)
    emptied_once(House(environment, f"dynamodb://worker-{uuid4().hex[:6]}"), messages=500)


def emptied_once(house: House, messages: int = 20) -> None:
    keys = [f"k{number:03}" for number in range(messages)]
    house.send_keys(*keys)
    house.send(TEST_EVENT, NOT_JSON)
    asyncio.run(worker(house, once=True).run(asyncio.Event()))
    assert house.in_queue() == 0
    assert house.keys() == keys
    assert [message["Body"] for message in house.dead()] == [NOT_JSON]
