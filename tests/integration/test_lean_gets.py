"""Lean GETs ask as the client asks, and take no reply but the one of the very version."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore import UNSIGNED
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.session import Session

from snapengine.devcloud import DevCloud
from snapengine.errors import BytesUnavailable, SnapEngineError, Unreachable, VersionGone
from snapengine.model import ObjectVersion
from snapengine.stores.objects import S3Objects
from tests.servers import Endpoint

ODD_KEYS = [
    "plain/key.dcm", "a//b", "a/../b", "./a", "../a", "a/..", "/leading", "//two", "a/", "a+b c%20%2F",
    "é/ü~ß", "a?b#c&d=e;f", "a'b\"c<d>e", "日本", "😀", "%", "*!()$@:,[]{}|\\^`", "k" * 1024,
]  # fmt: skip


class Sent:
    """The GETs of a client, by whether they were lean: botocore numbers its own calls."""

    def __init__(self, client: Any) -> None:
        self.lean: list[Any] = []
        self.by_client: list[Any] = []
        client.meta.events.register_first("before-send.s3.GetObject", self._note)

    def _note(self, request: Any, **_: object) -> None:
        (self.by_client if "amz-sdk-invocation-id" in request.headers else self.lean).append(request)


@pytest.fixture(scope="module")
def devcloud() -> Iterator[Any]:
    with DevCloud() as cloud:
        yield boto3.client("s3", **cloud.client_arguments())


@pytest.fixture(scope="module")
def seaweedfs(seaweedfs_server: Endpoint) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seaweedfs_server.environment().items():
            patch.setenv(name, value)
        return boto3.Session(botocore_session=Session()).client("s3")


@pytest.fixture(params=["devcloud", pytest.param("seaweedfs", marks=pytest.mark.services)])
def s3(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def bucket_of(s3: Any) -> str:
    name = f"b-{uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


def versioned(s3: Any) -> str:
    name = bucket_of(s3)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


def put(s3: Any, bucket: str, key: str, body: bytes) -> ObjectVersion:
    reply = s3.put_object(Bucket=bucket, Key=key, Body=body)
    return ObjectVersion(key, reply.get("VersionId", "null"), len(body), reply["ETag"].strip('"'), 10**15)


def learned(s3: Any, bucket: str) -> S3Objects:
    objects = S3Objects(s3)
    objects.read(bucket, put(s3, bucket, "first", b"first"))
    return objects


# Real servers


def test_after_the_first_get_of_a_bucket_those_to_come_are_lean(s3: Any) -> None:
    bucket, data = versioned(s3), bytes(range(256)) * 40
    old, new = put(s3, bucket, "k", data), put(s3, bucket, "k", data[::-1])
    objects, sent = S3Objects(s3), Sent(s3)
    assert objects.read(bucket, old, 0, 100) == data[:100]
    assert (len(sent.by_client), len(sent.lean)) == (1, 0)
    assert objects.read(bucket, old, 0, 100) == data[:100]
    assert objects.read(bucket, old, 300, 10**9) == data[300:]
    assert objects.read(bucket, new) == data[::-1]
    assert (len(sent.by_client), len(sent.lean)) == (1, 3)


def test_a_buffer_is_filled_with_a_piece_of_the_version(s3: Any) -> None:
    bucket, data = versioned(s3), bytes(range(256)) * 400
    old = put(s3, bucket, "k", data)
    put(s3, bucket, "k", data[::-1])
    objects, sent = S3Objects(s3), Sent(s3)
    for start, stop in [(0, len(data)), (0, 100), (300, 70_000), (len(data) - 1, len(data))]:
        buffer = bytearray(stop - start)
        objects.read_into(bucket, old, start, memoryview(buffer))
        assert buffer == data[start:stop]
    assert (len(sent.by_client), len(sent.lean)) == (1, 3)
    s3.delete_object(Bucket=bucket, Key="k", VersionId=old.version_id)
    with pytest.raises(VersionGone):
        objects.read_into(bucket, old, 0, memoryview(bytearray(5)))


@pytest.mark.parametrize("key", ODD_KEYS)
def test_an_odd_key_is_asked_for_and_signed_as_the_client_does(s3: Any, key: str) -> None:
    bucket = versioned(s3)
    try:
        version = put(s3, bucket, key, key.encode())
        kept = s3.get_object(Bucket=bucket, Key=key, VersionId=version.version_id)["Body"].read()
    except s3.exceptions.ClientError:
        kept = b""
    if kept != key.encode():
        pytest.skip("the server does not keep objects of this key")
    objects, sent = learned(s3, bucket), Sent(s3)
    assert objects.read(bucket, version) == key.encode()
    s3.get_object(Bucket=bucket, Key=key, VersionId=version.version_id)
    (lean,), (ordinary,) = sent.lean, sent.by_client
    assert lean.url == ordinary.url
    names = [{name.lower() for name, _ in request.headers.items()} for request in (lean, ordinary)]
    assert names[0] == names[1] - {"amz-sdk-invocation-id", "amz-sdk-request"}


def test_a_null_version_is_read_until_it_is_overwritten(s3: Any) -> None:
    bucket = bucket_of(s3)
    version = put(s3, bucket, "k", b"first bytes")
    objects = learned(s3, bucket)
    sent = Sent(s3)
    assert objects.read(bucket, version, 2, 5) == b"rst"
    assert len(sent.lean) == 1
    put(s3, bucket, "k", b"other bytes")
    with pytest.raises(VersionGone):
        objects.read(bucket, version, 2, 5)


def test_a_version_that_is_gone_is_told_in_the_clients_words(s3: Any) -> None:
    bucket = versioned(s3)
    version = put(s3, bucket, "k", b"bytes")
    objects = learned(s3, bucket)
    s3.delete_object(Bucket=bucket, Key="k", VersionId=version.version_id)
    with pytest.raises(VersionGone, match="is gone from S3"):
        objects.read(bucket, version, 0, 3)


def test_an_object_of_another_size_than_the_view_knows_is_refused(s3: Any) -> None:
    bucket = versioned(s3)
    told = put(s3, bucket, "k", b"bytes")
    objects = learned(s3, bucket)
    with pytest.raises(BytesUnavailable, match="gave 5 bytes"):
        objects.read(bucket, ObjectVersion("k", told.version_id, 9, told.etag, 0))


def test_a_server_that_is_away_is_told_by_the_client(devcloud: Any) -> None:
    with DevCloud() as cloud:
        s3 = boto3.client("s3", **cloud.client_arguments(), config=Config(retries={"total_max_attempts": 1}))
        bucket = versioned(s3)
        version = put(s3, bucket, "k", b"bytes")
        objects = learned(s3, bucket)
    with pytest.raises(Unreachable):
        objects.read(bucket, version)


# Replies that are not the one expected, and clients of other kinds


class Raw(io.BytesIO):
    def stream(self, **_: object) -> Iterator[bytes]:
        yield self.read()


class Answering:
    """S3 for a client without a network: `change` spoils what the lean GETs get, not the client's own."""

    def __init__(self, client: Any, change: Callable[[dict[str, str], list[Any]], None]) -> None:
        self.change = change
        client.meta.events.register_last("before-send.s3.GetObject", self._answer)

    def _answer(self, request: Any, **_: object) -> AWSResponse:
        headers = {"ETag": '"e"', "x-amz-version-id": "v", "Content-Range": "bytes 2-5/10"}
        reply: list[Any] = [206, b"2345"]
        if "Range" not in request.headers:
            del headers["Content-Range"]
            reply[:] = [200, b"0123456789"]
            headers["x-amz-checksum-crc32"] = base64.b64encode(
                zlib.crc32(reply[1]).to_bytes(4, "big")
            ).decode()
        if "amz-sdk-invocation-id" not in request.headers:
            self.change(headers, reply)
        made: Any = headers
        return AWSResponse(request.url, reply[0], made, Raw(reply[1]))


VERSION = ObjectVersion("k", "v", 10, "e", 0)


def as_it_is(_headers: dict[str, str], _reply: list[Any]) -> None:
    """Nothing is changed."""


def client(**options: Any) -> Any:
    given = {"region_name": "eu-west-1", "aws_access_key_id": "AK", "aws_secret_access_key": "SK"} | options
    return boto3.client("s3", **given)


def test_the_expected_reply_is_taken() -> None:
    s3 = client()
    Answering(s3, as_it_is)
    objects, sent = S3Objects(s3), Sent(s3)
    assert [objects.read("b", VERSION, 2, 6) for _ in range(3)] == [b"2345"] * 3
    assert [objects.read("b", VERSION) for _ in range(2)] == [b"0123456789"] * 2
    assert (len(sent.by_client), len(sent.lean)) == (1, 4)


@pytest.mark.parametrize(
    "change",
    [
        lambda headers, _: headers.update({"ETag": '"other"'}),
        lambda headers, _: headers.update({"x-amz-version-id": "w"}),
        lambda headers, _: headers.pop("x-amz-version-id"),
        lambda headers, _: headers.update({"Content-Range": "bytes 2-5/11"}),
        lambda headers, _: headers.update({"Content-Range": "bytes 3-6/10"}),
        lambda headers, _: headers.pop("Content-Range"),
        lambda _, reply: reply.__setitem__(0, 200),
        lambda _, reply: reply.__setitem__(0, 503),
        lambda _, reply: reply.__setitem__(0, 301),
        lambda _, reply: reply.__setitem__(1, b"234"),
        lambda _, reply: reply.__setitem__(1, b"23456"),
        lambda headers, _: headers.update({"x-amz-checksum-sha256": "AAAA"}),
    ],
)
def test_any_other_reply_is_left_to_the_client(change: Callable[[dict[str, str], list[Any]], None]) -> None:
    s3 = client()
    Answering(s3, change)
    objects, sent = S3Objects(s3), Sent(s3)
    assert [objects.read("b", VERSION, 2, 6) for _ in range(2)] == [b"2345"] * 2
    assert (len(sent.by_client), len(sent.lean)) == (2, 1)
    buffer = bytearray(4)
    objects.read_into("b", VERSION, 2, memoryview(buffer))
    assert buffer == b"2345"
    assert (len(sent.by_client), len(sent.lean)) == (3, 2)


@pytest.mark.services
def test_a_header_that_a_listener_ends_with_another_is_not_sent(seaweedfs: Any) -> None:
    bucket = versioned(seaweedfs)
    objects, version = S3Objects(seaweedfs), put(seaweedfs, bucket, "k", b"bytes")
    objects.read(bucket, version)

    def inject(request: Any, **_: object) -> None:
        if "amz-sdk-invocation-id" not in request.headers:
            assert request.headers["X-AMZ-DATE"]
            request.headers["X-Changed"] = "yes\r\nRange: bytes=0-1"

    seaweedfs.meta.events.register("before-send.s3.GetObject", inject)
    try:
        sent = Sent(seaweedfs)
        assert objects.read(bucket, version) == b"bytes"
        assert (len(sent.by_client), len(sent.lean)) == (1, 1)
    finally:
        seaweedfs.meta.events.unregister("before-send.s3.GetObject", inject)


def test_nothing_is_learned_of_a_request_that_was_never_sent() -> None:
    s3 = client()
    Answering(s3, as_it_is)
    objects, sent = S3Objects(s3), Sent(s3)
    s3.get_object(Bucket="another", Key="k", VersionId="v", Range="bytes=2-5")

    def stubbed(**_: object) -> Any:
        headers: Any = {}
        return AWSResponse("", 200, headers, Raw()), {"Body": Raw(b"2345")}

    s3.meta.events.register("before-call.s3.GetObject", stubbed)
    assert [objects.read("b", VERSION, 2, 6) for _ in range(2)] == [b"2345"] * 2
    assert (len(sent.by_client), len(sent.lean)) == (1, 0)


def test_bytes_of_another_checksum_are_not_taken() -> None:
    s3 = client()
    Answering(s3, lambda _, reply: reply.__setitem__(1, b"0123456780"))
    objects, sent = S3Objects(s3), Sent(s3)
    assert [objects.read("b", VERSION) for _ in range(2)] == [b"0123456789"] * 2
    assert (len(sent.by_client), len(sent.lean)) == (2, 1)


def test_a_bucket_that_only_the_client_can_read_is_soon_left_to_it() -> None:
    s3 = client()
    answering = Answering(s3, lambda _, reply: reply.__setitem__(0, 403))
    objects, sent = S3Objects(s3), Sent(s3)
    for _ in range(10):
        assert objects.read("b", VERSION, 2, 6) == b"2345"
    assert (len(sent.by_client), len(sent.lean)) == (10, 3)
    answering.change = as_it_is
    for _ in range(2):
        assert objects.read("another", VERSION, 2, 6) == b"2345"
    assert len(sent.lean) == 4


def test_threads_that_begin_at_once_learn_together() -> None:
    s3 = client()
    Answering(s3, as_it_is)
    objects, sent, together = S3Objects(s3), Sent(s3), Barrier(8)

    def wait(**_: object) -> None:
        together.wait(10)

    s3.meta.events.register("before-send.s3.GetObject", wait)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: objects.read("b", VERSION, 2, 6), range(8))) == [b"2345"] * 8
        assert list(pool.map(lambda _: objects.read("b", VERSION, 2, 6), range(8))) == [b"2345"] * 8
    assert (len(sent.by_client), len(sent.lean)) == (8, 8)


@pytest.mark.parametrize("style", ["path", "virtual"])
@pytest.mark.parametrize("key", ODD_KEYS)
def test_both_forms_of_urls_are_the_clients(style: Any, key: str) -> None:
    s3 = client(config=Config(s3={"addressing_style": style}))
    Answering(s3, as_it_is)
    objects, sent = S3Objects(s3), Sent(s3)
    version = ObjectVersion(key, "v", 10, "e", 0)
    objects.read("bucket", VERSION, 2, 6)
    objects.read("bucket", version, 2, 6)
    s3.get_object(Bucket="bucket", Key=key, VersionId="v", Range="bytes=2-5")
    assert sent.lean[0].url == sent.by_client[1].url
    assert ("bucket.s3." in sent.lean[0].url) == (style == "virtual")


@pytest.mark.parametrize(
    "config",
    [Config(signature_version=UNSIGNED), Config(signature_version="s3")],
)
def test_a_client_that_signs_otherwise_makes_its_own_requests(config: Config) -> None:
    s3 = client(config=config, region_name="us-east-1")
    Answering(s3, as_it_is)
    objects, sent = S3Objects(s3), Sent(s3)
    assert [objects.read("b", VERSION, 2, 6) for _ in range(3)] == [b"2345"] * 3
    assert (len(sent.by_client), len(sent.lean)) == (3, 0)


@pytest.mark.parametrize(
    "header",
    ["x-amz-request-payer", "x-amz-server-side-encryption-customer-key", "x-amz-expected-bucket-owner"],
)
def test_a_client_that_says_more_makes_its_own_requests(header: str) -> None:
    s3 = client()
    s3.meta.events.register(
        "before-sign.s3.GetObject", lambda request, **_: request.headers.add_header(header, "x")
    )
    Answering(s3, as_it_is)
    objects, sent = S3Objects(s3), Sent(s3)
    assert [objects.read("b", VERSION, 2, 6) for _ in range(3)] == [b"2345"] * 3
    assert (len(sent.by_client), len(sent.lean)) == (3, 0)


def test_credentials_that_are_refreshed_are_asked_for_each_time() -> None:
    number = 0

    def fresh() -> dict[str, str]:
        nonlocal number
        number += 1
        return {
            "access_key": f"AK{number}",
            "secret_key": "SK",
            "token": f"token-{number}",
            "expiry_time": "2100-01-01T00:00:00Z",
        }

    session: Any = Session()
    session._credentials = RefreshableCredentials.create_from_metadata(fresh(), fresh, "test")
    s3 = boto3.Session(botocore_session=session).client("s3", region_name="eu-west-1")
    Answering(s3, as_it_is)
    objects, sent = S3Objects(s3), Sent(s3)
    assert [objects.read("b", VERSION, 2, 6) for _ in range(2)] == [b"2345"] * 2
    session._credentials._expiry_time = datetime(2000, 1, 1, tzinfo=UTC)
    assert objects.read("b", VERSION, 2, 6) == b"2345"
    tokens = [request.headers["X-Amz-Security-Token"] for request in sent.lean]
    assert (len(sent.by_client), tokens) == (1, ["token-1", "token-2"])
    assert "Credential=AK2/" in str(sent.lean[1].headers["Authorization"])


def test_a_client_that_goes_through_a_proxy_makes_its_own_requests() -> None:
    s3 = client(config=Config(proxies={"https": "http://127.0.0.1:9"}))
    Answering(s3, as_it_is)
    objects, sent = S3Objects(s3), Sent(s3)
    assert [objects.read("b", VERSION, 2, 6) for _ in range(3)] == [b"2345"] * 3
    assert (len(sent.by_client), len(sent.lean)) == (3, 0)


def test_without_credentials_the_client_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    s3 = boto3.Session(botocore_session=Session()).client("s3", region_name="eu-west-1")
    with pytest.raises(SnapEngineError, match="No AWS credentials"):
        S3Objects(s3).read("b", VERSION)
