"""Filesystems in other processes, forked and spawned, and in threads: nothing is resolved again there."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

import snapengine
from readers.fsspec_fs import SnapFileSystem
from snapengine import Engine
from snapengine.devcloud import DevCloud
from tests.fsspec_house import House

KEYS = [f"k{i:02}" for i in range(40)]


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def house(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    house = House(cloud.environment(), tmp_path / "log.db", monkeypatch)
    house.put_all({key: key.encode() * 100 for key in KEYS})
    return house


def forbid_resolving() -> None:
    """In a process: whatever would ask the log for a view's rows, or open one, fails."""

    def resolved(*_: Any, **_options: Any) -> None:
        raise AssertionError("resolved again")

    for name in ("table", "batches", "version", "view", "open_ref"):
        setattr(Engine, name, resolved)
    snapengine.open_ref = resolved  # type: ignore[assignment]  # to see that nobody calls it


def read_all(fs: Any, root: str, forbidden: bool = True) -> int:
    """How many keys were found and read as they should be, one by one and at once."""
    if forbidden:
        forbid_resolving()
    found = fs.find(root)
    together = fs.cat(found)
    for path in found:
        key = path.removeprefix(root)
        assert fs.cat_file(path) == together[path] == key.encode() * 100
        with fs.open(path) as file:
            assert file.read() == together[path]
    return len(found)


def in_environment(variables: dict[str, str]) -> None:
    """A fork server that an earlier test began has the environment of that time."""
    os.environ.update(variables)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_views_filesystem_reads_in_other_processes_without_resolving_again(
    house: House, method: str
) -> None:
    fs = house.view().fs
    assert fs.cat_file("k00") == b"k00" * 100
    house.put_all(dict.fromkeys(KEYS, b"newer"))
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, context, initializer=in_environment, initargs=(dict(os.environ),)) as pool:
        assert [*pool.map(read_all, [fs] * 4, [""] * 4)] == [len(KEYS)] * 4


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("at", ["now", "instant"])
def test_a_filesystem_of_urls_takes_its_views_along(house: House, method: str, at: str) -> None:
    time = house.instant() if at == "instant" else at
    root = f"{house.bucket}@{time}/"
    fs = fsspec.filesystem("snap")
    assert fs.cat_file(root + "k00") == b"k00" * 100
    house.put_all(dict.fromkeys(KEYS, b"newer"))
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert [*pool.map(read_all, [fs] * 3, [root] * 3)] == [len(KEYS)] * 3


def _inherited(fs: Any, root: str) -> None:
    assert read_all(fs, root) == len(KEYS)


def test_a_forked_process_uses_what_its_parent_had_while_that_reads_on(house: House) -> None:
    """Not pickled: the very objects, with their open connections and their locks."""
    context = multiprocessing.get_context("fork")
    root = f"{house.bucket}@{house.instant()}/"
    fs = fsspec.filesystem("snap")
    assert read_all(fs, root, forbidden=False) == len(KEYS)
    children = [context.Process(target=_inherited, args=(fs, root)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in range(3):
        assert read_all(fs, root, forbidden=False) == len(KEYS)
    for child in children:
        child.join(60)
        assert child.exitcode == 0


def _epoch(url: str) -> int:
    return int(SnapFileSystem().view(url).epoch)


def test_a_forked_process_stays_at_the_epoch_of_its_parent(house: House) -> None:
    url = house.url("k00", house.instant())
    epoch = _epoch(url)
    house.put("k00", b"newer")
    assert house.view().epoch > epoch
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(_epoch, url).result(30) == epoch


def test_many_threads_open_a_reference_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    url = house.url("k00", house.instant())
    opened: list[str] = []
    own = snapengine.open_ref

    def counted(reference: str, **options: Any) -> Any:
        opened.append(reference)
        return own(reference, **options)

    monkeypatch.setattr(snapengine, "open_ref", counted)
    start = threading.Barrier(8)

    def read(_: int) -> bytes:
        start.wait(10)
        with fsspec.open(url) as file:
            data: bytes = file.read()
            return data

    with ThreadPoolExecutor(8) as pool:
        assert {*pool.map(read, range(8))} == {b"k00" * 100}
    assert len(opened) == 1


def test_a_filesystem_that_was_pickled_is_equal_to_itself_and_no_other(house: House) -> None:
    fs = house.view().fs
    copy = pickle.loads(pickle.dumps(fs))  # noqa: S301  # made here
    assert (copy, hash(copy)) == (fs, hash(fs))
    assert copy != house.view(prefix="k0").fs
    first, second = fsspec.filesystem("snap"), fsspec.filesystem("snap")
    assert first != second, "each has a `now` of its own"
    assert pickle.loads(pickle.dumps(first)) == first  # noqa: S301  # made here


@pytest.mark.parametrize("at", ["now", "instant"])
def test_an_open_file_goes_with_its_version_though_the_filesystem_looks_anew(house: House, at: str) -> None:
    fs = fsspec.filesystem("snap")
    file = fs.open(f"{house.bucket}@{house.instant() if at == 'instant' else at}/k00", block_size=50)
    file.seek(2)
    house.put_all(dict.fromkeys(KEYS, b"newer"))
    house.instant()
    fs.invalidate_cache()
    copy = pickle.loads(pickle.dumps(file))  # noqa: S301  # made here
    assert (copy.version, copy.tell(), copy.blocksize) == (file.version, 2, 50)
    assert copy.read() == file.read() == (b"k00" * 100)[2:]


def test_a_filesystem_that_was_pickled_has_its_options_still(house: House) -> None:
    fs = fsspec.filesystem("snap", require="settled", timeout=7.0, note=False, block_size=50)
    copy = pickle.loads(pickle.dumps(fs))  # noqa: S301  # made here
    assert copy.to_dict() == fs.to_dict()
    assert fsspec.AbstractFileSystem.from_json(copy.to_json()).to_dict() == fs.to_dict()
    assert {"require": "settled", "timeout": 7.0, "note": False}.items() <= copy.to_dict().items()


def test_what_was_opened_in_another_environment_is_not_held(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = house.url("k00", house.instant())
    former = weakref.ref(fsspec.filesystem("snap").view(url).source)
    assert former() is not None
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    assert fsspec.filesystem("snap").view(url).source is not former()
    gc.collect()
    assert former() is None
