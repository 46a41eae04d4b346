"""One archiver at a time on a bucket: a courtesy, kept while it works. No answer rests on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from snapengine.buckets.tools import Tools
from snapengine.errors import Busy, SnapEngineError, TryAgain
from snapengine.lease import Lease

ARCHIVE = "archive"
"""The task."""
EVERY = 20.0
"""Seconds between two renewals."""

Renew = Callable[[], None]
"""To be called between two steps: raises what ends the work."""


@asynccontextmanager
async def at_work(tools: Tools, bucket: str) -> AsyncIterator[Renew]:
    """With the lease of the bucket's archive. Raises `Busy` if another process has it.

    What is given raises `Busy` once another process has taken the lease over, and also when the block has
    ended: a thread cannot be stopped, but it can be told.
    """
    lease = Lease(tools.store, bucket, ARCHIVE, tools.clock)
    ended: list[SnapEngineError] = []

    async def keep() -> None:
        while not ended:
            await asyncio.sleep(EVERY)
            try:
                await asyncio.to_thread(lease.renew)
            except TryAgain:
                continue  # the work itself meets an outage too, and says so
            except SnapEngineError as error:
                ended.append(error)

    def renew() -> None:
        if ended:
            raise ended[0]

    await asyncio.to_thread(lease.renew)
    keeping = asyncio.create_task(keep())
    done = False
    try:
        yield renew
        done = True
    finally:
        ended.append(Busy(f"The archiving of bucket {bucket} was stopped."))
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        try:
            await asyncio.to_thread(lease.release)
        except SnapEngineError:
            if done:
                raise
