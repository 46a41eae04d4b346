"""SQLite keeps the stores' contract, in memory and in a file that processes share."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from snapengine.errors import LogDamaged, SchemaTooNew, SnapEngineError, TableMissing
from snapengine.log import EpochCutter, RowWriter, StreamWriter
from snapengine.model import Epoch
from snapengine.observation_codec import encode
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import SCHEMA_VERSION, Database
from snapengine.stores.sqlite_log import SWEEP, SQLiteLog
from snapengine.testing.archive_contract import ArchiveContract
from snapengine.testing.row_contract import EXTRACTOR, RowContract, row_table
from snapengine.testing.row_contract import row as row_of
from snapengine.testing.store_contract import BUCKET, Backend, StoreContract, T, config, entry, observation


def _backend(database: Database) -> Backend:
    store = SQLiteStore(database)
    store.create()
    store.put_config(config())
    return Backend(SQLiteLog(database), store)


class TestInMemory(StoreContract, ArchiveContract, RowContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return _backend(Database(":memory:"))


class TestInAFile(StoreContract, ArchiveContract, RowContract):
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


async def test_what_is_due_is_deleted_and_what_is_not_stays(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "log.db"))
    now = T
    log, store = SQLiteLog(database, lambda: now), _backend(database).store
    rows = [observation(i, key="one", version_id=f"v{i}") for i in range(6)]
    for number, row in enumerate(rows, start=1):
        await log.put_entry(entry(number, row))
        await log.put_by_key(BUCKET, 0, number, [row])
    for number, due in ((1, T + 10), (2, T + 20), (3, T + 30)):
        await log.let_go(BUCKET, 0, number, [rows[number - 1]], due)
    now = T + 9
    await log.let_go(BUCKET, 0, 4, [rows[3]], T + 40)
    assert store.key_history(BUCKET, "one", {0: 6}) == rows
    now = T + 20
    await log.let_go(BUCKET, 0, 4, [rows[3]], T + 40)
    assert store.key_history(BUCKET, "one", {0: 6}) == rows[2:]
    now = T + 30
    await log.stub_entry(BUCKET, 0, 1)
    assert store.key_history(BUCKET, "one", {0: 6}) == rows[3:]


async def test_rows_that_are_due_are_found_without_reading_the_others() -> None:
    database = Database(":memory:")
    plan = database.run("EXPLAIN QUERY PLAN " + SWEEP, T, 9)
    assert all("SCAN by_key" not in row[-1] for row in plan), plan
    assert any("by_key_expires" in row[-1] for row in plan), plan


def of_version_1(path: Path) -> None:
    """A database as the first snapengine made it, with an entry, its row by key, an epoch and its bucket."""
    with sqlite3.connect(path) as raw:
        raw.executescript(VERSION_1)
        raw.execute("PRAGMA user_version = 1")
        raw.execute(
            "INSERT INTO log VALUES (?, 0, 1, 'n', ?, 1, ?, 1)", (BUCKET, T, encode([observation(1)]))
        )
        text = json.dumps(observation(1))
        raw.execute("INSERT INTO by_key VALUES (?, 'k0001', 0, 1, ?)", (BUCKET, text))
        raw.execute("INSERT INTO epoch VALUES (?, 1, ?, '[[0, 1]]', '{}')", (BUCKET, T))
        body = asdict(config(streams=1))
        del body["archive"]
        raw.execute("INSERT INTO config VALUES (?, ?)", (BUCKET, json.dumps(body)))
    raw.close()


async def test_a_database_of_before_the_archive_is_upgraded_by_opening_it(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    of_version_1(path)
    database = Database(str(path))
    store, log = SQLiteStore(database), SQLiteLog(database)
    store.check()
    assert list(store.entries(BUCKET, 0, 0, 1)) == [entry(1, observation(1))]
    assert store.key_history(BUCKET, "k0001", {0: 1}) == [observation(1)]
    assert store.config(BUCKET) == config(streams=1)
    assert store.epoch(BUCKET, 1) == Epoch(1, T, {0: 1})
    (place,) = await StreamWriter(log, "w", lambda: T).append(BUCKET, [observation(2)])
    assert place.number == 2
    await RowWriter(log, "w", lambda: T).append(BUCKET, EXTRACTOR, row_table([row_of(1)]))
    epoch = await EpochCutter(log, BUCKET, lambda: T).cut()
    assert (epoch.number, epoch.cover, epoch.rows) == (2, {0: 2}, {0: 1})
    assert len(list(store.identifying(BUCKET, 0, 0, 1))) == 1
    assert store.put_manifest(BUCKET, "SEGMENT#1", "body")
    await log.let_go(BUCKET, 0, 1, [observation(1)], T)
    await log.stub_entry(BUCKET, 0, 1)
    assert store.key_history(BUCKET, "k0001", {0: 1}) == []
    assert store.create() == []


def test_an_upgraded_database_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    of_version_1(tmp_path / "old.db")
    old, new = Database(str(tmp_path / "old.db")), Database(":memory:")

    def layout(database: Database) -> dict[str, list[str]]:
        names = database.run("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name")
        return {
            name: [repr(column[1:]) for column in database.run(f"PRAGMA table_info({name})")]
            for (name,) in names
        }

    assert layout(old) == layout(new)


def test_many_who_open_an_old_database_at_once_upgrade_it_once(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    of_version_1(path)

    def upgraded(_: int) -> int:
        return Database(str(path)).schema_version()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(upgraded, range(16))) == {SCHEMA_VERSION}


def test_a_database_that_cannot_be_upgraded_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    of_version_1(path)
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TABLE by_key")
    raw.close()
    with pytest.raises(SnapEngineError, match=r"log\.db"):
        SQLiteStore(Database(str(path))).create()
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (1,)
        assert "form" not in [column[1] for column in raw.execute("PRAGMA table_info(log)")]
    raw.close()


def test_init_on_a_file_that_is_no_database_names_it(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"this is a text file, and not a short one either" * 20)
    with pytest.raises(LogDamaged, match=r"log\.db"):
        SQLiteStore(Database(str(path))).create()


VERSION_1 = """
CREATE TABLE log (
    bucket TEXT, stream INTEGER, number INTEGER, nonce TEXT NOT NULL, recorded_at INTEGER NOT NULL,
    count INTEGER NOT NULL, payload BLOB NOT NULL, done INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (bucket, stream, number)) WITHOUT ROWID;
CREATE TABLE by_key (
    bucket TEXT, key TEXT, stream INTEGER, number INTEGER, observation TEXT,
    PRIMARY KEY (bucket, key, stream, number, observation)) WITHOUT ROWID;
CREATE TABLE epoch (
    bucket TEXT, number INTEGER, time INTEGER NOT NULL, cover TEXT NOT NULL, watermarks TEXT NOT NULL,
    PRIMARY KEY (bucket, number)) WITHOUT ROWID;
CREATE TABLE config (bucket TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE lease (
    bucket TEXT, task TEXT, holder TEXT NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (bucket, task)) WITHOUT ROWID;
CREATE TABLE progress (
    bucket TEXT, task TEXT, body TEXT NOT NULL, PRIMARY KEY (bucket, task)) WITHOUT ROWID;
CREATE TABLE watermark (
    bucket TEXT, name TEXT, prefix TEXT, time INTEGER NOT NULL,
    PRIMARY KEY (bucket, name, prefix)) WITHOUT ROWID;
CREATE TABLE snapshot (
    bucket TEXT, name TEXT, body TEXT NOT NULL, PRIMARY KEY (bucket, name)) WITHOUT ROWID;
CREATE TABLE audit (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, body TEXT NOT NULL);
"""
