"""docs/sql.md on metadata: what it says runs as it stands there, and gives the rows that views have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from snapengine.model import SnapshotRef
from snapengine.row_reading import joined
from tests.archive_house import House, sqlite_house
from tests.integration.test_archive_sql import of, statements
from tests.row_answers import read
from tests.row_house import play_with_rows


@pytest.fixture
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB that downloads nothing."""
    config: dict[str, Any] = {"autoinstall_known_extensions": "false", "threads": 1}
    with duckdb.connect(":memory:", config=config) as connection:
        yield connection


@pytest.fixture
def house(tmp_path: Path) -> House:
    found = sqlite_house(tmp_path)
    play_with_rows(found)
    found.round(checkpoint_now=True)
    return found


def root_of(house: House) -> Path:
    return Path(house.archive.removeprefix("file://"))


def test_a_checkpoint_s_objects_with_their_rows_are_a_view_s(
    house: House, duck: duckdb.DuckDBPyConnection
) -> None:
    (made,) = house.manifests().checkpoints
    (sql,) = of(root_of(house), statements("DuckDB", 3), made.at, made.epoch)
    found = duck.execute(sql).fetchall()
    engine = house.engine()
    epoch = engine.store.epoch("scans", made.epoch)
    assert epoch is not None
    table = read(joined(engine, SnapshotRef("scans", "", made.at, made.epoch), epoch, "dicom", False))
    assert found == [
        (row["key"], row["version_id"], row["size"], int(row["event_time"].timestamp() * 1000))
        for row in table.to_pylist()
        if row["Modality"] == "CT"
    ]
    assert found


@pytest.mark.parametrize("number", [8, 10, 12])
def test_the_rows_that_an_epoch_knows_are_those_that_views_have(
    house: House, duck: duckdb.DuckDBPyConnection, number: int
) -> None:
    (sql,) = of(root_of(house), statements("DuckDB", 4), epoch=number)
    found = duck.sql(sql).to_arrow_table().to_pylist()
    by_version = {(row["key"], row["version_id"]): row for row in found if row["version_id"] != "null"}
    assert found
    engine = house.engine()
    epoch = engine.store.epoch("scans", number)
    assert epoch is not None
    compared = 0
    for at in (house.clock.now, house.clock.now - 3_300_000):
        table = read(joined(engine, SnapshotRef("scans", "", at, number), epoch, "dicom", False))
        for row in table.to_pylist():
            told = by_version.get((row["key"], row["version_id"]))
            if row["version_id"] != "null":
                assert (told is None) == (row["outcome"] is None)
            if told is not None:
                names = [name for name in ("outcome", "extracted_at", "Modality", "Rows") if name in row]
                assert {name: told[name] for name in names} == {name: row[name] for name in names}
                compared += 1
    assert compared > 5
