"""Objects through a view's client: the view's version in boto3's own form, or an error of botocore's."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from snapengine.devcloud import DevCloud
from tests.integration.s3_client_house import House
from tests.integration.test_reading import AWKWARD

Build = Callable[[str | None], House]


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture(params=["devcloud", pytest.param("seaweedfs", marks=pytest.mark.services)])
def build(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Makes the house: once in a test."""
    name = "cloud" if request.param == "devcloud" else "seaweedfs_server"
    server = request.getfixturevalue(name)
    return lambda status: House(server.environment(), tmp_path / "log.db", monkeypatch, status)


@pytest.fixture
def house(build: Build) -> House:
    return build("Enabled")


def refused(error: ClientError) -> tuple[str, int]:
    return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]


def without_metadata(reply: Any) -> dict[str, Any]:
    body = {"Body": reply["Body"].read()} if "Body" in reply else {}
    return {name: value for name, value in reply.items() if name != "ResponseMetadata"} | body


# The right version


def test_an_object_is_the_views_version_as_a_plain_client_gives_it_by_its_id(house: House) -> None:
    version = house.put("k", b"first", ContentType="text/x", Metadata={"who": "me"}, CacheControl="no-store")
    client = house.view().client()
    house.put("k", b"second", ContentType="text/y")
    asked = {"Bucket": house.bucket, "Key": "k"}
    for more in ({}, {"Range": "bytes=1-3"}, {"ChecksumMode": "ENABLED"}, {"ResponseContentType": "a/b"}):
        old = client.get_object(**asked, **more)
        assert isinstance(old["Body"], StreamingBody)
        plain = house.s3.get_object(**asked, VersionId=version, **more)
        assert without_metadata(old) == without_metadata(plain)
    assert old["ContentType"] == "a/b"
    assert client.get_object(**asked, VersionId=version)["Body"].read() == b"first"
    head = client.head_object(**asked)
    assert without_metadata(head) == without_metadata(house.s3.head_object(**asked, VersionId=version))
    assert (head["Metadata"], head["VersionId"], head["ContentLength"]) == ({"who": "me"}, version, 5)


def test_conditions_are_those_of_the_views_version(house: House) -> None:
    house.put("k", b"first")
    client = house.view().client()
    first = client.head_object(Bucket=house.bucket, Key="k")["ETag"]
    house.put("k", b"second")
    second = house.s3.head_object(Bucket=house.bucket, Key="k")["ETag"]
    for etag, same in ((first, True), (second, False)):
        for condition, expected in (("IfMatch", same), ("IfNoneMatch", not same)):
            asked = {"Bucket": house.bucket, "Key": "k", condition: etag}
            if expected:
                assert client.get_object(**asked)["Body"].read() == b"first"
            else:
                with pytest.raises(ClientError) as error:
                    client.get_object(**asked)
                assert refused(error.value)[1] == (412 if condition == "IfMatch" else 304)


def test_one_part_of_an_object_is_the_plain_clients(house: House) -> None:
    version = house.put_in_parts("k", b"a" * (5 << 20), b"second part")
    client = house.view().client()
    house.put_in_parts("k", b"b" * (5 << 20), b"other second part")
    for number in (1, 2):
        asked = {"Bucket": house.bucket, "Key": "k", "PartNumber": number}
        # moto's HEAD of a part tells the part's ETag, which S3's does not; its GET gives the whole object.
        for name in ("get_object", "head_object") if house.is_seaweedfs else ("get_object",):
            plain = without_metadata(getattr(house.s3, name)(**asked, VersionId=version))
            assert without_metadata(getattr(client, name)(**asked)) == plain
    if house.is_seaweedfs:
        assert client.get_object(Bucket=house.bucket, Key="k", PartNumber=2)["Body"].read() == b"second part"


def test_another_version_than_the_views_is_refused_though_it_exists(house: House) -> None:
    house.put("k", b"first")
    client = house.view().client()
    second = house.put("k", b"second")
    for read in (client.get_object, client.head_object, client.get_object_tagging):
        with pytest.raises(ClientError, match=f"not {second}") as error:
            read(Bucket=house.bucket, Key="k", VersionId=second)
        assert refused(error.value) == ("NoSuchVersion", 404)


def test_tags_and_attributes_are_those_of_the_views_version(house: House) -> None:
    version = house.put("k", b"first", Tagging="a=1")
    client = house.view().client()
    house.put("k", b"second", Tagging="a=2")
    assert client.get_object_tagging(Bucket=house.bucket, Key="k")["TagSet"] == [{"Key": "a", "Value": "1"}]
    found = client.get_object_attributes(
        Bucket=house.bucket, Key="k", ObjectAttributes=["ETag", "ObjectSize"]
    )
    assert (found["ObjectSize"], found["VersionId"]) == (5, version)


def test_the_parameters_that_a_caller_holds_are_not_changed(house: House) -> None:
    house.put("a", b"1")
    house.put("b", b"2")
    client = house.view().client()
    asked = {"Bucket": house.bucket, "Key": "a"}
    url = client.generate_presigned_url("get_object", Params=asked)
    asked["Key"] = "b"
    assert client.generate_presigned_url("get_object", Params=asked) != url


# Keys


def test_keys_that_look_alike_are_each_read_exactly_or_refused(build: Build) -> None:
    house = build(None)
    merged = {"/a", "a/", "a//b", "a/../b"} if house.is_seaweedfs else set()
    keys = [key for key in AWKWARD if key not in merged]

    def put_all(word: bytes) -> Any:
        for key in keys:
            house.put(key, word + key.encode())
        return house.view().client()

    def expect(client: Any, word: bytes | None) -> None:
        listed = client.list_objects_v2(Bucket=house.bucket)["Contents"]
        assert [row["Key"] for row in listed] == sorted(keys, key=str.encode)
        for key in keys:
            found = read_or_refused(client, house.bucket, key)
            assert found == ("NoSuchVersion" if word is None else word + key.encode())

    null = put_all(b"null ")
    expect(null, b"null ")
    house.versioning("Enabled")
    old, current = put_all(b"old "), put_all(b"current ")
    for client, word in ((null, b"null "), (old, b"old "), (current, b"current ")):
        expect(client, word)
    house.versioning("Suspended")
    again = put_all(b"again ")
    for client, last in ((null, None), (old, b"old "), (current, b"current "), (again, b"again ")):
        expect(client, last)


def read_or_refused(client: Any, bucket: str, key: str) -> bytes | str:
    """The bytes, which `head_object` and a range agree with; or the code of the error."""
    try:
        data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        head = client.head_object(Bucket=bucket, Key=key)
        part = client.get_object(Bucket=bucket, Key=key, Range="bytes=2-")["Body"].read()
    except ClientError as error:
        return refused(error)[0]
    assert (head["ContentLength"], part) == (len(data), data[2:])
    return data


def test_a_key_that_the_view_has_not_is_the_error_that_code_expects(house: House) -> None:
    house.put("k", b"1")
    house.delete("k")
    client = house.view().client()
    house.put("k", b"2")
    for key in ("k", "K", "k/", "none"):
        with pytest.raises(client.exceptions.NoSuchKey) as error:
            client.get_object(Bucket=house.bucket, Key=key)
        assert refused(error.value) == ("NoSuchKey", 404)
        assert isinstance(error.value, ClientError)
        with pytest.raises(ClientError) as missing:
            client.head_object(Bucket=house.bucket, Key=key)
        assert refused(missing.value) == ("404", 404)


def test_what_is_wrong_with_a_call_is_botocores_to_say(house: House) -> None:
    bucket = house.bucket
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_object", {}),
        ("get_object", {"Bucket": bucket}),
        ("get_object", {"Bucket": bucket, "Key": ""}),
        ("get_object", {"Bucket": bucket, "Key": 1}),
        ("get_object", {"Bucket": 3, "Key": "k"}),
        ("get_object", {"Bucket": bucket, "Key": "k", "range": "bytes=0-1"}),
        ("list_objects_v2", {"Bucket": bucket, "prefix": "x"}),
        ("list_objects_v2", {"Bucket": bucket, "MaxKeys": "1"}),
    ]
    house.put("k", b"1")
    for name, asked in calls:
        with pytest.raises((BotoCoreError, TypeError)) as expected:
            getattr(house.s3, name)(**asked)
        with pytest.raises(type(expected.value)) as error:
            getattr(house.view().client(), name)(**asked)
        assert str(error.value) == str(expected.value)


# Versions that are gone


def test_a_version_that_was_removed_is_told_with_why(house: House) -> None:
    version = house.put("k", b"bytes")
    view = house.view()
    client = view.client()
    house.remove("k", version)
    for read in (client.get_object, client.head_object):
        with pytest.raises(ClientError, match=r"is gone from S3.*It went at .* \(ObjectRemoved") as error:
            read(Bucket=house.bucket, Key="k")
        assert refused(error.value) == ("NoSuchVersion", 404)
    assert [row["Key"] for row in client.list_objects_v2(Bucket=house.bucket)["Contents"]] == ["k"]


@pytest.mark.parametrize("status", ["Suspended", None])
def test_a_null_version_that_was_overwritten_is_refused_whatever_is_asked_of_it(
    build: Build, status: str | None
) -> None:
    house = build(status)
    house.put("k", b"first bytes")
    client = house.view().client()
    asked = {"Bucket": house.bucket, "Key": "k"}
    assert client.get_object(**asked)["Body"].read() == b"first bytes"
    assert client.get_object(**asked, Range="bytes=6-")["Body"].read() == b"bytes"
    with pytest.raises(ClientError) as unmodified:
        client.get_object(**asked, IfNoneMatch=client.head_object(**asked)["ETag"])
    assert refused(unmodified.value)[1] == 304
    house.put("k", b"other")
    other = house.s3.head_object(**asked)["ETag"]
    conditions: list[dict[str, str]] = [{}, {"IfNoneMatch": other}, {"IfMatch": '"0"'}, {"IfMatch": other}]
    for more in [*conditions, {"Range": "bytes=6-"}, {"Range": "bytes=0-1"}, {"VersionId": "null"}]:
        with pytest.raises(ClientError) as error:
            client.get_object(**asked, **more)
        assert refused(error.value) == ("NoSuchVersion", 404), more
    for read in (client.head_object, client.get_object_tagging):
        with pytest.raises(ClientError) as error:
            read(**asked)
        assert refused(error.value) == ("NoSuchVersion", 404)
    assert house.view().client().get_object(**asked)["Body"].read() == b"other"


def test_a_null_successor_of_the_same_bytes_is_known_by_its_time(build: Build) -> None:
    house = build("Suspended")
    house.put("k", b"same", ago=5000, Metadata={"of": "first"})
    with pytest.raises(ClientError) as error:
        house.view().client().get_object(Bucket=house.bucket, Key="k")
    assert refused(error.value) == ("NoSuchVersion", 404)


def test_a_null_version_has_no_url_as_that_could_serve_its_successor(build: Build) -> None:
    house = build("Suspended")
    house.put("k", b"1")
    with pytest.raises(ClientError, match="version id `null`") as error:
        house.view().client().generate_presigned_url(
            "get_object", Params={"Bucket": house.bucket, "Key": "k"}
        )
    assert refused(error.value) == ("NotImplemented", 501)


def test_a_presigned_url_is_of_the_views_version_for_ever(house: House) -> None:
    version = house.put("a b/é", b"first")
    client = house.view().client()
    house.put("a b/é", b"second")
    asked = {"Bucket": house.bucket, "Key": "a b/é"}
    url = client.generate_presigned_url("get_object", Params=asked)
    assert f"versionId={version}" in url
    with urllib.request.urlopen(url, timeout=30) as reply:  # noqa: S310  # of our own server
        assert reply.read() == b"first"
    for operation in ("list_objects_v2", "list_objects", "put_object", "get_object_acl"):
        with pytest.raises(ClientError):
            client.generate_presigned_url(operation, Params={"Bucket": house.bucket})


@pytest.mark.parametrize("operation", ["get_object", "head_object", "head_bucket", "list_objects_v2"])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "delete"])
def test_no_presigned_url_changes_anything(house: House, operation: str, method: str) -> None:
    house.put("k", b"1")
    place = {"Bucket": house.bucket} | (
        {"Key": "k"} if "object" in operation and "list" not in operation else {}
    )
    client = house.view().client()
    with pytest.raises(ClientError, match="changes nothing") as error:
        client.generate_presigned_url(operation, Params=place, HttpMethod=method)
    assert refused(error.value) == ("AccessDenied", 403)


def test_no_presigned_url_lists_what_there_is_now(house: House) -> None:
    client = house.view().client()
    with pytest.raises(ClientError) as error:
        client.generate_presigned_url("head_bucket", Params={"Bucket": house.bucket}, HttpMethod="GET")
    assert refused(error.value) == ("NotImplemented", 501)
    house.put("k", b"1")
    client, place = house.view().client(), {"Bucket": house.bucket, "Key": "k"}
    for method in ("GET", "HEAD"):
        assert "versionId=" in client.generate_presigned_url("get_object", Params=place, HttpMethod=method)
