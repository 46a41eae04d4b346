"""Letting go: what the archive has for certain leaves the table, of days that are long past.

In this order, each step repeatable: the segments' files are read back; their manifests say that items may be
missing; the by-key items are given a day to leave; a day later the log's payloads become stubs, those of the
metadata log too, whose identifying parts are deleted first. How far it is, is kept as an epoch: it does not
depend on which segments hold what.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from operator import attrgetter
from typing import Literal, TypeVar

from snapengine.archive.manifest import Archive, Segment, archive_of, from_json, to_json
from snapengine.archive.planning import KeyRange, tile
from snapengine.archive.roots import Root
from snapengine.archiving.leasing import Renew
from snapengine.archiving.tail import Tail
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import Busy, LogDamaged
from snapengine.metadata_rows import metadata_log
from snapengine.model import Epoch, LogEntry
from snapengine.observation_codec import decode
from snapengine.ports import LogStore, Registry

T = TypeVar("T")
TASK = "let-go"
DAY_MS = 24 * 3_600_000
LEAVE_MS = DAY_MS
"""From when a manifest says so until anything leaves: whoever reads manifests remembers them for a minute."""
_MARK_MS = 3_600_000
_AT_ONCE = 16
_REMEMBERED = 1000
"""Segments that were read back: more than stand, once they are put together."""
_ALL = KeyRange("", None)
_NO_EPOCH = Epoch(number=0, time=0, cover={})


@dataclass(slots=True)
class LetGo:
    """What a round did."""

    entries: int = 0
    """Whose by-key items were given their time."""
    observations: int = 0
    stubs: int = 0
    """Entries of the log whose payloads were taken out."""


@dataclass(slots=True)
class _State:
    """How far it is: saved, and gone on with by the next round."""

    gone: int = 0
    """By-key items of what this epoch covers have been given their time."""
    stubbed: int = 0
    """Entries that this epoch covers are stubs."""
    rows_stubbed: int = 0
    """So are entries of the metadata log, and their identifying parts are gone."""
    marks: list[tuple[int, int]] = field(default_factory=list)
    """Epochs, and when all that they cover had been given its time."""
    checked: dict[str, str] = field(default_factory=dict)
    """Segments that were read back, with a hash of what they were."""


def mark_what_left(tools: ArchiveTools, root: Root, bucket: str, renew: Renew = lambda: None) -> None:
    """For who has the lease: have every segment that holds what was let go say so. One that somebody made
    meanwhile of older ones, without the lease, may not."""
    _LettingGo(tools, root, bucket, renew).mark_again()


async def let_go(
    tools: ArchiveTools, root: Root, bucket: str, keep_days: int, renew: Renew = lambda: None
) -> LetGo:
    """One round, for who has the lease: what was recorded more than `keep_days` days ago, and is archived.

    Raises `ArchiveDamaged` if the archive is not whole: then nothing more leaves. `Busy` if somebody else
    changes manifests meanwhile. It may always be called again.
    """
    if keep_days < 1:
        raise ValueError(f"keep_days={keep_days}: it must be 1 or more")
    run = _LettingGo(tools, root, bucket, renew)
    return await run.round(tools.clock() - keep_days * DAY_MS)


class _LettingGo:
    def __init__(self, tools: ArchiveTools, root: Root, bucket: str, renew: Renew) -> None:
        self._tools = tools
        self._store = tools.store
        self._root = root
        self._bucket = bucket
        self._renew = renew
        self._done = LetGo()
        self._state = _State()

    async def round(self, before: int) -> LetGo:
        """`before`: the time of epochs that may go, UTC milliseconds."""
        self._state = state = await asyncio.to_thread(self._saved)
        archive = self._tools.archive(self._bucket)
        to = max((s.last for s in archive.segments if s.last_time <= before), default=0)
        if to > state.gone:
            await asyncio.to_thread(self._mark, to)
            async with self._tools.log() as log:
                await self._give_time(log, state.gone, to)
        due = self._tools.clock() - LEAVE_MS
        ripe = max((epoch for epoch, time in state.marks if time <= due), default=0)
        if ripe > min(state.stubbed, state.rows_stubbed):
            # Read back once more: what becomes a stub is in the archive alone from then on.
            await asyncio.to_thread(self._mark, ripe, phase="stub ")
            async with self._tools.log() as log:
                await self._stub_rows(log, state.rows_stubbed, ripe)
                await self._stub(log, state.stubbed, ripe)
        return self._done

    def mark_again(self) -> None:
        self._state = self._saved()
        if self._state.gone:
            self._mark(self._state.gone, check=False)

    # Segments

    def _mark(self, to: int, *, check: bool = True, phase: str = "") -> None:
        """Have every segment say that items of it may be missing, once it has been read back."""
        now = self._tools.clock()
        bodies = {from_json(body).name: body for body in self._store.manifests(self._bucket)}
        archive = archive_of([from_json(body) for body in bodies.values()])
        if check:
            done = min(self._state.stubbed, self._state.rows_stubbed)
            self._check([s for s in archive.segments if s.first <= to and s.last > done], phase)
        for segment in [s for s in archive.segments if s.first <= to and s.leaving_since is None]:
            self._renew()
            if not self._store.put_manifest(
                self._bucket,
                segment.name,
                to_json(replace(segment, leaving_since=now)),
                replacing=bodies[segment.name],
            ):
                raise self._changed()
        self._sure(self._tools.archive(self._bucket), to)

    def _check(self, segments: Sequence[Segment], phase: str) -> None:
        """Read back those that were not yet, in this phase. Raises `ArchiveDamaged`."""
        state = self._state
        reader = self._tools.reader(self._root.url)
        for segment in segments:
            if state.checked.get(phase + segment.name) == _proof(segment):
                continue
            for file in segment.files:
                self._renew()
                reader.check(file)
            state.checked[phase + segment.name] = _proof(segment)
            self._save()

    def _sure(self, archive: Archive, to: int) -> None:
        """Raises unless the standing segments hold all epochs up to `to`, and say so."""
        parts = tile(archive.segments, 0, to, _ALL)
        if not all(part.leaving for part in parts):
            raise self._changed()

    def _changed(self) -> Busy:
        return Busy(
            f"Another process has changed the archive of bucket {self._bucket} meanwhile. Nothing is lost: "
            "run `snapengine archive` again to go on."
        )

    # Entries

    async def _give_time(self, log: LogStore, after: int, to: int) -> None:
        async def give(entry: LogEntry) -> None:
            if entry.form != "rows":
                return  # files never had items, a stub's have been given their time
            rows = await asyncio.to_thread(decode, entry.payload)
            expires_at = self._tools.clock() + LEAVE_MS
            await log.let_go(self._bucket, entry.stream, entry.number, rows, expires_at)
            self._done.entries += 1
            self._done.observations += entry.count

        await self._each(after, to, give, "gone")
        state, now = self._state, self._tools.clock()
        if not state.marks or now - state.marks[-1][1] >= _MARK_MS:
            state.marks.append((to, now))
        await asyncio.to_thread(self._save)

    async def _stub(self, log: LogStore, after: int, to: int) -> None:
        async def stub(entry: LogEntry) -> None:
            if entry.form != "stub":
                await log.stub_entry(self._bucket, entry.stream, entry.number)
                self._done.stubs += 1

        await self._each(after, to, stub, "stubbed")
        self._state.marks = [mark for mark in self._state.marks if mark[0] > to]
        await asyncio.to_thread(self._save)

    async def _stub_rows(self, log: LogStore, after: int, to: int) -> None:
        async def stub(entry: LogEntry) -> None:
            if entry.form != "stub":
                await log.stub_entry(entry.bucket, entry.stream, entry.number)
                self._done.stubs += 1

        await self._delete_identifying(log, self._epoch(after), self._epoch(to))
        await self._each(after, to, stub, "rows_stubbed")
        await asyncio.to_thread(self._save)

    async def _delete_identifying(self, log: LogStore, after: Epoch, to: Epoch) -> None:
        """Those of archived entries, and with them what is nobody's."""
        for stream, last in sorted(to.rows.items()):
            parts = self._store.identifying(self._bucket, stream, after.rows.get(stream, 0), last)
            numbers = ((number, nonce) for number, nonce, _ in parts)
            while batch := await asyncio.to_thread(_some, numbers):
                self._renew()
                await _all_of(log.delete_identifying(self._bucket, stream, *part) for part in batch)

    async def _each(
        self,
        after: int,
        to: int,
        do: Callable[[LogEntry], Awaitable[None]],
        name: Literal["gone", "stubbed", "rows_stubbed"],
    ) -> None:
        """`do` for all entries of the epochs `(after, to]`, some at a time; saves how far that is."""
        entries = await asyncio.to_thread(self._entries, after, to, rows=name == "rows_stubbed")
        while batch := await asyncio.to_thread(_some, entries):
            self._renew()
            await _all_of(do(entry) for _, entry in batch)
            whole = batch[-1][0]
            if whole > getattr(self._state, name):
                setattr(self._state, name, whole)
                await asyncio.to_thread(self._save)
        setattr(self._state, name, to)

    def _entries(self, after: int, to: int, *, rows: bool) -> Iterator[tuple[int, LogEntry]]:
        """In order, each with the epoch before its own: of its own there may be more. `rows`: those of the
        metadata log."""
        before, last = self._epoch(after), self._epoch(to)
        if rows:
            tail = Tail(self._store, metadata_log(self._bucket), before.rows, last, attrgetter("rows"))
        else:
            tail = Tail(self._store, self._bucket, before.cover, last)
        whole = after
        for epoch in self._store.epochs(self._bucket, after + 1, to):
            for entry in tail.entries(epoch):
                yield whole, entry
            whole = epoch.number

    def _epoch(self, number: int) -> Epoch:
        found = next(self._store.epochs(self._bucket, number, number), None) if number else _NO_EPOCH
        if found is None:
            raise LogDamaged(f"Epoch {number:,} of bucket {self._bucket} is missing.")
        return found

    # State

    def _saved(self) -> _State:
        saved = self._store.progress(self._bucket, TASK)
        if saved is None:
            return _State()
        return _State(
            gone=int(saved["gone"]),
            stubbed=int(saved["stubbed"]),
            rows_stubbed=int(saved.get("rows_stubbed", 0)),
            marks=[(epoch, time) for epoch, time in json.loads(str(saved["marks"]))],
            checked=json.loads(str(saved["checked"])),
        )

    def _save(self) -> None:
        state = self._state
        checked = dict(list(state.checked.items())[-_REMEMBERED:])
        self._store.save_progress(
            self._bucket,
            TASK,
            {
                "gone": state.gone,
                "stubbed": state.stubbed,
                "rows_stubbed": state.rows_stubbed,
                "marks": json.dumps(state.marks),
                "checked": json.dumps(checked),
            },
        )


def begin_after(store: Registry, bucket: str, epoch: int) -> None:
    """Say that the table has nothing to let go of what `epoch` covers: of one that was built anew."""
    none: dict[str, str | int] = {"gone": epoch, "stubbed": epoch, "rows_stubbed": epoch}
    store.save_progress(bucket, TASK, {**none, "marks": "[]", "checked": "{}"})


def _some(of: Iterator[T]) -> list[T]:
    return list(islice(of, _AT_ONCE))


async def _all_of(steps: Iterable[Awaitable[None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(_run(step))
    except ExceptionGroup as failed:  # one step's failure stops the others; one error tells it
        raise failed.exceptions[0] from failed


async def _run(what: Awaitable[None]) -> None:
    await what


def _proof(segment: Segment) -> str:
    return blake2b("".join(f.sha256 for f in segment.files).encode(), digest_size=8).hexdigest()
