"""Versions, markers and their listing, as S3 documents them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote_plus
from uuid import uuid4
from xml.etree import ElementTree as ET

import aioboto3
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from snapengine.devcloud import DevCloud


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture(scope="module")
def s3(cloud: DevCloud) -> Any:
    return boto3.client("s3", config=Config(max_pool_connections=16), **cloud.client_arguments())


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"versions-{uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    return name


def set_versioning(s3: Any, bucket: str, status: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def put(s3: Any, bucket: str, key: str = "a", body: bytes = b"x") -> str | None:
    version_id: str | None = s3.put_object(Bucket=bucket, Key=key, Body=body).get("VersionId")
    return version_id


def rows(s3: Any, bucket: str, **query: Any) -> list[tuple[str, str, str, bool]]:
    """What ListObjectVersions gives, in document order: boto3 parts the markers from the versions."""
    seen: list[bytes] = []

    def keep(response_dict: Any, **_: Any) -> None:
        seen.append(response_dict["body"])

    s3.meta.events.register_first("before-parse.s3.ListObjectVersions", keep, unique_id="raw")
    try:
        s3.list_object_versions(Bucket=bucket, **query)
    finally:
        s3.meta.events.unregister("before-parse.s3.ListObjectVersions", keep, unique_id="raw")
    space = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    return [
        (
            element.tag.removeprefix(space),
            unquote_plus(element.findtext(f"{space}Key", "")),
            element.findtext(f"{space}VersionId", ""),
            element.findtext(f"{space}IsLatest") == "true",
        )
        for element in ET.fromstring(seen[0])  # noqa: S314 - our own server's reply
        if element.tag in (f"{space}Version", f"{space}DeleteMarker")
    ]


def body_of(s3: Any, bucket: str, key: str = "a", **which: str) -> bytes:
    content: bytes = s3.get_object(Bucket=bucket, Key=key, **which)["Body"].read()
    return content


def test_versions_and_markers_are_listed_newest_first_in_one_list(s3: Any, bucket: str) -> None:
    set_versioning(s3, bucket, "Enabled")
    first = put(s3, bucket)
    marker = s3.delete_object(Bucket=bucket, Key="a")["VersionId"]
    second = put(s3, bucket)
    other = put(s3, bucket, "b")
    assert rows(s3, bucket) == [
        ("Version", "a", second, True),
        ("DeleteMarker", "a", marker, False),
        ("Version", "a", first, False),
        ("Version", "b", other, True),
    ]


def test_pages_of_every_size_hold_every_version_once(s3: Any, bucket: str) -> None:
    set_versioning(s3, bucket, "Enabled")
    for key in ("a", "b/1", "b/2", "c+ d", "é"):
        put(s3, bucket, key)
        s3.delete_object(Bucket=bucket, Key=key)
    everything = [(key, version) for _, key, version, _ in rows(s3, bucket)]
    assert len(everything) == 10
    for size in (1, 2, 3, 7, 10):
        pages = s3.get_paginator("list_object_versions").paginate(
            Bucket=bucket, PaginationConfig={"PageSize": size}
        )
        found = [
            (row["Key"], row["VersionId"])
            for page in pages
            for row in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
        ]
        assert sorted(found) == sorted(everything)


def test_a_delimiter_folds_keys_into_prefixes(s3: Any, bucket: str) -> None:
    set_versioning(s3, bucket, "Enabled")
    for key in ("x/1", "x/2", "y/1", "z"):
        put(s3, bucket, key)
    pages = list(
        s3.get_paginator("list_object_versions").paginate(
            Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 1}
        )
    )
    assert [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", [])] == ["x/", "y/"]
    assert [each["Key"] for page in pages for each in page.get("Versions", [])] == ["z"]


def test_a_key_with_control_characters_can_be_listed_both_ways(s3: Any, bucket: str) -> None:
    put(s3, bucket, "line\r\nfeed\x01")
    assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["Key"] == "line\r\nfeed\x01"
    assert s3.list_object_versions(Bucket=bucket)["Versions"][0]["Key"] == "line\r\nfeed\x01"


def test_reading_a_marker_is_405_by_version_and_404_by_key(s3: Any, bucket: str) -> None:
    set_versioning(s3, bucket, "Enabled")
    put(s3, bucket)
    marker = s3.delete_object(Bucket=bucket, Key="a")["VersionId"]
    for read in (s3.get_object, s3.head_object):
        for which, status in (({"VersionId": marker}, 405), ({}, 404)):
            with pytest.raises(ClientError) as refusal:
                read(Bucket=bucket, Key="a", **which)
            metadata = refusal.value.response["ResponseMetadata"]
            assert metadata["HTTPStatusCode"] == status
            assert metadata["HTTPHeaders"]["x-amz-delete-marker"] == "true"
            assert metadata["HTTPHeaders"]["x-amz-version-id"] == marker


def test_removing_a_marker_brings_the_earlier_version_back(s3: Any, bucket: str) -> None:
    set_versioning(s3, bucket, "Enabled")
    put(s3, bucket, body=b"kept")
    marker = s3.delete_object(Bucket=bucket, Key="a")["VersionId"]
    reply = s3.delete_object(Bucket=bucket, Key="a", VersionId=marker)
    assert (reply["DeleteMarker"], reply["VersionId"]) == (True, marker)
    assert body_of(s3, bucket) == b"kept"


def test_objects_from_before_versioning_are_the_null_version_and_stay(s3: Any, bucket: str) -> None:
    assert put(s3, bucket, body=b"before") is None
    set_versioning(s3, bucket, "Enabled")
    assert s3.get_object(Bucket=bucket, Key="a")["VersionId"] == "null"
    later = put(s3, bucket, body=b"after")
    assert [(version, latest) for _, _, version, latest in rows(s3, bucket)] == [
        (later, True),
        ("null", False),
    ]
    assert body_of(s3, bucket, VersionId="null") == b"before"
    assert s3.head_object(Bucket=bucket, Key="a", VersionId="null")["ContentLength"] == 6


def test_while_suspended_writes_replace_the_null_version_and_no_other(s3: Any, bucket: str) -> None:
    set_versioning(s3, bucket, "Enabled")
    kept = put(s3, bucket, body=b"kept")
    set_versioning(s3, bucket, "Suspended")
    for body in (b"one", b"two"):
        assert put(s3, bucket, body=body) == "null"
    assert rows(s3, bucket) == [("Version", "a", "null", True), ("Version", "a", kept, False)]
    assert body_of(s3, bucket, VersionId="null") == b"two"
    assert s3.head_object(Bucket=bucket, Key="a", VersionId="null")["VersionId"] == "null"
    assert body_of(s3, bucket, VersionId=str(kept)) == b"kept"


def test_while_suspended_a_delete_puts_a_null_marker_in_the_place_of_the_null_version(
    s3: Any, bucket: str
) -> None:
    set_versioning(s3, bucket, "Enabled")
    kept = put(s3, bucket, body=b"kept")
    set_versioning(s3, bucket, "Suspended")
    put(s3, bucket, body=b"lost")
    for _ in range(2):
        reply = s3.delete_object(Bucket=bucket, Key="a")
        assert (reply["DeleteMarker"], reply["VersionId"]) == (True, "null")
        assert rows(s3, bucket) == [("DeleteMarker", "a", "null", True), ("Version", "a", kept, False)]
    s3.delete_object(Bucket=bucket, Key="a", VersionId="null")
    assert body_of(s3, bucket) == b"kept"


def test_enabling_again_keeps_the_null_version_where_it_was(s3: Any, bucket: str) -> None:
    set_versioning(s3, bucket, "Enabled")
    set_versioning(s3, bucket, "Suspended")
    put(s3, bucket)
    set_versioning(s3, bucket, "Enabled")
    new = put(s3, bucket)
    assert [version for _, _, version, _ in rows(s3, bucket)] == [new, "null"]


def test_an_unversioned_bucket_keeps_one_null_version(s3: Any, bucket: str) -> None:
    put(s3, bucket, body=b"one")
    put(s3, bucket, body=b"two")
    assert rows(s3, bucket) == [("Version", "a", "null", True)]
    assert body_of(s3, bucket, VersionId="null") == b"two"
    assert s3.head_object(Bucket=bucket, Key="a", VersionId="null")["ContentLength"] == 3
    s3.delete_object(Bucket=bucket, Key="a")
    assert rows(s3, bucket) == []


def test_a_multipart_object_is_dated_from_its_beginning_and_ranked_by_its_end(s3: Any, bucket: str) -> None:
    set_versioning(s3, bucket, "Enabled")
    upload = {"Bucket": bucket, "Key": "a"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    tag = s3.upload_part(**upload, PartNumber=1, Body=b"part")["ETag"]
    meanwhile = put(s3, bucket)
    parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
    completed = s3.complete_multipart_upload(**upload, MultipartUpload=parts)["VersionId"]
    assert [version for _, _, version, _ in rows(s3, bucket)] == [completed, meanwhile]
    dates = {
        each["VersionId"]: each["LastModified"] for each in s3.list_object_versions(Bucket=bucket)["Versions"]
    }
    assert dates[completed] <= dates[meanwhile]


def test_of_many_conditional_creations_at_once_one_succeeds(s3: Any, bucket: str) -> None:
    def create(_: int) -> bool:
        try:
            s3.put_object(Bucket=bucket, Key="lock", Body=b"", IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":
                raise
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 1


def test_a_locked_version_is_not_removed_by_a_batch_and_makes_no_gap(s3: Any) -> None:
    name = f"locked-{uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    version = put(s3, name)
    s3.put_object_legal_hold(Bucket=name, Key="a", VersionId=version, LegalHold={"Status": "ON"})
    reply = s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "a", "VersionId": version}]})
    assert [error["Code"] for error in reply["Errors"]] == ["AccessDenied"]
    assert [row[2] for row in rows(s3, name)] == [version]


async def test_an_asynchronous_client_writes_reads_and_lists(cloud: DevCloud, bucket: str) -> None:
    session = aioboto3.Session()
    async with session.client("s3", **cloud.client_arguments()) as client:
        await client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        written = await client.put_object(Bucket=bucket, Key="k e+y", Body=b"x" * 100_000)
        got = await client.get_object(
            Bucket=bucket, Key="k e+y", VersionId=written["VersionId"], Range="bytes=10-19"
        )
        assert await got["Body"].read() == b"x" * 10
        listing = await client.list_object_versions(Bucket=bucket)
        assert [each["Key"] for each in listing["Versions"]] == ["k e+y"]
