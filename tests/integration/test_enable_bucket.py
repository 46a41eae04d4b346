"""`enable-bucket` and `disable-bucket` on the embedded cloud: what they change, and what they leave alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from snapengine.buckets import queues, rules
from snapengine.buckets.enable import carry_out, plan_enable
from snapengine.buckets.steps import Wanted
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import (
    BucketUnknown,
    Busy,
    CredentialsMissing,
    PermissionMissing,
    Refused,
    SnapEngineError,
    TableMissing,
    Unreachable,
    UsageError,
)
from snapengine.lease import ENABLE, Lease
from snapengine.settings import load_settings
from tests.integration.bucket_site import (
    NO_CREDENTIALS,
    UNREACHABLE,
    Killed,
    Site,
    no_pause,
    open_site,
    with_foreign_rule,
)

WRITES_OF_ENABLING = 4  # two queues, the rule, versioning


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return open_site(cloud, tmp_path, monkeypatch)


# What it sets up


async def test_a_bucket_is_versioned_watched_registered_and_baselined(site: Site) -> None:
    done, report = await site.enable()
    assert site.s3.get_bucket_versioning(Bucket=site.bucket)["Status"] == "Enabled"
    ours = rules.our_rule(site.notification())
    assert ours is not None
    assert ours["Events"] == list(rules.EVENTS)
    config = site.config()
    assert ours["QueueArn"] == config.queue_arn
    assert config.enabled
    assert config.enabled_at is not None
    assert config.versioning_enabled_at is not None
    assert config.baseline_ended == report.ended
    assert [step.code for step in done.steps] == [
        "make-queue",
        "make-queue",
        "put-rule",
        "switch-versioning-on",
        "register",
    ]


async def test_the_queue_keeps_messages_for_14_days_and_lets_s3_alone_send(site: Site) -> None:
    await site.enable()
    names = queues.queue_name(site.bucket), queues.dead_letter_name(site.bucket)
    assert site.queue_names() == sorted(names)
    event, dead = (site.attributes(name) for name in names)
    assert event["MessageRetentionPeriod"] == dead["MessageRetentionPeriod"] == "1209600"
    assert event["SqsManagedSseEnabled"] == dead["SqsManagedSseEnabled"] == "true"
    assert event["ReceiveMessageWaitTimeSeconds"] == "20"
    assert json.loads(event["RedrivePolicy"])["deadLetterTargetArn"] == dead["QueueArn"]
    (statement,) = json.loads(event["Policy"])["Statement"]
    assert statement["Condition"]["ArnEquals"] == {"aws:SourceArn": f"arn:aws:s3:::{site.bucket}"}


async def test_events_reach_the_queue(site: Site) -> None:
    await site.enable()
    site.s3.put_object(Bucket=site.bucket, Key="ct/1", Body=b"1")
    received = site.sqs.receive_message(QueueUrl=site.config().queue_url, MaxNumberOfMessages=10)["Messages"]
    records = [record for message in received for record in json.loads(message["Body"]).get("Records", [])]
    assert [record["s3"]["object"]["key"] for record in records] == ["ct/1"]


async def test_a_prefix_limits_the_rule_and_the_baseline(site: Site) -> None:
    for key in ("ct/1", "mr/1"):
        site.s3.put_object(Bucket=site.bucket, Key=key, Body=b"1")
    await site.enable(prefix="ct/")
    assert site.config().prefix == "ct/"
    assert set(site.view()) == {"ct/1"}


# Twice, half, and side by side


async def test_running_it_twice_changes_nothing(site: Site) -> None:
    site.s3.put_object(Bucket=site.bucket, Key="k", Body=b"1")
    await site.enable()
    before, epoch = site.state(), site.engine.store.newest_epoch(site.bucket)
    site.writes.clear()
    plan = site.plan()
    assert plan.steps == ()
    done, report = await site.enable()
    assert (done.steps, report.already) == ((), True)
    assert site.writes == []
    assert site.state() == before
    assert site.engine.store.newest_epoch(site.bucket) == epoch


def test_a_plan_alone_changes_nothing(site: Site) -> None:
    before = site.state()
    site.writes.clear()
    assert len(site.plan().steps) == 6
    assert site.writes == []
    assert site.state() == before


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("write", range(1, WRITES_OF_ENABLING + 1))
async def test_stopped_at_any_call_the_next_run_completes_it(site: Site, write: int, landed: bool) -> None:
    with site.stopped_at(write, landed=landed), pytest.raises(Killed):
        carry_out(site.engine, site.plan(), pause=no_pause)
    await site.enable()
    assert site.plan().steps == ()
    config = site.config()
    assert config.versioning_enabled_at is not None, "what to wait for must survive the stop"
    assert config.baseline_ended is not None


async def test_stopped_after_a_missing_rule_was_put_back_the_gap_is_not_forgotten(site: Site) -> None:
    await site.enable()
    first = site.config()
    site.s3.put_bucket_notification_configuration(Bucket=site.bucket, NotificationConfiguration={})
    with site.stopped_at(1, landed=True), pytest.raises(Killed):
        carry_out(site.engine, site.plan(), pause=no_pause)
    await site.enable()
    config = site.config()
    assert first.enabled_at is not None
    assert config.enabled_at is not None
    assert config.enabled_at > first.enabled_at
    assert config.baseline_started is not None
    assert config.baseline_started >= first.enabled_at - 1000
    assert site.plan().steps == ()


def test_two_at_once_do_not_get_in_each_others_way(site: Site) -> None:
    plan = site.plan()
    with Lease(site.engine.store, site.bucket, ENABLE, site.engine.clock):
        site.writes.clear()
        with pytest.raises(Busy, match="Another process is at it"):
            carry_out(site.engine, plan, pause=no_pause)
    assert site.writes == []


async def test_a_plan_that_another_run_has_carried_out_meanwhile_is_done(site: Site) -> None:
    plan = site.plan()
    await site.enable()
    site.writes.clear()
    assert carry_out(site.engine, plan, pause=no_pause).steps == ()
    assert site.writes == []


async def test_a_bucket_that_needs_more_than_the_plan_showed_is_left_alone(site: Site) -> None:
    await site.enable()
    site.s3.put_bucket_notification_configuration(Bucket=site.bucket, NotificationConfiguration={})
    plan = site.plan()
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Suspended"})
    site.writes.clear()
    with pytest.raises(Refused, match="has changed since the plan was made"):
        carry_out(site.engine, plan, pause=no_pause)
    assert site.writes == []


# Everybody else's notifications


async def test_foreign_rules_and_event_bridge_are_as_they_were(site: Site) -> None:
    before = with_foreign_rule(site)
    await site.enable()
    after = site.notification()
    assert rules.merged(after, None) == before
    assert rules.our_rule(after) is not None


async def test_a_rule_that_overlaps_is_refused_and_nothing_is_changed(site: Site) -> None:
    before = with_foreign_rule(site)
    (theirs,) = before["QueueConfigurations"]
    theirs |= {"Events": ["s3:ObjectCreated:Put"]}
    site.s3.put_bucket_notification_configuration(Bucket=site.bucket, NotificationConfiguration=before)
    state = site.state()
    site.writes.clear()
    with pytest.raises(Refused, match=r"thumbnails.*EventBridge.*Nothing was changed"):
        carry_out(site.engine, site.plan(), pause=no_pause)
    assert site.writes == []
    assert site.state() == state


async def test_our_rule_is_put_again_if_somebody_overwrote_it_at_the_same_time(site: Site) -> None:
    theirs = with_foreign_rule(site)
    overwritten: list[bool] = []

    def overwrite(**_: Any) -> None:
        if not overwritten:
            overwritten.append(True)
            site.s3.put_bucket_notification_configuration(
                Bucket=site.bucket, NotificationConfiguration=theirs
            )

    site.s3.meta.events.register("after-call.s3.PutBucketNotificationConfiguration", overwrite)
    await site.enable()
    assert rules.our_rule(site.notification()) is not None
    assert rules.lost(theirs, site.notification()) == []


async def test_somebody_who_keeps_overwriting_our_rule_is_told_of(site: Site) -> None:
    def overwrite(params: dict[str, Any], **_: Any) -> None:
        params["body"] = b'<NotificationConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>'

    site.s3.meta.events.register("before-call.s3.PutBucketNotificationConfiguration", overwrite)
    with pytest.raises(SnapEngineError, match="keeps changing the notifications"):
        carry_out(site.engine, site.plan(), pause=no_pause)


async def test_a_foreign_rule_lost_meanwhile_is_shown_so_that_it_can_be_put_back(site: Site) -> None:
    with_foreign_rule(site)

    def lose(params: dict[str, Any], **_: Any) -> None:
        start, end = params["body"].find(b"<Id>thumbnails"), params["body"].find(b"</QueueConfiguration>")
        opening = params["body"].rfind(b"<QueueConfiguration>", 0, start)
        params["body"] = params["body"][:opening] + params["body"][end + len(b"</QueueConfiguration>") :]

    site.s3.meta.events.register("before-call.s3.PutBucketNotificationConfiguration", lose)
    with pytest.raises(SnapEngineError, match=r"other notifications.*thumbnails"):
        carry_out(site.engine, site.plan(), pause=no_pause)


async def test_s3_gets_time_to_see_the_new_queues_policy(site: Site) -> None:
    unable = ClientError(
        {
            "Error": {
                "Code": "InvalidArgument",
                "Message": "Unable to validate the following destination configurations",
            }
        },
        "PutBucketNotificationConfiguration",
    )
    site.fail("PutBucketNotificationConfiguration", unable, times=2)
    waited: list[float] = []
    carry_out(site.engine, site.plan(), pause=waited.append)
    assert waited == [2.0, 4.0]


# Refusals


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ("GetBucketVersioning", "s3:GetBucketVersioning"),
        ("GetBucketNotificationConfiguration", "s3:GetBucketNotification"),
        ("GetBucketLifecycleConfiguration", "s3:GetLifecycleConfiguration"),
        ("GetBucketReplication", "s3:GetReplicationConfiguration"),
        ("GetObjectLockConfiguration", "s3:GetBucketObjectLockConfiguration"),
        ("ListObjectVersions", "s3:ListBucketVersions"),
        ("HeadBucket", "s3:ListBucket"),
        ("GetQueueUrl", "sqs:GetQueueUrl"),
        ("CreateQueue", "sqs:CreateQueue"),
        ("PutBucketNotificationConfiguration", "s3:PutBucketNotification"),
        ("PutBucketVersioning", "s3:PutBucketVersioning"),
    ],
)
def test_a_missing_permission_is_named_and_nothing_is_left_changed(
    site: Site, operation: str, action: str
) -> None:
    before = with_foreign_rule(site), site.state()
    site.deny(operation)
    with pytest.raises(PermissionMissing, match=action) as raised:
        carry_out(site.engine, site.plan(), pause=no_pause)
    assert raised.value.action == action
    allowed = Site(Engine(site.engine.settings), site.bucket)
    assert (allowed.notification(), allowed.state()) == before
    assert allowed.plan().refusals == ()


def test_what_could_not_be_taken_back_is_said(site: Site) -> None:
    site.deny("PutBucketNotificationConfiguration")
    site.deny("DeleteQueue")
    with pytest.raises(PermissionMissing, match=r"could not all be taken back: .*queue snapengine-scans_"):
        carry_out(site.engine, site.plan(), pause=no_pause)


def test_a_bucket_of_another_account_is_refused(site: Site) -> None:
    def not_yours(params: dict[str, Any], model: Any, **_: Any) -> None:
        if "x-amz-expected-bucket-owner" in params["headers"]:
            raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, model.name)

    site.s3.meta.events.register("before-call.s3.HeadBucket", not_yours)
    assert "does not belong to account 123456789012" in site.plan().refusals[0]


def test_a_bucket_of_another_region_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    plan = plan_enable(Engine(site.engine.settings), site.bucket)
    assert "Set AWS_REGION=us-east-1" in plan.refusals[0]


def test_a_directory_bucket_is_refused(site: Site) -> None:
    assert "directory bucket" in plan_enable(site.engine, "scans--use1-az4--x-s3").refusals[0]


def test_an_unknown_bucket_is_said_to_be_unknown(site: Site) -> None:
    with pytest.raises(BucketUnknown, match="no bucket nothing-here"):
        plan_enable(site.engine, "nothing-here")


@pytest.mark.parametrize("name", ["s3://scans", "arn:aws:s3:::scans", "scans/ct"])
def test_what_is_no_name_of_a_bucket_is_not_tried(site: Site, name: str) -> None:
    with pytest.raises(UsageError):
        plan_enable(site.engine, name)


def test_without_a_table_nothing_is_asked_of_s3(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path / 'none.db'}")
    engine = Engine(load_settings())
    with pytest.raises(TableMissing, match="snapengine init"):
        plan_enable(engine, site.bucket)
    assert "s3" not in engine.__dict__


def test_without_credentials_it_says_so(site: Site) -> None:
    site.fail("HeadBucket", NO_CREDENTIALS)
    with pytest.raises(CredentialsMissing, match="AWS_PROFILE"):
        site.plan()


def test_an_endpoint_that_does_not_answer_is_said_to_be_unreachable(site: Site) -> None:
    site.fail("HeadBucket", UNREACHABLE)
    with pytest.raises(Unreachable, match="AWS_ENDPOINT_URL"):
        site.plan()


def test_a_queue_of_another_log_is_not_taken_over(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(site.engine, site.plan(), pause=no_pause)
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path / 'other.db'}")
    other = Engine(load_settings())
    other.store.create()
    assert "feeds another log" in plan_enable(other, site.bucket).refusals[0]


def test_a_replica_is_noticed_and_a_refused_look_at_it_is_not_an_error(site: Site) -> None:
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
    site.s3.put_object(Bucket=site.bucket, Key="ct/1", Body=b"1")

    def replica(parsed: dict[str, Any], **_: Any) -> None:
        parsed["ReplicationStatus"] = "REPLICA"

    site.s3.meta.events.register("after-call.s3.HeadObject", replica)
    assert any("'ct/1' is a replica" in warning for warning in site.plan().warnings)
    site.deny("HeadObject", "403")
    assert not any("replica" in warning for warning in site.plan().warnings)


async def test_a_lifecycle_rule_of_the_bucket_is_warned_of(site: Site) -> None:
    rule = {
        "ID": "tidy",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
    }
    site.s3.put_bucket_lifecycle_configuration(Bucket=site.bucket, LifecycleConfiguration={"Rules": [rule]})
    assert site.plan().warnings[0].startswith("DATA LOSS AHEAD: Lifecycle rule tidy")


# Another prefix


async def test_a_wider_prefix_is_listed_anew(site: Site) -> None:
    for key in ("ct/1", "mr/1"):
        site.s3.put_object(Bucket=site.bucket, Key=key, Body=b"1")
    await site.enable(prefix="ct/")
    await site.enable(prefix="")
    assert set(site.view()) == {"ct/1", "mr/1"}
    assert "Filter" not in (rules.our_rule(site.notification()) or {})
    assert site.plan().steps == ()


async def test_a_narrower_prefix_keeps_the_history_that_is_there(site: Site) -> None:
    await site.enable()
    before = site.config()
    await site.enable(prefix="ct/")
    assert site.config() == replace(before, prefix="ct/")


def test_wanted_streams_come_from_the_settings(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENGINE_STREAMS", "3")
    engine = Engine(load_settings())
    carry_out(engine, plan_enable(engine, site.bucket), pause=no_pause)
    assert site.config().streams == 3
    carry_out(site.engine, plan_enable(site.engine, site.bucket, Wanted(streams=5)), pause=no_pause)
    assert site.config().streams == 3, "of a bucket that has a log, the number is not changed by the way"
