"""Keys that look alike, through fsspec: each read exactly or refused; old, current and null versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow.fs as pafs
import pytest

from readers.fsspec_fs import SnapFileSystem
from snapengine.devcloud import DevCloud
from snapengine.errors import CannotExpressKey
from tests.fsspec_house import AWKWARD, House
from tests.servers import Endpoint


@pytest.fixture(scope="module")
def devcloud() -> Iterator[dict[str, str]]:
    with DevCloud() as cloud:
        yield dict(cloud.environment())


@pytest.fixture(scope="module")
def seaweedfs(seaweedfs_server: Endpoint) -> dict[str, str]:
    return dict(seaweedfs_server.environment())


@pytest.fixture(params=["devcloud", pytest.param("seaweedfs", marks=pytest.mark.services)])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    found: dict[str, str] = request.getfixturevalue(request.param)
    return found


def old(key: str) -> bytes:
    return b"old " + key.encode()


def new(key: str) -> bytes:
    return b"new, and longer: " + key.encode()


MERGED = {"/a", "a/", "a//b", "a/../b"}
"""Keys that SeaweedFS takes for others, or refuses: docs/services.md."""


class Twice:
    """The awkward keys, each written twice, and what shows the first and the second writing."""

    def __init__(self, house: House, keys: list[str]) -> None:
        self.house = house
        self.keys = keys
        house.put_all({key: old(key) for key in keys})
        self.then = house.instant()
        self.before = house.view()
        house.put_all({key: new(key) for key in keys})
        self.now = house.instant()
        self.after = house.view()


@pytest.fixture(params=["Enabled", "Suspended", None])
def twice(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Twice:
    house = House(environment, tmp_path / "log.db", monkeypatch, request.param)
    server = house.s3.list_buckets()["ResponseMetadata"]["HTTPHeaders"].get("server", "")
    return Twice(house, [key for key in AWKWARD if key not in MERGED or "seaweed" not in server.lower()])


def readings(fs: Any, root: str, key: str) -> Iterator[bytes]:
    """By every call that reads one file."""
    path = root + key
    yield fs.cat_file(path)
    yield fs.read_bytes(path)
    with fs.open(path) as file:
        yield file.read()
    with fs.open(path, "r", encoding="utf-8") as file:
        yield file.read().encode()
    yield fs.cat([path])[path]
    yield fs.cat_ranges([path], [0], [None])[0]
    yield fs.head(path, 1 << 20)
    yield fs.tail(path, 1 << 20)
    yield fs.read_block(path, 0, None)
    with pafs.PyFileSystem(pafs.FSSpecHandler(fs)).open_input_file(path) as file:
        yield file.read()


def check(fs: Any, root: str, keys: list[str], expected: Any) -> None:
    for key in keys:
        assert {*readings(fs, root, key)} == {expected(key)}, key
    everything = fs.cat(fs.find(root))
    assert everything == {root + key: expected(key) for key in keys}


def check_gone(fs: Any, root: str, keys: list[str]) -> None:
    """The null versions were overwritten: each reading is an error that says so."""
    for key in keys:
        with pytest.raises(OSError, match="gone") as gone:
            fs.cat_file(root + key)
        assert not isinstance(gone.value, FileNotFoundError)
        with fs.open(root + key) as file, pytest.raises(OSError, match="gone"):
            file.read()
        (told,) = fs.cat_ranges([root + key], [0], [None])
        assert isinstance(told, OSError)
    assert fs.cat(fs.find(root), on_error="omit") == {}


def test_each_key_is_read_exactly_through_the_views_filesystem(twice: Twice) -> None:
    if twice.house.s3.list_object_versions(Bucket=twice.house.bucket)["Versions"][0]["VersionId"] == "null":
        check_gone(twice.before.fs, "", twice.keys)
    else:
        check(twice.before.fs, "", twice.keys, old)
    check(twice.after.fs, "", twice.keys, new)


def test_each_key_is_read_exactly_through_urls(twice: Twice) -> None:
    fs = fsspec.filesystem("snap")
    check(fs, f"{twice.house.bucket}@{twice.now}/", twice.keys, new)
    for key in twice.keys:
        url = twice.house.url(key, twice.now)
        if "::" in key:
            with pytest.raises(CannotExpressKey, match="chain"):
                fsspec.open(url)
            continue
        with fsspec.open(url) as file:
            assert file.read() == new(key)
        told = pd.read_csv(url, header=None, sep="\x01", encoding="utf-8")
        assert told[0].tolist() == [new(key).decode()]
        other, path = fsspec.core.url_to_fs(url)
        assert other.cat_file(path) == new(key)


def test_patterns_in_lists_of_urls_are_no_other_objects(twice: Twice) -> None:
    """What expands patterns by itself, as `fsspec.open_files` and dask do, is refused where one is a key."""
    for key in ("a*", "[a]", "a?b"):
        url = twice.house.url(key, twice.now)
        with pytest.raises(CannotExpressKey):
            fsspec.open_files([url])
        if "*" in key:
            with pytest.raises(CannotExpressKey):
                fsspec.open_files(url)
        literal = fsspec.open_files([url], expand=False)
        for one in [*literal, *([] if "*" in key else fsspec.open_files(url))]:
            with one as file:
                assert file.read() == new(key)


def test_a_chain_that_would_cut_a_key_in_two_is_refused(twice: Twice) -> None:
    house = twice.house
    house.put_all({"a::file": b"whole", "a::zip": b"whole"})
    at = house.instant()
    for key in ("a::file", "a::zip", "a::memory"):
        with pytest.raises(CannotExpressKey, match="chain"):
            fsspec.open(house.url(key, at))
    assert SnapFileSystem().cat_file(house.url("a::file", at)) == b"whole"


def test_a_local_copy_has_the_bytes_of_its_key_or_is_refused(twice: Twice, tmp_path: Path) -> None:
    fs, house = twice.after.fs, twice.house
    for number, key in enumerate(twice.keys):
        target = tmp_path / f"copy-{number}"
        fs.get_file(key, str(target))
        assert target.read_bytes() == new(key)
    odd = [key for key in twice.keys if key in MERGED]
    if odd:
        with pytest.raises(CannotExpressKey):
            fs.get("", str(tmp_path / "all"), recursive=True)
        with pytest.raises(CannotExpressKey):
            fs.get("a", str(tmp_path / "folder"), recursive=True)
    for key in odd:
        with pytest.raises(CannotExpressKey):
            fs.get(key, str(tmp_path / "one"))
    assert not (tmp_path / "all").exists()
    fs.get(["a::b", "~a", "é"], str(tmp_path / "some") + "/")
    assert {path.name: path.read_bytes() for path in (tmp_path / "some").iterdir()} == {
        key: new(key) for key in ("a::b", "~a", "é")
    }
    house.put_all({"x/1": b"one", "y/1": b"other"})
    with pytest.raises(CannotExpressKey, match="would be one"):
        house.view().fs.get(["x/1", "y/1"], str(tmp_path / "flat") + "/")


def test_a_map_of_the_view_keeps_keys_apart(twice: Twice) -> None:
    mapper = twice.after.fs.get_mapper("")
    assert {*mapper} == set(twice.keys)
    for key in twice.keys:
        assert mapper[key] == new(key)
        assert key in mapper
    assert mapper.getitems(twice.keys) == {key: new(key) for key in twice.keys}
    below = twice.after.fs.get_mapper("a")
    inside = [key.removeprefix("a/") for key in twice.keys if key.startswith("a/")]
    assert {key: below[key] for key in below} == {key: new("a/" + key) for key in inside}
