"""SQLite keeps the stores' contract, in memory and in a file that processes share."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from snapengine.errors import LogDamaged, SchemaTooNew, TableMissing
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import Database
from snapengine.stores.sqlite_log import SQLiteLog
from snapengine.testing.archive_contract import ArchiveContract
from snapengine.testing.store_contract import BUCKET, Backend, StoreContract, config, entry, observation


def _backend(database: Database) -> Backend:
    store = SQLiteStore(database)
    store.create()
    store.put_config(config())
    return Backend(SQLiteLog(database), store)


class TestInMemory(StoreContract, ArchiveContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return _backend(Database(":memory:"))


class TestInAFile(StoreContract, ArchiveContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return _backend(Database(str(tmp_path / "new folder" / "log.db")))


async def test_what_one_connection_commits_another_reads(tmp_path: Path) -> None:
    path = str(tmp_path / "log.db")
    one = _backend(Database(path))
    await one.log.put_entry(entry(1, observation(1)))
    other = Database(path)
    assert [e.number for e in SQLiteStore(other).entries(BUCKET, 0, 0, 1)] == [1]


def test_a_database_that_is_not_there_is_not_created_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    with pytest.raises(TableMissing, match="snapengine init"):
        SQLiteStore(Database(str(path))).check()
    assert not path.exists()


def test_a_database_of_a_newer_snapengine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    _backend(Database(str(path)))
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(SchemaTooNew, match="99"):
        SQLiteStore(Database(str(path))).check()


def test_a_file_that_is_no_database_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"this is a text file, and not a short one either" * 20)
    with pytest.raises(LogDamaged, match=r"log\.db"):
        SQLiteStore(Database(str(path))).check()
