"""Every documented form of S3 event, made by a plain boto3 client and received from SQS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus
from uuid import uuid4

import boto3
import pytest
import urllib3
from botocore.config import Config

from snapengine.devcloud import ACCOUNT_ID, REGION, DevCloud
from tests.integration.devcloud_watched import Watched


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
