"""Every documented form of S3 event, made by a plain boto3 client and received from SQS."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus
from uuid import uuid4

import boto3
import pytest
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError

from snapengine.devcloud import ACCOUNT_ID, REGION, DevCloud

ALL = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]


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


@dataclass
class Watched:
    """A bucket of its own, and the queue that hears of it."""

    s3: Any
    sqs: Any
    bucket: str
    queue_url: str
    queue_arn: str

    def version(self, status: str = "Enabled") -> Watched:
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": status})
        return self

    def subscribe(self, *events: str, rule_id: str = "watch", **filters: str) -> None:
        rule: dict[str, Any] = {"Id": rule_id, "QueueArn": self.queue_arn, "Events": list(events or ALL)}
        if filters:
            rules = [{"Name": name, "Value": value} for name, value in filters.items()]
            rule["Filter"] = {"Key": {"FilterRules": rules}}
        self.configure(QueueConfigurations=[rule])
        self.bodies()

    def configure(self, **configuration: Any) -> None:
        self.s3.put_bucket_notification_configuration(
            Bucket=self.bucket, NotificationConfiguration=configuration
        )

    def put(self, key: str = "a", body: bytes = b"x", **more: Any) -> Any:
        return self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **more)

    def delete(self, key: str = "a", **more: Any) -> Any:
        return self.s3.delete_object(Bucket=self.bucket, Key=key, **more)

    def bodies(self) -> list[dict[str, Any]]:
        """All that has come. A write returns after its messages are in the queue: nothing is on its way."""
        found = []
        while batch := self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            found += [json.loads(message["Body"]) for message in batch]
            entries = [
                {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                for index, message in enumerate(batch)
            ]
            self.sqs.delete_message_batch(QueueUrl=self.queue_url, Entries=entries)
        return found

    def records(self) -> list[dict[str, Any]]:
        bodies = self.bodies()
        assert all(len(body["Records"]) == 1 for body in bodies)
        return [body["Records"][0] for body in bodies]

    def heard(self) -> list[tuple[str, str, str | None]]:
        """Each event's name, key and version id, in the order of the queue."""
        return [
            (
                record["eventName"],
                unquote_plus(record["s3"]["object"]["key"]),
                record["s3"]["object"].get("versionId"),
            )
            for record in self.records()
        ]


@pytest.fixture
def watched(s3: Any, sqs: Any) -> Watched:
    name = f"events-{uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    return Watched(s3, sqs, name, url, f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{name}")


def test_a_put_sends_one_record_with_every_documented_field(watched: Watched) -> None:
    watched.version().subscribe(rule_id="snapengine-watch")
    reply = watched.put("dir/scan.dcm", b"hello")
    (record,) = watched.records()
    assert record["eventVersion"] == "2.6"
    assert record["eventSource"] == "aws:s3"
    assert record["awsRegion"] == REGION
    assert record["eventName"] == "ObjectCreated:Put"
    assert record["userIdentity"]["principalId"]
    assert record["requestParameters"] == {"sourceIPAddress": "127.0.0.1"}
    headers = reply["ResponseMetadata"]["HTTPHeaders"]
    assert record["responseElements"] == {name: headers[name] for name in ("x-amz-request-id", "x-amz-id-2")}
    described = record["s3"]
    assert described["s3SchemaVersion"] == "1.0"
    assert described["configurationId"] == "snapengine-watch"
    assert described["bucket"]["name"] == watched.bucket
    assert described["bucket"]["arn"] == f"arn:aws:s3:::{watched.bucket}"
    assert described["bucket"]["ownerIdentity"]["principalId"]
    sequencer = described["object"].pop("sequencer")
    assert described["object"] == {
        "key": "dir/scan.dcm",
        "size": 5,
        "eTag": reply["ETag"].strip('"'),
        "versionId": reply["VersionId"],
    }
    assert len(sequencer) == 18
    assert sequencer == f"{int(sequencer, 16):018X}"


def test_the_event_time_has_milliseconds_and_is_not_before_the_listed_one(watched: Watched) -> None:
    watched.version().subscribe()
    watched.put()
    (record,) = watched.records()
    (version,) = watched.s3.list_object_versions(Bucket=watched.bucket)["Versions"]
    assert version["LastModified"].microsecond == 0
    listed = version["LastModified"].strftime("%Y-%m-%dT%H:%M:%S")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["eventTime"])
    assert record["eventTime"] >= f"{listed}.000Z"


@pytest.mark.parametrize(
    "key",
    [
        "a+b",
        "a b",
        "100%",
        "k=v",
        "x/y//z/",
        "~*",
        "é😀",
        "tab\tand\r\n\x01",
        "%2F",
        ".",
        "/lead",
        "a?b#c",
        "a;b&c",
    ],
)
def test_any_key_comes_form_encoded_with_its_slashes_left_alone(watched: Watched, key: str) -> None:
    watched.version().subscribe()
    reply = watched.put(key)
    (record,) = watched.records()
    sent = record["s3"]["object"]["key"]
    assert unquote_plus(sent) == key
    assert sent.count("/") == key.count("/")
    assert " " not in sent
    assert record["s3"]["object"]["versionId"] == reply["VersionId"]
    (version,) = watched.s3.list_object_versions(Bucket=watched.bucket)["Versions"]
    assert version["Key"] == key


def test_spaces_become_plus_and_equals_signs_are_escaped(watched: Watched) -> None:
    watched.subscribe()
    watched.put("study=1/image 2.dcm")
    (record,) = watched.records()
    assert record["s3"]["object"]["key"] == "study%3D1/image+2.dcm"


def test_a_copy_sends_copy_alone(watched: Watched) -> None:
    watched.version().subscribe()
    watched.put("from")
    watched.bodies()
    source = {"Bucket": watched.bucket, "Key": "from"}
    reply = watched.s3.copy_object(Bucket=watched.bucket, Key="to", CopySource=source)
    assert watched.heard() == [("ObjectCreated:Copy", "to", reply["VersionId"])]


def test_a_multipart_upload_sends_one_event_when_it_completes(watched: Watched) -> None:
    watched.version().subscribe()
    upload = {"Bucket": watched.bucket, "Key": "big"}
    upload["UploadId"] = watched.s3.create_multipart_upload(**upload)["UploadId"]
    parts = [
        {
            "PartNumber": number,
            "ETag": watched.s3.upload_part(**upload, PartNumber=number, Body=body)["ETag"],
        }
        for number, body in ((1, b"x" * 5 * 2**20), (2, b"end"))
    ]
    assert watched.bodies() == []
    reply = watched.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    (record,) = watched.records()
    assert record["eventName"] == "ObjectCreated:CompleteMultipartUpload"
    assert record["s3"]["object"]["versionId"] == reply["VersionId"]
    assert record["s3"]["object"]["size"] == 5 * 2**20 + 3
    assert record["s3"]["object"]["eTag"] == reply["ETag"].strip('"')
    assert record["s3"]["object"]["eTag"].endswith("-2")


def test_a_browser_form_sends_post(watched: Watched) -> None:
    watched.version().subscribe()
    form = watched.s3.generate_presigned_post(watched.bucket, "form.txt")
    fields = {**form["fields"], "file": ("form.txt", b"posted")}
    assert urllib3.request("POST", form["url"], fields=fields).status == 204
    ((name, key, version_id),) = watched.heard()
    assert (name, key) == ("ObjectCreated:Post", "form.txt")
    stored = watched.s3.get_object(Bucket=watched.bucket, Key=key, VersionId=version_id)
    assert stored["Body"].read() == b"posted"


def test_a_raw_http_client_causes_the_same_events(watched: Watched) -> None:
    watched.version().subscribe()
    target = {"Bucket": watched.bucket, "Key": "raw key+"}
    for operation, method in (("put_object", "PUT"), ("delete_object", "DELETE")):
        url = watched.s3.generate_presigned_url(operation, target)
        body = b"raw" if method == "PUT" else None
        assert urllib3.request(method, url, body=body).status in (200, 204)
    assert [(name, key) for name, key, _ in watched.heard()] == [
        ("ObjectCreated:Put", "raw key+"),
        ("ObjectRemoved:DeleteMarkerCreated", "raw key+"),
    ]


def test_a_delete_in_a_versioned_bucket_tells_of_the_marker_and_of_no_size(watched: Watched) -> None:
    watched.version().subscribe()
    watched.put()
    watched.bodies()
    reply = watched.delete()
    (record,) = watched.records()
    assert reply["DeleteMarker"] is True
    assert record["eventName"] == "ObjectRemoved:DeleteMarkerCreated"
    assert record["s3"]["object"]["versionId"] == reply["VersionId"]
    assert set(record["s3"]["object"]) == {"key", "versionId", "sequencer"}


def test_deleting_a_key_never_seen_in_a_versioned_bucket_makes_a_marker(watched: Watched) -> None:
    watched.version().subscribe()
    first, second = watched.delete("ghost")["VersionId"], watched.delete("ghost")["VersionId"]
    assert watched.heard() == [
        ("ObjectRemoved:DeleteMarkerCreated", "ghost", first),
        ("ObjectRemoved:DeleteMarkerCreated", "ghost", second),
    ]


def test_removing_a_version_or_a_marker_tells_its_version(watched: Watched) -> None:
    watched.version().subscribe()
    version, marker = watched.put()["VersionId"], watched.delete()["VersionId"]
    watched.bodies()
    watched.delete(VersionId=marker)
    watched.delete(VersionId=version)
    watched.delete(VersionId=version)
    assert watched.heard() == [("ObjectRemoved:Delete", "a", marker), ("ObjectRemoved:Delete", "a", version)]


def test_an_unversioned_bucket_names_no_versions_and_ignores_a_vain_delete(watched: Watched) -> None:
    watched.subscribe()
    watched.put()
    watched.put()
    watched.delete()
    watched.delete()
    assert watched.heard() == [
        ("ObjectCreated:Put", "a", None),
        ("ObjectCreated:Put", "a", None),
        ("ObjectRemoved:Delete", "a", None),
    ]


def test_a_suspended_bucket_speaks_of_the_null_version(watched: Watched) -> None:
    watched.version("Enabled").version("Suspended").subscribe()
    watched.put()
    assert watched.delete()["VersionId"] == "null"
    watched.delete(VersionId="null")
    assert watched.heard() == [
        ("ObjectCreated:Put", "a", "null"),
        ("ObjectRemoved:DeleteMarkerCreated", "a", "null"),
        ("ObjectRemoved:Delete", "a", "null"),
    ]


def test_a_batch_delete_sends_one_event_for_each_key(watched: Watched) -> None:
    watched.version().subscribe()
    version = watched.put("old")["VersionId"]
    watched.put("b & <c>")
    watched.bodies()
    objects = [{"Key": "old", "VersionId": version}, {"Key": "b & <c>"}, {"Key": "never"}]
    reply = watched.s3.delete_objects(Bucket=watched.bucket, Delete={"Objects": objects})
    markers = {
        each["Key"]: each["DeleteMarkerVersionId"] for each in reply["Deleted"] if "DeleteMarker" in each
    }
    assert watched.heard() == [
        ("ObjectRemoved:Delete", "old", version),
        ("ObjectRemoved:DeleteMarkerCreated", "b & <c>", markers["b & <c>"]),
        ("ObjectRemoved:DeleteMarkerCreated", "never", markers["never"]),
    ]


def test_a_batch_that_removes_a_marker_says_so_in_its_reply(watched: Watched) -> None:
    watched.version().subscribe()
    marker = watched.delete()["VersionId"]
    objects = [{"Key": "a", "VersionId": marker}]
    (deleted,) = watched.s3.delete_objects(Bucket=watched.bucket, Delete={"Objects": objects})["Deleted"]
    assert deleted == {
        "Key": "a",
        "VersionId": marker,
        "DeleteMarker": True,
        "DeleteMarkerVersionId": marker,
    }


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
