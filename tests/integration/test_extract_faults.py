"""When something fails the extract worker loses nothing, and one object's trouble is its own."""

from __future__ import annotations

import asyncio
import http.client
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from metadata_extractors.extract_worker import ExtractWorker, Options
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import NotFound, PermissionMissing, TryAgain, Unreachable, UsageError
from snapengine.extraction_tasks import Task
from snapengine.model import ObjectVersion
from snapengine.settings import Settings
from tests.dicom_files import dicom
from tests.extract_house import COMMAND, Site
from tests.hostile_extractors import SECRET
from tests.worker_fakes import Lines, until
from tests.worker_house import AT_A_STEP, Start, starting, wait_until


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("snapengine.workers.consumer.LAST_POLL", 1)
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return Site(cloud.environment(), f"sqlite:///{tmp_path / 'log.db'}")


@pytest.fixture
def start(site: Site, tmp_path: Path) -> Iterator[Start]:
    with starting(site.environment, tmp_path, COMMAND) as start:
        yield start


# As a process

STEPS = [
    "snapengine.stores.sqlite_log.SQLiteLog.put_identifying",
    "snapengine.stores.sqlite_log.SQLiteLog.put_entry",
    "snapengine.stores.sqlite_log.SQLiteLog.mark_done",
    "snapengine.stores.sqlite_log.SQLiteLog.put_epoch",
    "snapengine.workers.sqs.SQSQueue.delete",
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_step_it_loses_nothing_and_no_version_has_two_answers(
    cloud: DevCloud, site: Site, tmp_path: Path, start: Start
) -> None:
    sites = [site, *(Site(cloud.environment(), site.environment["SNAPENGINE_STORE"]) for _ in STEPS)]
    tasks: dict[str, list[Task]] = {}
    # After one step is before the next; so this is between any two.
    for each, (step, when) in zip(
        sites, [*((s, "before") for s in STEPS), (STEPS[-1], "after")], strict=True
    ):
        tasks[each.bucket] = [each.put(key, dicom(Modality="CT", PatientName=key)) for key in ("a", "b")]
        each.send(*tasks[each.bucket])
        at = (step, when, str(int(signal.SIGKILL)))
        killed = start(*at, "--no-http", "--processes", "1", "--queue", each.url, prelude=AT_A_STEP)
        assert killed.wait() == -signal.SIGKILL, killed.log.read_text()
    wait_until(lambda: not orphans())
    survivor = start("--no-http", "--processes", "1")
    wait_until(lambda: all(each.in_queue() == 0 for each in sites))
    survivor.popen.send_signal(signal.SIGTERM)
    assert survivor.wait() == 0, survivor.log.read_text()
    for each in sites:
        names = {key: (row["outcome"], row["PatientName"]) for key, row in each.rows().items()}
        assert names == {(t.key, t.version_id): ("ok", t.key) for t in tasks[each.bucket]}
        assert not each.dead()


def orphans() -> list[int]:
    """Child processes whose worker is no more: init has adopted them."""
    found = psutil.process_iter(["pid", "ppid", "cmdline"])
    ours = [each for each in found if "metadata_extractors.child" in (each.info["cmdline"] or ())]
    return [each.pid for each in ours if each.info["ppid"] == 1]


def test_told_to_stop_it_finishes_what_it_has_and_exits_with_0(site: Site, start: Start) -> None:
    process = start("--http-port", "0", "--processes", "1")
    wait_until(lambda: bool(process.of("http-listening")))
    port = process.of("http-listening")[0]["port"]
    site.send(*(site.put(f"k{number}", dicom(Modality="CT")) for number in range(30)))
    wait_until(lambda: site.in_queue() == 0)
    wait_until(lambda: get(port, "/readyz") == (200, '{"ready": true, "reasons": []}'))
    text = get(port, "/metrics")[1]
    rows = f'snapengine_extract_rows_total{{bucket="{site.bucket}",extractor="dicom",outcome="ok"}} 30.0'
    assert rows in text
    assert "snapengine_extract_object_seconds_count 30.0" in text
    assert "snapengine_extract_children_started 1.0" in text
    assert f'snapengine_extract_epochs_total{{bucket="{site.bucket}"}}' in text
    site.send(*(site.put(f"l{number}", dicom(Modality="CT")) for number in range(100)))
    wait_until(lambda: "in_flight_messages 0.0" not in get(port, "/metrics")[1])
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0, process.log.read_text()
    assert process.lines()[-1]["event"] == "stopped"
    done = len(site.outcomes())
    assert done + 20 * site.in_queue() >= 130
    assert done > 30


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_what_it_could_not_begin_before_it_stopped_is_given_back_at_once(site: Site, start: Start) -> None:
    site.sqs.set_queue_attributes(QueueUrl=site.url, Attributes={"VisibilityTimeout": "600"})
    prelude = "import metadata_extractors.extract_worker as w\nw.DRAIN = 0\n"
    process = start("--http-port", "0", "--processes", "1", prelude=prelude)
    wait_until(lambda: bool(process.of("http-listening")))
    port = process.of("http-listening")[0]["port"]
    site.send(*(site.put(f"k{number}", dicom(Modality="CT")) for number in range(400)))
    wait_until(lambda: "in_flight_messages 0.0" not in get(port, "/metrics")[1])
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 0, process.log.read_text()
    assert process.of("message-left")
    left = site.in_queue()
    assert left > 0
    names = ["ApproximateNumberOfMessages"]
    found = site.sqs.get_queue_attributes(QueueUrl=site.url, AttributeNames=names)["Attributes"]
    assert int(found["ApproximateNumberOfMessages"]) == left
    site.run()
    assert len(site.outcomes()) == 400


# From within


class Faulty(Engine):
    """An engine whose reads of some keys raise, so many times."""

    def __init__(self, settings: Settings, error: Exception, times: float, *keys: str) -> None:
        super().__init__(settings)
        self._error = error
        self._keys = keys
        self.times = times
        self.raised = 0

    def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        if self.raised < self.times and (not self._keys or version.key in self._keys):
            self.raised += 1
            raise self._error
        return super().read(bucket, version, start, end)


def worker(engine: Engine, **options: Any) -> ExtractWorker:
    given: dict[str, Any] = {"name": "w", "processes": 2} | options
    return ExtractWorker(engine, Options(**given), refresh=0.2)


@asynccontextmanager
async def running(each: ExtractWorker) -> AsyncIterator[None]:
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


@pytest.fixture
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> Iterator[float]:
        while True:
            yield 0.05

    for module in ("extract_sink", "row_keeping"):
        monkeypatch.setattr(f"metadata_extractors.{module}.delays", pauses)


@pytest.mark.usefixtures("_short_pauses")
async def test_an_outage_of_s3_is_waited_out_and_the_messages_stay_hidden(site: Site) -> None:
    site.send(*(site.put(f"k{number}", dicom()) for number in range(3)))
    engine = Faulty(site.engine.settings, Unreachable("no answer"), float("inf"))
    each = worker(engine)
    async with running(each):
        await until(lambda: engine.raised > 0)
        await asyncio.sleep(3)  # longer than the visibility timeout
        assert site.outcomes() == {}
        assert any("cannot be read (unreachable)" in trouble for trouble in await each.troubles())
        engine.times = 0
        await until(lambda: site.in_queue() == 0)
        assert await each.troubles() == []
    assert site.outcomes() == {"k0": "ok", "k1": "ok", "k2": "ok"}
    assert site.stored().num_rows == 3
    assert each.metrics.registry.get_sample_value("snapengine_extract_messages_received_total") == 1


@pytest.mark.usefixtures("_short_pauses")
async def test_an_outage_of_the_table_is_waited_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from snapengine.stores.sqlite_log import SQLiteLog

    put, failing = SQLiteLog.put_entry, [True]

    async def put_entry(self: SQLiteLog, entry: Any) -> bool:
        if failing:
            raise Unreachable("table snapengine does not answer")
        return await put(self, entry)

    monkeypatch.setattr(SQLiteLog, "put_entry", put_entry)
    site.send(site.put("a", dicom()))
    each = worker(Engine(site.engine.settings))
    async with running(each):
        commit = 'snapengine_extract_failures_total{step="commit"}'
        await until(lambda: f"{commit} 0.0" not in each.metrics.text().decode())
        await asyncio.sleep(3)  # longer than the visibility timeout
        assert any("does not answer" in trouble for trouble in await each.troubles())
        failing.clear()
        await until(lambda: site.in_queue() == 0)
    assert site.stored().num_rows == 1


@pytest.mark.usefixtures("_short_pauses")
def test_an_object_that_s3_refuses_holds_up_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("metadata_extractors.extract_worker.ONCE_PATIENCE", 1.0)
    lines = Lines(caplog)
    refused = f"{SECRET}'s scan"
    site.send(*(site.put(key, dicom()) for key in ("a", refused, "b")))
    error = PermissionMissing(f"AWS denied reading s3://{site.bucket}/{refused} version v.")
    site.engine = Faulty(site.engine.settings, error, float("inf"), refused)
    with pytest.raises(TryAgain, match="1 messages were left"):
        site.run()
    assert site.outcomes() == {"a": "ok", "b": "ok"}
    assert site.in_queue() == 1
    (line,) = lines.of("message-left")
    assert (line["code"], line["not_tried"]) == ("permission-missing", 1)
    assert SECRET not in lines.text


def test_a_message_of_a_bucket_that_is_not_known_is_left(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(caplog)
    other = site.put("a", dicom())._replace(bucket="nobodys")
    site.send(other, site.put("b", dicom()))
    with pytest.raises(TryAgain):
        site.run()
    assert site.outcomes() == {"b": "ok"}
    assert site.in_queue() == 1
    assert lines.of("message-left")[0]["code"] == "bucket-not-enabled"


def test_a_bucket_that_wants_nothing_any_more_has_its_messages_acknowledged(site: Site) -> None:
    site.send(site.put("a", dicom()))
    site.register(extractors=())
    site.run()
    assert site.outcomes() == {}
    assert site.in_queue() == 0


def test_a_worker_that_lacks_an_extractor_does_not_start(site: Site) -> None:
    site.send(site.put("a", dicom()))
    site.register(extractors=("dicom", "none-such"))
    with pytest.raises(UsageError, match="none-such"):
        site.run()
    assert site.in_queue() == 1


async def test_an_extractor_that_is_lacking_later_leaves_its_buckets_messages_and_no_others(
    cloud: DevCloud, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(caplog)
    other = Site(cloud.environment(), site.environment["SNAPENGINE_STORE"])
    each = worker(Engine(site.engine.settings))
    async with running(each):
        await until(lambda: len(lines.of("consuming")) == 2)
        site.register(extractors=("dicom", "none-such"))
        site.send(site.put("a", dicom()))
        other.send(other.put("b", dicom()))
        await until(lambda: other.in_queue() == 0 and bool(lines.of("message-left")), 20)
    assert site.in_queue() == 1
    assert other.outcomes() == {"b": "ok"}
    assert "none-such" in lines.of("message-left")[0]["reason"]


def test_a_queue_that_was_asked_for_and_is_not_there_ends_it(site: Site) -> None:
    with pytest.raises(NotFound, match="There is no queue"):
        site.run(queue_urls=(site.url + "-none",))


async def test_a_bucket_that_is_enabled_later_is_picked_up(cloud: DevCloud, site: Site) -> None:
    each = worker(Engine(site.engine.settings))
    async with running(each):
        other = Site(cloud.environment(), site.environment["SNAPENGINE_STORE"])
        other.send(other.put("a", dicom()))
        await until(lambda: other.in_queue() == 0, 20)
    assert other.outcomes() == {"a": "ok"}
