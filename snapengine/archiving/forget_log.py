"""Forgetting in the log of rows: entries and identifying parts are written anew without forgotten rows.

Numbers, nonces and DONE marks stay, so every epoch covers what it covered, but for those rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import pyarrow.compute as pc

from snapengine.archiving.leasing import Renew
from snapengine.buckets.tools import Tools
from snapengine.forgotten import Forgotten, forget_in_entry
from snapengine.metadata_codec import decode, without
from snapengine.metadata_rows import metadata_log
from snapengine.model import LogEntry
from snapengine.ports import LogStore

_AT_ONCE: Final = 16
_LAST: Final = 10**12 - 1
"""No entry has a greater number: of an identifying part the entry may still be to come, or never."""


@dataclass(slots=True)
class LogForgotten:
    """What was taken out of the log of rows, or would be."""

    rows: int = 0
    """Of entries, each once, however many parts it has."""
    entries: int = 0
    parts: int = 0
    """Identifying ones."""


class LogForgetting:
    """One pass over all streams of a bucket's log of rows; with `apply` false it only counts."""

    def __init__(
        self, tools: Tools, log: LogStore, bucket: str, forgotten: Forgotten, renew: Renew, *, apply: bool
    ) -> None:
        self._tools = tools
        self._log = log
        self._bucket = bucket
        self._rows = metadata_log(bucket)
        self._forgotten = forgotten
        self._renew = renew
        self._apply = apply
        self._done = LogForgotten()
        self._heads: dict[int, int] = {}
        """By stream the last entry that has been gone through."""

    async def run(self) -> LogForgotten:
        """Raises `IdentifyingRefused` without the right to those columns, `LogDamaged`, and what the store
        raises. It may always be called again."""
        epoch = await asyncio.to_thread(self._tools.store.newest_epoch, self._bucket)
        streams = {*range(await self._log.streams(self._bucket)), *(epoch.rows if epoch else ())}
        for stream in sorted(streams):
            await self._stream(stream, 0)
        return self._done

    async def once_more(self) -> None:
        """What was put since, by a writer who had looked before anything was told: of one that died in
        between an identifying part may be left, which is nobody's."""
        for stream, gone_through in sorted(self._heads.items()):
            await self._stream(stream, gone_through)

    async def _stream(self, stream: int, after: int) -> None:
        head = await self._log.head(self._rows, stream)
        # Parts first: an entry whose rows are gone would no longer say that its part has them.
        await self._parts(stream, after)
        await self._entries(stream, after, head)
        self._heads[stream] = head

    async def _parts(self, stream: int, after: int) -> None:
        parts = iter(self._tools.store.identifying(self._bucket, stream, after, _LAST))

        async def forget(part: tuple[int, str, bytes]) -> None:
            number, nonce, payload = part
            found = decode(payload).table
            if not pc.any(self._forgotten.mask(found)).as_py():
                return
            self._done.parts += 1
            if self._apply:
                left, _ = without(payload, self._forgotten.mask)
                await self._log.put_identifying(self._bucket, stream, number, nonce, left, replacing=True)

        while some := await asyncio.to_thread(lambda: list(islice(parts, _AT_ONCE))):
            await self._together([forget(part) for part in some])

    async def _entries(self, stream: int, after: int, head: int) -> None:
        if not after:
            after = await self._first(stream, head) - 1
        entries = iter(self._tools.store.entries(self._rows, stream, after, head))

        async def forget(entry: LogEntry) -> None:
            if entry.form != "metadata":
                return  # a stub: the archive has its rows
            if self._apply:
                rows = await forget_in_entry(self._log, entry, self._forgotten, parts=False)
            else:
                rows = int(pc.sum(self._forgotten.mask(decode(entry.payload).table)).as_py() or 0)
            self._done.rows += rows
            self._done.entries += rows > 0

        while some := await asyncio.to_thread(lambda: list(islice(entries, _AT_ONCE))):
            await self._together([forget(entry) for entry in some])

    async def _together(self, calls: list[Awaitable[None]]) -> None:
        self._renew()
        tasks = [asyncio.ensure_future(call) for call in calls]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _first(self, stream: int, head: int) -> int:
        """The first entry that there is: a rebuilt table's log goes on behind what the archive has."""
        low, high = 0, head  # none up to `low` is known to be there; all from `high` on are
        present: Callable[[int], Awaitable[LogEntry | None]] = lambda n: self._log.get_entry(  # noqa: E731  # short
            self._rows, stream, n
        )
        if head and await present(1) is not None:
            return 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if await present(middle) is not None else (middle, high)
        return max(high, 1)
