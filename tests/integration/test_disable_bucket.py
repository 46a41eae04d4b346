"""`disable-bucket` on the embedded cloud: what goes, what stays, and what stops it half-way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snapengine.buckets import rules
from snapengine.buckets.disable import disable, plan_disable
from snapengine.buckets.enable import carry_out
from snapengine.devcloud import DevCloud
from snapengine.errors import (
    BucketNotEnabled,
    Busy,
)
from snapengine.lease import ENABLE, Lease
from tests.integration.bucket_site import (
    Killed,
    Site,
    no_pause,
    no_sleep,
    open_site,
    with_foreign_rule,
)


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return open_site(cloud, tmp_path, monkeypatch)


async def turn_off(site: Site, **options: Any) -> Any:
    plan = plan_disable(site.engine, site.bucket)
    given: dict[str, Any] = {"wait": False, "sleep": no_sleep, "pause": no_pause} | options
    return await disable(site.engine, plan, **given)


def drain(site: Site) -> None:
    url = site.config().queue_url
    while messages := site.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get(
        "Messages"
    ):
        for message in messages:
            site.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


async def test_disabling_removes_what_is_ours_and_keeps_the_history(site: Site) -> None:
    before = with_foreign_rule(site)
    site.s3.put_object(Bucket=site.bucket, Key="k", Body=b"1")
    await site.enable()
    drain(site)
    await turn_off(site)
    assert site.notification() == before
    assert site.queue_names() == []
    assert site.s3.get_bucket_versioning(Bucket=site.bucket)["Status"] == "Enabled"
    config = site.config()
    assert (config.enabled, config.queue_url, config.baseline_ended is not None) == (False, None, True)
    assert set(site.view()) == {"k"}
    assert plan_disable(site.engine, site.bucket).steps == ()


async def test_a_queue_with_messages_is_kept_for_the_worker(site: Site) -> None:
    await site.enable()
    site.s3.put_object(Bucket=site.bucket, Key="k", Body=b"1")
    outcome = await turn_off(site)
    assert "messages and is kept" in outcome.kept[0]
    assert len(site.queue_names()) == 2
    assert site.config().queue_url is not None
    drain(site)
    assert (await turn_off(site)).kept == ()
    assert site.queue_names() == []


async def test_the_queues_stay_for_as_long_as_s3_may_still_send(site: Site) -> None:
    await site.enable()
    drain(site)
    left: list[float] = []
    await turn_off(site, wait=True, on_wait=left.append)
    assert 295 <= left[0] <= 301
    assert len(left) in (60, 61)


@pytest.mark.parametrize("write", [1, 2, 3])
async def test_disabling_stopped_at_any_call_is_completed_by_the_next_run(site: Site, write: int) -> None:
    await site.enable()
    drain(site)
    with site.stopped_at(write, landed=True), pytest.raises(Killed):
        await turn_off(site)
    assert (site.config().queue_url is None) == (write > 1)  # before the queue goes: workers let go of it
    await turn_off(site)
    assert site.queue_names() == []
    assert rules.our_rule(site.notification()) is None
    assert plan_disable(site.engine, site.bucket).steps == ()


async def test_a_disabled_bucket_can_be_enabled_again(site: Site) -> None:
    await site.enable()
    first = site.config()
    await turn_off(site)
    drain(site)
    await site.enable()
    config = site.config()
    assert config.enabled
    assert config.enabled_at is not None
    assert first.enabled_at is not None
    assert config.enabled_at > first.enabled_at


async def test_a_bucket_that_is_no_more_can_be_disabled(site: Site) -> None:
    await site.enable()
    drain(site)
    site.s3.delete_bucket(Bucket=site.bucket)
    await turn_off(site)
    assert site.queue_names() == []


def test_disabling_what_was_never_enabled_says_so(site: Site) -> None:
    with pytest.raises(BucketNotEnabled, match="never enabled"):
        plan_disable(site.engine, site.bucket)


def test_disabling_waits_its_turn(site: Site) -> None:
    carry_out(site.engine, site.plan(), pause=no_pause)
    plan = plan_disable(site.engine, site.bucket)
    with Lease(site.engine.store, site.bucket, ENABLE, site.engine.clock), pytest.raises(Busy):
        asyncio.run(disable(site.engine, plan, wait=False))
    assert site.config().enabled
