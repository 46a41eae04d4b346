"""Appending to a bucket's log and cutting epochs through it: the protocol, over any `LogStore`.

A stream is a contiguous prefix that only grows at its end. Entry n+1 is put, on condition that it does not
exist, only by a writer that knows entry n to exist; so nothing ever lands in a stream's past, whatever
clocks, pauses or retries do. An entry counts once its by-key items (or, if it names Parquet files, their
manifest) are written and it is marked DONE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from secrets import token_hex

import pyarrow as pa

from snapengine.archive.manifest import ArchiveFile, Listed, files_from_payload, files_to_payload, to_json
from snapengine.errors import BadData, LogDamaged
from snapengine.forgotten import Forgotten, forget_until_none_is_new, read_forgotten
from snapengine.metadata_codec import pack as pack_rows
from snapengine.metadata_rows import metadata_log
from snapengine.model import EntryForm, Epoch, LogEntry, Observation, Watermarks
from snapengine.observation_codec import decode, pack
from snapengine.ports import Clock, LogStore

MAX_FILES_BYTES = 380_000
"""Of a payload that names files, so that it fits into an item of DynamoDB (400 KB)."""


@dataclass(frozen=True, slots=True)
class Committed:
    """Where a batch was committed."""

    bucket: str
    stream: int
    number: int


class StreamWriter:
    """Appends to one stream of each bucket, chosen by the writer's identity, one append in flight a bucket.

    What a lost reply does: the put is repeated with the same nonce until its end is known, and finds its
    own entry if it had landed. If the attempt is given up (the error is raised), the entry may still land
    later; its observations are then there twice, which changes no answer.
    """

    def __init__(self, store: LogStore, identity: str, clock: Clock) -> None:
        self._store = store
        self._tails = _Tails(store, identity, clock)

    async def append(self, bucket: str, observations: Sequence[Observation]) -> list[Committed]:
        """Commit the observations; when this returns they are in the log, by key, and DONE.

        Identical observations in one call are written once. Raises what the store raises; some of the
        observations may then be committed, and the call may be repeated.
        """
        unique = list(dict.fromkeys(observations))
        committed: list[Committed] = []
        completions: list[asyncio.Task[None]] = []
        try:
            for chunk, payload in pack(unique):
                entry = await self._tails.put(bucket, len(chunk), payload, "rows")
                committed.append(Committed(bucket, entry.stream, entry.number))
                completions.append(asyncio.create_task(complete(self._store, entry, chunk)))
            await asyncio.gather(*completions)
        except BaseException:
            for task in completions:
                task.cancel()
            await asyncio.gather(*completions, return_exceptions=True)
            raise
        return committed

    async def append_files(self, bucket: str, files: Sequence[ArchiveFile], count: int) -> Committed:
        """Commit the `count` observations that Parquet files hold, all with one entry; when this returns,
        their manifest stands and the entry is DONE.

        The files must be whole and where they stay. Raises what the store raises; the observations may then
        be committed, and the call may be repeated with the same files. `BadData` if they are too many.
        """
        payload = files_to_payload(list(files))
        if len(payload) > MAX_FILES_BYTES:
            raise BadData(
                f"{len(files):,} files of bucket {bucket} do not fit one entry of its log. "
                "Write fewer and larger ones."
            )
        entry = await self._tails.put(bucket, count, payload, "files")
        await complete(self._store, entry)
        return Committed(bucket, entry.stream, entry.number)


class RowWriter:
    """Appends rows of metadata likewise, to streams of their own (`metadata_rows.metadata_log`).

    All columns of an entry's rows, where some are identifying, are put first, under the number about to be
    tried and the entry's nonce: an entry that an epoch covers has them. What lost the race for its number
    stays behind as nobody's.

    Rows of what is forgotten (`forgotten.py`) are left out. Whether something has been forgotten meanwhile is
    looked at between the put and DONE, until nothing is new: an erasure either finds the entry as it is left
    here or is found by it.
    """

    def __init__(self, store: LogStore, identity: str, clock: Clock) -> None:
        self.left_out = 0
        """Rows that were not written, as their objects are forgotten."""
        self._store = store
        self._tails = _Tails(store, identity, clock)
        self._forgotten: dict[str, Forgotten] = {}

    async def append(self, bucket: str, extractor: str, table: pa.Table) -> list[Committed]:
        """Commit rows of one extractor (by `metadata_rows.row_schema`); when this returns they are in the log
        and DONE. Where all of them are of what is forgotten there is no entry.

        A row too large for an item is written as one that failed, without values: see `metadata_codec.pack`.
        Raises `BadData` for rows that are not whole, then nothing is written; and what the store raises, then
        some may be committed, and the call may be repeated.
        """
        committed: list[Committed] = []
        before = await self._now_forgotten(bucket)
        rows = before.left(table)
        for packed in list(pack_rows(extractor, rows)):
            entry = await self._tails.put(
                bucket, packed.rows, packed.plain, "metadata", self._hiding(bucket, packed.identifying)
            )
            self._forgotten[bucket], taken = await forget_until_none_is_new(
                self._store, bucket, entry, before, part=packed.identifying
            )
            self.left_out += taken
            await complete(self._store, entry)
            committed.append(Committed(entry.bucket, entry.stream, entry.number))
        self.left_out += table.num_rows - rows.num_rows
        return committed

    async def _now_forgotten(self, bucket: str) -> Forgotten:
        found = await read_forgotten(self._store, bucket, self._forgotten.get(bucket))
        self._forgotten[bucket] = found
        return found

    def _hiding(self, bucket: str, payload: bytes | None) -> _Before:
        async def put(entry: LogEntry) -> None:
            if payload is not None:
                await self._store.put_identifying(bucket, entry.stream, entry.number, entry.nonce, payload)

        return put


_Before = Callable[[LogEntry], Awaitable[None]]
"""Done for an entry before each attempt to put it."""


class _Tails:
    """Puts entries at the end of one stream of each log."""

    def __init__(self, store: LogStore, identity: str, clock: Clock) -> None:
        self._store = store
        self._identity = identity
        self._clock = clock
        self._tails: dict[str, _Tail] = {}

    async def put(
        self, bucket: str, count: int, payload: bytes, form: EntryForm, before: _Before | None = None
    ) -> LogEntry:
        """The entry, as it stands in the log of the bucket's observations or, by its form, of its rows."""
        log = metadata_log(bucket) if form == "metadata" else bucket
        tail = self._tails.setdefault(log, _Tail())
        async with tail.lock:
            if tail.stream is None or tail.last is None:
                tail.stream = await self._choose_stream(bucket)
                tail.last = await self._store.head(log, tail.stream)
            nonce = token_hex(12)
            while True:
                number = tail.last + 1
                entry = LogEntry(log, tail.stream, number, nonce, self._clock(), count, payload, form)
                if before is not None:
                    await before(entry)
                if await self._store.put_entry(entry):
                    tail.last = number
                    return entry
                tail.last = await self._store.head(log, tail.stream)

    async def _choose_stream(self, bucket: str) -> int:
        chosen = int.from_bytes(blake2b(self._identity.encode(), digest_size=8).digest(), "big")
        return chosen % await self._store.streams(bucket)


class _Tail:
    """A writer's place in one log: its stream, and the last entry it knows to exist there."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.stream: int | None = None
        self.last: int | None = None


async def complete(
    store: LogStore, entry: LogEntry, observations: Sequence[Observation] | None = None
) -> None:
    """Write what makes an entry seen, a pure function of it, and then its DONE mark. Safe to repeat.

    Observations become by-key items, named files a `Listed` manifest; rows of metadata need nothing, and of a
    stub the archive has all.
    `observations` spares decoding the payload to a caller that has them.
    """
    if entry.form == "rows":
        rows = decode(entry.payload) if observations is None else observations
        await store.put_by_key(entry.bucket, entry.stream, entry.number, rows)
    elif entry.form == "files":
        listed = Listed(entry.stream, entry.number, _files_of(entry))
        await store.put_listed(entry.bucket, listed.name, to_json(listed))
    await store.mark_done(entry.bucket, entry.stream, entry.number)


def _files_of(entry: LogEntry) -> tuple[ArchiveFile, ...]:
    try:
        return tuple(files_from_payload(entry.payload))
    except (ValueError, TypeError, AttributeError) as error:
        raise LogDamaged(
            f"Entry {entry.number} of stream {entry.stream} of bucket {entry.bucket} should name files, "
            f"and cannot be read: {error}."
        ) from error


class EpochCutter:
    """Cuts epochs through one bucket's log.

    Reads, all strongly consistent and in this order: the newest epoch, the watermarks, the stream count,
    the heads of the streams of observations and of rows. Whoever loses the put starts again from the first
    read. So an epoch never covers less than its predecessor, nor claims a watermark that it lacks.
    """

    def __init__(self, store: LogStore, bucket: str, clock: Clock) -> None:
        self._store = store
        self._bucket = bucket
        self._clock = clock
        self._unfinished: set[tuple[str, int, int]] = set()

    async def cut(self, *, patient: bool = False) -> Epoch:
        """Cut an epoch if there is anything new, and return the newest.

        An entry without DONE is completed here, as its writer may be dead. A `patient` cutter stops short
        of one when it meets it for the first time, so as not to repeat the work of a living writer, and
        then keeps the last epoch's watermarks, if the entry is one of observations.
        """
        while True:
            last = await self._store.newest_epoch(self._bucket)
            watermarks = await self._store.watermarks(self._bucket)
            streams = await self._store.streams(self._bucket)
            before, rows_before = (dict(last.cover), dict(last.rows)) if last else ({}, {})
            (cover, whole), (rows, _) = await asyncio.gather(
                self._covered(self._bucket, before, streams, patient=patient),
                self._covered(metadata_log(self._bucket), rows_before, streams, patient=patient),
            )
            rows = {stream: to for stream, to in rows.items() if to}
            if not whole:
                watermarks = last.watermarks if last else _of_no_entries(watermarks)
            if last and (cover, rows) == (before, rows_before) and watermarks == last.watermarks:
                return last
            now = self._clock()
            epoch = Epoch(
                number=last.number + 1 if last else 1,
                time=max(now, last.time + 1) if last else now,
                cover=cover,
                watermarks=watermarks,
                rows=rows,
            )
            if await self._store.put_epoch(self._bucket, epoch):
                return epoch

    async def _covered(
        self, log: str, before: Mapping[int, int], streams: int, *, patient: bool
    ) -> tuple[dict[int, int], bool]:
        """How far each stream of a log may be covered, and whether that is all of all of them."""
        numbers = sorted(before.keys() | set(range(streams)))
        reached = await asyncio.gather(
            *(self._reach(log, stream, before.get(stream, 0), patient=patient) for stream in numbers)
        )
        cover = {stream: to for stream, (to, _) in zip(numbers, reached, strict=True)}
        return cover, all(whole for _, whole in reached)

    async def _reach(self, log: str, stream: int, covered: int, *, patient: bool) -> tuple[int, bool]:
        """How far the stream's DONE entries reach without a gap, and whether that is all of it."""
        head = await self._store.head(log, stream)
        if head == covered:
            return covered, True
        done = await self._store.done(log, stream, covered, head)
        for number in range(covered + 1, head + 1):
            if number in done:
                continue
            if patient and (log, stream, number) not in self._unfinished:
                self._unfinished.add((log, stream, number))
                return number - 1, False
            await self._complete(log, stream, number)
            self._unfinished.discard((log, stream, number))
        return head, True

    async def _complete(self, log: str, stream: int, number: int) -> None:
        entry = await self._store.get_entry(log, stream, number)
        if entry is None:
            raise LogDamaged(f"Entry {number} of stream {stream} of bucket {log} is missing.")
        if entry.form == "metadata":
            await forget_until_none_is_new(self._store, self._bucket, entry, Forgotten())
        await complete(self._store, entry)


def _of_no_entries(marks: Watermarks) -> Watermarks:
    """What watermarks say of the bucket itself, whatever of its log is covered."""
    return replace(marks, caught_up=None, verified={}, baseline_ended=None)
