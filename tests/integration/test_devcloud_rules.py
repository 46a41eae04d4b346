"""Which events the embedded cloud sends where: rules, filters, topics, and many writers at once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote_plus
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from snapengine.devcloud import ACCOUNT_ID, REGION, DevCloud
from tests.integration.devcloud_watched import ALL, Watched


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture(scope="module")
def s3(cloud: DevCloud) -> Any:
    return boto3.client("s3", config=Config(max_pool_connections=16), **cloud.client_arguments())


@pytest.fixture(scope="module")
def sqs(cloud: DevCloud) -> Any:
    return boto3.client("sqs", **cloud.client_arguments())


@pytest.fixture
def watched(s3: Any, sqs: Any) -> Watched:
    name = f"events-{uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    return Watched(s3, sqs, name, url, f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{name}")


def test_a_write_that_fails_sends_nothing(watched: Watched) -> None:
    watched.version().subscribe()
    watched.put()
    watched.bodies()
    with pytest.raises(ClientError, match="PreconditionFailed"):
        watched.put(IfNoneMatch="*")
    assert watched.bodies() == []
    assert len(watched.s3.list_object_versions(Bucket=watched.bucket)["Versions"]) == 1


def test_tagging_is_told_only_when_asked_for_and_really_done(watched: Watched) -> None:
    watched.version().subscribe("s3:ObjectTagging:*", "s3:ObjectCreated:*")
    version = watched.put(Tagging="a=b")["VersionId"]
    assert watched.heard() == [("ObjectCreated:Put", "a", version)]
    tags = {"TagSet": [{"Key": "c", "Value": "d"}]}
    watched.s3.put_object_tagging(Bucket=watched.bucket, Key="a", Tagging=tags)
    watched.s3.delete_object_tagging(Bucket=watched.bucket, Key="a")
    records = watched.records()
    assert [record["eventName"] for record in records] == ["ObjectTagging:Put", "ObjectTagging:Delete"]
    assert all("sequencer" not in record["s3"]["object"] for record in records)


def test_a_rule_without_tagging_hears_nothing_of_it(watched: Watched) -> None:
    watched.subscribe("s3:ObjectCreated:*")
    watched.put()
    watched.bodies()
    tags = {"TagSet": [{"Key": "c", "Value": "d"}]}
    watched.s3.put_object_tagging(Bucket=watched.bucket, Key="a", Tagging=tags)
    assert watched.bodies() == []


def test_only_the_events_and_keys_of_a_rule_are_sent(watched: Watched) -> None:
    watched.subscribe("s3:ObjectCreated:Put", prefix="images/", suffix=".dcm")
    for key in ("images/1.dcm", "images/1.txt", "other/1.dcm"):
        watched.put(key)
    source = {"Bucket": watched.bucket, "Key": "other/1.dcm"}
    watched.s3.copy_object(Bucket=watched.bucket, Key="images/2.dcm", CopySource=source)
    watched.delete("images/1.dcm")
    assert watched.heard() == [("ObjectCreated:Put", "images/1.dcm", None)]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("date%3D1/", "date=1/"), ("a+b/", "a b/"), ("%C3%A9/", "é/"), ("plain-1/", "plain-1/")],
)
def test_a_filter_s_value_is_form_encoded(watched: Watched, written: str, meant: str) -> None:
    watched.subscribe(prefix=written)
    watched.put(meant + "1")
    watched.put("other/1")
    assert watched.heard() == [("ObjectCreated:Put", meant + "1", None)]


def test_a_new_configuration_sends_the_test_event(watched: Watched) -> None:
    watched.configure(QueueConfigurations=[{"QueueArn": watched.queue_arn, "Events": ALL}])
    (body,) = watched.bodies()
    assert set(body) == {"Service", "Event", "Time", "Bucket", "RequestId", "HostId"}
    assert (body["Service"], body["Event"]) == ("Amazon S3", "s3:TestEvent")
    assert body["Bucket"] == watched.bucket


def test_a_configuration_of_eventbridge_alone_is_kept(watched: Watched) -> None:
    watched.configure(EventBridgeConfiguration={})
    kept = watched.s3.get_bucket_notification_configuration(Bucket=watched.bucket)
    kept.pop("ResponseMetadata")
    assert kept == {"EventBridgeConfiguration": {}}


def test_two_rules_with_different_prefixes_both_work_and_name_themselves(watched: Watched) -> None:
    def rule(name: str) -> dict[str, Any]:
        filters = {"Key": {"FilterRules": [{"Name": "prefix", "Value": f"{name}/"}]}}
        return {"Id": name, "QueueArn": watched.queue_arn, "Events": ALL, "Filter": filters}

    foreign = rule("theirs")
    watched.configure(QueueConfigurations=[foreign], EventBridgeConfiguration={})
    kept = watched.s3.get_bucket_notification_configuration(Bucket=watched.bucket)
    kept.pop("ResponseMetadata")
    assert kept == {"QueueConfigurations": [foreign], "EventBridgeConfiguration": {}}
    kept["QueueConfigurations"].append(rule("ours"))
    watched.configure(**kept)
    watched.bodies()
    watched.put("theirs/1")
    watched.put("ours/1")
    assert [record["s3"]["configurationId"] for record in watched.records()] == ["theirs", "ours"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([{}, {}], id="two rules for everything"),
        pytest.param([{"Events": ["s3:ObjectCreated:Put"]}, {}], id="a type and its wildcard"),
        pytest.param([{"QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:nobody"}], id="no such queue"),
        pytest.param([{"QueueArn": f"arn:aws:sqs:eu-west-1:{ACCOUNT_ID}:nobody"}], id="another Region"),
        pytest.param([{"QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:q.fifo"}], id="a FIFO queue"),
        pytest.param(
            [{"Id": "same", "Events": ALL[:1]}, {"Id": "same", "Events": ALL[1:]}], id="one Id for two rules"
        ),
    ],
)
def test_a_configuration_that_s3_refuses_is_refused_and_leaves_the_old_one(
    watched: Watched, changes: list[dict[str, Any]]
) -> None:
    watched.subscribe()
    rules = [{"QueueArn": watched.queue_arn, "Events": ALL, **change} for change in changes]
    with pytest.raises(ClientError) as refusal:
        watched.configure(QueueConfigurations=rules)
    assert refusal.value.response["Error"]["Code"] == "InvalidArgument"
    kept = watched.s3.get_bucket_notification_configuration(Bucket=watched.bucket)["QueueConfigurations"]
    assert [rule["Id"] for rule in kept] == ["watch"]


def test_a_missing_queue_is_accepted_when_validation_is_skipped_and_loses_events(watched: Watched) -> None:
    rule = {"QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:not-yet", "Events": ALL}
    watched.s3.put_bucket_notification_configuration(
        Bucket=watched.bucket,
        NotificationConfiguration={"QueueConfigurations": [rule]},
        SkipDestinationValidation=True,
    )
    assert watched.put()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_a_topic_passes_events_on_to_its_queue_with_and_without_wrapper(
    watched: Watched, cloud: DevCloud
) -> None:
    sns = boto3.client("sns", **cloud.client_arguments())
    topic = sns.create_topic(Name=watched.bucket)["TopicArn"]
    subscription = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=watched.queue_arn)[
        "SubscriptionArn"
    ]
    watched.configure(TopicConfigurations=[{"TopicArn": topic, "Events": ALL}])
    watched.bodies()
    watched.put()
    (wrapped,) = watched.bodies()
    assert (wrapped["Type"], wrapped["TopicArn"]) == ("Notification", topic)
    assert json.loads(wrapped["Message"])["Records"][0]["eventName"] == "ObjectCreated:Put"
    sns.set_subscription_attributes(
        SubscriptionArn=subscription, AttributeName="RawMessageDelivery", AttributeValue="true"
    )
    watched.put()
    assert [name for name, _, _ in watched.heard()] == ["ObjectCreated:Put"]


def test_under_concurrent_writes_every_version_has_one_event_and_sequencers_follow_the_listing(
    watched: Watched,
) -> None:
    watched.version().subscribe()
    shared = ["same", "also same"]

    def work(worker: int) -> None:
        for turn in range(6):
            for key in (*shared, f"own/{worker}"):
                if (turn + worker) % 4 == 3:
                    watched.delete(key)
                else:
                    watched.put(key, f"{worker} {turn}".encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    events = defaultdict(list)
    for record in watched.records():
        described = record["s3"]["object"]
        events[unquote_plus(described["key"])].append((described["sequencer"], described["versionId"]))
    listing = watched.s3.list_object_versions(Bucket=watched.bucket)
    stored = {
        (row["Key"], row["VersionId"]) for kind in ("Versions", "DeleteMarkers") for row in listing[kind]
    }
    told = [(key, version_id) for key, rows in events.items() for _, version_id in rows]
    assert len(told) == len(set(told)) == 8 * 6 * 3
    assert set(told) == stored
    for key, rows in events.items():
        assert len({sequencer for sequencer, _ in rows}) == len(rows)
        in_order = [version_id for _, version_id in sorted(rows, reverse=True)]
        versions = [row["VersionId"] for row in listing["Versions"] if row["Key"] == key]
        markers = [row["VersionId"] for row in listing["DeleteMarkers"] if row["Key"] == key]
        assert [each for each in in_order if each in versions] == versions
        assert [each for each in in_order if each in markers] == markers
