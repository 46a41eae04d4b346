"""`status`: what is on, how far behind it is, and what somebody has changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from snapengine.buckets import queues
from snapengine.buckets.baseline import run_baseline
from snapengine.buckets.disable import disable, plan_disable
from snapengine.buckets.enable import carry_out
from snapengine.buckets.queue_age import OldestAges
from snapengine.buckets.status import BucketStatus, all_statuses, bucket_status
from snapengine.cli.status import _facts
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import BucketNotEnabled, PermissionMissing
from snapengine.lease import LASTS_MS
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BASELINE, EVENT, Observation
from tests.integration.bucket_site import NO_CREDENTIALS, UNREACHABLE, Site, no_pause, no_sleep, open_site


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return open_site(cloud, tmp_path, monkeypatch)


def status(site: Site) -> BucketStatus:
    site.writes.clear()
    found = bucket_status(site.engine, site.bucket)
    assert site.writes == [], "looking changes nothing"
    json.dumps(asdict(found))
    return found


async def test_an_enabled_bucket_is_on_and_has_not_drifted(site: Site) -> None:
    site.s3.put_object(Bucket=site.bucket, Key="k", Body=b"1")
    _, report = await site.enable()
    found = status(site)
    assert found.enabled
    assert found.rule_present
    assert found.drift == ()
    assert found.errors == ()
    assert found.versioning == "Enabled"
    assert found.baseline.state == "ended"
    assert found.trusted_since == report.ended
    assert (found.epoch, found.dead_letters) == (report.epoch, 0)
    assert found.enabled_at == site.config().enabled_at


async def test_it_tells_how_much_waits_in_the_queue(site: Site) -> None:
    await site.enable()
    before = status(site).queue
    assert before is not None
    for n in range(3):
        site.s3.put_object(Bucket=site.bucket, Key=str(n), Body=b"1")
    site.sqs.receive_message(QueueUrl=site.config().queue_url, MaxNumberOfMessages=1)
    after = status(site).queue
    assert after is not None
    assert after.visible + after.in_flight == before.visible + 3
    assert after.in_flight == 1
    assert after.oldest_age_seconds is None


def on_aws_with(site: Site, monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
    """As if the queues were on AWS, where CloudWatch is this client."""
    real = site.engine.client
    monkeypatch.setattr("snapengine.buckets.reading.is_aws", lambda _: True)
    monkeypatch.setattr(
        site.engine, "client", lambda service: client if service == "cloudwatch" else real(service)
    )


async def test_on_aws_it_tells_how_old_the_oldest_message_of_each_queue_is(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await site.enable(extract=("dicom",))
    client: Any = boto3.client("cloudwatch")
    with Stubber(client) as stubber:  # checks the request and the reply by AWS's own description
        names = [queues.queue_name(site.bucket), queues.extract_queue_name(site.bucket)]
        queries = [ANY, ANY]
        moment = datetime(2026, 11, 21, tzinfo=UTC)
        stubber.add_response(
            "get_metric_data",
            {
                "MetricDataResults": [
                    {"Id": "q0", "Label": names[0], "Timestamps": [], "Values": []},
                    {"Id": "q1", "Label": names[1], "Timestamps": [moment] * 2, "Values": [7300.0, 60.0]},
                ]
            },
            {
                "MetricDataQueries": queries,
                "StartTime": ANY,
                "EndTime": ANY,
                "ScanBy": "TimestampDescending",
            },
        )
        on_aws_with(site, monkeypatch, client)
        found = status(site)
        stubber.assert_no_pending_responses()
    assert found.queue
    assert found.extraction
    assert found.extraction.queue
    assert (found.queue.oldest_age_seconds, found.extraction.queue.oldest_age_seconds) == (None, 7300)
    assert "0 in flight, the oldest 2 h old (" in dict(_facts(found))["to be extracted"]


async def test_where_cloudwatch_is_denied_the_age_is_not_known_and_all_else_is(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.enable()
    client: Any = boto3.client("cloudwatch")
    with Stubber(client) as stubber:
        stubber.add_client_error("get_metric_data", "AccessDenied", "you may not", 403)
        on_aws_with(site, monkeypatch, client)
        found = status(site)
    assert found.errors == ()
    assert found.queue
    assert found.queue.oldest_age_seconds is None
    (warning,) = [each for each in found.warnings if "waiting is not known" in each]
    assert "cloudwatch:GetMetricData" in warning


def test_cloudwatch_is_not_asked_again_for_the_next_bucket_once_it_has_failed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = boto3.client("cloudwatch")
    on_aws_with(site, monkeypatch, client)
    ages = OldestAges(site.engine)
    with Stubber(client) as stubber:
        stubber.add_client_error("get_metric_data", "AccessDenied", "you may not", 403)
        for _ in range(3):  # another call would be an error of another kind
            with pytest.raises(PermissionMissing):
                ages.of(["queue"])


async def test_it_tells_how_many_messages_were_set_aside(site: Site) -> None:
    await site.enable()
    site.sqs.send_message(QueueUrl=site.config().dead_letter_queue_url, MessageBody="?")
    assert status(site).dead_letters == 1


async def test_it_tells_how_far_the_epochs_have_caught_up(site: Site) -> None:
    await site.enable()
    assert status(site).behind_ms is None
    clock = site.engine.clock
    async with site.engine.log() as log:
        await StreamWriter(log, "w", clock).append(
            site.bucket, [Observation("Created", "k", "v", 5, origin=EVENT)]
        )
        epoch = await EpochCutter(log, site.bucket, clock).cut()
    found = status(site)
    assert (found.epoch, found.epoch_time) == (epoch.number, epoch.time)


async def test_a_rule_that_somebody_removed_is_drift(site: Site) -> None:
    await site.enable()
    site.s3.put_bucket_notification_configuration(Bucket=site.bucket, NotificationConfiguration={})
    found = status(site)
    assert found.rule_present is False
    assert found.drift == ("the notification rule `snapengine` is gone: changes are missed",)


async def test_suspended_versioning_and_changed_queues_are_drift(site: Site) -> None:
    await site.enable()
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Suspended"})
    config = site.config()
    site.sqs.set_queue_attributes(QueueUrl=config.queue_url, Attributes={"MessageRetentionPeriod": "60"})
    site.sqs.delete_queue(QueueUrl=config.dead_letter_queue_url)
    text = "; ".join(status(site).drift)
    for told in ("versioning is suspended", "MessageRetentionPeriod", "dead-letter queue is gone"):
        assert told in text


async def test_a_bucket_that_is_gone_is_drift(site: Site) -> None:
    await site.enable()
    site.s3.delete_bucket(Bucket=site.bucket)
    found = status(site)
    assert found.drift[0].startswith("the bucket is gone")
    assert found.rule_present is None


@pytest.mark.parametrize(
    ("operation", "error"), [("HeadBucket", UNREACHABLE), ("GetCallerIdentity", NO_CREDENTIALS)]
)
async def test_what_cannot_be_read_is_said_and_the_rest_is_told(
    site: Site, operation: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.enable()
    if operation == "GetCallerIdentity":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        found = bucket_status(Engine(site.engine.settings), site.bucket)
        assert "AWS credentials" in found.errors[0]
    else:
        site.fail(operation, error)
        found = status(site)
        assert "No answer from" in found.errors[0]
    assert found.enabled
    assert found.trusted_since is not None
    assert (found.queue, found.versioning, found.drift) == (None, None, ())


async def test_without_the_queues_the_bucket_itself_is_told_all_the_same(site: Site) -> None:
    await site.enable()
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Suspended"})
    site.fail("GetQueueUrl", UNREACHABLE)
    found = status(site)
    assert len(found.errors) == 1
    assert "No answer from queue" in found.errors[0]
    assert (found.versioning, found.rule_present, found.queue) == ("Suspended", None, None)
    assert found.drift == ("versioning is suspended: what is overwritten is lost",)


async def test_one_bucket_that_cannot_be_read_does_not_hide_the_others(site: Site) -> None:
    await site.enable()
    gone = replace(site.config(), bucket="long-gone")
    site.engine.store.put_config(gone)
    by_name = {found.bucket: found for found in all_statuses(site.engine)}
    assert by_name["long-gone"].drift[0].startswith("the bucket is gone")
    assert by_name[site.bucket].drift == ()


async def test_from_another_region_the_bucket_is_not_said_to_have_drifted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.enable()
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    found = bucket_status(Engine(site.engine.settings), site.bucket)
    assert found.drift == ()
    assert "Set AWS_REGION=us-east-1" in found.errors[0]


async def test_the_baseline_is_followed_from_its_start_to_its_end(site: Site) -> None:
    for n in range(5):
        site.s3.put_object(Bucket=site.bucket, Key=str(n), Body=b"1")
    carry_out(site.engine, site.plan(), pause=no_pause)
    assert status(site).baseline.state == "not started"
    seen: list[Any] = []

    def look(_: Any) -> None:
        seen.append(bucket_status(site.engine, site.bucket).baseline)
        saved = site.engine.store.progress(site.bucket, BASELINE) or {}
        aged = {**saved, "saved_at": int(saved["saved_at"]) - LASTS_MS - 1}
        site.engine.store.save_progress(site.bucket, BASELINE, aged)
        seen.append(bucket_status(site.engine, site.bucket).baseline)

    await run_baseline(site.engine, site.bucket, wait=False, page_size=3, progress=look, sleep=no_sleep)
    assert [baseline.state for baseline in seen][:2] == ["running", "stopped"]
    assert all(baseline.started is not None for baseline in seen)
    assert status(site).baseline.state == "ended"


async def test_a_hasty_baseline_is_remembered(site: Site) -> None:
    await site.enable()
    found = status(site)
    assert not found.assured
    assert any("5 minutes" in warning for warning in found.warnings)


async def test_a_lifecycle_rule_added_later_is_warned_of(site: Site) -> None:
    await site.enable()
    rule = {
        "ID": "tidy",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
    }
    site.s3.put_bucket_lifecycle_configuration(Bucket=site.bucket, LifecycleConfiguration={"Rules": [rule]})
    assert any(warning.startswith("DATA LOSS AHEAD") for warning in status(site).warnings)


async def test_a_disabled_bucket_is_off_and_nothing_of_it_has_drifted(site: Site) -> None:
    await site.enable()
    plan = plan_disable(site.engine, site.bucket)
    await disable(site.engine, plan, wait=False, pause=no_pause)
    found = status(site)
    assert (found.enabled, found.rule_present, found.drift) == (False, False, ())
    assert found.trusted_since is not None


def test_a_bucket_that_never_was_enabled_has_no_status(site: Site) -> None:
    with pytest.raises(BucketNotEnabled, match="enable-bucket"):
        bucket_status(site.engine, site.bucket)
    assert all_statuses(site.engine) == []


def test_the_queue_is_named_after_the_bucket(site: Site) -> None:
    assert queues.queue_name(site.bucket).startswith("snapengine-scans_")
