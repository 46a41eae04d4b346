"""The first listing of all versions and delete markers of a bucket, into its log.

It can be stopped at any moment. A later run begins a listing of its own (another id), at the start of a
key: so the order of a key's entries is always whole within one listing. What is listed twice changes no
answer. A large bucket's goes into Parquet files, which one entry of the log makes visible at its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Literal

from snapengine.archive.manifest import ArchiveFile
from snapengine.archive.schemas import OBSERVATION_ROWS
from snapengine.archive_root import archive_root, remember_root
from snapengine.buckets.asking import asking
from snapengine.buckets.bookkeeping import Bookkeeping, Mark, observations_of, saved_files, saved_mark
from snapengine.buckets.clock import ServerClock
from snapengine.buckets.listed_files import (
    HELD_PAGES,
    Destination,
    Into,
    ListedFiles,
    lost,
    not_named,
    place_of,
)
from snapengine.buckets.listing import PAGE_SIZE, Page, list_versions
from snapengine.buckets.plan import not_assured, wait_until
from snapengine.buckets.running import Sleep, ahead, alive, enabled_config, held, patiently
from snapengine.buckets.tools import Tools
from snapengine.errors import ArchiveFileMissing, Refused
from snapengine.lease import ENABLE, Lease
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BASELINE, BucketConfig, Epoch, Observation
from snapengine.ports import LogStore

_TICK = 5.0
_SIGN_OF_LIFE = 15.0
"""Seconds after which progress is saved and the lease renewed, though nothing more is safe."""


@dataclass(frozen=True, slots=True)
class BaselineProgress:
    """How far it is. S3 does not tell how much there is."""

    phase: Literal["waiting", "listing"]
    seconds_left: float = 0.0
    """Of waiting."""
    versions: int = 0
    """Listed so far; like the other counts, over all runs."""
    markers: int = 0
    pages: int = 0
    key: str = ""
    """The last one listed."""


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
    archived: int = 0
    """How many of the observations went straight into files of the archive."""
    not_assured: tuple[str, ...] = ()
    """What it cannot vouch for, as the waits were skipped; one sentence each."""


async def run_baseline(
    engine: Tools,
    bucket: str,
    *,
    wait: bool = True,
    into: Into = "auto",
    progress: Callable[[BaselineProgress], None] | None = None,
    page_size: int = PAGE_SIZE,
    held_pages: int = HELD_PAGES,
    part_rows: int = OBSERVATION_ROWS,
    sleep: Sleep = asyncio.sleep,
) -> BaselineReport:
    """Take the baseline of an enabled bucket, or go on with one that was stopped.

    `into` says whether its observations go to the log or into Parquet files of at most `part_rows` each; with
    `auto` into files if the settings name an archive's root and there are more than `held_pages` pages.

    With `wait`, it begins no sooner than 5 minutes after our rule was read back, and 15 after versioning
    was first switched on. Raises `BucketNotEnabled`, `Busy` if another process is taking it, `Refused` if
    the bucket was disabled or enabled anew meanwhile or there is no place for the files, and what S3 and the
    store raise; it may always be called again.
    """
    config = await enabled_config(engine, bucket)
    stale = await asyncio.to_thread(engine.store.progress, bucket, BASELINE)
    if config.baseline_started is not None and config.baseline_ended is not None and stale is None:
        return _already(config, config.baseline_started, config.baseline_ended)
    run = _Run(engine, bucket, progress or (lambda _: None), page_size, sleep, into, held_pages, part_rows)
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
        into: Into,
        held_pages: int,
        part_rows: int,
    ) -> None:
        self._engine = engine
        self._bucket = bucket
        self._progress = progress
        self._page_size = page_size
        self._sleep = sleep
        self._into = into
        self._held_pages = held_pages
        self._part_rows = part_rows
        self._url: str | None = None
        self._saved_at = float("-inf")
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
        into = await asyncio.to_thread(place_of, self._engine, config, self._into)
        async with self._engine.log() as log:
            mark, files = await self._begun(log, config)
            books = Bookkeeping(mark, token_hex(8))
            writer = StreamWriter(log, f"{BASELINE}/{books.listing}", self._engine.clock)
            to = Destination(
                writer,
                self._bucket,
                into,
                mark,
                files,
                make=lambda: self._make_files(config, books.listing),
                run=lambda work: alive(self.lease, work),
                held_pages=self._held_pages,
            )
            try:
                pages = self._pages(config, after_key=mark.complete, page_size=self._page_size)
                async with aclosing(ahead(pages)) as upcoming:
                    async for page in upcoming:
                        await self._keep(writer, config, books, page, to)
                await self._again(writer, config, books, to_the_end=True)
                await to.end(books.mark)
                if to.files:
                    await self._show(config, books, to)
            finally:
                to.abandon()
            ended = self._clock.about(self._clock.now())
            started = books.mark.started if books.mark.started is not None else ended
            config = await patiently(self.lease, lambda: self._register(config, started, ended), self._sleep)
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
            archived=to.archived,
            not_assured=tuple(not_assured(config, started)),
        )

    # Where it goes

    async def _begun(self, log: LogStore, config: BucketConfig) -> tuple[Mark, list[ArchiveFile]]:
        """Where to go on, and the finished files of an earlier run that are to be made visible yet."""
        saved = await asyncio.to_thread(self._engine.store.progress, self._bucket, BASELINE)
        files = saved_files(saved, config)
        if files:
            # Its entry may have landed before that could be noted; the cutter completes it.
            await EpochCutter(log, self._bucket, self._engine.clock).cut()
            files = await asyncio.to_thread(not_named, self._engine.store, self._bucket, files)
        self._url = config.archive
        if await self._gone(files):
            return Mark(), []
        return saved_mark(saved, config), files

    async def _gone(self, files: Sequence[ArchiveFile]) -> list[str]:
        if not files or self._url is None:
            return []
        return await asyncio.to_thread(lost, self._engine.root(self._url), files)

    async def _make_files(self, config: BucketConfig, listing: str) -> ListedFiles:
        """From here on the registration says where the files are: before the log names one."""
        self._url = url = await asyncio.to_thread(archive_root, self._engine, config)
        await patiently(self.lease, lambda: remember_root(self._engine, self._bucket, url), self._sleep)
        return ListedFiles(self._engine.root(url), self._bucket, listing, rows=self._part_rows)

    async def _show(self, config: BucketConfig, books: Bookkeeping, to: Destination) -> None:
        """Make the files visible. What is noted before and after lets no later run name them twice."""
        await asyncio.to_thread(self._save, config, books, to)
        to.files = await asyncio.to_thread(not_named, self._engine.store, self._bucket, to.files)
        if gone := await self._gone(to.files):
            await asyncio.to_thread(self._engine.store.clear_progress, self._bucket, BASELINE)
            raise ArchiveFileMissing(
                f"{self._url}/{gone[0]}, a file of the baseline of bucket {self._bucket}, has gone before it "
                "could be named. Run the command again: the baseline begins anew."
            )
        await to.show()
        await asyncio.to_thread(self._save, config, books, to)

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

    async def _keep(
        self, writer: StreamWriter, config: BucketConfig, books: Bookkeeping, page: Page, to: Destination
    ) -> None:
        known = len(to.files)
        safe = await to.take(books.take(page), books.mark)
        await self._again(writer, config, books)
        if len(to.files) > known and to.full:
            await self._show(config, books, to)
        elif safe or time.monotonic() - self._saved_at > _SIGN_OF_LIFE:
            await asyncio.to_thread(self._save, config, books, to)
        self._progress(
            BaselineProgress("listing", 0.0, books.versions, books.markers, books.mark.pages, books.last_key)
        )

    def _save(self, config: BucketConfig, books: Bookkeeping, to: Destination) -> None:
        self.lease.renew()
        progress = books.resume_at(config, self._engine.clock(), kept=to.kept, files=to.files)
        self._engine.store.save_progress(self._bucket, BASELINE, progress)
        self._saved_at = time.monotonic()

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

    def _register(self, config: BucketConfig, started: int, ended: int) -> BucketConfig:
        """Say in the registration that it has ended; whoever changes that holds a lease of its own."""
        with Lease(self._engine.store, self._bucket, ENABLE, self._engine.clock):
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

    async def tidy(self) -> None:
        async with self._engine.log() as log:
            await self._finish(log)

    async def _finish(self, log: LogStore) -> Epoch:
        epoch = await EpochCutter(log, self._bucket, self._engine.clock).cut()
        await asyncio.to_thread(self._engine.store.clear_progress, self._bucket, BASELINE)
        return epoch


def _identity(config: BucketConfig) -> tuple[object, ...]:
    return (config.enabled, config.prefix, config.enabled_at, config.account)
