"""What listings that run for long have in common: a lease, waits that keep it, pages fetched ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

from snapengine.buckets.tools import Tools
from snapengine.errors import BucketNotEnabled, Busy
from snapengine.lease import Lease
from snapengine.model import BucketConfig

Sleep = Callable[[float], Awaitable[None]]
"""Sleeps for so many seconds."""

T = TypeVar("T")

_SIGN_OF_LIFE = 15.0
_TRIES = 60


async def enabled_config(engine: Tools, bucket: str) -> BucketConfig:
    """Raises `BucketNotEnabled` for a bucket that is not enabled now."""
    config = await asyncio.to_thread(engine.store.config, bucket)
    if config is None or not config.enabled:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    return config


@asynccontextmanager
async def held(lease: Lease) -> AsyncIterator[None]:
    """With the lease taken, and given up at the end. Raises `Busy` if another process has it."""
    await asyncio.to_thread(lease.renew)
    try:
        yield
    finally:
        await asyncio.to_thread(lease.release)


async def ahead(items: Iterator[T]) -> AsyncGenerator[T, None]:
    """What a blocking iterator gives, fetched in a thread, one item ahead of the one being worked on."""
    upcoming = asyncio.create_task(asyncio.to_thread(next, items, None))
    try:
        while (item := await upcoming) is not None:
            upcoming = asyncio.create_task(asyncio.to_thread(next, items, None))
            yield item
    finally:
        await asyncio.gather(upcoming, return_exceptions=True)  # a thread cannot be stopped, only awaited


async def alive(lease: Lease, work: Callable[[], T]) -> T:
    """Do blocking work in a thread, and keep the lease meanwhile."""
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        while not (await asyncio.wait({task}, timeout=_SIGN_OF_LIFE))[0]:
            await asyncio.to_thread(lease.renew)
    finally:
        await asyncio.gather(task, return_exceptions=True)  # a thread cannot be stopped, only awaited
    return task.result()


async def patiently(lease: Lease, change: Callable[[], T], sleep: Sleep) -> T:
    """Make a change whose lease somebody else may have (`Busy`): wait a minute for that, keeping ours."""
    for _ in range(_TRIES):
        try:
            return await asyncio.to_thread(change)
        except Busy:
            await asyncio.to_thread(lease.renew)
            await sleep(1.0)
    return await asyncio.to_thread(change)
