"""Libraries that know fsspec, reading a view: pandas, dask, zarr, pyarrow, Polars."""

from __future__ import annotations

import errno
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.bag as db
import dask.dataframe as dd
import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import zarr
from fsspec.implementations.dirfs import DirFileSystem

from snapengine.devcloud import DevCloud
from tests.fsspec_house import House

READ_CSV: Any = dd.read_csv
READ_PARQUET: Any = dd.read_parquet
READ_TEXT: Any = db.read_text


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def house(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(cloud.environment(), tmp_path / "log.db", monkeypatch)


def parquet(**columns: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


@pytest.fixture
def tables(house: House) -> tuple[House, str]:
    """Tables as they were at an instant; they are others now."""
    house.put_all(
        {
            "ct/index.csv": b"key,age\na,40\nb,50\n",
            "ct/more.csv": b"key,age\nc,60\n",
            "t/a.parquet": parquet(age=[40, 50]),
            "t/b.parquet": parquet(age=[60]),
        }
    )
    at = house.instant()
    house.put_all(
        {"ct/index.csv": b"key,age\nx,1\n", "ct/new.csv": b"key,age\ny,2\n", "t/c.parquet": parquet(age=[9])}
    )
    house.delete("t/a.parquet")
    return house, at


def test_pandas_reads_urls_and_files(tables: tuple[House, str]) -> None:
    house, at = tables
    assert pd.read_csv(house.url("ct/index.csv", at))["age"].tolist() == [40, 50]
    assert pd.read_csv(house.url("ct/index.csv", "now"))["age"].tolist() == [1]
    assert pd.read_parquet(house.url("t/a.parquet", at))["age"].tolist() == [40, 50]
    fs = house.engine.view(house.bucket, at=at).fs
    assert pd.read_parquet("t/a.parquet", filesystem=fs)["age"].tolist() == [40, 50]
    with fs.open("ct/index.csv") as file:
        assert pd.read_csv(file)["age"].tolist() == [40, 50]
    with pytest.raises(OSError, match="read-only") as refused:
        pd.DataFrame({"x": [1]}).to_csv(house.url("out.csv", at))
    assert refused.value.errno == errno.EROFS


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # dask's own use of pandas 3.1
def test_dask_reads_urls_patterns_and_filesystems(tables: tuple[House, str]) -> None:
    house, at = tables
    assert READ_CSV(house.url("ct/*.csv", at))["age"].sum().compute(scheduler="threads") == 150
    assert READ_PARQUET(house.url("t/", at))["age"].sum().compute(scheduler="threads") == 150
    fs = house.engine.view(house.bucket, at=at).fs
    paths = fs.find("t")
    assert READ_PARQUET(paths, filesystem=fs)["age"].sum().compute(scheduler="threads") == 150
    lines = READ_TEXT(house.url("ct/index.csv", at)).compute(scheduler="threads")
    assert lines == ["key,age\n", "a,40\n", "b,50\n"]


def test_pyarrow_discovers_what_the_view_shows(tables: tuple[House, str]) -> None:
    house, at = tables
    fs = house.engine.view(house.bucket, at=at).fs
    dataset = ds.dataset("t", filesystem=fs)
    assert dataset.files == ["t/a.parquet", "t/b.parquet"]
    assert dataset.to_table()["age"].to_pylist() == [40, 50, 60]
    assert pq.read_table("t/a.parquet", filesystem=fs)["age"].to_pylist() == [40, 50]
    wrapped = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    info = wrapped.get_file_info("ct/index.csv")
    assert (info.size, info.type, info.mtime is not None) == (18, pafs.FileType.File, True)
    assert wrapped.get_file_info("none").type == pafs.FileType.NotFound
    with pytest.raises(OSError, match="read-only"):
        wrapped.open_output_stream("new")
    with pytest.raises(OSError, match="read-only"):
        wrapped.delete_file("ct/index.csv")


def test_polars_reads_through_fsspec(tables: tuple[House, str]) -> None:
    house, at = tables
    fs = house.engine.view(house.bucket, at=at).fs
    with fs.open("t/a.parquet") as file:
        assert pl.read_parquet(file)["age"].to_list() == [40, 50]
    assert pl.read_csv(fs.cat_file("ct/index.csv"))["age"].to_list() == [40, 50]
    with fsspec.open(house.url("ct/index.csv", at)) as file:
        assert pl.read_csv(file)["age"].to_list() == [40, 50]


def arrays(house: House, fill: int) -> None:
    """A zarr array of 4 x 4 in chunks of 2 x 2, written by zarr and put by the plain client; one chunk is all
    fill value, and so not there."""
    local: dict[str, Any] = {}
    values = np.full((4, 4), fill)
    values[:2, :2] = 0
    array = zarr.create_array(
        store=zarr.storage.MemoryStore(local), shape=(4, 4), chunks=(2, 2), dtype="i8", fill_value=0
    )
    array[:] = values
    house.put_all({f"z/{key}": data.to_bytes() for key, data in local.items()})


def test_zarr_reads_an_array_as_it_was(house: House) -> None:
    arrays(house, fill=1)
    at = house.instant()
    arrays(house, fill=2)
    expected = np.ones((4, 4), dtype="i8")
    expected[:2, :2] = 0
    by_url: Any = zarr.open_array(house.url("z", at), mode="r")
    assert np.array_equal(by_url[:], expected)
    fs = house.engine.view(house.bucket, at=at).fs
    by_map: Any = zarr.open_array(
        zarr.storage.FsspecStore.from_mapper(fs.get_mapper("z"), read_only=True), mode="r"
    )
    assert np.array_equal(by_map[:], expected)
    with pytest.raises((OSError, ValueError), match=r"read.only"):
        zarr.open_array(house.url("z", at), mode="r+")[:] = 3


def test_a_chunk_that_is_gone_is_not_taken_for_an_empty_one(house: House) -> None:
    arrays(house, fill=1)
    view = house.view()
    house.remove("z/c/1/1", view["z/c/1/1"].version_id)
    store = zarr.storage.FsspecStore.from_mapper(view.fs.get_mapper("z"), read_only=True)
    array: Any = zarr.open_array(store, mode="r")
    with pytest.raises(OSError, match="removed for good"):
        array[:]
    assert array[:2, :2].tolist() == [[0, 0], [0, 0]]


def test_other_filesystems_stand_on_the_views(tables: tuple[House, str]) -> None:
    house, at = tables
    view = house.engine.view(house.bucket, at=at)
    inner = DirFileSystem(path="ct", fs=view.fs)
    assert inner.ls("", detail=False) == ["index.csv", "more.csv"]
    assert inner.cat("more.csv") == b"key,age\nc,60\n"
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("inside.txt", "hello")
    house.put("a.zip", sink.getvalue())
    now = house.instant()
    with fsspec.open(f"zip://inside.txt::{house.url('a.zip', now)}") as file:
        assert file.read() == b"hello"
    with fsspec.open(f"simplecache::{house.url('ct/more.csv', at)}") as file:
        assert file.read() == b"key,age\nc,60\n"
    assert json.loads(fsspec.filesystem("snap").to_json())["protocol"] == "snap"


def test_fsspecs_caches_tell_versions_of_a_key_apart_by_urls_with_an_epoch(
    house: House, tmp_path: Path
) -> None:
    house.put("k", b"first")
    first = house.view().fs.unstrip_protocol("k")
    house.put("k", b"second")
    second = house.view().fs.unstrip_protocol("k")
    for kind in ("simplecache", "filecache", "blockcache"):
        options = {kind: {"cache_storage": str(tmp_path / kind)}}
        for _ in range(2):
            for url, expected in ((first, b"first"), (second, b"second")):
                with fsspec.open(f"{kind}::{url}", **options) as file:
                    assert file.read() == expected


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # dask's own use of pandas 3.1
def test_dask_by_urls_tells_folders_of_the_top_level_from_those_below_a_slash(house: House) -> None:
    house.put_all({"t/a.parquet": parquet(age=[1]), "/t/a.parquet": parquet(age=[1000])})
    at = house.instant()
    for folder, expected in (("t", 1), ("/t", 1000)):
        assert READ_PARQUET(house.url(folder, at))["age"].sum().compute(scheduler="threads") == expected
