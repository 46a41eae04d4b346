"""The log in SQLite, written: the steps of `LogStore`, in threads, as a commit waits for the disk."""

from __future__ import annotations

import json
from asyncio import to_thread
from collections.abc import Sequence
from dataclasses import asdict

from snapengine.errors import BucketNotEnabled
from snapengine.model import BucketConfig, Epoch, LogEntry, Observation, Watermarks, watermarks_of
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import ENTRY_COLUMNS, Database


class SQLiteLog:
    """`LogStore` over one SQLite file. There are no lost replies: a statement has happened or raised."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._store = SQLiteStore(database)

    async def put_entry(self, entry: LogEntry) -> bool:
        def put() -> bool:
            place = (entry.bucket, entry.stream, entry.number)
            self._database.run(
                f"INSERT OR IGNORE INTO log ({ENTRY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # a constant
                *place,
                entry.nonce,
                entry.recorded_at,
                entry.count,
                entry.payload,
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
            self._database.insert_many, "INSERT OR IGNORE INTO by_key VALUES (?, ?, ?, ?, ?)", rows
        )

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
            "INSERT OR IGNORE INTO epoch VALUES (?, ?, ?, ?, ?)",
            bucket,
            epoch.number,
            epoch.time,
            json.dumps(sorted(epoch.cover.items())),
            json.dumps(asdict(epoch.watermarks)),
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
