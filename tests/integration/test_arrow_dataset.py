"""`view.dataset`: exactly the view's files, as of the view, by pyarrow and by what takes its datasets."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from snapengine import Engine
from snapengine.devcloud import DevCloud
from snapengine.errors import NoSuchKey, UsageError
from tests.fsspec_house import AWKWARD, House
from tests.servers import Endpoint


@pytest.fixture(scope="module")
def devcloud() -> Iterator[dict[str, str]]:
    with DevCloud() as cloud:
        yield dict(cloud.environment())


@pytest.fixture
def house(devcloud: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(devcloud, tmp_path / "log.db", monkeypatch)


def parquet(**columns: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def ages(dataset: Any) -> list[int]:
    return sorted(dataset.to_table(columns=["age"])["age"].to_pylist())


@pytest.fixture
def visits(house: House) -> House:
    house.put_all(
        {
            "tables/a.parquet": parquet(age=[40, 50]),
            "tables/b.PARQUET": parquet(age=[60]),
            "tables/_delta_log/1.parquet": parquet(age=[999]),
            "tables/.hidden.parquet": parquet(age=[999]),
            "tables/notes.txt": b"not a table",
            "tables/empty/": b"",
            "other/c.parquet": parquet(age=[70]),
        }
    )
    return house


def test_the_files_of_the_format_are_read_as_of_the_view(visits: House) -> None:
    view = visits.view()
    visits.put("tables/a.parquet", parquet(age=[1]))
    visits.put("tables/new.parquet", parquet(age=[2]))
    visits.delete("other/c.parquet")
    dataset = view.dataset()
    assert dataset.files == ["other/c.parquet", "tables/a.parquet", "tables/b.PARQUET"]
    assert ages(dataset) == [40, 50, 60, 70]
    assert dataset.count_rows(filter=pc.field("age") > 45) == 3
    assert ages(visits.view().dataset("parquet")) == [1, 2, 60]


def test_what_is_chosen_can_be_told(visits: House) -> None:
    view = visits.view()
    assert ages(view.dataset(prefix="tables/")) == [40, 50, 60]
    assert ages(view.dataset(suffix="a.parquet")) == [40, 50]
    assert ages(view.dataset(suffix=["a.parquet", "c.parquet"])) == [40, 50, 70]
    assert ages(view.dataset(prefix="tables/_delta_log/")) == [999], "what is named is not hidden"
    assert ages(view.dataset(hidden=True)) == [40, 50, 60, 70, 999, 999]
    assert view.dataset(keys=["tables/b.PARQUET", "tables/a.parquet"]).files == [
        "tables/b.PARQUET",
        "tables/a.parquet",
    ]
    assert ages(visits.view(prefix="tables/").dataset()) == [40, 50, 60]
    assert ages(view.select(["tables/a.parquet", "tables/notes.txt"]).dataset()) == [40, 50]


def test_what_cannot_be_chosen_is_refused(visits: House) -> None:
    view = visits.view()
    with pytest.raises(NoSuchKey, match=r"no object 'tables/z\.parquet'"):
        view.dataset(keys=["tables/a.parquet", "tables/z.parquet"])
    with pytest.raises(UsageError, match=r"no such file: none below 'nothing/' that ends in '\.parquet' or"):
        view.dataset(prefix="nothing/")
    with pytest.raises(UsageError, match="no format 'xlsx'"):
        view.dataset("xlsx")
    with pytest.raises(UsageError, match="list of keys"):
        view.dataset(keys="tables/a.parquet")
    with pytest.raises(pa.ArrowInvalid):
        view.dataset(suffix="notes.txt")
    with pytest.raises(UsageError, match="several objects of one key"):
        visits.engine.slice(visits.bucket, "-1d", "now", versions="all").dataset()


def test_a_slice_has_a_dataset_of_what_was_ingested_in_it(visits: House) -> None:
    start = visits.instant()
    visits.put("tables/later.parquet", parquet(age=[5]))
    end = visits.instant()
    visits.put("tables/last.parquet", parquet(age=[6]))
    assert ages(visits.engine.slice(visits.bucket, start, end).dataset()) == [5]


def test_each_format_is_read(house: House) -> None:
    table = pa.table({"age": [40, 50]})
    csv, arrow = io.BytesIO(), io.BytesIO()
    pacsv.write_csv(table, csv)
    feather.write_feather(table, arrow)
    house.put_all(
        {
            "a.csv": csv.getvalue(),
            "b.csv.gz": gzip.compress(csv.getvalue()),
            "c.jsonl": b'{"age": 40}\n{"age": 50}\n',
            "d.feather": arrow.getvalue(),
            "e.arrow": arrow.getvalue(),
            "semicolons.txt": b"age;x\n7;8\n",
        }
    )
    view = house.view()
    assert ages(view.dataset("csv")) == [40, 40, 50, 50]
    assert ages(view.dataset("json")) == [40, 50]
    assert ages(view.dataset("feather")) == ages(view.dataset("ipc")) == [40, 40, 50, 50]
    own = ds.CsvFileFormat(parse_options=pacsv.ParseOptions(delimiter=";"))
    assert ages(view.dataset(own, suffix=".txt")) == [7]


def test_schemas_and_partitions_are_as_pyarrow_has_them(house: House) -> None:
    house.put_all(
        {
            f"t/year={year}/{i}.parquet": parquet(age=[year - 2000 + i])
            for year in (2025, 2026)
            for i in (0, 1)
        }
    )
    view = house.view()
    dataset = view.dataset(prefix="t/", partitioning="hive")
    assert dataset.schema.names == ["age", "year"]
    assert ages(dataset.filter(pc.field("year") == 2026)) == [26, 27]
    named = view.dataset(prefix="t/year=2026/", schema=pa.schema([("age", pa.float64())]))
    assert named.to_table()["age"].to_pylist() == [26.0, 27.0]


def test_keys_that_look_alike_are_each_read_exactly(house: House) -> None:
    keys = [key + ".parquet" for key in AWKWARD]
    house.put_all({key: parquet(age=[number]) for number, key in enumerate(keys)})
    view = house.view()
    house.put_all({key: parquet(age=[-1]) for key in keys})
    for number, key in enumerate(keys):
        dataset = view.dataset(keys=[key])
        assert dataset.files == [key]
        assert ages(dataset) == [number], key
    everything = view.dataset(hidden=True)
    assert everything.files == sorted(keys)
    rows = everything.to_table(columns=["age", "__filename"]).to_pydict()
    assert dict(zip(rows["__filename"], rows["age"], strict=True)) == {k: n for n, k in enumerate(keys)}


def test_a_version_that_is_gone_is_an_error_and_not_an_absent_file(visits: House) -> None:
    view = visits.view()
    visits.remove("tables/a.parquet", view["tables/a.parquet"].version_id)
    with pytest.raises(OSError, match="removed for good") as gone:
        view.dataset().to_table()
    assert not isinstance(gone.value, FileNotFoundError)


def test_a_dataset_goes_to_another_process_with_its_view(
    visits: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = pickle.dumps(visits.view().dataset())
    visits.put("tables/a.parquet", parquet(age=[1]))

    def resolved(*_: Any) -> None:
        raise AssertionError("it carries its rows")

    monkeypatch.setattr(Engine, "table", resolved)
    monkeypatch.setattr(Engine, "version", resolved)
    assert ages(pickle.loads(sent)) == [40, 50, 60, 70]  # noqa: S301  # made above


def test_polars_duckdb_and_pandas_read_the_dataset(visits: House) -> None:
    dataset = visits.view().dataset()
    lazy = pl.scan_pyarrow_dataset(dataset).filter(pl.col("age") > 45)
    assert sorted(lazy.collect()["age"].to_list()) == [50, 60, 70]
    with duckdb.connect() as connection:
        connection.register("visits", dataset)
        assert connection.sql("SELECT sum(age) FROM visits WHERE age > 45").fetchall() == [(180,)]
    assert dataset.to_table().to_pandas()["age"].sum() == 220


def test_dask_reads_the_datasets_fragments(visits: House) -> None:
    fragments = list(visits.view().dataset().get_fragments())

    def frame(fragment: Any) -> pd.DataFrame:
        loaded: pd.DataFrame = fragment.to_table().to_pandas()
        return loaded

    from_map: Any = dd.from_map
    read = from_map(frame, fragments, meta=pd.DataFrame({"age": pd.Series(dtype="int64")}))
    assert read["age"].sum().compute(scheduler="threads") == 220


@pytest.mark.services
def test_a_large_file_is_read_from_a_real_server(
    seaweedfs_server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(seaweedfs_server.environment(), tmp_path / "log.db", monkeypatch)
    large = parquet(age=list(range(3_000_000)))
    house.put("t/large.parquet", large)
    view = house.view()
    house.put("t/large.parquet", parquet(age=[1]))
    dataset = view.dataset()
    assert pc.sum(dataset.to_table()["age"]).as_py() == 3_000_000 * 2_999_999 // 2
    assert dataset.head(2)["age"].to_pylist() == [0, 1]
