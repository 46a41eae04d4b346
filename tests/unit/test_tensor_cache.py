"""Tensor snapshots: a sample comes back as it was or is decoded again, whatever happens to its file."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from snapengine import Settings
from snapengine.errors import UsageError
from snapengine.forgotten import Forgotten, key_unit, prefix_unit, version_unit
from snapengine.model import ObjectVersion
from snapengine.tensor_folder import forget_here
from tests.torch_house import need_torch

need_torch()

import torch  # noqa: E402  # only where it is installed

from readers.tensor_cache import MISSING, TensorSnapshot, transform_of  # noqa: E402  # torch, which they load, may not be there

ONE = ObjectVersion("ct/1", "v1", 10, "etag", 0)
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tensors"


def settings_at(folder: Path, **options: Any) -> Settings:
    return Settings(store="sqlite:////log.db", tensor_cache=str(folder), cache="off", **options)


def snapshot_at(
    folder: Path, bucket: str = "scans", digest: str = DIGEST, transform: str = "t", **options: Any
) -> TensorSnapshot:
    return TensorSnapshot(settings_at(folder, **options), bucket, digest, transform)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


# Names


def decode(key: str, data: bytes) -> int:
    return len(data)


class Resize:
    def __init__(self, size: int) -> None:
        self.size = size

    def __repr__(self) -> str:
        return f"Resize({self.size})"

    def __call__(self, key: str, data: bytes) -> int:
        return self.size


def test_a_transform_without_a_declared_version_is_told_what_to_do() -> None:
    for declared in (None, ""):
        with pytest.raises(UsageError, match=r"declares no version.*decode_version='1'"):
            transform_of(decode, declared)


def test_transforms_of_other_names_parameters_or_versions_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        transform_of(decode, "1"),
        transform_of(decode, "2"),
        transform_of(Resize(224), "1"),
        transform_of(Resize(256), "1"),
        transform_of(partial(decode, data=b"x"), "1"),
        transform_of(partial(decode, data=b"y"), "1"),
        transform_of(files, "1"),
    ]
    assert len(set(found)) == len(found)
    assert all(" at 0x" not in name for name in found), "or the next run would not find them"
    resize = Resize(224)
    monkeypatch.setattr(resize, "version", "7", raising=False)
    assert transform_of(resize, None) == transform_of(Resize(224), "7")


class Silent:
    version = "1"

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, key: str, data: bytes) -> int:
        return self.size


def enclosing(size: int) -> Callable[[str, bytes], int]:
    def enclosed(key: str, data: bytes) -> int:
        return size

    return enclosed


def defaulting(size: int) -> Callable[[str, bytes], int]:
    def default(key: str, data: bytes, size: int = size) -> int:
        return size

    return default


@pytest.mark.parametrize(
    "made",
    [Silent, enclosing, defaulting, lambda size: Silent(size).__call__, lambda size: partial(Silent(size))],
    ids=["object", "closure", "default", "method", "partial"],
)
def test_what_a_transform_does_not_print_tells_it_apart_too(made: Callable[[int], Any]) -> None:
    assert transform_of(made(224), "1") != transform_of(made(256), "1")
    assert transform_of(made(224), "1") == transform_of(made(224), "1"), "or the next run would not find them"
    assert " at 0x" not in transform_of(made(224), "1")


def test_functions_of_one_name_in_two_modules_are_told_apart_also_within_a_partial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = transform_of(partial(decode), "1")
    monkeypatch.setattr(decode, "__module__", "elsewhere")
    assert transform_of(partial(decode), "1") != here


def test_each_view_transform_object_and_version_has_samples_of_its_own(folder: Path) -> None:
    one = snapshot_at(folder)
    one.put(ONE, 1)
    assert one.get(ONE) == 1
    for other in (
        snapshot_at(folder, bucket="other"),
        snapshot_at(folder, digest="sha256:" + "cd" * 32),
        snapshot_at(folder, transform="u"),
    ):
        assert not other.has(ONE)
        assert other.get(ONE) is MISSING
    for version in (
        ObjectVersion("ct/2", "v1", 10, "etag", 0),
        ObjectVersion("ct/1", "v2", 10, "etag", 0),
        ObjectVersion("ct/1", "v1", 10, "other", 0),
        ObjectVersion("ct/1", "v1", 11, "etag", 0),
    ):
        assert one.get(version) is MISSING
    assert pickle.loads(pickle.dumps(one)).get(ONE) == 1  # noqa: S301  # made by the test


def test_a_null_version_without_an_etag_is_not_kept(folder: Path) -> None:
    nameless = ObjectVersion("ct/1", "null", 10, None, 0)
    snapshot_at(folder).put(nameless, 1)
    assert snapshot_at(folder).get(nameless) is MISSING


# Files


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-1],
        lambda data: data[:7],
        lambda data: data[:0],
        lambda data: data[:-70] + bytes([data[-70] ^ 1]) + data[-69:],
        lambda data: data + b"x",
        lambda data: bytes(len(data)),
    ],
    ids=["cut", "cut in its head", "empty", "a bit", "longer", "zeros"],
)
def test_a_torn_or_altered_file_is_a_miss_and_goes(folder: Path, harm: Callable[[bytes], bytes]) -> None:
    snapshot = snapshot_at(folder)
    snapshot.put(ONE, torch.arange(100))
    (path,) = files(folder)
    path.write_bytes(harm(path.read_bytes()))
    assert snapshot.get(ONE) is MISSING
    assert files(folder) == []


def test_the_sample_of_another_object_under_this_name_is_a_miss(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = snapshot_at(folder)
    monkeypatch.setattr(TensorSnapshot, "_name_of", lambda *_: "0000-same")
    snapshot.put(ObjectVersion("ct/2", "v1", 10, "etag", 0), 2)
    with caplog.at_level(logging.WARNING):
        assert snapshot.get(ONE) is MISSING
    assert "made anew" in caplog.text


def test_the_folder_stays_below_its_size(folder: Path) -> None:
    snapshot = snapshot_at(folder, tensor_cache_bytes=1_000_000)
    for number in range(100):
        snapshot.put(ObjectVersion(str(number), "v", 10, "etag", 0), torch.zeros(5000))
    size = sum(path.stat().st_size for path in files(folder))
    assert 500_000 < size < 1_070_000
    assert snapshot.get(ObjectVersion("99", "v", 10, "etag", 0)) is not MISSING
    assert snapshot.get(ObjectVersion("0", "v", 10, "etag", 0)) is MISSING


def test_where_it_is_off_or_cannot_be_written_nothing_is_kept_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder, name in ((Path("off"), "off"), (tmp_path / "file" / "tensors", "SNAPENGINE_TENSOR_CACHE")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            snapshot = snapshot_at(folder)
            snapshot.put(ONE, 1)
            snapshot.put(ONE, 1)
        assert name in caplog.text
        assert snapshot.get(ONE) is MISSING
        assert not snapshot.has(ONE)


def test_the_two_caches_are_never_in_each_other(tmp_path: Path) -> None:
    for cache, tensors in ((tmp_path, tmp_path), (tmp_path, tmp_path / "t"), (tmp_path / "c", tmp_path)):
        settings = Settings(store="sqlite:////log.db", cache=str(cache), tensor_cache=str(tensors))
        with pytest.raises(UsageError, match="must not be in each other"):
            TensorSnapshot(settings, "scans", DIGEST, "t")


def _put_and_get(folder: Path, process: int) -> int:
    snapshot, wrong = snapshot_at(folder), 0
    for turn in range(150):
        version = ObjectVersion(str(turn % 10), "v", 10, "etag", 0)
        snapshot.put(version, torch.full((1000,), turn % 10))
        found = snapshot.get(version)
        wrong += found is not MISSING and not torch.equal(found, torch.full((1000,), turn % 10))
    return wrong


def test_processes_that_write_the_same_samples_never_read_a_wrong_one(folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(_put_and_get, [(folder, 0), (folder, 1)]) == [0, 0]


# Forgetting


@pytest.mark.parametrize("unit", [key_unit("ct/1"), prefix_unit("ct/"), version_unit("ct/1", "v1", "etag")])
def test_a_forgotten_object_s_sample_goes_and_is_neither_kept_nor_given_again(
    folder: Path, unit: str
) -> None:
    snapshot, other = snapshot_at(folder), ObjectVersion("mr/1", "v1", 10, "etag", 0)
    elsewhere = snapshot_at(folder, bucket="other")
    for one in (snapshot, elsewhere):
        one.put(ONE, 1)
        one.put(other, 2)
    store = settings_at(folder).store
    assert forget_here(folder, "scans", store, Forgotten(1, frozenset({unit}))) == 1
    assert snapshot.get(ONE) is MISSING
    snapshot.put(ONE, 1)
    assert len(files(folder)) == 3
    assert snapshot.get(other) == 2
    assert elsewhere.get(ONE) == 1, "of another bucket"
    assert forget_here(folder, "scans", store, Forgotten(2)) == 0
    snapshot.put(ONE, 1)
    assert snapshot.get(ONE) == 1, "allowed again"


def test_a_sample_that_is_put_while_its_object_is_being_forgotten_does_not_stay(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from snapengine.archive.cache import Cache

    snapshot, real, store = snapshot_at(folder), Cache.put, settings_at(folder).store
    forgotten = Forgotten(1, frozenset({key_unit("ct/1")}))

    def put_just_after(self: Cache, name: str, data: Any) -> None:
        assert forget_here(folder, "scans", store, forgotten) == 0
        real(self, name, data)

    monkeypatch.setattr(Cache, "put", put_just_after)
    snapshot.put(ONE, 1)
    assert files(folder) == []


def test_what_is_damaged_in_what_the_folder_was_told_keeps_all_samples_back(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = snapshot_at(folder)
    snapshot.put(ONE, 1)
    forget_here(folder, "scans", settings_at(folder).store, Forgotten(1, frozenset({key_unit("x")})))
    (told,) = folder.glob(".forgotten-*.json")
    told.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert snapshot.get(ONE) is MISSING
        assert snapshot.get(ONE) is MISSING
    assert caplog.text.count("no sample of bucket scans is kept or given") == 1
