"""docs/reading.md: every example runs as it stands, against a bucket whose present is another one."""

from __future__ import annotations

import asyncio
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import snapengine
from snapengine.cli.main import run as command
from snapengine.devcloud import DevCloud
from tests.dicom_files import WHEEL
from tests.seed import enable, event, record
from tests.torch_house import need_torch

PAGE = (Path(__file__).parents[2] / "docs" / "reading.md").read_text()
CSV = b"key,slices\nct/CT_small.dcm,1\nct/MR_small.dcm,3\n"


def section(title: str, language: str = "python") -> list[str]:
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page's first example defines, over a bucket in which everything was overwritten since."""
    monkeypatch.chdir(tmp_path)
    with DevCloud() as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path}/log.db")
        monkeypatch.setenv("SNAPENGINE_TENSOR_CACHE", str(tmp_path / "tensors"))
        s3: Any = boto3.client("s3", **cloud.client_arguments())
        for bucket in ("scans", "other"):
            s3.create_bucket(Bucket=bucket)
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        engine = snapengine.Engine()
        engine.store.create()
        enable(engine)
        landed = []
        for number, (key, body) in enumerate(bodies(tmp_path).items()):
            reply = s3.put_object(Bucket="scans", Key=key, Body=body)
            etag = reply["ETag"].strip('"')
            landed.append(event(key, reply["VersionId"], number, size=len(body), etag=etag))
            s3.put_object(Bucket="scans", Key=key, Body=b"another")
        asyncio.run(caught_up(engine))
        record(engine, landed)
        found: dict[str, Any] = {"s3": s3}
        (opening,) = re.findall(r"\A.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        exec(opening, found)  # noqa: S102  # our own page
        yield found


async def caught_up(engine: snapengine.Engine) -> None:
    """A worker saw its queue empty just now, and a listing was compared with what is known."""
    async with engine.log() as log:
        await log.raise_caught_up("scans", engine.clock())
        await log.note_verified("scans", "", engine.clock())


def bodies(folder: Path) -> dict[str, bytes]:
    found = {
        f"ct/{name}": (WHEEL / "test_files" / name).read_bytes() for name in ("CT_small.dcm", "MR_small.dcm")
    }
    found["tables/index.csv"] = CSV
    for part in range(2):
        sink = io.BytesIO()
        pq.write_table(pa.table({"value": range(part * 5, part * 5 + 5)}), sink)
        found[f"tables/parts/{part}.parquet"] = sink.getvalue()
    volume = zarr.open_array(str(folder / "volume.zarr"), mode="w", shape=(4, 4), chunks=(2, 2), dtype="i2")
    volume[:] = np.arange(16).reshape(4, 4)
    for path in sorted((folder / "volume.zarr").rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def run(title: str, names: dict[str, Any]) -> None:
    blocks = section(title)
    assert blocks
    for block in blocks:
        exec(block, names)  # noqa: S102  # our own page


def test_plain_python_reads_the_version_that_the_view_shows(names: dict[str, Any]) -> None:
    run("Plain Python", names)
    assert names["everything"] == (WHEEL / "test_files" / "CT_small.dcm").read_bytes()


def test_fsspec_and_what_stands_on_it_read_the_view(names: dict[str, Any]) -> None:
    run("fsspec: `snap://` and `view.fs`", names)
    assert names["table"]["slices"].tolist() == names["same"]["slices"].tolist() == [1, 3]
    assert sorted(names["parquet"].to_table()["value"].to_pylist()) == list(range(10))
    assert names["means"] == 2.0
    assert names["volume"][:].tolist() == np.arange(16).reshape(4, 4).tolist()


def test_code_for_a_boto3_client_reads_the_view(names: dict[str, Any], tmp_path: Path) -> None:
    run("A boto3 client", names)
    assert names["reply"]["Body"].read()[128:] == b"DICM"
    assert names["keys"] == ["ct/CT_small.dcm", "ct/MR_small.dcm"]
    whole = (WHEEL / "test_files" / "CT_small.dcm").read_bytes()
    assert (tmp_path / "CT_small.dcm").read_bytes() == whole
    assert names["header"] == "key,slices\n"


def test_arrow_and_polars_read_many_files_as_one_table(names: dict[str, Any]) -> None:
    run("Arrow, DuckDB, Polars", names)
    assert names["total"] == 10
    assert sorted(names["lazy"].collect()["value"].to_list()) == list(range(10))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
def test_torch_trains_on_the_view_and_goes_on_where_it_was(names: dict[str, Any], tmp_path: Path) -> None:
    need_torch("torchdata")
    run("torch", names)
    assert tuple(names["batch"].shape) == (2, 32, 32)
    assert any((tmp_path / "tensors").rglob("*")), "a tensor snapshot was kept"


def test_export_writes_the_view_and_rollback_brings_the_bucket_back(
    names: dict[str, Any], tmp_path: Path
) -> None:
    for title in ("Export", "Rollback"):
        (block,) = section(title, "sh")
        for line in block.splitlines():
            _, *arguments = shlex.split(line)
            assert command(arguments) == 0, line
    assert (tmp_path / "data" / "tables" / "index.csv").read_bytes() == CSV
    s3 = names["s3"]
    for bucket, key in (("other", "november/tables/index.csv"), ("scans", "tables/index.csv")):
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == CSV
    assert len(s3.list_object_versions(Bucket="scans", Prefix="tables/index.csv")["Versions"]) == 3
