"""An archive in a folder: rights of the file system keep identifying columns apart, as policies do in S3."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from metadata_extractors.base import Prefix
from metadata_extractors.dicom import DicomExtractor
from snapengine import Engine, Settings
from snapengine.archiving.run import archive_bucket
from snapengine.errors import IdentifyingRefused
from snapengine.log import EpochCutter, RowWriter
from snapengine.metadata_rows import row_schema
from tests.marked_dicom import marked, shows
from tests.seed import T0, enable, event, record

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


def archived(folder: Path) -> Engine:
    """Three marked scans and their rows, all of them in the archive."""
    settings = Settings(store=f"sqlite:///{folder}/log.db", archive=f"file://{folder}/root", cache="off")
    engine = Engine(settings, clock=lambda: T0 + 3_600_000)
    engine.store.create()
    enable(engine)
    observed = [event(f"ct/{n}", f"v{n}", n) for n in range(3)]
    record(engine, observed)
    extractor = DicomExtractor()
    values = extractor.parse(Prefix(marked(), whole=True, last=True)).values
    schema = row_schema(extractor.schema)
    rows = [
        {
            "key": each.key,
            "version_id": each.version_id,
            "extractor_version": "1",
            "outcome": "ok",
            "extracted_at": T0,
            **values,
        }
        for each in observed
    ]

    async def run() -> None:
        async with engine.log() as log:
            await RowWriter(log, "extract", engine.clock).append(
                "scans", "dicom", pa.Table.from_pylist(rows, schema)
            )
            await EpochCutter(log, "scans", engine.clock).cut()

    asyncio.run(run())
    asyncio.run(archive_bucket(engine, "scans", checkpoint_now=True))
    return engine


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Without the rights of root, which no file system refuses."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_who_may_not_open_the_identifying_folder_has_the_other_columns(folder: Path) -> None:
    engine = archived(folder)
    view = engine.view("scans")
    expected = view.metadata_table(columns=["Modality", "Rows"])
    assert shows(str(view.metadata_table(columns=["PatientName"]).to_pylist()))
    (folder / "root/scans/identifying").chmod(0)
    with as_somebody_else():
        assert view.metadata_table(columns=["Modality", "Rows"]).equals(expected)
        with pytest.raises(IdentifyingRefused, match="This role may not have the identifying columns") as why:
            view.metadata_table(columns=["PatientName"])
    assert shows(str(why.value)) == []
