"""The log in SQLite, written: the steps of `LogStore`, in threads, as a commit waits for the disk."""

from __future__ import annotations

import json
from asyncio import to_thread
from collections.abc import Sequence
from dataclasses import asdict
from time import time_ns

from snapengine.errors import BucketNotEnabled, LogDamaged
from snapengine.model import BucketConfig, Epoch, LogEntry, Observation, Watermarks, watermarks_of
from snapengine.observation_codec import MAX_ROWS
from snapengine.ports import Clock
from snapengine.stores.checks import check_stub
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import ENTRY_COLUMNS, Database

SWEEP = """DELETE FROM by_key WHERE (bucket, key, stream, number, observation) IN (
    SELECT bucket, key, stream, number, observation FROM by_key WHERE expires <= ? LIMIT ?)"""
SWEPT_AT_ONCE = 4 * MAX_ROWS
"""Rows: more than an entry has."""


def _now() -> int:
    return time_ns() // 1_000_000


class SQLiteLog:
    """`LogStore` over one SQLite file. There are no lost replies: a statement has happened or raised."""

    def __init__(self, database: Database, clock: Clock = _now) -> None:
        """`clock`: by which by-key rows that were let go leave."""
        self._database = database
        self._clock = clock
        self._store = SQLiteStore(database)

    async def put_entry(self, entry: LogEntry) -> bool:
        def put() -> bool:
            place = (entry.bucket, entry.stream, entry.number)
            self._database.run(
                f"INSERT OR IGNORE INTO log ({ENTRY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # a constant
                *place,
                entry.nonce,
                entry.recorded_at,
                entry.count,
                b"" if entry.form == "stub" else entry.payload,
                entry.form,
            )
            rows = self._database.run(
                "SELECT nonce FROM log WHERE bucket = ? AND stream = ? AND number = ?", *place
            )
            return bool(rows[0][0] == entry.nonce)

        return await to_thread(put)

    async def get_entry(self, bucket: str, stream: int, number: int) -> LogEntry | None:
        return await to_thread(
            lambda: next(self._store.entries_found(bucket, stream, number - 1, number), None)
        )

    async def put_by_key(
        self, bucket: str, stream: int, number: int, observations: Sequence[Observation]
    ) -> None:
        rows = [(bucket, o.key, stream, number, json.dumps(o)) for o in observations]
        await to_thread(
            self._database.change_many,
            "INSERT OR IGNORE INTO by_key (bucket, key, stream, number, observation) VALUES (?, ?, ?, ?, ?)",
            rows,
        )

    async def put_listed(self, bucket: str, name: str, body: str) -> None:
        await to_thread(
            self._database.run, "INSERT OR IGNORE INTO manifest VALUES (?, ?, ?)", bucket, name, body
        )

    async def let_go(
        self, bucket: str, stream: int, number: int, observations: Sequence[Observation], expires_at: int
    ) -> None:
        rows = [(expires_at, bucket, o.key, stream, number, json.dumps(o)) for o in observations]

        def mark() -> None:
            self._database.change_many(
                "UPDATE by_key SET expires = ? "
                "WHERE bucket = ? AND key = ? AND stream = ? AND number = ? AND observation = ?",
                rows,
            )
            self._sweep()

        await to_thread(mark)

    async def put_identifying(
        self, bucket: str, stream: int, number: int, nonce: str, payload: bytes, *, replacing: bool = False
    ) -> None:
        await to_thread(
            self._database.run,
            "INSERT INTO identifying VALUES (?, ?, ?, ?, ?) ON CONFLICT (bucket, stream, number, nonce) "
            "DO UPDATE SET payload = excluded.payload WHERE ?",
            bucket,
            stream,
            number,
            nonce,
            payload,
            replacing,
        )

    async def get_identifying(self, bucket: str, stream: int, number: int, nonce: str) -> bytes | None:
        rows = await to_thread(
            self._database.run,
            "SELECT payload FROM identifying WHERE bucket = ? AND stream = ? AND number = ? AND nonce = ?",
            bucket,
            stream,
            number,
            nonce,
        )
        return rows[0][0] if rows else None

    async def delete_identifying(self, bucket: str, stream: int, number: int, nonce: str) -> None:
        await to_thread(
            self._database.run,
            "DELETE FROM identifying WHERE bucket = ? AND stream = ? AND number = ? AND nonce = ?",
            bucket,
            stream,
            number,
            nonce,
        )

    async def rewrite_entry(self, entry: LogEntry) -> bool:
        place = (entry.bucket, entry.stream, entry.number)
        rewritten = await to_thread(
            self._database.change,
            "UPDATE log SET payload = ?, count = ? "
            "WHERE bucket = ? AND stream = ? AND number = ? AND nonce = ? AND form = 'metadata'",
            entry.payload,
            entry.count,
            *place,
            entry.nonce,
        )
        if not rewritten:
            check_stub(entry, await self.get_entry(*place))
        return rewritten

    async def stub_entry(self, bucket: str, stream: int, number: int) -> None:
        def stub() -> None:
            if not self._database.change(
                "UPDATE log SET payload = x'', form = 'stub' WHERE bucket = ? AND stream = ? AND number = ?",
                bucket,
                stream,
                number,
            ):
                raise LogDamaged(f"Entry {number} of stream {stream} of bucket {bucket} is missing.")
            self._sweep()

        await to_thread(stub)

    def _sweep(self) -> None:
        """Remove by-key rows whose time is over, some of them: nobody else does, as DynamoDB does by itself.
        Letting go and stubbing take turns at it, and each takes away more than an entry has."""
        self._database.run(SWEEP, self._clock(), SWEPT_AT_ONCE)

    async def mark_done(self, bucket: str, stream: int, number: int) -> None:
        await to_thread(
            self._database.run,
            "UPDATE log SET done = 1 WHERE bucket = ? AND stream = ? AND number = ?",
            bucket,
            stream,
            number,
        )

    async def done(self, bucket: str, stream: int, after: int, to: int) -> set[int]:
        rows = await to_thread(
            self._database.run,
            "SELECT number FROM log WHERE bucket = ? AND stream = ? AND number > ? AND number <= ? AND done",
            bucket,
            stream,
            after,
            to,
        )
        return {row[0] for row in rows}

    async def head(self, bucket: str, stream: int) -> int:
        rows = await to_thread(
            self._database.run,
            "SELECT max(number) FROM log WHERE bucket = ? AND stream = ?",
            bucket,
            stream,
        )
        return rows[0][0] or 0

    async def newest_epoch(self, bucket: str) -> Epoch | None:
        return await to_thread(self._store.newest_epoch, bucket)

    async def put_epoch(self, bucket: str, epoch: Epoch) -> bool:
        return await to_thread(
            self._database.change,
            "INSERT OR IGNORE INTO epoch (bucket, number, time, cover, watermarks, rows) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            bucket,
            epoch.number,
            epoch.time,
            json.dumps(sorted(epoch.cover.items())),
            json.dumps(asdict(epoch.watermarks)),
            json.dumps(sorted(epoch.rows.items())),
        )

    async def watermarks(self, bucket: str) -> Watermarks:
        rows = await to_thread(
            self._database.run, "SELECT name, prefix, time FROM watermark WHERE bucket = ?", bucket
        )
        caught_up = next((time for name, _, time in rows if name == "caught_up"), None)
        verified = {prefix: time for name, prefix, time in rows if name == "verified"}
        return watermarks_of(await self._config(bucket), caught_up, verified)

    async def raise_caught_up(self, bucket: str, to: int) -> None:
        await self._raise(bucket, "caught_up", "", to)

    async def note_verified(self, bucket: str, prefix: str, begun: int) -> None:
        await self._raise(bucket, "verified", prefix, begun)

    async def _raise(self, bucket: str, name: str, prefix: str, to: int) -> None:
        await to_thread(
            self._database.run,
            "INSERT INTO watermark VALUES (?, ?, ?, ?) ON CONFLICT (bucket, name, prefix) "
            "DO UPDATE SET time = max(time, excluded.time)",
            bucket,
            name,
            prefix,
            to,
        )

    async def streams(self, bucket: str) -> int:
        return (await self._config(bucket)).streams

    async def _config(self, bucket: str) -> BucketConfig:
        config = await to_thread(self._store.config, bucket)
        if config is None:
            raise BucketNotEnabled(
                f"Bucket {bucket} is not enabled in {self._database.path}. "
                f"Run `snapengine enable-bucket {bucket}`."
            )
        return config
