"""Forgetting in narrowed views: conditions over identifying columns go; rows, digests and counts stay.

Which go: those of narrowed views that hold a forgotten object, or all there are. Which patient a condition
names cannot be told from what it gave: `PatientID <> '4711'` gives all others.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

import pyarrow.compute as pc

from snapengine.archive.roots import Root
from snapengine.archiving.leasing import Renew
from snapengine.archiving.selected_files import listed, put_list
from snapengine.buckets.tools import Tools
from snapengine.errors import LogDamaged, NoSuchSelection
from snapengine.forgotten import Forgotten
from snapengine.ports import LogStore
from snapengine.selections import QUERIES, kept_chunks, selection_log, selections_log

_LAST: Final = 10**12 - 1
"""No entry has a greater number: of an identifying part the entry may never come."""


@dataclass(slots=True)
class ConditionsForgotten:
    """What was taken out, or would be."""

    selections: int = 0
    """Narrowed views that lost a condition."""
    conditions: int = 0
    """Texts, each once, in the table and in the archive."""
    every: bool = False
    """All of the bucket's were asked for."""


class ConditionsForgetting:
    """One pass over a bucket's narrowed views; with `apply` false it only counts.

    In the archive it takes texts out of the list: the files that it names no more are for who sweeps.
    """

    def __init__(
        self,
        tools: Tools,
        log: LogStore,
        bucket: str,
        root: Root | None,
        forgotten: Forgotten,
        renew: Renew,
        *,
        apply: bool,
        every: bool,
    ) -> None:
        self._tools = tools
        self._log = log
        self._bucket = bucket
        self._root = root
        self._forgotten = forgotten
        self._renew = renew
        self._apply = apply
        self._every = every

    async def run(self) -> ConditionsForgotten:
        """Raises `IdentifyingRefused` without the right to identifying columns, `LogDamaged`,
        `ArchiveDamaged`, and what the store and the root raise. It may always be called again."""
        done = ConditionsForgotten(every=self._every)
        known = (await asyncio.to_thread(listed, self._root, self._bucket) if self._root else None) or {}
        before = dict(known)
        told = await self._told()
        for name in dict.fromkeys([*told, *known]):
            self._renew()
            parts = await asyncio.to_thread(self._parts, name)
            archived = known[name].identifying if name in known else ()
            nonces = {nonce for _, nonce in parts} | set(archived)
            if not nonces or not (self._every or await asyncio.to_thread(self._holds, name)):
                continue
            done.selections += 1
            done.conditions += len(nonces)
            if self._apply:
                for number, nonce in parts:
                    log = selection_log(self._bucket, name)
                    await self._log.delete_identifying(log, QUERIES, number, nonce)
                if archived:
                    known[name] = replace(known[name], identifying=())
        if self._root is not None and known != before:
            await asyncio.to_thread(put_list, self._root, self._bucket, known)
        return done

    async def _told(self) -> list[str]:
        log = selections_log(self._bucket)
        head = await self._log.head(log, 0)
        entries = self._tools.store.entries(log, 0, 0, head)
        return await asyncio.to_thread(lambda: [entry.payload.decode() for entry in entries])

    def _parts(self, name: str) -> list[tuple[int, str]]:
        """Those that are nobody's too: of a writer who lost the race for a number."""
        parts = self._tools.store.identifying(selection_log(self._bucket, name), QUERIES, 0, _LAST)
        return [(number, nonce) for number, nonce, _ in parts]

    def _holds(self, name: str) -> bool:
        """Whether a forgotten object is in it. Of what cannot be read it is taken for granted."""
        if not self._forgotten.units:
            return False
        try:
            pieces = kept_chunks(self._tools.store, self._bucket, name, f"sha256:{name}")
            return any(pc.any(self._forgotten.mask(piece)).as_py() for piece in pieces)
        except (NoSuchSelection, LogDamaged):
            return True
