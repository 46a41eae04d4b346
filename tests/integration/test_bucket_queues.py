"""A bucket's queues on servers that have them already, that know less than AWS, or take their time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from snapengine.buckets import queues
from snapengine.buckets.enable import carry_out
from snapengine.buckets.facts import BucketFacts, wanted_settings
from snapengine.buckets.plan import make_plan
from snapengine.buckets.queue_changes import create_queue, set_queue
from snapengine.buckets.reading import is_aws, read_queue
from snapengine.buckets.steps import MakeQueue, SetQueue, Wanted
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import (
    SnapEngineError,
)
from snapengine.settings import load_settings
from tests.integration.bucket_site import (
    Site,
    no_pause,
    open_site,
)
from tests.servers import Endpoint


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return open_site(cloud, tmp_path, monkeypatch)


async def test_a_queue_with_other_attributes_is_set_right(site: Site) -> None:
    name = queues.queue_name(site.bucket)
    site.sqs.create_queue(QueueName=name, Attributes={"MessageRetentionPeriod": "60"})
    assert [step.code for step in site.plan().steps][:2] == ["make-queue", "set-queue"]
    await site.enable()
    assert site.attributes(name)["MessageRetentionPeriod"] == "1209600"
    assert site.plan().steps == ()


def test_a_queue_made_by_somebody_else_in_between_is_set_right_too(site: Site) -> None:
    name = queues.queue_name(site.bucket)
    site.sqs.create_queue(QueueName=name, Attributes={"MessageRetentionPeriod": "60"})
    create_queue(site.engine, name, {"MessageRetentionPeriod": "1209600"}, no_pause)
    queue = read_queue(site.engine, name)
    assert queue is not None
    assert queue.attributes["MessageRetentionPeriod"] == "1209600"
    assert queue.tags[queues.STORE_TAG] == queues.store_tag(site.engine.settings.store)


def test_a_name_that_was_just_deleted_is_waited_for(site: Site) -> None:
    recently = ClientError(
        {"Error": {"Code": "AWS.SimpleQueueService.QueueDeletedRecently", "Message": ""}}, "CreateQueue"
    )
    site.fail("CreateQueue", recently, times=3)
    waited: list[float] = []
    carry_out(site.engine, site.plan(), pause=waited.append)
    assert waited == [5.0] * 3


@pytest.mark.parametrize("operation", ["CreateQueue", "SetQueueAttributes"])
def test_an_attribute_that_a_server_does_not_know_is_said_and_the_rest_is_set(
    site: Site, operation: str
) -> None:
    def unknown(params: dict[str, Any], model: Any, **_: Any) -> None:
        if b"SqsManagedSseEnabled" in params["body"]:
            raise ClientError({"Error": {"Code": "InvalidAttributeName", "Message": ""}}, model.name)

    for name in ("CreateQueue", "SetQueueAttributes"):
        site.sqs.meta.events.register(f"before-call.sqs.{name}", unknown)
    name = queues.queue_name(site.bucket)
    settings = {"MessageRetentionPeriod": "1209600", "SqsManagedSseEnabled": "true"}
    if operation == "CreateQueue":
        told = create_queue(site.engine, name, settings, no_pause)
    else:
        site.sqs.create_queue(QueueName=name)
        told = set_queue(site.engine, name, settings, tag=False)
    assert len(told) == 1
    assert "its server does not take SqsManagedSseEnabled (InvalidAttributeName)" in told[0]
    assert site.attributes(name)["MessageRetentionPeriod"] == "1209600"


def test_on_aws_no_attribute_is_done_without(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.fail(
        "CreateQueue",
        ClientError({"Error": {"Code": "InvalidAttributeName", "Message": "x"}}, "CreateQueue"),
    )
    monkeypatch.setattr("snapengine.buckets.queue_changes.is_aws", lambda _: True)
    with pytest.raises(SnapEngineError, match="InvalidAttributeName"):
        create_queue(site.engine, queues.queue_name(site.bucket), {"SqsManagedSseEnabled": "true"}, no_pause)


def test_which_endpoints_are_aws() -> None:
    assert is_aws("https://sqs.eu-central-1.amazonaws.com")
    assert is_aws("https://sqs.cn-north-1.amazonaws.com.cn")
    assert is_aws("https://sqs.us-east-1.api.aws")
    assert not is_aws("http://127.0.0.1:9324")
    assert not is_aws("https://amazonaws.com.example.org")


@pytest.mark.services
def test_on_a_server_that_knows_little_of_it_a_queue_is_made_once_and_the_rest_is_said(
    elasticmq_server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in elasticmq_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path / 'log.db'}")
    engine = Engine(load_settings())
    account = "000000000000"
    facts = BucketFacts(f"b{uuid4().hex}", account, "us-east-1", real_aws=False, store=engine.settings.store)
    for step in make_plan(replace(facts, region="us-east-1"), Wanted()).steps[:2]:
        assert isinstance(step, MakeQueue)
        event, dead = wanted_settings(facts)
        create_queue(engine, step.name, dead if step.name.endswith("-dead") else event, no_pause)
        facts = replace(
            facts,
            queue=read_queue(engine, queues.queue_name(facts.bucket)),
            dead_letters=read_queue(engine, queues.dead_letter_name(facts.bucket)),
        )
    again = make_plan(replace(facts, region="us-east-1"), Wanted())
    assert not any(isinstance(step, MakeQueue | SetQueue) for step in again.steps)
    assert any("does not report" in warning and "Policy" in warning for warning in again.warnings)
