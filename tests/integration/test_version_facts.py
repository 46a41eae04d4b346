"""What S3 says of exact versions besides their bytes, from the embedded cloud."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from snapengine.devcloud import DevCloud
from snapengine.errors import Unreachable, VersionGone
from snapengine.model import ObjectVersion
from snapengine.stores.objects import S3Objects


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


class Bucket:
    def __init__(self, cloud: DevCloud) -> None:
        self.s3: Any = boto3.client("s3", **cloud.client_arguments())
        self.name = f"b-{uuid4().hex}"
        self.s3.create_bucket(Bucket=self.name)
        self.objects = S3Objects(self.s3)

    def versioning(self, status: str) -> None:
        self.s3.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": status})

    def put(self, body: bytes, **options: Any) -> ObjectVersion:
        reply = self.s3.put_object(Bucket=self.name, Key="k", Body=body, **options)
        head = self.s3.head_object(Bucket=self.name, Key="k")
        millis = round(head["LastModified"].timestamp() * 1000)
        return ObjectVersion("k", reply.get("VersionId", "null"), len(body), reply["ETag"].strip('"'), millis)


@pytest.fixture
def bucket(cloud: DevCloud) -> Bucket:
    return Bucket(cloud)


def test_headers_metadata_and_tags_are_those_of_the_version_asked_for(bucket: Bucket) -> None:
    bucket.versioning("Enabled")
    old = bucket.put(b"old", ContentType="text/old", Metadata={"site": "a"}, Tagging="study=7&arm=b")
    bucket.put(b"newer", ContentType="text/new", Metadata={"site": "b"}, Tagging="study=8")
    facts = bucket.objects.facts(bucket.name, old)
    assert facts.size == 3
    assert facts.headers["ContentType"] == "text/old"
    assert facts.headers["ETag"] == f'"{old.etag}"'
    assert facts.metadata == {"site": "a"}
    assert facts.tags == {"study": "7", "arm": "b"}
    assert facts.last_modified == old.event_time


def test_an_object_without_tags_has_none_of_them_which_is_known(bucket: Bucket) -> None:
    assert bucket.objects.facts(bucket.name, bucket.put(b"x")).tags == {}


def test_facts_of_an_overwritten_null_version_are_gone_and_never_its_successors(bucket: Bucket) -> None:
    old = bucket.put(b"old", Tagging="study=7")
    new = bucket.put(b"new", Tagging="study=8")
    assert old.version_id == new.version_id == "null"
    with pytest.raises(VersionGone):
        bucket.objects.facts(bucket.name, old)
    assert bucket.objects.facts(bucket.name, new).tags == {"study": "8"}


def test_a_successor_with_the_same_bytes_is_told_by_its_time(bucket: Bucket) -> None:
    same = bucket.put(b"same")
    earlier = ObjectVersion("k", "null", 4, same.etag, same.event_time - 60_000)
    with pytest.raises(VersionGone):
        bucket.objects.facts(bucket.name, earlier)


def test_a_version_that_was_deleted_has_no_facts(bucket: Bucket) -> None:
    bucket.versioning("Enabled")
    version = bucket.put(b"x")
    bucket.s3.delete_object(Bucket=bucket.name, Key="k", VersionId=version.version_id)
    with pytest.raises(VersionGone):
        bucket.objects.facts(bucket.name, version)


def test_tags_that_may_not_be_read_are_none_and_the_rest_is_there(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = bucket.put(b"x", Tagging="study=7", ContentType="text/plain")

    def denied(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetObjectTagging")

    monkeypatch.setattr(bucket.s3, "get_object_tagging", denied)
    facts = bucket.objects.facts(bucket.name, version)
    assert facts.tags is None
    assert facts.headers["ContentType"] == "text/plain"


@pytest.mark.parametrize(
    ("code", "status"), [("KMS.ThrottlingException", 400), ("502", 502), ("SlowDown", 503)]
)
def test_a_server_in_trouble_is_an_outage_and_no_property_of_the_object(
    bucket: Bucket, code: str, status: int
) -> None:
    version = bucket.put(b"x")
    client: Any = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))
    with Stubber(client) as stub:
        stub.add_client_error("get_object", code, http_status_code=status)
        with pytest.raises(Unreachable):
            S3Objects(client).read(bucket.name, version)
