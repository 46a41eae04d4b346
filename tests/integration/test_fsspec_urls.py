"""`snap://` URLs: what they name, and that all that is read of one reference is one view."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import snapengine
from readers.fsspec_fs import SnapFileSystem
from snapengine import Engine
from snapengine.devcloud import DevCloud
from snapengine.errors import (
    BadReference,
    BadTime,
    BucketNotEnabled,
    FutureTime,
    NoSuchSnapshot,
    NotYetComplete,
    UsageError,
)
from snapengine.instants import to_millis
from tests.fsspec_house import House
from tests.seed import enable, event, record


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def house(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(cloud.environment(), tmp_path / "log.db", monkeypatch)


def read(url: str, **options: Any) -> bytes:
    with fsspec.open(url, **options) as file:
        data: bytes = file.read()
        return data


class Opened:
    """How often a reference was resolved, and which."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.references: list[str] = []
        own = snapengine.open_ref

        def counted(reference: str, **options: Any) -> Any:
            self.references.append(reference)
            return own(reference, **options)

        monkeypatch.setattr(snapengine, "open_ref", counted)


def test_a_url_reads_the_object_as_it_was(house: House) -> None:
    house.put("ct/index.csv", b"first")
    then = house.instant()
    house.put("ct/index.csv", b"second")
    assert read(house.url("ct/index.csv", then)) == b"first"
    assert read(house.url("ct/index.csv", "now")) == b"second"
    epoch = house.engine.view(house.bucket, at=then).epoch
    assert read(house.url("ct/index.csv", f"{then}~{epoch}")) == b"first"


def test_names_in_listings_begin_as_the_path_did_and_open_again(house: House) -> None:
    house.put_all({"ct/1": b"one", "ct/2": b"two", "mr/3": b"three"})
    at = house.instant()
    fs = fsspec.filesystem("snap")
    root = f"{house.bucket}@{at}"
    assert (
        fs.ls(f"snap://{root}", detail=False)
        == fs.ls(root + "/", detail=False)
        == [f"{root}/ct", f"{root}/mr"]
    )
    assert fs.find(f"snap://{root}/ct/") == [f"{root}/ct/1", f"{root}/ct/2"]
    assert fs.glob(f"snap://{root}/*/[13]") == [f"{root}/ct/1", f"{root}/mr/3"]
    assert fs.info(root)["type"] == "directory"
    assert [fs.cat(name) for name in fs.find(root)] == [b"one", b"two", b"three"]
    assert [read(fs.unstrip_protocol(name)) for name in fs.find(root)] == [b"one", b"two", b"three"]
    assert list(fs.walk(root)) == [
        (root, ["ct", "mr"], []),
        (f"{root}/ct", [], ["1", "2"]),
        (f"{root}/mr", [], ["3"]),
    ]


def test_one_call_may_read_several_views(house: House) -> None:
    house.put("a", b"first")
    then = house.instant()
    house.put("a", b"second")
    paths = [f"{house.bucket}@{then}/a", f"{house.bucket}@{house.instant()}/a"]
    fs = fsspec.filesystem("snap")
    assert fs.cat([f"snap://{path}" for path in paths]) == dict(
        zip(paths, [b"first", b"second"], strict=True)
    )
    with fsspec.open_files([f"snap://{path}" for path in paths], expand=False) as files:
        assert [file.read() for file in files] == [b"first", b"second"]


def test_slices_snapshots_and_narrowed_views_have_urls(house: House) -> None:
    house.put("a", b"early")
    start = house.instant()
    house.put_all({"b": b"bee", "c/d.csv": b"dee"})
    end = house.instant()
    fs = fsspec.filesystem("snap")
    assert sorted(fs.find(f"snap://{house.bucket}@{start}..{end}/")) == [
        f"{house.bucket}@{start}..{end}/b",
        f"{house.bucket}@{start}..{end}/c/d.csv",
    ]
    assert read(house.url("b", f"{start}..{end}")) == b"bee"
    view = house.engine.view(house.bucket, at=start)
    house.engine.name_snapshot(view, "run-42", creator="me")
    assert fs.find(f"snap://{house.bucket}@snapshot:run-42/") == [f"{house.bucket}@snapshot:run-42/a"]
    narrowed = house.view().select(["a", "c/d.csv"])
    (first, second) = fs.find(narrowed.reference)
    assert (fs.cat(first), fs.cat(second)) == (b"early", b"dee")
    assert [fs.unstrip_protocol(path) for path in (first, second)] == [
        narrowed.fs.unstrip_protocol(key) for key in ("a", "c/d.csv")
    ]
    authority, _, selection = narrowed.reference.partition("/?")
    assert read(f"{authority}/c/d.csv?{selection}") == b"dee"
    with pytest.raises(FileNotFoundError):
        read(f"{authority}/b?{selection}")


@pytest.mark.parametrize(
    ("at", "error"),
    [
        ("2023-11-14T22:13", BadTime),
        ("tomorrow", BadTime),
        ("2999-01-01", FutureTime),
        ("snapshot:none", NoSuchSnapshot),
        ("now~all", BadReference),
        ("-1d..now~all", UsageError),
        ("run:", BadTime),
    ],
)
def test_what_is_no_reference_of_a_view_is_told_by_our_own_errors(
    house: House, at: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        read(house.url("a", at))


def test_a_url_without_a_time_or_of_a_bucket_that_is_not_watched_is_refused(house: House) -> None:
    with pytest.raises(BadReference, match="names no time"):
        read(f"snap://{house.bucket}/a")
    with pytest.raises(BucketNotEnabled):
        read("snap://other-bucket@now/a")
    with pytest.raises(UsageError, match="no option anon"):
        read(house.url("a", "now"), anon=True)


def test_two_reads_of_one_reference_are_of_one_epoch_whatever_is_learned_between(house: House) -> None:
    house.put("a", b"one")
    at = house.instant()
    assert read(house.url("a", at)) == b"one"
    engine = house.engine
    late = house.s3.put_object(Bucket=house.bucket, Key="late", Body=b"late")
    told = event("late", late["VersionId"], 0, size=4, etag=late["ETag"].strip('"'))
    record(engine, [told._replace(event_time=to_millis(at, now=2**42) - 1)], house.bucket)
    with pytest.raises(FileNotFoundError, match=r"~1/ has no object 'late'"):
        read(house.url("late", at))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(SnapFileSystem().exists(house.url("late", at))))
    thread.start()
    thread.join()
    assert seen == [False], "nor in another thread"
    SnapFileSystem().invalidate_cache()
    assert read(house.url("late", at)) == b"late"


def test_now_is_when_a_filesystem_was_made_and_a_new_one_sees_what_is_new(house: House) -> None:
    house.put("a", b"one")
    fs = SnapFileSystem()
    house.instant()
    assert fs.cat_file(f"{house.bucket}@now/a") == b"one"
    house.put_all({"a": b"two", "b": b"bee"})
    house.instant()
    assert fs.cat_file(f"{house.bucket}@now/a") == b"one"
    assert not fs.exists(f"{house.bucket}@now/b")
    assert read(house.url("a", "now")) == b"two"
    assert fsspec.filesystem("snap") is not fs
    assert read(house.url("b", "-1s..now")) == b"bee"
    fs.invalidate_cache()
    assert fs.cat_file(f"{house.bucket}@now/a") == b"two"


def test_now_goes_along_to_another_process_even_before_it_is_used(house: House) -> None:
    house.put("a", b"one")
    house.instant()
    fs = SnapFileSystem()
    sent = pickle.dumps(fs)
    house.instant()
    house.put("a", b"two")
    other = pickle.loads(sent)  # noqa: S301  # made above
    assert other.cat_file(f"{house.bucket}@now/a") == b"one"
    assert (other, hash(other)) == (fs, hash(fs))


def test_a_reference_is_resolved_once_for_all_that_is_read_of_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.put_all({f"k{i}": b"x" for i in range(20)})
    at = house.instant()
    opened = Opened(monkeypatch)
    for i in range(20):
        assert read(house.url(f"k{i}", at)) == b"x"
    fs = fsspec.filesystem("snap")
    fs.cat(fs.find(f"snap://{house.bucket}@{at}/"))
    copy = pickle.loads(pickle.dumps(fs))  # noqa: S301  # made here
    assert len(copy.cat(copy.find(f"{house.bucket}@{at}/"))) == 20
    assert opened.references == [f"snap://{house.bucket}@{at}/"]


def test_another_table_is_another_view_though_the_url_is_the_same(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.put("a", b"one")
    at = house.instant()
    assert read(house.url("a", at)) == b"one"
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path}/other.db")
    other = Engine()
    other.store.create()
    enable(other, house.bucket)
    with pytest.raises(FileNotFoundError):
        read(house.url("a", at))


def test_options_of_files_are_given_with_the_url(house: House) -> None:
    house.put("a", b"0123456789")
    with fsspec.open(house.url("a", "now"), block_size=4, cache_type="bytes") as file:
        assert (file.blocksize, file.cache.name, file.read(3)) == (4, "bytes", b"012")
    fs = fsspec.filesystem("snap", cache_type="none")
    path = f"{house.bucket}@now/a"
    copy = pickle.loads(pickle.dumps(fs))  # noqa: S301  # made here
    assert {one.open(path).cache.name for one in (fs, copy)} == {"none"}
    assert fs.open(path, cache_type="readahead").cache.name == "readahead"


def test_a_level_may_be_required(house: House) -> None:
    house.put("a", b"one")
    at = house.instant()
    assert read(house.url("a", at)) == b"one"
    with pytest.raises(NotYetComplete):
        read(house.url("a", at), require="settled", timeout=0.01)


def test_an_active_run_notes_what_is_read_and_each_run_for_itself(house: House, tracking: str) -> None:
    import mlflow

    from snapengine.tracking import views

    house.put("a", b"one")
    at = house.instant()
    ids = []
    for _ in range(2):
        with mlflow.start_run() as run:
            assert read(house.url("a", at)) == b"one"
            assert read(house.url("a", at)) == b"one"
            ids.append(run.info.run_id)
    for run_id in ids:
        assert [noted.reference for noted in views(run_id)] == [f"snap://{house.bucket}@{at}~1/"]
    with mlflow.start_run() as run:
        read(house.url("a", at), note=False)
    assert views(run.info.run_id) == []
