"""One SQLite file: its tables, its connection (WAL, synchronous), its errors as ours."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snapengine.after_fork import lock_of
from snapengine.errors import LogDamaged, TableMissing, Unreachable

SCHEMA_VERSION = 4
_MANIFEST = """CREATE TABLE IF NOT EXISTS manifest (
    bucket TEXT, name TEXT, body TEXT NOT NULL, PRIMARY KEY (bucket, name)) WITHOUT ROWID"""
_IDENTIFYING = """CREATE TABLE IF NOT EXISTS identifying (
    bucket TEXT, stream INTEGER, number INTEGER, nonce TEXT, payload BLOB NOT NULL,
    PRIMARY KEY (bucket, stream, number, nonce)) WITHOUT ROWID"""
_NOTE = """CREATE TABLE IF NOT EXISTS note (
    run_id TEXT, bucket TEXT, reference TEXT, body TEXT NOT NULL,
    PRIMARY KEY (run_id, bucket, reference)) WITHOUT ROWID"""
_NOTE_BY_BUCKET = "CREATE INDEX IF NOT EXISTS note_by_bucket ON note (bucket)"
_RUN_EPOCH = """CREATE TABLE IF NOT EXISTS run_epoch (
    run_id TEXT, bucket TEXT, at INTEGER, epoch INTEGER NOT NULL,
    PRIMARY KEY (run_id, bucket, at)) WITHOUT ROWID"""
TABLES = f"""
CREATE TABLE IF NOT EXISTS log (
    bucket TEXT, stream INTEGER, number INTEGER, nonce TEXT NOT NULL, recorded_at INTEGER NOT NULL,
    count INTEGER NOT NULL, payload BLOB NOT NULL, done INTEGER NOT NULL DEFAULT 0,
    form TEXT NOT NULL DEFAULT 'rows',
    PRIMARY KEY (bucket, stream, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS by_key (
    bucket TEXT, key TEXT, stream INTEGER, number INTEGER, observation TEXT, expires INTEGER,
    PRIMARY KEY (bucket, key, stream, number, observation)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_key_expires ON by_key (expires) WHERE expires IS NOT NULL;
{_MANIFEST};
{_IDENTIFYING};
CREATE TABLE IF NOT EXISTS epoch (
    bucket TEXT, number INTEGER, time INTEGER NOT NULL, cover TEXT NOT NULL, watermarks TEXT NOT NULL,
    rows TEXT NOT NULL DEFAULT '[]',
    PRIMARY KEY (bucket, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS config (bucket TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lease (
    bucket TEXT, task TEXT, holder TEXT NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (bucket, task)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress (
    bucket TEXT, task TEXT, body TEXT NOT NULL, PRIMARY KEY (bucket, task)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watermark (
    bucket TEXT, name TEXT, prefix TEXT, time INTEGER NOT NULL,
    PRIMARY KEY (bucket, name, prefix)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshot (
    bucket TEXT, name TEXT, body TEXT NOT NULL, PRIMARY KEY (bucket, name)) WITHOUT ROWID;
{_NOTE};
{_NOTE_BY_BUCKET};
{_RUN_EPOCH};
CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, body TEXT NOT NULL);
"""
_FROM_1 = (
    "ALTER TABLE log ADD COLUMN form TEXT NOT NULL DEFAULT 'rows'",
    "ALTER TABLE by_key ADD COLUMN expires INTEGER",
    "CREATE INDEX by_key_expires ON by_key (expires) WHERE expires IS NOT NULL",
    _MANIFEST,
)
"""What makes a database of version 1 one of version 2."""
_FROM_2 = ("ALTER TABLE epoch ADD COLUMN rows TEXT NOT NULL DEFAULT '[]'", _IDENTIFYING)
_FROM_3 = (_NOTE, _NOTE_BY_BUCKET, _RUN_EPOCH)
_STEPS = {1: _FROM_1, 2: _FROM_2, 3: _FROM_3}
ENTRY_COLUMNS = "bucket, stream, number, nonce, recorded_at, count, payload, form"
MEMORY = ":memory:"


class Database:
    """A connection that threads share. `:memory:` lives as long as this object.

    A file that an older snapengine made is upgraded in place by whoever opens it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = lock_of(self)
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        self._left_behind: sqlite3.Connection | None = None
        if path == MEMORY:
            self.create()

    def create(self) -> bool:
        """Create file and tables where they are missing. True if they were."""
        with self._lock:
            if self._connection is None and self.path != MEMORY:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            connection = self._connection or self._connect()
            try:
                if _version(connection):
                    return False
                connection.executescript(TABLES)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            except sqlite3.Error as error:
                raise self._translate(error) from error
            return True

    def schema_version(self) -> int:
        """0 for a database that is not set up."""
        ((version,),) = self.run("PRAGMA user_version")
        return int(version)

    def run(self, sql: str, *values: Any) -> list[Any]:
        """One statement in a transaction of its own."""
        with self._lock:
            try:
                return self._open().execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise self._translate(error) from error

    def change(self, sql: str, *values: Any) -> bool:
        """Whether the statement changed anything."""
        with self._lock:
            connection = self._open()
            before = connection.total_changes
            self.run(sql, *values)
            return connection.total_changes > before

    def change_many(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """All rows in one transaction, or none."""
        with self._lock:
            connection = self._open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                with connection:
                    connection.executemany(sql, rows)
            except sqlite3.Error as error:
                raise self._translate(error) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or (self._pid != os.getpid() and self.path != MEMORY):
            # No connection yet, or one that came through a fork, which SQLite forbids.
            if not Path(self.path).exists():
                raise TableMissing(f"There is no database {self.path}. Create it with `snapengine init`.")
            return self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous = FULL")
            _upgrade(connection)
        except sqlite3.Error as error:
            if connection:
                connection.close()
            raise self._translate(error) from error
        if self._pid != os.getpid():
            self._left_behind = self._connection  # closing it might wait for a thread of the parent's
        self._connection, self._pid = connection, os.getpid()
        return connection

    def _translate(self, error: sqlite3.Error) -> Exception:
        if "no such table" in str(error):
            return TableMissing(f"Database {self.path} is not set up. Run `snapengine init`.")
        if isinstance(error, sqlite3.OperationalError):
            return Unreachable(f"Database {self.path}: {error}. Try again later.")
        return LogDamaged(f"{self.path} cannot be used as a snapengine database: {error}.")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """A file stays so once it is. Where several processes make it so at once, SQLite refuses all but one
    without waiting."""
    for pause in (*[0.05] * 100, None):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if pause is None or "locked" not in str(error):
                raise
            time.sleep(pause)
        else:
            return


def _upgrade(connection: sqlite3.Connection) -> None:
    """In one transaction, so that of several processes that open the file one does it."""
    if not 0 < _version(connection) < SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for version in range(_version(connection), SCHEMA_VERSION):
            for statement in _STEPS[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")


def _version(connection: sqlite3.Connection) -> int:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    return int(version)
