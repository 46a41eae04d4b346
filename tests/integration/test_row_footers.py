"""What footers say of all rows counts only where they are the footers that were written."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from metadata_extractors import querying
from snapengine.cautions import MetadataMissing
from snapengine.errors import ArchiveDamaged
from snapengine.log import EpochCutter, RowWriter
from snapengine.metadata_rows import row_schema
from tests.archive_house import INSTANTS, House, play, sqlite_house
from tests.seed import T0

SCHEMA = row_schema(pa.schema([("Modality", pa.string())]))
WHERE = "Modality = 'CT'"


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A history whose last objects have a row each, all of CT, in a checkpoint."""
    house = sqlite_house(tmp_path)
    play(house)
    versions = list(house.engine().view(house.bucket, INSTANTS[-1]).versions())
    rows = [
        {
            "key": version.key,
            "version_id": version.version_id,
            "etag": version.etag,
            "sequencer": version.sequencer,
            "extracted_at": T0 + 5_000_000,
            "extractor_version": "1",
            "outcome": "ok",
            "Modality": "CT",
        }
        for version in versions
    ]

    async def append() -> None:
        engine = house.engine()
        async with engine.log() as log:
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
            await RowWriter(log, "extractor", engine.clock).append(house.bucket, "dicom", table)
            await EpochCutter(log, house.bucket, engine.clock).cut()

    asyncio.run(append())
    house.clock.now = T0 + 3_600_000
    house.round(checkpoint_now=True)
    return house


def live(house: House) -> list[Path]:
    folder = Path(house.archive.removeprefix("file://"))
    return [folder / stored.path for stored in house.root().paths("scans/") if "/live-" in stored.path]


def test_no_answer_rests_on_a_footer_that_is_not_the_one_that_was_written(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(_: str) -> str:
        raise AssertionError("the footers are enough")

    monkeypatch.setattr(querying, "_left_over", looked)
    asked = house.engine().view("scans", INSTANTS[-1]).metadata(where=WHERE, columns=["Modality"])
    assert len(asked)
    for path in live(house):
        data = path.read_bytes()
        start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        footer = data[start:].replace(b"parquet-cpp", b"parquet-CPP")
        assert footer != data[start:]
        path.write_bytes(data[:start] + footer)
    with pytest.raises(ArchiveDamaged, match="has another footer than its manifest says"):
        house.engine().view("scans", INSTANTS[-1]).metadata(where=WHERE, columns=["Modality"])


@pytest.fixture(autouse=True)
def quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetadataMissing)
        yield
