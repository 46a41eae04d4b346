"""Bytes of exact versions, from the embedded cloud: the right ones, or a clear refusal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from snapengine import Engine, View
from snapengine.devcloud import DevCloud
from snapengine.errors import CannotExpressKey, NoSuchKey, PermissionMissing, VersionArchived, VersionGone
from snapengine.model import ObjectVersion
from snapengine.stores.objects import S3Objects
from tests.seed import enable, engine_at, event, record, removal

AWKWARD = ["a", "/a", "a/", "a//b", "a/../b", "a::b", "a*", "[a]", "a?b", "a#b", "a%2Bb", "a+b", "~a", "é"]


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


class World:
    """A versioned bucket in the cloud, and an engine that is told of each write by hand."""

    def __init__(self, cloud: DevCloud, engine: Engine) -> None:
        self.s3: Any = boto3.client("s3", **cloud.client_arguments())
        self.engine = engine
        self.bucket = f"b-{uuid4().hex}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.clock = 0
        enable(engine, self.bucket)

    def versioning(self, status: str) -> None:
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": status})

    def put(self, key: str, body: bytes) -> str:
        reply = self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        version = reply.get("VersionId", "null")
        self.clock += 1
        put = event(key, version, self.clock, size=len(body), etag=reply["ETag"].strip('"'))
        record(self.engine, [put], self.bucket)
        return str(version)

    def view(self) -> View:
        return self.engine.view(self.bucket)


@pytest.fixture
def world(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    world = World(cloud, engine_at(tmp_path / "log.db"))
    world.versioning("Enabled")
    return world


def test_a_view_reads_the_version_it_shows_and_no_other(world: World) -> None:
    world.put("k", b"first")
    old = world.view()
    world.put("k", b"second")
    assert old.read_bytes("k") == b"first"
    assert world.view().read_bytes("k") == b"second"
    with old.open("k") as file:
        assert file.read() == b"first"


def test_an_open_object_can_be_read_and_sought_like_a_file(world: World) -> None:
    body = bytes(i % 251 for i in range(3_000_000))
    world.put("k", body)
    with world.view().open("k") as file:
        assert file.read(10) == body[:10]
        assert file.seek(-5, io.SEEK_END) == len(body) - 5
        assert file.read() == body[-5:]
        assert file.read() == b""
        file.seek(1_500_000)
        assert file.read(2_000_000) == body[1_500_000:]
        file.seek(7)
        assert file.read(3) == body[7:10]
        assert file.seek(10, io.SEEK_CUR) == 20
        assert not file.writable()
        with pytest.raises(ValueError, match=r"before the start|negative seek"):
            file.seek(-1)
    assert world.view().read_range("k", 5, 9) == body[5:9]
    assert world.view().read_range("k", len(body) - 2, len(body) + 50) == body[-2:]


def test_an_empty_object_is_read_as_nothing(world: World) -> None:
    world.put("empty", b"")
    assert world.view().read_bytes("empty") == b""
    assert world.view().open("empty").read() == b""


@pytest.mark.parametrize("status", ["Enabled", "Suspended", None])
def test_keys_that_look_alike_are_each_read_exactly(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str | None
) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    world = World(cloud, engine_at(tmp_path / "log.db"))
    if status:
        world.versioning("Enabled")
        world.versioning(status)
    for key in AWKWARD:
        world.put(key, b"old " + key.encode())
    old = world.view()
    assert list(old) == sorted(AWKWARD, key=str.encode)
    for key in AWKWARD:
        assert old.read_bytes(key) == b"old " + key.encode()
    for key in AWKWARD:
        world.put(key, b"new " + key.encode())
    for key in AWKWARD:
        assert world.view().read_bytes(key) == b"new " + key.encode()
        if status == "Enabled":
            assert old.read_bytes(key) == b"old " + key.encode()
        else:  # the null version was overwritten
            with pytest.raises(VersionGone):
                old.read_bytes(key)


def test_a_version_that_was_removed_says_so_and_since_when(world: World) -> None:
    version = world.put("k", b"bytes")
    view = world.view()
    world.s3.delete_object(Bucket=world.bucket, Key="k", VersionId=version)
    with pytest.raises(VersionGone, match="removed for good") as unknown:
        view.read_bytes("k")
    assert (unknown.value.key, unknown.value.version_id) == ("k", version)
    record(world.engine, [removal("k", version, 500)], world.bucket)
    with pytest.raises(VersionGone, match=r"It went at 2023-11-14T22:21:40\.000Z \(ObjectRemoved:Delete\)"):
        view.read_bytes("k")
    assert list(view) == ["k"], "the rest of the view stays as it was"


def test_a_null_version_that_was_overwritten_is_refused_and_not_replaced(world: World) -> None:
    world.versioning("Suspended")
    world.put("k", b"one")
    view = world.view()
    world.put("k", b"two")
    with pytest.raises(VersionGone):
        view.read_bytes("k")
    assert world.view().read_bytes("k") == b"two"


def test_reading_a_key_that_is_not_there_is_a_key_error(world: World) -> None:
    with pytest.raises(NoSuchKey):
        world.view().read_bytes("none")
    with pytest.raises(KeyError):
        world.view().open("none")


class Refusing:
    """An S3 client that answers every GET with an error."""

    def __init__(self, code: str) -> None:
        self.code = code

    def get_object(self, **_: Any) -> Any:
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": self.code, "Message": ""}}, "GetObject")


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("InvalidObjectState", VersionArchived, "Restore it"),
        ("AccessDenied", PermissionMissing, "s3:GetObjectVersion"),
        ("NoSuchVersion", VersionGone, "gone"),
        ("MethodNotAllowed", VersionGone, "gone"),
    ],
)
def test_a_refusal_of_s3_is_told_with_its_remedy(code: str, error: type[Exception], says: str) -> None:
    client: Any = Refusing(code)
    with pytest.raises(error, match=says):
        S3Objects(client).read("b", ObjectVersion("k", "v", 3, "e", 0))


# Downloads


def test_a_download_writes_each_object_under_its_key(world: World, tmp_path: Path) -> None:
    for key in ("ct/1.dcm", "ct/sub/2.dcm", "mr/3.dcm"):
        world.put(key, key.encode() * 1000)
    paths = world.view().download(tmp_path / "out", prefix="ct/")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in paths] == ["ct/1.dcm", "ct/sub/2.dcm"]
    assert paths[1].read_bytes() == b"ct/sub/2.dcm" * 1000
    assert {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()} == {"1.dcm", "2.dcm"}


@pytest.mark.parametrize("key", ["/a", "a/", "a//b", "../a", "a/../b", ".", "a/./b", "n\0l", "x" * 256])
def test_a_key_that_no_path_names_exactly_is_refused_before_anything_is_written(
    world: World, tmp_path: Path, key: str
) -> None:
    record(world.engine, [event("fine", "v1", 1), event(key, "v2", 1)], world.bucket)
    with pytest.raises(CannotExpressKey):
        world.view().download(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pair", [("A", "a"), ("a", "a/b"), ("a/B/c", "a/b")])
def test_keys_that_would_share_a_path_are_refused(
    world: World, tmp_path: Path, pair: tuple[str, str]
) -> None:
    record(world.engine, [event(key, "v", 1) for key in pair], world.bucket)
    with pytest.raises(CannotExpressKey):
        world.view().download(tmp_path / "out")


def test_a_download_that_fails_leaves_no_half_file(world: World, tmp_path: Path) -> None:
    version = world.put("k", b"bytes")
    view = world.view()
    world.s3.delete_object(Bucket=world.bucket, Key="k", VersionId=version)
    with pytest.raises(VersionGone):
        view.download(tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def test_an_object_whose_size_nobody_told_is_read_all_the_same(world: World) -> None:
    version = world.put("k", b"0123456789")
    unknown = ObjectVersion("k", version, None, None, 0)
    objects = S3Objects(world.s3)
    assert objects.read(world.bucket, unknown) == b"0123456789"
    assert objects.read(world.bucket, unknown, 8, 50) == b"89"
    assert objects.read(world.bucket, unknown, 50, 60) == b""


def test_downloaded_files_have_the_permissions_that_the_umask_leaves(world: World, tmp_path: Path) -> None:
    world.put("k", b"bytes")
    (path,) = world.view().download(tmp_path / "out")
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
