"""What the rooms need of the outside, as Protocols: the log, the registry of buckets, the bytes in S3.

Writers are asynchronous (a worker has many writes in flight), readers synchronous (training code is).
Two stores implement all of it: `stores/dynamodb*.py` and `stores/sqlite.py`, behind one contract suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from snapengine.model import (
    AuditRecord,
    BucketConfig,
    Epoch,
    LogEntry,
    ObjectVersion,
    Observation,
    RunNote,
    Snapshot,
    Watermarks,
)


class Clock(Protocol):
    """UTC milliseconds now."""

    def __call__(self) -> int: ...


class LogStore(Protocol):
    """The steps of which `log.py` makes commits and epochs. All reads here are strongly consistent.

    Every step may be repeated: after a lost reply the same call again gives the same end.
    """

    async def put_entry(self, entry: LogEntry) -> bool:
        """Put the entry if its number is free. True if it now stands there, by this call or an earlier
        one whose reply was lost (its nonce tells); False if another entry has the number."""
        ...

    async def get_entry(self, bucket: str, stream: int, number: int) -> LogEntry | None: ...

    async def put_by_key(
        self, bucket: str, stream: int, number: int, observations: Sequence[Observation]
    ) -> None:
        """Write the by-key items of an entry, all of them, retrying what the store did not take."""
        ...

    async def put_listed(self, bucket: str, name: str, body: str) -> None:
        """Put the manifest of the Parquet files that an entry names: for it what by-key items are for others.
        Safe to repeat; a manifest of that name that stands already is left as it is."""
        ...

    async def let_go(
        self, bucket: str, stream: int, number: int, observations: Sequence[Observation], expires_at: int
    ) -> None:
        """Let an entry's by-key items leave the table at `expires_at` (UTC milliseconds) or later."""
        ...

    async def put_identifying(
        self, bucket: str, stream: int, number: int, nonce: str, payload: bytes, *, replacing: bool = False
    ) -> None:
        """Put the identifying part of the metadata entry `(stream, number, nonce)` of the bucket's rows,
        before the entry itself. One that stands there already is left as it is, or, with `replacing`,
        replaced. Safe to repeat. Raises `IdentifyingRefused` where the store denies it. `bucket` is, here and
        below, the bucket itself, not its `metadata_log`."""
        ...

    async def get_identifying(self, bucket: str, stream: int, number: int, nonce: str) -> bytes | None:
        """The identifying part of that metadata entry, if there is one. Raises `IdentifyingRefused`."""
        ...

    async def delete_identifying(self, bucket: str, stream: int, number: int, nonce: str) -> None:
        """Delete an identifying part, if there is one: one that the archive has, or that is nobody's."""
        ...

    async def rewrite_entry(self, entry: LogEntry) -> bool:
        """For erasure only: replace payload and count of the metadata entry with that number and nonce. True
        if they are now as in `entry`; False if it is a stub. Raises `LogDamaged` if there is no such entry.
        Safe to repeat."""
        ...

    async def stub_entry(self, bucket: str, stream: int, number: int) -> None:
        """Replace an entry's payload by a stub; its number stays taken for ever. Safe to repeat."""
        ...

    async def mark_done(self, bucket: str, stream: int, number: int) -> None:
        """Say that the by-key items of the entry are all written."""
        ...

    async def done(self, bucket: str, stream: int, after: int, to: int) -> set[int]:
        """The numbers in `(after, to]` that are marked done."""
        ...

    async def head(self, bucket: str, stream: int) -> int:
        """The number of the stream's last entry; 0 where there is none."""
        ...

    async def newest_epoch(self, bucket: str) -> Epoch | None: ...

    async def put_epoch(self, bucket: str, epoch: Epoch) -> bool:
        """Put the epoch if its number is free; False if it is taken."""
        ...

    async def watermarks(self, bucket: str) -> Watermarks: ...

    async def raise_caught_up(self, bucket: str, to: int) -> None:
        """Say that every event sent before `to` (UTC milliseconds) is committed. It never goes back."""
        ...

    async def note_verified(self, bucket: str, prefix: str, begun: int) -> None:
        """Say that all a complete listing of `prefix`, begun at `begun`, had to tell is committed."""
        ...

    async def streams(self, bucket: str) -> int:
        """How many streams the bucket's log has."""
        ...


class LogReader(Protocol):
    """What resolving a view reads."""

    def config(self, bucket: str) -> BucketConfig | None: ...

    def newest_epoch(self, bucket: str) -> Epoch | None: ...

    def epoch(self, bucket: str, number: int) -> Epoch | None: ...

    def epoch_at(self, bucket: str, time: int) -> Epoch | None:
        """The last epoch cut at or before `time` (UTC milliseconds)."""
        ...

    def epochs(self, bucket: str, first: int, last: int) -> Iterator[Epoch]:
        """Those of the epochs `[first, last]` that there are, in order."""
        ...

    def entries(self, bucket: str, stream: int, after: int, to: int) -> Iterator[LogEntry]:
        """The entries `(after, to]` of a stream, in order. Raises `LogDamaged` if one is missing."""
        ...

    def identifying(self, bucket: str, stream: int, after: int, to: int) -> Iterator[tuple[int, str, bytes]]:
        """Number, nonce and payload of every identifying part with a number in `(after, to]`, in order of
        number; strongly consistent. Some are nobody's: only that with its entry's nonce counts. `bucket` is
        the bucket itself, not its `metadata_log`. Raises `IdentifyingRefused` where the store denies it."""
        ...

    def manifests(self, bucket: str) -> list[str]:
        """The bodies of all manifests of the bucket's archive, strongly consistent."""
        ...

    def key_history(self, bucket: str, key: str, cover: Mapping[int, int]) -> list[Observation]:
        """Every observation of the key that `cover` (stream → last entry) covers, strongly consistent."""
        ...


class Registry(Protocol):
    """What is kept about buckets and commands, and the table itself."""

    def create(self) -> list[str]:
        """Create what is missing (table, settings), in words; empty if all was there already."""
        ...

    def check(self) -> None:
        """Raise `TableMissing`, or `SchemaTooNew` for a table made by a newer snapengine."""
        ...

    def config(self, bucket: str) -> BucketConfig | None: ...

    def put_config(self, config: BucketConfig) -> None: ...

    def buckets(self) -> list[BucketConfig]:
        """All that were ever enabled, by name."""
        ...

    def acquire(self, bucket: str, task: str, holder: str, until: int, now: int) -> str | None:
        """Take or renew the lease for a task on a bucket until `until`. None if `holder` has it now, else
        the other holder. A courtesy between processes: no answer rests on it."""
        ...

    def release(self, bucket: str, task: str, holder: str) -> None: ...

    def save_progress(self, bucket: str, task: str, progress: Mapping[str, str | int]) -> None: ...

    def progress(self, bucket: str, task: str) -> dict[str, str | int] | None: ...

    def clear_progress(self, bucket: str, task: str) -> None: ...

    def put_manifest(self, bucket: str, name: str, body: str, *, replacing: str | None = None) -> bool:
        """Put a manifest if there is none of its name, or if `replacing` is the body of the one there is.
        False if the condition does not hold; True also if exactly this body stands there already."""
        ...

    def delete_manifest(self, bucket: str, name: str) -> None: ...

    def put_snapshot(self, snapshot: Snapshot) -> bool:
        """Keep it if its name is free; False if it is taken."""
        ...

    def snapshot(self, bucket: str, name: str) -> Snapshot | None: ...

    def snapshots(self, bucket: str) -> list[Snapshot]:
        """By name."""
        ...

    def delete_snapshot(self, bucket: str, name: str) -> bool:
        """Whether there was one."""
        ...

    def scrub(self) -> list[str]:
        """Have what was deleted or replaced leave the store's own files too, as far as it can; in words, what
        it may still be found in."""
        ...

    def append_audit(self, record: AuditRecord) -> None: ...

    def audit_log(self, since: int = 0) -> Iterable[AuditRecord]:
        """From `since` (UTC milliseconds, inclusive), the oldest first."""
        ...


class RunNotes(Protocol):
    """Which runs saw which views. Nothing of it is ever deleted."""

    def put_note(self, note: RunNote) -> bool:
        """Keep it once for its run and reference. One that stands without a digest is replaced. False if one
        of another digest stands there; else what is told is kept. Safe to repeat, also by several at once."""
        ...

    def notes_of_run(self, run_id: str) -> list[RunNote]:
        """Those of one run, by bucket and reference."""
        ...

    def notes(self, bucket: str) -> Iterator[RunNote]:
        """Those of every run that saw anything of the bucket, by run and reference."""
        ...

    def agree_on_epoch(self, run_id: str, bucket: str, at: int, epoch: int) -> int:
        """The epoch at which all processes of a run resolve the bucket as of `at`: the first one told."""
        ...


class ObjectReader(Protocol):
    """Reads the bytes of exact versions."""

    def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        """Bytes `[start, end)` of that version and no other (`end=None`: to its end)."""
        ...
