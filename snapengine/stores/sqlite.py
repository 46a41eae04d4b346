"""The log and the registry in one SQLite file, read synchronously: for a laptop, one machine, and tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from snapengine.errors import LogDamaged, SchemaTooNew, TableMissing
from snapengine.model import (
    AuditRecord,
    BucketConfig,
    Epoch,
    LogEntry,
    Observation,
    RunNote,
    Snapshot,
    Watermarks,
)
from snapengine.stores.sqlite_database import ENTRY_COLUMNS, SCHEMA_VERSION, Database

ENTRIES_AT_ONCE = 64
EPOCHS_AT_ONCE = 1_000
"""How many are read in one go: the database is not held, nor memory filled, for longer."""


class SQLiteStore:
    """`LogReader` and `Registry` over one SQLite file."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._run = database.run

    # Reading the log

    def entries(self, bucket: str, stream: int, after: int, to: int) -> Iterator[LogEntry]:
        expected = after + 1
        for entry in self.entries_found(bucket, stream, after, to):
            if entry.number != expected:
                break
            yield entry
            expected += 1
        if expected <= to:
            raise LogDamaged(f"Entry {expected} of stream {stream} of bucket {bucket} is missing.")

    def entries_found(self, bucket: str, stream: int, after: int, to: int) -> Iterator[LogEntry]:
        """Those of the entries `(after, to]` that are there."""
        while after < to:
            rows = self._run(
                f"SELECT {ENTRY_COLUMNS} FROM log "  # noqa: S608  # a constant
                "WHERE bucket = ? AND stream = ? AND number > ? AND number <= ? ORDER BY number LIMIT ?",
                bucket,
                stream,
                after,
                to,
                ENTRIES_AT_ONCE,
            )
            for row in rows:
                yield LogEntry(*row)
            if len(rows) < ENTRIES_AT_ONCE:
                return
            after = rows[-1][2]

    def identifying(self, bucket: str, stream: int, after: int, to: int) -> Iterator[tuple[int, str, bytes]]:
        at = (after, "\U0010ffff")
        while after < to:
            rows = self._run(
                "SELECT number, nonce, payload FROM identifying WHERE bucket = ? AND stream = ? "
                "AND (number, nonce) > (?, ?) AND number <= ? ORDER BY number, nonce LIMIT ?",
                bucket,
                stream,
                *at,
                to,
                ENTRIES_AT_ONCE,
            )
            yield from rows
            if len(rows) < ENTRIES_AT_ONCE:
                return
            at = rows[-1][:2]

    def key_history(self, bucket: str, key: str, cover: Mapping[int, int]) -> list[Observation]:
        rows = self._run(
            "SELECT stream, number, observation FROM by_key WHERE bucket = ? AND key = ?", bucket, key
        )
        return [Observation._make(json.loads(text)) for s, number, text in rows if number <= cover.get(s, 0)]

    def newest_epoch(self, bucket: str) -> Epoch | None:
        return self._epoch("bucket = ? ORDER BY number DESC LIMIT 1", bucket)

    def epoch(self, bucket: str, number: int) -> Epoch | None:
        return self._epoch("bucket = ? AND number = ?", bucket, number)

    def epoch_at(self, bucket: str, time: int) -> Epoch | None:
        return self._epoch("bucket = ? AND time <= ? ORDER BY number DESC LIMIT 1", bucket, time)

    def epochs(self, bucket: str, first: int, last: int) -> Iterator[Epoch]:
        while first <= last:
            found = self._epochs(
                "bucket = ? AND number BETWEEN ? AND ? ORDER BY number LIMIT ?",
                bucket,
                first,
                last,
                EPOCHS_AT_ONCE,
            )
            yield from found
            if len(found) < EPOCHS_AT_ONCE:
                return
            first = found[-1].number + 1

    def _epoch(self, where: str, *values: Any) -> Epoch | None:
        return next(iter(self._epochs(where, *values)), None)

    def _epochs(self, where: str, *values: Any) -> list[Epoch]:
        rows = self._run(f"SELECT number, time, cover, watermarks, rows FROM epoch WHERE {where}", *values)  # noqa: S608  # `where` is one of the literals above
        return [
            Epoch(
                number,
                time,
                dict(json.loads(cover)),
                Watermarks(**_known(Watermarks, watermarks)),
                dict(json.loads(of_metadata)),
            )
            for number, time, cover, watermarks, of_metadata in rows
        ]

    def manifests(self, bucket: str) -> list[str]:
        rows = self._run("SELECT body FROM manifest WHERE bucket = ? ORDER BY name", bucket)
        return [body for (body,) in rows]

    # The registry

    def create(self) -> list[str]:
        created = self._database.create()
        self.check()
        return [f"database {self._database.path} created"] if created else []

    def check(self) -> None:
        version = self._database.schema_version()
        if version == 0:
            raise TableMissing(f"Database {self._database.path} is not set up. Run `snapengine init`.")
        if version > SCHEMA_VERSION:
            raise SchemaTooNew(
                f"{self._database.path} has schema {version}; this snapengine knows up to {SCHEMA_VERSION}. "
                "Upgrade snapengine."
            )

    def config(self, bucket: str) -> BucketConfig | None:
        rows = self._run("SELECT body FROM config WHERE bucket = ?", bucket)
        return BucketConfig(**_known(BucketConfig, rows[0][0])) if rows else None

    def put_config(self, config: BucketConfig) -> None:
        body = json.dumps(asdict(config))
        if not self._database.change(
            "INSERT INTO config VALUES (?1, ?2) ON CONFLICT (bucket) DO UPDATE SET body = excluded.body "
            "WHERE json_extract(body, '$.streams') <= ?3",
            config.bucket,
            body,
            config.streams,
        ):
            raise ValueError(f"The number of streams of bucket {config.bucket} may only grow.")

    def buckets(self) -> list[BucketConfig]:
        rows = self._run("SELECT body FROM config ORDER BY bucket")
        return [BucketConfig(**_known(BucketConfig, body)) for (body,) in rows]

    def acquire(self, bucket: str, task: str, holder: str, until: int, now: int) -> str | None:
        taken = self._database.change(
            "INSERT INTO lease VALUES (?1, ?2, ?3, ?4) ON CONFLICT (bucket, task) "
            "DO UPDATE SET holder = ?3, until = ?4 WHERE holder = ?3 OR until < ?5",
            bucket,
            task,
            holder,
            until,
            now,
        )
        if taken:
            return None
        rows = self._run("SELECT holder FROM lease WHERE bucket = ? AND task = ?", bucket, task)
        return str(rows[0][0]) if rows else "another process"

    def release(self, bucket: str, task: str, holder: str) -> None:
        self._run("DELETE FROM lease WHERE bucket = ? AND task = ? AND holder = ?", bucket, task, holder)

    def save_progress(self, bucket: str, task: str, progress: Mapping[str, str | int]) -> None:
        self._run("INSERT OR REPLACE INTO progress VALUES (?, ?, ?)", bucket, task, json.dumps(progress))

    def progress(self, bucket: str, task: str) -> dict[str, str | int] | None:
        rows = self._run("SELECT body FROM progress WHERE bucket = ? AND task = ?", bucket, task)
        return dict(json.loads(rows[0][0])) if rows else None

    def clear_progress(self, bucket: str, task: str) -> None:
        self._run("DELETE FROM progress WHERE bucket = ? AND task = ?", bucket, task)

    def put_manifest(self, bucket: str, name: str, body: str, *, replacing: str | None = None) -> bool:
        if replacing is None:
            return self._database.change(
                "INSERT INTO manifest VALUES (?1, ?2, ?3) ON CONFLICT (bucket, name) "
                "DO UPDATE SET body = excluded.body WHERE body = excluded.body",
                bucket,
                name,
                body,
            )
        return self._database.change(
            "UPDATE manifest SET body = ?3 WHERE bucket = ?1 AND name = ?2 AND body IN (?3, ?4)",
            bucket,
            name,
            body,
            replacing,
        )

    def delete_manifest(self, bucket: str, name: str) -> None:
        self._run("DELETE FROM manifest WHERE bucket = ? AND name = ?", bucket, name)

    def put_snapshot(self, snapshot: Snapshot) -> bool:
        return self._database.change(
            "INSERT OR IGNORE INTO snapshot VALUES (?, ?, ?)",
            snapshot.bucket,
            snapshot.name,
            json.dumps(asdict(snapshot)),
        )

    def snapshot(self, bucket: str, name: str) -> Snapshot | None:
        rows = self._run("SELECT body FROM snapshot WHERE bucket = ? AND name = ?", bucket, name)
        return Snapshot(**_known(Snapshot, rows[0][0])) if rows else None

    def snapshots(self, bucket: str) -> list[Snapshot]:
        rows = self._run("SELECT body FROM snapshot WHERE bucket = ? ORDER BY name", bucket)
        return [Snapshot(**_known(Snapshot, body)) for (body,) in rows]

    def delete_snapshot(self, bucket: str, name: str) -> bool:
        return self._database.change("DELETE FROM snapshot WHERE bucket = ? AND name = ?", bucket, name)

    def put_note(self, note: RunNote) -> bool:
        key = (note.run_id, note.bucket, note.reference)
        if self._database.change(
            "INSERT INTO note VALUES (?, ?, ?, ?) ON CONFLICT (run_id, bucket, reference) "
            "DO UPDATE SET body = excluded.body WHERE json_extract(body, '$.digest') = ''",
            *key,
            json.dumps(asdict(note)),
        ):
            return True
        where = "run_id = ? AND bucket = ? AND reference = ?"
        return not note.digest or any(n.digest == note.digest for n in self._notes(where, *key))

    def notes_of_run(self, run_id: str) -> list[RunNote]:
        return self._notes("run_id = ?", run_id)

    def notes(self, bucket: str) -> Iterator[RunNote]:
        yield from self._notes("bucket = ?", bucket)

    def _notes(self, where: str, *values: str) -> list[RunNote]:
        rows = self._run(f"SELECT body FROM note WHERE {where} ORDER BY run_id, bucket, reference", *values)  # noqa: S608  # `where` is one of the literals above
        return [RunNote(**_known(RunNote, body)) for (body,) in rows]

    def agree_on_epoch(self, run_id: str, bucket: str, at: int, epoch: int) -> int:
        key = (run_id, bucket, at)
        self._database.change("INSERT OR IGNORE INTO run_epoch VALUES (?, ?, ?, ?)", *key, epoch)
        ((agreed,),) = self._run(
            "SELECT epoch FROM run_epoch WHERE run_id = ? AND bucket = ? AND at = ?", *key
        )
        return int(agreed)

    def scrub(self) -> list[str]:
        """Writes the whole file anew. Others may read meanwhile; who writes waits."""
        self._run("VACUUM")
        ((busy, _, _),) = self._run("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            return [f"{self._database.path}-wal, as another process is reading: it is emptied when it ends"]
        return []

    def append_audit(self, record: AuditRecord) -> None:
        self._run("INSERT INTO audit (time, body) VALUES (?, ?)", record.time, json.dumps(asdict(record)))

    def audit_log(self, since: int = 0) -> Iterable[AuditRecord]:
        rows = self._run("SELECT body FROM audit WHERE time >= ? ORDER BY time, id", since)
        return [AuditRecord(**_known(AuditRecord, body)) for (body,) in rows]


def _known(model: type, body: str) -> dict[str, Any]:
    """The fields that the model knows; a newer snapengine may have added others."""
    names = {f.name for f in fields(model)}
    return {name: value for name, value in json.loads(body).items() if name in names}
