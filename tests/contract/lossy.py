"""A store whose replies get lost and whose calls fail, as a script says; for tests of the log's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from snapengine.errors import Unreachable
from snapengine.model import LogEntry, Observation
from snapengine.ports import LogStore

Fault = str
"""`before`: the call fails and nothing happens. `after`: it happens and the reply is lost."""


class LossyStore:
    """Passes calls on to a store; a fault that is queued for a step strikes its next call."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._faults: dict[str, list[Fault]] = {}
        self._gates: dict[str, asyncio.Event] = {}

    def fail(self, step: str, *faults: Fault) -> None:
        self._faults.setdefault(step, []).extend(faults)

    async def put_entry(self, entry: LogEntry) -> bool:
        return bool(await self._call("put_entry", lambda: self._store.put_entry(entry)))

    async def put_by_key(
        self, bucket: str, stream: int, number: int, observations: Sequence[Observation]
    ) -> None:
        await self._call("put_by_key", lambda: self._store.put_by_key(bucket, stream, number, observations))

    async def mark_done(self, bucket: str, stream: int, number: int) -> None:
        await self._call("mark_done", lambda: self._store.mark_done(bucket, stream, number))

    async def put_listed(self, bucket: str, name: str, body: str) -> None:
        await self._call("put_listed", lambda: self._store.put_listed(bucket, name, body))

    async def let_go(
        self, bucket: str, stream: int, number: int, observations: Sequence[Observation], expires_at: int
    ) -> None:
        await self._call(
            "let_go", lambda: self._store.let_go(bucket, stream, number, observations, expires_at)
        )

    async def put_identifying(
        self, bucket: str, stream: int, number: int, nonce: str, payload: bytes, *, replacing: bool = False
    ) -> None:
        await self._call(
            "put_identifying",
            lambda: self._store.put_identifying(bucket, stream, number, nonce, payload, replacing=replacing),
        )

    async def stub_entry(self, bucket: str, stream: int, number: int) -> None:
        await self._call("stub_entry", lambda: self._store.stub_entry(bucket, stream, number))

    async def _call(self, step: str, call: Callable[[], Awaitable[Any]]) -> Any:
        fault = self._faults[step].pop(0) if self._faults.get(step) else None
        if fault == "before":
            raise Unreachable(f"{step} did not get through")
        result = await call()
        if fault == "after":
            raise Unreachable(f"the reply to {step} was lost")
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
