"""One archiver at a time on a bucket: a courtesy, kept while it works. No answer rests on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from snapengine.buckets.tools import Tools
from snapengine.errors import Busy, SnapEngineError, TryAgain
from snapengine.lease import LASTS_MS, Lease

ARCHIVE = "archive"
"""The task."""
EVERY = 20.0
"""Seconds between two renewals."""
ASLEEP = 12 * 3600.0
"""Seconds without one after which the work is given up: its files may soon be swept as nobody's."""

Renew = Callable[[], None]
"""To be called between two steps: raises what ends the work."""


@asynccontextmanager
async def at_work(tools: Tools, bucket: str) -> AsyncIterator[Renew]:
    """With the lease of the bucket's archive. Raises `Busy` if another process has it.

    What is given raises `Busy` once another process has taken the lease over, or when this one has slept for
    hours (a laptop, say), and also when the block has ended: a thread cannot be stopped, but it can be told.
    """
    lease = Lease(tools.store, bucket, ARCHIVE, tools.clock)
    ended: list[SnapEngineError] = []
    renewed = [time.time()]

    async def keep() -> None:
        while not ended:
            await asyncio.sleep(EVERY)
            try:
                await asyncio.to_thread(lease.renew)
                renewed[0] = time.time()
            except TryAgain:
                continue  # the work itself meets an outage too, and says so
            except SnapEngineError as error:
                ended.append(error)
            except Exception as error:  # noqa: BLE001  # whatever it is, the lease is not kept
                ended.append(Busy(f"The archiver's lease on bucket {bucket} could not be kept: {error!r}."))

    def renew() -> None:
        if ended:
            raise ended[0]
        passed = time.time() - renewed[0]
        if passed > ASLEEP:
            raise Busy(
                f"The archiving of bucket {bucket} slept for {passed / 3600:.0f} hours, and others may have "
                "gone on. Nothing is lost: run `snapengine archive` again."
            )
        if passed > LASTS_MS / 1000:
            lease.renew()

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
