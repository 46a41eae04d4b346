"""The first listing of all versions and delete markers of a bucket, into its log.

It can be stopped at any moment. A later run begins a listing of its own (another id), at the start of a
key: so the order of a key's entries is always whole within one listing. What is listed twice changes no
answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Literal

from snapengine.buckets.asking import asking
from snapengine.buckets.bookkeeping import Bookkeeping, Mark, observations_of, saved_mark
from snapengine.buckets.clock import ServerClock
from snapengine.buckets.listing import PAGE_SIZE, Page, list_versions
from snapengine.buckets.plan import not_assured, wait_until
from snapengine.buckets.running import Sleep, ahead, enabled_config, held
from snapengine.buckets.tools import Tools
from snapengine.errors import Busy, Refused
from snapengine.lease import ENABLE, Lease
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BASELINE, BucketConfig, Epoch, Observation
from snapengine.ports import LogStore

_TICK = 5.0
_REGISTRATION_TRIES = 60


@dataclass(frozen=True, slots=True)
class BaselineProgress:
    """How far it is. S3 does not tell how much there is."""

    phase: Literal["waiting", "listing"]
    seconds_left: float = 0.0
    """Of waiting."""
    versions: int = 0
    """Committed so far; like the other counts, over all runs."""
    markers: int = 0
    pages: int = 0
    key: str = ""
    """The last one committed."""


@dataclass(frozen=True, slots=True)
class BaselineReport:
    """How it ended."""

    bucket: str
    already: bool
    """It had been taken before; nothing was listed."""
    started: int
    """UTC milliseconds by S3's clock; of several runs, the first one's."""
    ended: int
    epoch: int | None
    """The first epoch that covers all of it; None if it had been taken before."""
    versions: int = 0
    markers: int = 0
    pages: int = 0
    not_assured: tuple[str, ...] = ()
    """What it cannot vouch for, as the waits were skipped; one sentence each."""


async def run_baseline(
    engine: Tools,
    bucket: str,
    *,
    wait: bool = True,
    progress: Callable[[BaselineProgress], None] | None = None,
    page_size: int = PAGE_SIZE,
    sleep: Sleep = asyncio.sleep,
) -> BaselineReport:
    """Take the baseline of an enabled bucket, or go on with one that was stopped.

    With `wait`, it begins no sooner than 5 minutes after our rule was read back, and 15 after versioning
    was first switched on. Raises `BucketNotEnabled`, `Busy` if another process is taking it, `Refused` if
    the bucket was disabled or enabled anew meanwhile, and what S3 and the store raise; it may always be
    called again.
    """
    config = await enabled_config(engine, bucket)
    stale = await asyncio.to_thread(engine.store.progress, bucket, BASELINE)
    if config.baseline_started is not None and config.baseline_ended is not None and stale is None:
        return _already(config, config.baseline_started, config.baseline_ended)
    run = _Run(engine, bucket, progress or (lambda _: None), page_size, sleep)
    async with held(run.lease):
        config = await enabled_config(engine, bucket)
        if config.baseline_started is not None and config.baseline_ended is not None:
            await run.tidy()  # stopped between the registration and the epoch
            return _already(config, config.baseline_started, config.baseline_ended)
        if wait:
            await run.wait(config)
        return await run.take(config)


def _already(config: BucketConfig, started: int, ended: int) -> BaselineReport:
    remarks = tuple(not_assured(config, started))
    return BaselineReport(config.bucket, True, started, ended, None, not_assured=remarks)


class _Run:
    """One run, under the lease."""

    def __init__(
        self,
        engine: Tools,
        bucket: str,
        progress: Callable[[BaselineProgress], None],
        page_size: int,
        sleep: Sleep,
    ) -> None:
        self._engine = engine
        self._bucket = bucket
        self._progress = progress
        self._page_size = page_size
        self._sleep = sleep
        self._clock = ServerClock()
        self.lease = Lease(engine.store, bucket, BASELINE, engine.clock)

    async def wait(self, config: BucketConfig) -> None:
        """By S3's clock as it is now, and from then on by the time that passes here."""
        left = (wait_until(config) - await asyncio.to_thread(self._server_time, config)) / 1000
        while left > 0:
            self._progress(BaselineProgress("waiting", seconds_left=left))
            await self._sleep(min(left, _TICK))
            left -= _TICK
            await asyncio.to_thread(self.lease.renew)

    def _server_time(self, config: BucketConfig) -> int:
        sent = self._clock.now()
        with asking(f"bucket {self._bucket}"):
            reply = self._engine.s3.head_bucket(Bucket=self._bucket, ExpectedBucketOwner=config.account)
        self._clock.heard(reply, sent)
        return self._clock.not_after(sent)

    async def take(self, config: BucketConfig) -> BaselineReport:
        saved = await asyncio.to_thread(self._engine.store.progress, self._bucket, BASELINE)
        books = Bookkeeping(saved_mark(saved, config), token_hex(8))
        async with self._engine.log() as log:
            writer = StreamWriter(log, f"{BASELINE}/{books.listing}", self._engine.clock)
            pages = self._pages(config, after_key=books.begun.complete, page_size=self._page_size)
            async with aclosing(ahead(pages)) as upcoming:
                async for page in upcoming:
                    await self._keep(writer, config, books, page)
            await self._again(writer, config, books, to_the_end=True)
            ended = self._clock.about(self._clock.now())
            started = books.mark.started if books.mark.started is not None else ended
            config = await self._register(config, started, ended)
            epoch = await self._finish(log)
        return BaselineReport(
            bucket=self._bucket,
            already=False,
            started=started,
            ended=ended,
            epoch=epoch.number,
            versions=books.versions,
            markers=books.markers,
            pages=books.mark.pages,
            not_assured=tuple(not_assured(config, started)),
        )

    def _pages(self, config: BucketConfig, *, after_key: str, page_size: int) -> Iterator[Page]:
        return list_versions(
            self._engine.s3,
            self._bucket,
            prefix=config.prefix,
            after_key=after_key,
            page_size=page_size,
            owner=config.account,
            clock=self._clock,
        )

    async def _keep(self, writer: StreamWriter, config: BucketConfig, books: Bookkeeping, page: Page) -> None:
        await writer.append(self._bucket, books.take(page))
        await self._again(writer, config, books)
        await asyncio.to_thread(self._save, books.resume_at(config, self._engine.clock()))
        self._progress(
            BaselineProgress("listing", 0.0, books.versions, books.markers, books.mark.pages, books.last_key)
        )

    def _save(self, progress: dict[str, str | int]) -> None:
        self.lease.renew()
        self._engine.store.save_progress(self._bucket, BASELINE, progress)

    async def _again(
        self, writer: StreamWriter, config: BucketConfig, books: Bookkeeping, *, to_the_end: bool = False
    ) -> None:
        """List again the keys whose null version was too young on its page: in the same second it may have
        been overwritten since, with nothing to tell the two apart."""
        while books.young:
            oldest = books.young[0]
            left = (oldest.due - self._clock.not_after(self._clock.now())) / 1000
            if left > 0 and not to_the_end:
                return
            if left > 0:
                await self._sleep(left)
            entries = await asyncio.to_thread(self._relist, config, oldest.before, oldest.keys)
            await writer.append(self._bucket, entries)
            books.young.popleft()

    def _relist(self, config: BucketConfig, before: Mark, keys: frozenset[str]) -> list[Observation]:
        listing, last = token_hex(8), max(keys)
        found: list[Observation] = []
        position = 0
        for page in self._pages(config, after_key=before.complete, page_size=self._page_size):
            wanted = [entry for entry in page.entries if entry.key in keys]
            found += observations_of(wanted, page.time, listing, position)
            position += len(wanted)
            if page.entries and page.entries[-1].key > last:
                break
        return found

    async def _register(self, config: BucketConfig, started: int, ended: int) -> BucketConfig:
        """Say in the registration that it has ended; whoever changes that holds a lease of its own."""
        lease = Lease(self._engine.store, self._bucket, ENABLE, self._engine.clock)

        def register() -> BucketConfig:
            with lease:
                now = self._engine.store.config(self._bucket)
                if now is None or _identity(now) != _identity(config):
                    raise Refused(
                        f"Bucket {self._bucket} was disabled or enabled anew while its baseline was taken. "
                        f"Run `snapengine enable-bucket {self._bucket}` again."
                    )
                assured = not not_assured(now, started)
                ours = replace(now, baseline_started=started, baseline_ended=ended, assured=assured)
                self._engine.store.put_config(ours)
                return ours

        for _ in range(_REGISTRATION_TRIES):
            try:
                return await asyncio.to_thread(register)
            except Busy:
                await asyncio.to_thread(self.lease.renew)
                await self._sleep(1.0)
        return await asyncio.to_thread(register)

    async def tidy(self) -> None:
        async with self._engine.log() as log:
            await self._finish(log)

    async def _finish(self, log: LogStore) -> Epoch:
        epoch = await EpochCutter(log, self._bucket, self._engine.clock).cut()
        await asyncio.to_thread(self._engine.store.clear_progress, self._bucket, BASELINE)
        return epoch


def _identity(config: BucketConfig) -> tuple[object, ...]:
    return (config.enabled, config.prefix, config.enabled_at, config.account)
