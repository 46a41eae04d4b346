"""Whether the store answers: asked when somebody wants to know, and not more often than every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

FRESH: Final = 5.0
"""Seconds for which an answer is used again: whoever may ask us may not make us ask the store at will."""

PATIENCE: Final = 3.0
"""Seconds that are waited for an answer."""


class _Consumer(Protocol):
    def troubles(self) -> Iterable[str]: ...


class StoreCheck:
    """Runs a blocking check in a thread, one at a time."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._task: asyncio.Task[None] | None = None
        self._asked_at = 0.0

    async def trouble(self) -> str | None:
        """What is wrong, in words."""
        now = asyncio.get_running_loop().time()
        if self._task is None or (self._task.done() and now - self._asked_at > FRESH):
            self._task = asyncio.create_task(asyncio.to_thread(self._check))
            self._asked_at = now
        done, _ = await asyncio.wait([self._task], timeout=PATIENCE)
        if not done:
            return f"The store has not answered for {now + PATIENCE - self._asked_at:.0f} s."
        error = self._task.exception()
        return str(error) if error else None


async def not_ready(
    store: StoreCheck, known: Iterable[str], consumers: Iterable[_Consumer], *, stopping: bool
) -> list[str]:
    """Why a worker is not ready, in words; empty if it is. `known`: what it has met itself."""
    found = await store.trouble()
    return [
        *(["Stopping."] if stopping else []),
        *([found] if found else []),
        *known,
        *(trouble for consumer in consumers for trouble in consumer.troubles()),
    ]
