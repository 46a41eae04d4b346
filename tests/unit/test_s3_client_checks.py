"""A reply that is not of the view's version reaches nobody, whatever server or proxy it is from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError

from snapengine.errors import Unreachable
from snapengine.model import Epoch, ObjectVersion, SnapshotRef
from tests.seed import enable, engine_at, event, record

RIGHT = {
    "x-amz-version-id": "v1",
    "ETag": '"e1"',
    "Content-Length": "5",
    "Last-Modified": "Tue, 14 Nov 2023 22:13:21 GMT",
}
NULL = {**RIGHT, "x-amz-version-id": "null", "ETag": '"en"'}


class Raw(io.BytesIO):
    """A body as urllib3 has it."""

    def stream(self, amount: int = 1024, decode_content: bool | None = None) -> Any:
        while chunk := self.read(amount):
            yield chunk


class Server:
    """Answers every request of a client with the reply that is next, and notes what was asked."""

    def __init__(self, client: Any, *replies: tuple[int, Mapping[str, str], bytes]) -> None:
        self.asked: list[Any] = []
        self.bodies: list[Raw] = []
        self._replies = list(replies)
        client.meta.events.register_first("before-send.s3", self._answer)

    def _answer(self, request: Any, **_: Any) -> AWSResponse:
        self.asked.append(request)
        status, told, body = self._replies.pop(0)
        self.bodies.append(Raw(body))
        headers: Any = told
        return AWSResponse(request.url, status, headers, self.bodies[-1])


@pytest.fixture
def client(tmp_path: Path) -> Any:
    """Of a view of `k`, version `v1`, and of `n`, version `null`, both of 5 bytes."""
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    seen = [event("k", "v1", 1, size=5, etag="e1"), event("n", "null", 1, size=5, etag="en")]
    record(engine, seen)
    return engine.view("scans").client()


def code(error: Any) -> tuple[str, int]:
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_the_right_reply_passes_as_it_is(client: Any) -> None:
    server = Server(client, (200, RIGHT, b"right"), (206, RIGHT | {"Content-Range": "bytes 0-4/5"}, b"right"))
    assert client.get_object(Bucket="scans", Key="k")["Body"].read() == b"right"
    client.get_object(Bucket="scans", Key="k", PartNumber=1)
    assert all("versionId=v1" in request.url for request in server.asked)


@pytest.mark.parametrize(
    ("status", "told", "says"),
    [
        (200, {"x-amz-version-id": "v2"}, "version v2"),
        (200, {"x-amz-version-id": None}, "version null"),
        (200, {"ETag": '"e2"'}, "the ETag 'e2'"),
        (200, {"ETag": None}, None),
        (200, {"Content-Length": "6"}, "6 bytes"),
        (206, {"Content-Range": "bytes 0-4/7"}, "7 bytes"),
        (206, {"Content-Range": "bytes 0-4/*"}, None),
    ],
)
def test_a_reply_that_tells_of_another_object_is_refused(
    client: Any, status: int, told: dict[str, str | None], says: str | None
) -> None:
    headers = {name: value for name, value in (RIGHT | told).items() if value is not None}
    server = Server(client, (status, headers, b"other"))
    if says is None:  # not told, so nothing speaks against it
        client.get_object(Bucket="scans", Key="k")
        return
    with pytest.raises(ClientError, match=f"S3 answered with {says}; it is not the object") as error:
        client.get_object(Bucket="scans", Key="k")
    assert code(error) == ("BytesUnavailable", 409)
    assert server.bodies[0].closed, "nobody reads what is left of it"


@pytest.mark.parametrize("told", [{"ETag": '"e2"'}, {"Last-Modified": "Tue, 14 Nov 2023 22:13:23 GMT"}])
def test_the_successor_of_a_null_version_is_told_as_its_end(client: Any, told: dict[str, str]) -> None:
    Server(client, (200, NULL, b"right"), (200, NULL | told, b"other"), (200, NULL | told, b""))
    assert client.get_object(Bucket="scans", Key="n")["Body"].read() == b"right"
    for read in (client.get_object, client.head_object):
        with pytest.raises(ClientError, match="gone from S3") as error:
            read(Bucket="scans", Key="n")
        assert code(error) == ("NoSuchVersion", 404)


@pytest.mark.parametrize("status", [304, 412, 416])
@pytest.mark.parametrize("same", [True, False])
def test_a_condition_that_failed_is_believed_of_the_same_null_version_only(
    client: Any, status: int, same: bool
) -> None:
    head = NULL if same else NULL | {"ETag": '"e2"'}
    server = Server(client, (status, {}, b""), (200, head, b""))
    with pytest.raises(ClientError) as error:
        client.get_object(Bucket="scans", Key="n", IfNoneMatch='"e3"')
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == (status if same else 404)
    assert [request.method for request in server.asked] == ["GET", "HEAD"]


@pytest.mark.parametrize("status", [404, 405])
def test_an_absent_version_is_gone_by_get_and_by_head(client: Any, status: int) -> None:
    words = b"<Error><Code>NoSuchVersion</Code><Message>x</Message></Error>"
    Server(client, (status, {}, words if status == 404 else b""), (status, {}, b""))
    for read in (client.get_object, client.head_object):
        with pytest.raises(ClientError, match="gone from S3") as error:
            read(Bucket="scans", Key="k")
        assert code(error) == ("NoSuchVersion", 404)
        told: Any = error.value.response["Error"]
        assert (told["Key"], told["VersionId"]) == ("k", "v1")


@pytest.mark.parametrize("said", ["InvalidObjectState", "AccessDenied", "NoSuchBucket"])
def test_other_errors_are_s3s_own(client: Any, said: str) -> None:
    Server(client, (403, {}, f"<Error><Code>{said}</Code><Message>as S3 says</Message></Error>".encode()))
    with pytest.raises(ClientError, match="as S3 says") as error:
        client.get_object(Bucket="scans", Key="k")
    assert code(error) == (said, 403)
    assert type(error.value).__name__ in {said, "ClientError"}


def test_a_log_that_does_not_answer_is_an_error_of_botocores_with_our_words(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> ObjectVersion:
        raise Unreachable("The table does not answer.")

    monkeypatch.setattr(type(client.view), "__getitem__", away)
    with pytest.raises(ClientError, match="The table does not answer") as error:
        client.get_object(Bucket="scans", Key="k")
    assert code(error) == ("ServiceUnavailable", 503)
    monkeypatch.setattr(type(client.view), "to_batches", away)
    with pytest.raises(ClientError, match="The table does not answer") as error:
        client.list_objects_v2(Bucket="scans")
    assert code(error) == ("ServiceUnavailable", 503)


def test_a_listing_asks_s3_whose_the_bucket_is_where_the_caller_wants_to_know(client: Any) -> None:
    server = Server(client, (403, {}, b""), (200, {}, b""))
    with pytest.raises(ClientError) as error:
        client.list_objects_v2(Bucket="scans", ExpectedBucketOwner="111111111111")
    assert code(error) == ("403", 403)
    found = client.list_objects_v2(Bucket="scans", ExpectedBucketOwner="123456789012")
    assert [row["Key"] for row in found["Contents"]] == ["k", "n"]
    assert [request.method for request in server.asked] == ["HEAD", "HEAD"]


def test_many_keys_are_looked_up_from_memory_once_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(f"k{n:03}", f"v{n}", 1) for n in range(300)])
    asked: list[str] = []
    one_by_one = engine.version

    def noted(ref: SnapshotRef, epoch: Epoch, key: str) -> ObjectVersion | None:
        asked.append(key)
        return one_by_one(ref, epoch, key)

    monkeypatch.setattr(engine, "version", noted)
    client = engine.view("scans").client()
    for n in [*range(300), *range(300)]:
        url = client.generate_presigned_url("get_object", Params={"Bucket": "scans", "Key": f"k{n:03}"})
        assert f"versionId=v{n}&" in url
    assert len(asked) == 64


def test_nothing_is_sent_that_was_not_pinned_whatever_other_handlers_do(client: Any) -> None:
    server = Server(client)
    client.meta.events.unregister("provide-client-params.s3", client._provide)
    for name, asked in (
        ("get_object", {"Key": "k"}),
        ("list_objects_v2", {}),
        ("delete_object", {"Key": "k"}),
    ):
        with pytest.raises(ClientError) as error:
            getattr(client, name)(Bucket="scans", **asked)
        assert code(error)[1] in {403, 501}
    assert server.asked == []
