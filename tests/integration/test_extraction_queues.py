"""`enable-bucket --extract` on the embedded cloud: its queues, what stops it half-way, and its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ingest_worker.worker import Options, Worker
from metadata_extractors.extract_worker import ExtractWorker
from metadata_extractors.extract_worker import Options as ExtractOptions
from snapengine.buckets import queues
from snapengine.buckets.disable import disable, plan_disable
from snapengine.buckets.enable import carry_out, plan_enable
from snapengine.buckets.facts import BucketFacts, settings_of
from snapengine.buckets.plan import make_plan
from snapengine.buckets.queue_changes import create_queue
from snapengine.buckets.reading import read_queue
from snapengine.buckets.status import bucket_status
from snapengine.buckets.steps import MakeQueue, SetQueue, Wanted
from snapengine.cli.main import run
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import PermissionMissing
from snapengine.extraction_tasks import Task, parse_tasks
from snapengine.metadata_codec import decode
from snapengine.metadata_rows import metadata_log
from tests.integration.bucket_site import READS, Killed, Site, no_pause, no_sleep, open_site
from tests.servers import Endpoint

DICOM: dict[str, Any] = {"extract": ("dicom",)}
WRITES = 2  # the two queues; what is registered goes into the log's table


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return open_site(cloud, tmp_path, monkeypatch)


def names(site: Site) -> tuple[str, str]:
    return queues.extract_queue_name(site.bucket), queues.extract_dead_letter_name(site.bucket)


def url(site: Site) -> str:
    found = site.config().extract_queue_url
    assert found is not None
    return found


async def test_a_bucket_is_enabled_with_extraction_in_one_go(site: Site) -> None:
    await site.enable(extract=("dicom", "images"))
    queue, dead = (site.attributes(name) for name in names(site))
    assert queue["VisibilityTimeout"] == "900"
    assert json.loads(queue["RedrivePolicy"]) == {
        "deadLetterTargetArn": dead["QueueArn"],
        "maxReceiveCount": 5,
    }
    assert queue["SqsManagedSseEnabled"] == dead["SqsManagedSseEnabled"] == "true"
    config = site.config()
    assert config.extractors == ("dicom", "images")
    assert config.extract_queue_arn == queue["QueueArn"]
    assert str(config.extract_queue_url).endswith(names(site)[0])
    assert str(config.extract_dead_letter_queue_url).endswith(names(site)[1])
    assert site.plan().steps == ()
    assert site.plan(extract=("dicom", "images")).steps == ()


async def test_extraction_is_added_later_without_a_new_baseline_and_only_once(site: Site) -> None:
    await site.enable()
    before = site.config()
    assert len(site.queue_names()) == 2
    done, report = await site.enable(**DICOM)
    assert [step.code for step in done.steps] == ["make-queue", "make-queue", "set-extraction"]
    assert report.already
    config = site.config()
    assert config.extractors == ("dicom",)
    assert (config.enabled_at, config.baseline_ended) == (before.enabled_at, before.baseline_ended)
    site.writes.clear()
    assert site.plan(**DICOM).steps == ()
    done, _ = await site.enable(**DICOM)
    assert (done.steps, site.writes) == ((), [])


async def test_a_plan_alone_changes_nothing(site: Site) -> None:
    await site.enable()
    before = site.state()
    site.writes.clear()
    assert len(site.plan(**DICOM).steps) == 3
    assert site.writes == []
    assert site.state() == before


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("write", range(1, WRITES + 1))
async def test_stopped_at_any_call_the_next_run_completes_it(site: Site, write: int, landed: bool) -> None:
    await site.enable()
    with site.stopped_at(write, landed=landed), pytest.raises(Killed):
        carry_out(site.engine, site.plan(**DICOM), pause=no_pause)
    assert site.config().extractors == ()
    await site.enable(**DICOM)
    assert site.plan(**DICOM).steps == ()
    assert site.config().extractors == ("dicom",)
    assert set(names(site)) < set(site.queue_names())


async def test_where_aws_denies_the_queue_nothing_of_extraction_is_left(site: Site) -> None:
    await site.enable()
    before = site.state()
    site.deny("CreateQueue")
    with pytest.raises(PermissionMissing, match="Nothing is left changed"):
        carry_out(site.engine, site.plan(**DICOM), pause=no_pause)
    assert site.state() == before


async def test_a_bucket_without_extraction_has_nothing_of_it_looked_at(site: Site) -> None:
    asked: list[str] = []

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        if model.name == "GetQueueUrl":
            asked.append(json.loads(params["body"])["QueueName"])

    site.sqs.meta.events.register("before-call", note)
    await site.enable()
    bucket_status(site.engine, site.bucket)
    assert asked
    assert not set(asked) & set(names(site))


async def test_what_lands_in_an_enabled_bucket_reaches_the_queue_with_its_version_and_nothing_else_does(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapengine.workers.consumer.LAST_POLL", 1)
    site.s3.put_object(Bucket=site.bucket, Key="before", Body=b"1")
    await site.enable(**DICOM)
    landed = {}
    for key, text in (("ct/ä 1.dcm", b"22"), ("ct/2.dcm", b""), ("ct/2.dcm", b"4444")):
        landed[site.s3.put_object(Bucket=site.bucket, Key=key, Body=text)["VersionId"]] = (key, len(text))
    site.s3.delete_object(Bucket=site.bucket, Key="ct/2.dcm")
    await Worker(site.engine, Options("w", buckets=(site.bucket,), once=True)).run(asyncio.Event())
    tasks: list[Task] = []
    while messages := site.sqs.receive_message(QueueUrl=url(site), WaitTimeSeconds=0).get("Messages"):
        for message in messages:
            tasks += parse_tasks(message["Body"])
            site.sqs.delete_message(QueueUrl=url(site), ReceiptHandle=message["ReceiptHandle"])
    assert {task.version_id: (task.key, task.size) for task in tasks} == landed
    assert all(task.bucket == site.bucket and task.etag and task.sequencer for task in tasks)


async def test_both_workers_and_no_more_make_a_row_of_what_lands(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapengine.workers.consumer.LAST_POLL", 1)
    await site.enable(extract=("object",))
    version = site.s3.put_object(Bucket=site.bucket, Key="k", Body=b"1", ContentType="x/y")["VersionId"]
    await Worker(site.engine, Options("w", buckets=(site.bucket,), once=True)).run(asyncio.Event())
    await ExtractWorker(site.engine, ExtractOptions("x", once=True)).run(asyncio.Event())
    epoch = site.engine.store.newest_epoch(site.bucket)
    assert epoch
    rows = [
        row
        for stream, last in epoch.rows.items()
        for entry in site.engine.store.entries(metadata_log(site.bucket), stream, 0, last)
        for row in decode(entry.payload).table.to_pylist()
    ]
    assert [(row["key"], row["version_id"], row["outcome"]) for row in rows] == [("k", version, "ok")]
    found = bucket_status(site.engine, site.bucket).extraction
    assert found
    assert found.queue
    assert (found.queue.visible, found.queue.in_flight, found.dead_letters) == (0, 0, 0)


# Its end


async def test_ending_it_lets_empty_queues_go(site: Site) -> None:
    await site.enable(**DICOM)
    done, _ = await site.enable(extract=())
    assert not any("kept" in warning for warning in done.warnings)
    config = site.config()
    assert (config.extractors, config.extract_queue_url, config.extract_dead_letter_queue_url) == (
        (),
        None,
        None,
    )
    assert not set(names(site)) & set(site.queue_names())
    assert site.plan(extract=()).steps == ()


async def test_ending_it_keeps_a_queue_that_holds_tasks_until_a_later_run_finds_it_empty(site: Site) -> None:
    await site.enable(**DICOM)
    waiting = url(site)
    site.sqs.send_message(QueueUrl=waiting, MessageBody="a task")
    done, _ = await site.enable(extract=())
    assert "about 1 messages and is kept" in done.warnings[0]
    config = site.config()
    assert (config.extractors, config.extract_queue_url) == ((), waiting)
    assert config.extract_dead_letter_queue_url is None
    found = bucket_status(site.engine, site.bucket).extraction
    assert found
    assert found.extractors == ()
    assert found.queue
    assert found.queue.visible == 1
    assert bucket_status(site.engine, site.bucket).drift == ()
    site.sqs.purge_queue(QueueUrl=waiting)
    await site.enable(extract=())
    assert site.config().extract_queue_url is None
    assert bucket_status(site.engine, site.bucket).extraction is None


async def test_a_queue_that_may_not_be_deleted_is_told_of_and_extraction_is_ended(site: Site) -> None:
    await site.enable(**DICOM)
    site.deny("DeleteQueue")
    done, _ = await site.enable(extract=())
    assert "could not be deleted" in done.warnings[0]
    assert site.config().extractors == ()
    assert site.config().extract_queue_url is not None


async def turn_off(site: Site) -> Any:
    plan = plan_disable(site.engine, site.bucket)
    site.sqs.purge_queue(QueueUrl=str(site.config().queue_url))
    return await disable(site.engine, plan, wait=False, sleep=no_sleep, pause=no_pause)


async def test_disabling_removes_the_queues_and_enabling_again_brings_them_and_the_extractors_back(
    site: Site,
) -> None:
    await site.enable(**DICOM)
    assert (await turn_off(site)).kept == ()
    assert site.queue_names() == []
    config = site.config()
    assert (config.extractors, config.extract_queue_url) == (("dicom",), None)
    await site.enable()
    assert len(site.queue_names()) == 4
    assert url(site)


async def test_disabling_keeps_tasks_for_the_worker(site: Site) -> None:
    await site.enable(**DICOM)
    site.sqs.send_message(QueueUrl=url(site), MessageBody="a task")
    (kept,) = (await turn_off(site)).kept
    assert "Extract holds about 1 messages" in kept
    assert site.config().extract_queue_url is not None
    site.sqs.purge_queue(QueueUrl=url(site))
    plan = plan_disable(site.engine, site.bucket)
    await disable(site.engine, plan, wait=False, sleep=no_sleep, pause=no_pause)
    assert site.queue_names() == []


async def test_disabling_finds_queues_that_a_run_which_was_stopped_left_unregistered(site: Site) -> None:
    await site.enable()
    with site.stopped_at(2, landed=True), pytest.raises(Killed):
        carry_out(site.engine, site.plan(**DICOM), pause=no_pause)
    await turn_off(site)
    assert site.queue_names() == []


# Status


async def test_status_tells_what_waits_to_be_extracted_and_what_was_set_aside(site: Site) -> None:
    await site.enable(**DICOM)
    for _ in range(3):
        site.sqs.send_message(QueueUrl=url(site), MessageBody="a task")
    site.sqs.receive_message(QueueUrl=url(site), MaxNumberOfMessages=1)
    site.sqs.send_message(QueueUrl=site.config().extract_dead_letter_queue_url, MessageBody="?")
    found = bucket_status(site.engine, site.bucket)
    assert found.extraction
    assert found.extraction.extractors == ("dicom",)
    assert found.extraction.queue
    assert (found.extraction.queue.visible, found.extraction.queue.in_flight) == (2, 1)
    assert found.extraction.dead_letters == 1
    assert (found.drift, found.errors) == ((), ())


async def test_a_changed_or_missing_extraction_queue_is_drift(site: Site) -> None:
    await site.enable(**DICOM)
    site.sqs.set_queue_attributes(QueueUrl=url(site), Attributes={"VisibilityTimeout": "30"})
    site.sqs.delete_queue(QueueUrl=site.config().extract_dead_letter_queue_url)
    assert bucket_status(site.engine, site.bucket).drift == (
        "VisibilityTimeout of the extraction queue is not as it was set",
        "the extraction dead-letter queue is gone: new versions wait to be handed on",
    )
    await site.enable()
    assert bucket_status(site.engine, site.bucket).drift == ()


async def test_queues_that_may_not_be_read_hide_nothing_else_of_the_status(site: Site) -> None:
    await site.enable(**DICOM)
    site.deny("GetQueueUrl")
    found = bucket_status(site.engine, site.bucket)
    assert found.extraction
    assert (found.extraction.queue, found.extraction.dead_letters) == (None, None)
    assert len(found.errors) == 1


@pytest.mark.services
def test_on_a_server_that_knows_little_of_it_the_queues_are_made_once_and_the_rest_is_said(
    elasticmq_server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in elasticmq_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path / 'log.db'}")
    engine = Engine()
    facts = BucketFacts(
        f"b{uuid4().hex}",
        "000000000000",
        "us-east-1",
        region="us-east-1",
        real_aws=False,
        store=engine.settings.store,
    )

    def made(facts: BucketFacts) -> list[MakeQueue | SetQueue]:
        steps = make_plan(facts, Wanted(extract=("dicom",))).steps
        return [step for step in steps if isinstance(step, MakeQueue | SetQueue)]

    fields = {name: field for field, name in queues.queue_names(facts.bucket).items()}
    for step in made(facts):
        create_queue(engine, step.name, settings_of(facts, step.name), no_pause)
        found: Any = {fields[step.name]: read_queue(engine, step.name)}
        facts = replace(facts, **found)
    assert None not in (facts.extract_queue, facts.extract_dead_letters)
    assert made(facts) == []
    assert facts.extract_queue
    assert facts.extract_queue.attributes["VisibilityTimeout"] == "900"


# The commands


def cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_commands_show_it_do_it_and_tell_of_it(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    enable = ("enable-bucket", site.bucket)
    code, out, _ = cli(capsys, *enable, "--extract", "dicom,images", "--dry-run", "--no-wait")
    assert code == 0
    assert "by dicom, images" in out
    assert f"create queue {names(site)[0]} for extraction tasks" in out
    assert site.queue_names() == []
    code, out, _ = cli(
        capsys, *enable, "--extract", "dicom", "--extract", "images,dicom", "--no-wait", "--yes"
    )
    assert code == 0
    assert "Metadata is extracted by dicom, images: keep `snapengine extract-worker` running." in out
    site.sqs.send_message(QueueUrl=site.config().extract_dead_letter_queue_url, MessageBody="?")
    code, out, err = cli(capsys, "status", site.bucket)
    assert code == 0
    assert "by dicom, images" in out
    assert "messages of up to 20 objects: 0 waiting, 0 in flight" in out
    assert "1 extraction messages" in err
    code, out, _ = cli(capsys, "status", "--json")
    assert json.loads(out)["extraction"]["extractors"] == ["dicom", "images"]
    assert json.loads(out)["extraction"]["dead_letters"] == 1
    site.sqs.purge_queue(QueueUrl=site.config().extract_dead_letter_queue_url)
    code, out, _ = cli(capsys, *enable, "--no-extract", "--no-wait", "--yes", "--json")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [step["step"] for step in lines[0]["steps"]] == ["set-extraction", "delete-queue", "delete-queue"]
    assert lines[-1]["extractors"] == []


@pytest.mark.parametrize(
    "options", [("--extract", ""), ("--extract", "dicom,"), ("--extract", "dicom", "--no-extract")]
)
def test_what_cannot_be_meant_is_bad_usage(
    site: Site, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    code, _, err = cli(capsys, "enable-bucket", site.bucket, "--yes", *options)
    assert code == 2
    assert "--extract" in err


def test_planning_reads_and_writes_nothing(site: Site) -> None:
    called: list[str] = []
    for client in site.clients():
        client.meta.events.register("before-call", lambda model, **_: called.append(model.name))
    plan_enable(site.engine, site.bucket, Wanted(extract=("dicom",)))
    assert all(name.startswith(READS) for name in called)


def test_further_columns_are_shown_registered_kept_and_ended(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    enable = ("enable-bucket", site.bucket, "--no-wait", "--yes")
    columns = ("--columns", "dicom=FilterType, 0009100a", "--columns", "dicom=Modality,ContentSequence")
    said = "by dicom (usual columns and FilterType, 0009100A, ContentSequence), images"
    code, out, _ = cli(capsys, *enable, "--extract", "dicom,images", *columns)
    assert code == 0
    assert out.count(said) == 2  # in the plan, and at the end
    assert site.config().extractor_columns == {"dicom": ("FilterType", "0009100A", "ContentSequence")}
    assert site.plan().steps == ()
    assert said in cli(capsys, "status", site.bucket)[1]
    told = json.loads(cli(capsys, "status", "--json")[1])["extraction"]
    assert told["columns"] == {"dicom": ["FilterType", "0009100A", "ContentSequence"]}
    code, out, _ = cli(capsys, *enable, "--extract", "dicom", "--json")
    assert (code, site.config().extractors) == (0, ("dicom",))
    done = json.loads(out.splitlines()[-1])
    assert done["extractor_columns"] == {"dicom": ["FilterType", "0009100A", "ContentSequence"]}
    code, out, _ = cli(capsys, *enable, "--columns", "dicom=")
    assert (code, site.config().extractor_columns) == (0, {})
    assert "keeps its columns" in out
    cli(capsys, *enable, "--columns", "dicom=FilterType")
    cli(capsys, *enable, "--no-extract")
    assert (site.config().extractors, site.config().extractor_columns) == ((), {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("dicom", "an extractor and columns"),
        ("=FilterType", "an extractor and columns"),
        ("dicom=FilterType,", "an extractor and columns"),
        ("dicom=FilterTyp", "did you mean 'FilterType'"),
        ("dicom=PixelData", "no metadata"),
        ("dicon=FilterType", "no extractor 'dicon'"),
        ("object=tag:site", "--extract dicom,object too"),
    ],
)
def test_columns_that_cannot_be_extracted_are_bad_usage_and_nothing_is_changed(
    site: Site, capsys: pytest.CaptureFixture[str], given: str, message: str
) -> None:
    options = ("--extract", "dicom", "--columns", given)
    code, _, err = cli(capsys, "enable-bucket", site.bucket, "--yes", "--no-wait", *options)
    assert code == 2
    assert message in " ".join(err.split())
    assert site.queue_names() == []
