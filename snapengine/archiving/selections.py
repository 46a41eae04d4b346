"""Narrowed views in the archive: copied from the table, and back into one that was lost.

The table tells of its selections in order, and how far that was gone through is kept as progress. What was
first seen lately is looked at again, as whoever told of it may not have put it yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import pyarrow as pa

from snapengine.archive.roots import Root
from snapengine.archiving import paths, selected_files
from snapengine.archiving.leasing import Renew
from snapengine.archiving.selected_files import Selected
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import ArchiveDamaged, LogDamaged, NoSuchSelection
from snapengine.ports import LogStore
from snapengine.selections import (
    QUERIES,
    WHOLE,
    chosen_from,
    keep_chunks,
    kept_chunks,
    put_note,
    selection_log,
    selections_log,
)

TASK: Final = "selections"
SETTLED_MS: Final = 3_600_000
"""Whoever had told of a selection so long ago has put it, or will tell of it again."""
GIVEN_UP_MS: Final = 24 * 3_600_000
"""The same of one without its last entry."""
_RENEWED_EVERY: Final = 256
"""Pieces."""
_logger = logging.getLogger(__name__)


async def archive_selections(tools: ArchiveTools, root: Root, bucket: str, renew: Renew) -> int:
    """For who has the lease: copy what the archive lacks of the bucket's selections; how many were new.

    Raises `LogDamaged`, `ArchiveDamaged`, `IdentifyingRefused`, and what the store and the root raise.
    """
    async with tools.log() as log:
        head = await log.head(selections_log(bucket), 0)
        if not head:
            return 0
        saved = await asyncio.to_thread(tools.store.progress, bucket, TASK)
        far = _Far(**{name: int(saved[name]) for name in _Far._fields}) if saved is not None else _Far()
        if far.settled >= head and await asyncio.to_thread(root.size, paths.selections(bucket)) is not None:
            return 0
        known = await asyncio.to_thread(selected_files.listed, root, bucket)
        if known is None:
            far, known = _Far(), {}
        return await _Copying(tools, log, root, bucket, renew, known).run(far, head)


class _Far(NamedTuple):
    """How far the archiver is with what it is told of."""

    settled: int = 0
    """Up to this entry nothing more can come."""
    seen: int = 0
    """Up to this one all were seen at `seen_at` (UTC milliseconds) or before."""
    seen_at: int = 0


class _Copying:
    def __init__(
        self,
        tools: ArchiveTools,
        log: LogStore,
        root: Root,
        bucket: str,
        renew: Renew,
        known: dict[str, Selected],
    ) -> None:
        self._tools = tools
        self._log = log
        self._root = root
        self._bucket = bucket
        self._renew = renew
        self._known = known

    async def run(self, far: _Far, head: int) -> int:
        told = await asyncio.to_thread(self._told, far.settled, head)
        before = dict(self._known)
        kept = {name: await self._selection(name) for name in dict.fromkeys(told)}
        if self._known != before or not before:
            await asyncio.to_thread(selected_files.put_list, self._root, self._bucket, self._known)
        now = self._tools.clock()
        whole = all(kept[name] for name in told[: far.seen - far.settled])
        if far.seen <= far.settled:
            far = _Far(far.settled, head, now)
        elif now - far.seen_at >= (SETTLED_MS if whole else GIVEN_UP_MS):
            far = _Far(far.seen, head, now)
        self._renew()
        await asyncio.to_thread(self._tools.store.save_progress, self._bucket, TASK, far._asdict())
        return len(self._known) - len(before)

    def _told(self, after: int, head: int) -> list[str]:
        entries = self._tools.store.entries(selections_log(self._bucket), 0, after, head)
        return [entry.payload.decode() for entry in entries]

    async def _selection(self, name: str) -> bool:
        """Whether it is in the archive now: what nobody ended keeping is not."""
        self._renew()
        one = self._known.get(name)
        if one is None:
            if await self._log.get_entry(selection_log(self._bucket, name), WHOLE, 1) is None:
                return False
            try:
                one = Selected(await asyncio.to_thread(self._copy_rows, name))
            except (NoSuchSelection, LogDamaged) as error:
                _logger.warning("A narrowed view of bucket %s is not archived: %s", self._bucket, error)
                return False
        self._known[name] = await self._conditions(name, one)
        return True

    def _copy_rows(self, name: str) -> int:
        with TemporaryDirectory(prefix="snapengine-") as folder:
            file = Path(folder) / "rows.parquet"
            pieces = kept_chunks(self._tools.store, self._bucket, name, f"sha256:{name}")
            rows = selected_files.write_rows(file, _renewing(pieces, self._renew))
            if not selected_files.is_whole(file, name):
                raise LogDamaged(f"What sha256:{name} selects is not what was kept: its digest is another.")
            self._renew()
            self._root.put(paths.selected_rows(self._bucket, name), file)
        return rows

    async def _conditions(self, name: str, one: Selected) -> Selected:
        log, bucket = selection_log(self._bucket, name), self._bucket
        head, put = await self._log.head(log, QUERIES), self._root.put_bytes
        entries = await asyncio.to_thread(lambda: list(self._tools.store.entries(log, QUERIES, 0, head)))
        for entry in entries:
            if entry.nonce in one.conditions:
                continue
            if chosen_from(entry.payload).identifying:
                text = await self._log.get_identifying(log, QUERIES, entry.number, entry.nonce)
                if text is not None:
                    path = paths.identifying_condition(bucket, name, entry.nonce)
                    await asyncio.to_thread(put, path, text)
                    one = replace(one, identifying=(*one.identifying, entry.nonce))
            await asyncio.to_thread(put, paths.condition(bucket, name, entry.nonce), entry.payload)
            one = replace(one, conditions=(*one.conditions, entry.nonce))
        return one


def _renewing(pieces: Iterable[pa.Table], renew: Renew) -> Iterator[pa.Table]:
    """They, while the lease is kept."""
    for number, piece in enumerate(pieces):
        if number % _RENEWED_EVERY == 0:
            renew()
        yield piece


# Back again


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back."""

    selections: int
    remarks: tuple[str, ...]
    """What did not, in words."""


async def restore_selections(
    tools: ArchiveTools, log: LogStore, root: Root, bucket: str, renew: Renew
) -> Restored:
    """For a table that is being rebuilt: put back what the archive has of narrowed views. Safe to repeat.

    What is missing or damaged is told of, and the others come back.
    """
    try:
        known = await asyncio.to_thread(selected_files.listed, root, bucket)
    except ArchiveDamaged as error:
        return Restored(0, (f"No narrowed view is there again: {error}",))
    if known is None:
        known = await asyncio.to_thread(selected_files.by_name, root, bucket)
    remarks: list[str] = []
    restored = 0
    for name, one in known.items():
        steps: list[Callable[[], Awaitable[None]]] = [
            partial(_restore_rows, tools, log, root, bucket, name, renew),
            *(
                partial(_restore_condition, tools, log, root, bucket, name, n, text=n in one.identifying)
                for n in one.conditions
            ),
        ]
        for place, step in enumerate(steps):
            renew()
            try:
                await step()
                restored += place == 0
            except ArchiveDamaged as error:
                what = "narrowed view" if place == 0 else "condition of the narrowed view"
                remarks.append(f"A {what} ?select=sha256:{name} is not there again: {error}")
    return Restored(restored, tuple(remarks))


async def _restore_rows(
    tools: ArchiveTools, log: LogStore, root: Root, bucket: str, name: str, renew: Renew
) -> None:
    with TemporaryDirectory(prefix="snapengine-") as folder:
        file = Path(folder) / "rows.parquet"
        await asyncio.to_thread(selected_files.fetch_rows, root, bucket, name, file)
        pieces = _renewing(selected_files.read_pieces(file), renew)
        await keep_chunks(log, bucket, name, pieces, tools.clock)


async def _restore_condition(
    tools: ArchiveTools, log: LogStore, root: Root, bucket: str, name: str, nonce: str, *, text: bool
) -> None:
    fetch = selected_files.fetch_condition
    chosen, _ = await asyncio.to_thread(lambda: fetch(root, bucket, name, nonce, text=text))
    await put_note(log, bucket, name, chosen, nonce, tools.clock)


# Checked


def check_selections(tools: ArchiveTools, root: Root, bucket: str) -> tuple[int, int, dict[str, str]]:
    """Files, bytes, and by path what is not as it was written."""
    damaged: dict[str, str] = {}
    files, read = 0, 0
    try:
        known = selected_files.listed(root, bucket)
    except ArchiveDamaged as error:
        return 1, 0, {paths.selections(bucket): str(error)}
    if known is None:
        if tools.store.progress(bucket, TASK) is not None:
            damaged[paths.selections(bucket)] = (
                f"{root.url}/{paths.selections(bucket)}, a file of the archive, is missing. The next round "
                f"of `snapengine archive {bucket}` makes it again."
            )
        return 0, 0, damaged
    for name, one in known.items():
        calls = {paths.selected_rows(bucket, name): partial(_rows_size, root, bucket, name)}
        for nonce in one.conditions:
            calls[paths.condition(bucket, name, nonce)] = partial(
                _condition_size, root, bucket, name, nonce, text=nonce in one.identifying
            )
        for path, call in calls.items():
            files += 1
            try:
                read += call()
            except ArchiveDamaged as error:
                damaged[path] = str(error)
    return files, read, damaged


def _rows_size(root: Root, bucket: str, name: str) -> int:
    with TemporaryDirectory(prefix="snapengine-") as folder:
        return selected_files.fetch_rows(root, bucket, name, Path(folder) / "rows.parquet")


def _condition_size(root: Root, bucket: str, name: str, nonce: str, *, text: bool) -> int:
    return selected_files.fetch_condition(root, bucket, name, nonce, text=text)[1]
