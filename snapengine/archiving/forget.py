"""Forgetting: rows of metadata of given objects leave the table, the archive and this machine, for good.

What is to be forgotten is told first (`snapengine.forgotten`): from then on nobody writes such rows. Then
they are taken out of the log, out of the archive, and of what is left beside both. How far that is, is known
from the manifests and from one number, so that a run that was stopped is gone on with by the next one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from snapengine.archive.roots import Root
from snapengine.archiving import paths
from snapengine.archiving.forget_conditions import ConditionsForgetting, ConditionsForgotten
from snapengine.archiving.forget_files import FilesForgetting, FilesForgotten, Near
from snapengine.archiving.forget_log import LogForgetting, LogForgotten
from snapengine.archiving.forget_places import PlacesForgotten, clear_here, clear_tensors, sweep_now
from snapengine.archiving.leasing import Renew, at_work
from snapengine.archiving.registry import claim
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, BucketNotEnabled, Busy, SchemaTooNew
from snapengine.forgotten import FORMAT, UNITS_AT_ONCE, Forgotten, put_back, read_forgotten, tell
from snapengine.ports import LogStore

TASK: Final = "forget"
WAIT: Final = 300.0
"""Seconds for which an archiver at work is waited for."""
_AGAIN: Final = 1.0

Show = Callable[[str], None]
"""Told what is being gone through."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be forgotten."""

    units: Collection[str]
    """See `snapengine.forgotten`."""
    near: Near | None = None
    """The same in clear, if it is known."""
    conditions: bool = False
    """And every condition over identifying columns that is kept with a narrowed view."""


@dataclass(slots=True)
class Done:
    """What a run did, or without `applied` what it would do."""

    bucket: str
    applied: bool
    forgotten: Forgotten
    log: LogForgotten = field(default_factory=LogForgotten)
    conditions: ConditionsForgotten = field(default_factory=ConditionsForgotten)
    archive: FilesForgotten = field(default_factory=FilesForgotten)
    places: PlacesForgotten = field(default_factory=PlacesForgotten)
    root: str | None = None
    """Of the archive; None where there is none."""


async def count(tools: ArchiveTools, bucket: str, asked: Asked) -> Done:
    """What forgetting would take out; nothing is changed."""
    root = await asyncio.to_thread(_place, tools, bucket)
    forgotten = Forgotten(1, frozenset(asked.units))
    done = Done(bucket, applied=False, forgotten=forgotten, root=root.url if root else None)
    async with tools.log() as log:
        done.log = await LogForgetting(tools, log, bucket, forgotten, _go_on, apply=False).run()
        conditions = ConditionsForgetting(
            tools, log, bucket, root, forgotten, _go_on, apply=False, every=asked.conditions
        )
        done.conditions = await conditions.run()
    if root is not None:
        files = FilesForgetting(tools.store, root, bucket, forgotten, _go_on, apply=False, near=asked.near)
        done.archive = await asyncio.to_thread(files.run)
    await asyncio.to_thread(clear_tensors, tools.settings, bucket, forgotten, done.places, apply=False)
    return done


async def clear_this_machine(tools: ArchiveTools, bucket: str) -> Done:
    """Delete what this machine still keeps of what was ever forgotten; nothing else is changed, and only
    reading the table is needed."""
    await asyncio.to_thread(_place, tools, bucket)
    async with tools.log() as log:
        done = Done(bucket, applied=True, forgotten=await read_forgotten(log, bucket))
    await asyncio.to_thread(_clear_here, tools, done)
    return done


def _clear_here(tools: ArchiveTools, done: Done) -> None:
    clear_here(tools, done.places)
    clear_tensors(tools.settings, done.bucket, done.forgotten, done.places, apply=True)


async def forget(
    tools: ArchiveTools, bucket: str, asked: Asked | None, *, show: Show = lambda _: None, wait: float = WAIT
) -> Done:
    """Forget; with None only finish what was begun: take out what was ever told and is still to be found.

    Raises `BucketNotEnabled`, `Refused` (`IdentifyingRefused` too, `Busy` if an archiver is at work for
    longer than `wait` seconds), `LogDamaged`, `ArchiveDamaged`, and what the store and the root raise.
    Whatever it raises, what was told stays told; it may always be called again.
    """
    root = await asyncio.to_thread(_place, tools, bucket)
    async with tools.log() as log:
        before = await _with_the_archives(tools, log, bucket, root)
        forgotten = before
        if asked is not None:
            forgotten = await tell(log, bucket, "forget", asked.units, tools.clock)
        show("waiting for the archiver")
        async with _at_work(tools, bucket, wait) as renew:
            run = _Run(tools, log, bucket, root, forgotten, renew, show)
            every = asked is not None and asked.conditions
            near = asked.near if asked and _alone(asked.units, before, forgotten) else None
            return await run.all(near, before.number, every=every)


def _alone(units: Collection[str], before: Forgotten, now: Forgotten) -> bool:
    """Whether nothing was told in between but these: what another told may be anywhere."""
    new = len(set(units) - before.units)
    return now.number == before.number + -(-new // UNITS_AT_ONCE)


async def allow_again(tools: ArchiveTools, bucket: str, units: Collection[str]) -> Forgotten:
    """Have rows of these be kept again from now on; none comes back by itself. What is forgotten then."""
    root = await asyncio.to_thread(_place, tools, bucket)
    async with tools.log() as log:
        before = await _with_the_archives(tools, log, bucket, root)
        forgotten = await tell(log, bucket, "allow", units, tools.clock)
    if root is not None:
        await asyncio.to_thread(_keep_copy, root, bucket, forgotten)
    if await asyncio.to_thread(_is_whole, tools, bucket, before):  # it still is
        await asyncio.to_thread(_note_whole, tools, bucket, forgotten)
    return forgotten


async def finish_forgetting(tools: ArchiveTools, root: Root, bucket: str, renew: Renew) -> None:
    """For an archiver, which has the lease: go through what is not known to be free of what was forgotten."""
    async with tools.log() as log:
        forgotten = await read_forgotten(log, bucket)
        if not forgotten.number:
            return
        run = _Run(tools, log, bucket, root, forgotten, renew, lambda _: None)
        whole = await asyncio.to_thread(_is_whole, tools, bucket, forgotten)
        if whole:
            files = FilesForgetting(tools.store, root, bucket, forgotten, renew, apply=True)
            # What the archive took in after all came out of the log: see `forget_if_allowed`.
            whole = not (await asyncio.to_thread(files.run)).manifests
        if not whole:
            await run.all(None, 0)


def _place(tools: ArchiveTools, bucket: str) -> Root | None:
    config = tools.store.config(bucket)
    if config is None:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    return tools.root(config.archive) if config.archive is not None else None


def _go_on() -> None:
    pass


@asynccontextmanager
async def _at_work(tools: ArchiveTools, bucket: str, wait: float) -> AsyncIterator[Renew]:
    """The archiver's lease, once it is free."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait
    async with AsyncExitStack() as stack:
        while True:
            try:
                renew = await stack.enter_async_context(at_work(tools, bucket))
                break
            except Busy:
                if loop.time() + _AGAIN > until:
                    raise
            await asyncio.sleep(_AGAIN)
        yield renew


class _Run:
    def __init__(
        self,
        tools: ArchiveTools,
        log: LogStore,
        bucket: str,
        root: Root | None,
        forgotten: Forgotten,
        renew: Renew,
        show: Show,
    ) -> None:
        self._tools = tools
        self._log = log
        self._bucket = bucket
        self._root = root
        self._forgotten = forgotten
        self._renew = renew
        self._show = show

    async def all(self, near: Near | None, since: int, *, every: bool = False) -> Done:
        """Every step, in order; `near` is what was forgotten after number `since`. With `every` all
        conditions over identifying columns go."""
        tools, root, bucket = self._tools, self._root, self._bucket
        done = Done(bucket, applied=True, forgotten=self._forgotten, root=root.url if root else None)
        if root is not None:
            await asyncio.to_thread(claim, tools.store, root, bucket, tools.archive(bucket).last_epoch)
            await asyncio.to_thread(_keep_copy, root, bucket, self._forgotten)
        self._show("the log")
        passing = LogForgetting(tools, self._log, bucket, self._forgotten, self._renew, apply=True)
        done.log = await passing.run()
        self._show("conditions of narrowed views")
        conditions = ConditionsForgetting(
            tools, self._log, bucket, root, self._forgotten, self._renew, apply=True, every=every
        )
        done.conditions = await conditions.run()
        if root is not None:
            self._show("the archive")
            files = FilesForgetting(
                tools.store, root, bucket, self._forgotten, self._renew, apply=True, near=near, since=since
            )
            done.archive = await asyncio.to_thread(files.run)
            self._show("what is left of old files")
            done.places = await asyncio.to_thread(sweep_now, tools, root, bucket, self._renew)
        await passing.once_more()
        self._show("this machine")
        await asyncio.to_thread(_clear_here, tools, done)
        self._show("the table's own files")
        done.places.remains += await asyncio.to_thread(tools.store.scrub)
        await asyncio.to_thread(_note_whole, tools, bucket, self._forgotten)
        return done


def _is_whole(tools: ArchiveTools, bucket: str, forgotten: Forgotten) -> bool:
    """Whether a run has come to its end since anything was told."""
    saved = tools.store.progress(bucket, TASK)
    return saved is not None and int(saved["whole"]) >= forgotten.number


def _note_whole(tools: ArchiveTools, bucket: str, forgotten: Forgotten) -> None:
    tools.store.save_progress(bucket, TASK, {"whole": forgotten.number})


# The archive's copy of what is forgotten, for the day the table is lost


def _keep_copy(root: Root, bucket: str, forgotten: Forgotten) -> None:
    body = {"format": FORMAT, "number": forgotten.number, "units": sorted(forgotten.units)}
    root.put_bytes(paths.forgotten(bucket), json.dumps(body, indent=1).encode())


def read_copy(root: Root, bucket: str) -> Forgotten:
    """What the archive says was forgotten. Raises `ArchiveDamaged`, `SchemaTooNew`."""
    name = f"{root.url}/{paths.forgotten(bucket)}"
    try:
        body: dict[str, Any] = json.loads(root.read(paths.forgotten(bucket)))
        if body["format"] > FORMAT:
            raise SchemaTooNew(
                f"{name} has format {body['format']}; this snapengine reads {FORMAT}. Upgrade it."
            )
        return Forgotten(int(body["number"]), frozenset(map(str, body["units"])))
    except ArchiveFileMissing:
        return Forgotten()
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveDamaged(f"{name} cannot be read: {error!r}. Restore it from a copy.") from error


async def _with_the_archives(tools: ArchiveTools, log: LogStore, bucket: str, root: Root | None) -> Forgotten:
    """What is forgotten; what only the archive still knows (the table came from a backup) is told anew."""
    known = await read_forgotten(log, bucket)
    if root is None:
        return known
    copy = await asyncio.to_thread(read_copy, root, bucket)
    if copy.number <= known.number:
        return known
    if not known.number:
        await put_back(log, bucket, copy, tools.clock())
        return await read_forgotten(log, bucket)
    return await tell(log, bucket, "forget", copy.units, tools.clock)


async def restore_forgotten(tools: ArchiveTools, log: LogStore, root: Root, bucket: str) -> None:
    """For a table that is being rebuilt. Safe to repeat."""
    copy = await asyncio.to_thread(read_copy, root, bucket)
    if copy.number:
        await put_back(log, bucket, copy, tools.clock())
