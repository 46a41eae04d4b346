"""Bytes through fsspec: whole, by ranges, many at once; and what is said where they cannot be had."""

from __future__ import annotations

import errno
import io
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.caching import caches
from fsspec.callbacks import Callback

from readers.concurrent import PART
from snapengine.devcloud import DevCloud
from snapengine.errors import PermissionMissing, Unreachable, VersionArchived, VersionGone
from snapengine.model import ObjectVersion
from tests.fsspec_house import House
from tests.seed import event, record
from tests.servers import Endpoint

LARGE = random.Random(7).randbytes(3 * PART + 12_345)


@pytest.fixture(scope="module")
def devcloud() -> Iterator[dict[str, str]]:
    with DevCloud() as cloud:
        yield dict(cloud.environment())


@pytest.fixture(scope="module")
def seaweedfs(seaweedfs_server: Endpoint) -> dict[str, str]:
    return dict(seaweedfs_server.environment())


@pytest.fixture(params=["devcloud", pytest.param("seaweedfs", marks=pytest.mark.services)])
def house(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(request.getfixturevalue(request.param), tmp_path / "log.db", monkeypatch)


RANGES = [
    (None, None),
    (0, 0),
    (0, 10),
    (5, None),
    (-7, None),
    (None, -7),
    (10, 5),
    (3, 10**9),
    (-(10**9), 4),
]


def test_ranges_are_python_slices_of_the_object_large_or_small(house: House) -> None:
    bodies = {"large": LARGE, "small": b"0123456789", "empty": b""}
    house.put_all(bodies)
    fs = house.view().fs
    ranges = [*RANGES, (PART - 3, 2 * PART + 3), (1, -1), (-2 * PART, None)]
    for key, body in bodies.items():
        for start, end in ranges:
            assert fs.cat_file(key, start, end) == body[start:end], (key, start, end)
    asked = [(key, start, end) for key in bodies for start, end in ranges]
    got = fs.cat_ranges([a[0] for a in asked], [a[1] for a in asked], [a[2] for a in asked])
    assert got == [bodies[key][start:end] for key, start, end in asked]
    assert fs.cat_ranges(["small", "small"], 2, 4, max_gap=100) == [b"23", b"23"]
    assert fs.cat(["small", "empty"], start=1, end=3) == {"small": b"12", "empty": b""}
    with pytest.raises(ValueError, match="one length"):
        fs.cat_ranges(["small"], [0, 1], [2])


@pytest.mark.parametrize("cache_type", [name for name in caches if name != "parts"])
@pytest.mark.parametrize("block_size", [None, 64 << 10])
def test_a_file_reads_the_same_through_every_kind_of_buffer(
    house: House, cache_type: str, block_size: int | None
) -> None:
    house.put("k", LARGE)
    draw = random.Random(11)
    with house.view().fs.open("k", block_size=block_size, cache_type=cache_type) as file:
        assert (file.size, file.readable(), file.seekable(), file.writable()) == (
            len(LARGE),
            True,
            True,
            False,
        )
        for _ in range(12):
            at, length = draw.randrange(len(LARGE)), draw.choice([0, 1, 1000, PART])
            file.seek(at)
            assert file.read(length) == LARGE[at : at + length]
            assert file.tell() == min(at + length, len(LARGE))
        assert file.seek(-5, io.SEEK_END) == len(LARGE) - 5
        assert file.read() == LARGE[-5:]
        assert file.read() == b""
        file.seek(0)
        assert file.read() == LARGE


def test_buffers_of_known_parts_and_pickled_files_go_on_where_they_were(house: House) -> None:
    import pickle

    house.put("k", b"0123456789")
    fs = house.view().fs
    parts = fs.open("k", cache_type="parts", cache_options={"data": {(0, 4): b"0123"}})
    assert parts.read(4) == b"0123"
    file = fs.open("k")
    file.seek(4)
    house.put("k", b"another one")
    assert pickle.loads(pickle.dumps(file)).read() == b"456789"  # noqa: S301  # made here
    assert file.read() == b"456789"


def test_text_lines_and_compression_are_as_fsspec_offers_them(house: House) -> None:
    import gzip

    house.put_all({"a.csv": "é,b\n1,2\n".encode(), "a.csv.gz": gzip.compress(b"x\n1\n")})
    fs = house.view().fs
    with fs.open("a.csv", "r", encoding="utf-8", newline="\n") as file:
        assert file.readlines() == ["é,b\n", "1,2\n"]
    with fs.open("a.csv.gz", "rt", compression="infer") as file:
        assert list(file) == ["x\n", "1\n"]
    assert fs.read_text("a.csv", encoding="utf-8") == "é,b\n1,2\n"
    with fs.open("a.csv") as file:
        assert [*file] == ["é,b\n".encode(), b"1,2\n"]
    assert fs.read_block("a.csv", 1, 6, b"\n") == b"1,2\n"
    assert (fs.head("a.csv", 2), fs.tail("a.csv", 4)) == ("é".encode(), b"1,2\n")


def test_many_files_are_read_at_once_by_several_threads(house: House) -> None:
    bodies = {f"k{i:03}": bytes([i]) * (i * 37) for i in range(150, 0, -1)}
    house.put_all(bodies)
    fs = house.view().fs
    with ThreadPoolExecutor(6) as pool:
        for got in pool.map(lambda _: fs.cat(list(bodies)), range(6)):
            assert got == bodies
        assert [*pool.map(fs.cat_file, bodies)] == list(bodies.values())
    assert fs.cat("", recursive=True) == bodies
    assert fs.cat("k00*") == {key: body for key, body in bodies.items() if key.startswith("k00")}


def test_files_are_copied_whole_and_told_to_the_callback(house: House, tmp_path: Path) -> None:
    bodies = {"ct/large": LARGE} | {f"ct/{i}": b"x" * i for i in range(19, -1, -1)}
    house.put_all(bodies)
    fs = house.view().fs
    callback = Callback()
    fs.get("ct", str(tmp_path / "out"), recursive=True, callback=callback)
    assert {f"ct/{path.name}": path.read_bytes() for path in (tmp_path / "out").iterdir()} == bodies
    assert callback.value == callback.size == 22, "the folder, too"
    with (tmp_path / "open").open("wb") as file:
        fs.get_file("ct/large", file)
    assert (tmp_path / "open").read_bytes() == LARGE
    fs.download("ct/3", str(tmp_path / "three"))
    assert (tmp_path / "three").read_bytes() == b"xxx"


def test_the_old_version_is_read_while_the_new_one_is_written(house: House) -> None:
    house.put("k", b"first")
    fs = house.view().fs
    with fs.open("k", cache_type="none") as file:
        assert file.read(2) == b"fi"
        house.put("k", b"second")
        house.delete("k")
        assert file.read() == b"rst"
    assert fs.cat("k") == b"first"
    assert not house.view().fs.exists("k")


# What cannot be had


def test_a_version_that_is_gone_is_an_error_of_its_own_and_spoils_no_other(
    house: House, tmp_path: Path
) -> None:
    versions = house.put_all({"a": b"a", "b": b"b", "c": b"c"})
    fs = house.view().fs
    house.remove("b", versions["b"])
    with fs.open("b") as file, pytest.raises(OSError, match="It went at") as gone:
        file.read()
    for ask in (
        fs.cat_file,
        fs.cat,
        lambda key: fs.get_file(key, str(tmp_path / "b")),
        lambda key: fs.cat([key]),
    ):
        with pytest.raises(OSError, match="removed for good") as gone:
            ask("b")
        assert gone.value.errno == errno.ESTALE
        assert isinstance(gone.value.__cause__, VersionGone)
        assert not isinstance(gone.value, FileNotFoundError)
    assert not (tmp_path / "b").exists()
    assert fs.cat(["a", "b", "c"], on_error="omit") == {"a": b"a", "c": b"c"}
    told = fs.cat(["a", "b", "none"], on_error="return")
    assert (told["a"], type(told["none"])) == (b"a", FileNotFoundError)
    assert told["b"].errno == errno.ESTALE
    assert isinstance(told["b"].__cause__, VersionGone)
    assert isinstance(fs.cat_ranges(["b"], 0, 1)[0], OSError)
    with pytest.raises(OSError, match="removed for good"):
        fs.cat_ranges(["a", "b"], 0, 1, on_error="raise")
    assert fs.info("b")["size"] == 1, "the view lists it all the same"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (VersionArchived("archived: restore it", "k", "v"), OSError),
        (PermissionMissing("denied"), PermissionError),
        (Unreachable("no answer"), TimeoutError),
    ],
)
def test_each_reason_has_its_own_error_and_our_words(
    house: House, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[OSError]
) -> None:
    house.put("k", b"bytes")
    fs = house.view().fs

    def fail(*_: Any) -> bytes:
        raise raised

    monkeypatch.setattr(house.engine, "read", fail)
    for ask in (fs.cat_file, lambda key: fs.open(key).read(), lambda key: fs.cat([key])):
        with pytest.raises(kind, match=str(raised)) as error:
            ask("k")
        assert error.value.__cause__ is raised
        assert type(error.value) is kind


def test_an_object_whose_size_nobody_told_is_read_all_the_same(house: House) -> None:
    reply = house.s3.put_object(Bucket=house.bucket, Key="k", Body=b"0123456789")
    untold = event("k", reply["VersionId"], 1)._replace(size=None, etag=None)
    record(house.engine, [untold], house.bucket)
    fs = house.view().fs
    version: ObjectVersion = fs.version("k")
    assert (version.size, fs.size("k")) == (None, None)
    assert (fs.cat_file("k", -3), fs.cat_file("k", 2, 5)) == (b"789", b"234")
    assert fs.cat_ranges(["k", "k"], [1, -2], [3, None]) == [b"12", b"89"]
    with fs.open("k") as file:
        assert (file.size, file.seek(7), file.read()) == (10, 7, b"789")


def test_a_null_version_whose_etag_nobody_told_is_told_from_its_successor_by_its_time(house: House) -> None:
    house.versioning("Suspended")
    house.s3.put_object(Bucket=house.bucket, Key="k", Body=b"first")
    now = time.time_ns() // 1_000_000
    untold = event("k", "null", 1, size=5)._replace(etag=None, event_time=now)
    record(house.engine, [untold], house.bucket)
    view = house.view()
    buffer = bytearray(5)
    for _ in range(2):  # the second time by a form that the first one left
        view.read_into(view["k"], 0, memoryview(buffer))
        assert bytes(buffer) == view.read_bytes("k") == b"first"
    time.sleep(2.1)  # S3 tells whole seconds, and one more is allowed for
    house.s3.put_object(Bucket=house.bucket, Key="k", Body=b"other")
    for ask in (
        lambda: view.read_bytes("k"),
        lambda: view.read_range("k", 1, 3),
        lambda: view.read_into(view["k"], 0, memoryview(buffer)),
    ):
        with pytest.raises(VersionGone):
            ask()
    with pytest.raises(OSError, match="gone") as gone:
        view.fs.cat_file("k")
    assert gone.value.errno == errno.ESTALE
