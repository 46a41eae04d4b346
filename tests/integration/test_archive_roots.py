"""The archive's root behaves alike in a folder and in S3."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.response import StreamingBody

from snapengine.archive import roots
from snapengine.archive.roots import S3Root, open_root
from snapengine.errors import (
    ArchiveDamaged,
    ArchiveFileMissing,
    BadData,
    BucketUnknown,
    SnapEngineError,
    Unreachable,
    UsageError,
)
from tests.archive_files import RootSite, moto_s3, no_client, root_site


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with moto_s3() as client:
        yield client


@pytest.fixture(params=["file", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path, s3: Any) -> RootSite:
    return root_site(request.param, tmp_path, s3)


@pytest.mark.parametrize(
    "url",
    ["", "archive", "/archive", "./x", "file://archive", "file:///", "file://", "s3://", "s3:///prefix",
     "s3:bucket", "gs://bucket/x", "http://host/x", "s3://bucket/a/../b", "C:\\archive"],
)  # fmt: skip
def test_what_is_no_root_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="s3://BUCKET/PREFIX"):
        open_root(url, no_client)


def test_a_root_has_its_url_without_a_slash_at_its_end(s3: Any) -> None:
    assert open_root("s3://bucket", lambda: s3).url == "s3://bucket"
    assert open_root("s3://bucket//a/b/", lambda: s3).url == "s3://bucket/a/b"
    assert open_root("file:///data/the%20archive/", no_client).url == "file:///data/the%20archive"


def test_what_is_put_is_read_whole_and_in_part(site: RootSite, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(range(256)))
    site.root.put("b/epochs=1_2/file.parquet", tmp_path / "source")
    assert site.root.read("b/epochs=1_2/file.parquet") == bytes(range(256))
    assert site.root.read("b/epochs=1_2/file.parquet", 10, 20) == bytes(range(10, 20))
    assert site.root.read("b/epochs=1_2/file.parquet", 250) == bytes(range(250, 256))
    assert site.root.read("b/epochs=1_2/file.parquet", 7, 7) == b""
    assert site.root.size("b/epochs=1_2/file.parquet") == 256
    assert (tmp_path / "source").read_bytes() == bytes(range(256))


def test_bytes_are_put_and_put_again(site: RootSite) -> None:
    for data in (b"{}", b"{}", b"[1]"):
        site.root.put_bytes("b/manifests/m.json", data)
        assert site.root.read("b/manifests/m.json") == data


def test_an_empty_file_is_one(site: RootSite) -> None:
    site.root.put_bytes("b/empty", b"")
    assert site.root.size("b/empty") == 0
    assert site.root.read("b/empty") == b""


def test_a_missing_file_is_named(site: RootSite) -> None:
    site.root.put_bytes("b/there", b"x")
    for path in ("b/missing", "b", "b/there/below", "elsewhere/missing"):
        assert site.root.size(path) is None or (site.folder and path == "b")
        with pytest.raises(SnapEngineError) as caught:
            site.root.read(path, 0, 4)
        assert f"{site.root.url}/{path}" in str(caught.value)
        assert isinstance(caught.value, ArchiveFileMissing) or (site.folder and path == "b")


def test_a_file_that_is_too_short_is_named(site: RootSite) -> None:
    site.root.put_bytes("b/short", b"12345")
    for start, end in ((0, 6), (4, 100), (5, 6), (90, 100)):
        with pytest.raises(ArchiveDamaged, match=f"{site.root.url}/b/short") as caught:
            site.root.read("b/short", start, end)
        assert not isinstance(caught.value, ArchiveFileMissing)


def test_files_are_listed_by_prefix_in_order_with_size_and_time(site: RootSite) -> None:
    before = time.time_ns() // 1_000_000
    for path in ("b/x/2", "b/x/1", "b/x-1", "b/x", "b2/1", "c"):
        if not (site.folder and path == "b/x"):  # in a folder a file cannot be a folder too
            site.root.put_bytes(path, b"123")
    listed = list(site.root.paths("b/x"))
    assert [f.path for f in listed if f.path != "b/x"] == ["b/x-1", "b/x/1", "b/x/2"]
    assert [f.path for f in site.root.paths("b/x/")] == ["b/x/1", "b/x/2"]
    assert [f.path for f in site.root.paths("b")][-1] == "b2/1"
    assert [f.path for f in site.root.paths()][-1] == "c"
    assert list(site.root.paths("nothing/here/")) == []
    assert all(f.size == 3 and before - 1000 <= f.modified <= before + 60_000 for f in listed)


def test_nothing_is_listed_where_there_is_no_folder_yet(site: RootSite) -> None:
    assert list(site.root.paths()) == []
    site.root.delete("b/file")


def test_deleting_is_safe_to_repeat(site: RootSite) -> None:
    site.root.put_bytes("b/deep/file", b"1")
    site.root.put_bytes("b/other", b"1")
    site.root.delete("b/deep/file")
    site.root.delete("b/deep/file")
    assert [f.path for f in site.root.paths()] == ["b/other"]
    if site.folder:
        assert not (site.folder / "b/deep").exists()
        site.root.delete("b/other")
        assert site.folder.exists()


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "..", "../x", "b/../../x", "b//x", "b/./x", "b/x/", "b\0"]
)
def test_a_path_out_of_the_root_is_refused(site: RootSite, tmp_path: Path, path: str) -> None:
    (tmp_path / "source").write_bytes(b"1")
    for call in (
        lambda: site.root.read(path),
        lambda: site.root.size(path),
        lambda: site.root.delete(path),
        lambda: site.root.put_bytes(path, b"1"),
        lambda: site.root.put(path, tmp_path / "source"),
    ):
        with pytest.raises(BadData, match="no path"):
            call()
    with pytest.raises(BadData):
        list(site.root.paths("../"))


def test_a_large_file_goes_up_in_parts(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = root_site("s3", tmp_path, s3)
    monkeypatch.setattr(roots, "_MULTIPART", 9 << 20)
    data = bytes(range(256)) * (10 << 12)
    (tmp_path / "source").write_bytes(data)
    site.root.put("b/large", tmp_path / "source")
    assert s3.head_object(Bucket=site.bucket, Key="the/prefix/b/large")["ETag"].endswith('-2"')
    assert site.root.read("b/large", 9 << 20, (9 << 20) + 512) == data[:512]


def test_a_put_that_fails_leaves_nothing_and_what_a_kill_leaves_is_listed(tmp_path: Path) -> None:
    site = root_site("file", tmp_path, None)
    assert site.folder
    site.root.put_bytes("b/file", b"1")
    folder = site.folder / "b/taken"
    folder.mkdir()
    (folder / "x").touch()
    with pytest.raises(SnapEngineError, match=r"b/taken could not be written"):
        site.root.put_bytes("b/taken", b"1")
    assert [f.path for f in site.root.paths()] == ["b/file", "b/taken/x"]
    (site.folder / "b/.file.0a1b.partial").touch()
    assert "b/.file.0a1b.partial" in [f.path for f in site.root.paths("b/")]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SnapEngineError, match="could not be written"):
        open_root(f"file://{tmp_path}/file/root", no_client).put_bytes("b/file", b"1")


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    site = root_site("file", tmp_path, None)
    site.root.put_bytes("b/file", b"1")
    (tmp_path / "plain").touch()
    assert site.folder
    assert stat.S_IMODE((site.folder / "b/file").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_a_bucket_that_is_not_there_is_named(s3: Any) -> None:
    root = open_root("s3://nowhere/x", lambda: s3)
    for call in (
        lambda: root.read("b/file"),
        lambda: root.put_bytes("b/file", b""),
        lambda: list(root.paths()),
    ):
        with pytest.raises(BucketUnknown, match="s3://nowhere/x"):
            call()


class BrokenReplies:
    """A client whose first replies break off."""

    def __init__(self, broken: int) -> None:
        self.left = broken
        self.asked = 0

    def get_object(self, **_: Any) -> dict[str, Any]:
        self.asked += 1
        self.left -= 1
        # One that has fewer bytes than it says.
        return {"Body": StreamingBody(BytesIO(b"12" if self.left >= 0 else b"1234"), 4)}

    def head_object(self, **_: Any) -> dict[str, Any]:
        raise EndpointConnectionError(endpoint_url="http://localhost")


def test_a_reply_that_breaks_off_is_asked_for_again() -> None:
    client = BrokenReplies(2)
    assert S3Root(client, "bucket", "").read("b/file", 0, 4) == b"1234"  # type: ignore[arg-type]  # a double
    assert client.asked == 3


def test_replies_that_break_off_again_and_again_are_an_error_that_names_the_file() -> None:
    root = S3Root(BrokenReplies(9), "bucket", "")  # type: ignore[arg-type]  # a double
    with pytest.raises(Unreachable, match="s3://bucket/b/file"):
        root.read("b/file", 0, 4)
    with pytest.raises(Unreachable, match="s3://bucket/b/file"):
        root.size("b/file")
