"""A complete listing, compared with the log: what the log lacks is stored, what is gone is marked.

It can be stopped at any moment. A later run begins a listing of its own (another id) at the start of a key
and compares with what the log knows by then; what it finds again changes no answer. Workers may go on
meanwhile: it only adds observations, each true of the moment of its page.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from secrets import token_hex

from snapengine.buckets.align import Aligned, Alignment, History, histories
from snapengine.buckets.clock import ServerClock
from snapengine.buckets.compare import again_at, difference
from snapengine.buckets.listing import PAGE_SIZE, Page, list_versions
from snapengine.buckets.running import Sleep, ahead, enabled_config, held
from snapengine.buckets.tools import Tools
from snapengine.errors import Refused, UsageError
from snapengine.lease import Lease
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import RECONCILE, BucketConfig, Epoch, Observation, SnapshotRef
from snapengine.resolver import observed_ranges

STALE_MS = 24 * 3_600_000
"""A run that was stopped so long ago is not gone on with: its beginning is all that it could vouch for."""
_BATCH = 500
_PAGES_UNSAVED = 16
_TRIES = 4
_TICK = 20.0


@dataclass(frozen=True, slots=True)
class ReconcileProgress:
    """How far it is; counts are over all runs. S3 does not tell how much there is."""

    pages: int
    entries: int
    """Versions and markers listed."""
    stored: int
    """Observations that the log lacked."""
    found: Mapping[str, int]
    """By kind: see `Difference.found`."""
    key: str
    """The last one compared."""


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """How it ended; instants in UTC milliseconds by S3's clock."""

    bucket: str
    prefix: str
    """What was listed: never more than is watched."""
    begun: int
    """The first page's time, of several runs the first one's: since then the prefix is verified."""
    ended: int
    epoch: int
    """The first epoch that covers all of it."""
    pages: int
    entries: int
    """Versions and markers listed, each once."""
    stored: int
    """Observations that the log lacked; 0 if it knew everything."""
    found: Mapping[str, int]
    """By kind: see `Difference.found`."""
    resumed: bool
    """It went on with an earlier run that had been stopped."""


async def run_reconcile(
    engine: Tools,
    bucket: str,
    *,
    prefix: str = "",
    pages_per_second: float | None = None,
    progress: Callable[[ReconcileProgress], None] | None = None,
    page_size: int = PAGE_SIZE,
    sleep: Sleep = asyncio.sleep,
) -> ReconcileReport:
    """List all versions below `prefix` (of what is watched), and store what the log lacks.

    With `pages_per_second` it asks S3 for no more than that, on average. It goes on with a run of the last
    24 hours that was stopped. Raises `BucketNotEnabled`, `Refused` before the baseline has ended, `Busy` if
    another process is at it, `UsageError` for a prefix that is not watched, and what S3 and the store raise;
    it may always be called again.
    """
    if pages_per_second is not None and not pages_per_second > 0:
        raise UsageError(f"pages_per_second={pages_per_second}: it must be greater than 0.")
    config = await enabled_config(engine, bucket)
    if config.baseline_ended is None:
        raise Refused(
            f"Bucket {bucket} has no complete baseline yet, with which a listing could be compared. "
            f"Run `snapengine enable-bucket {bucket}`, which takes it, or goes on with it."
        )
    run = _Run(
        engine,
        config,
        watched_prefix(config, prefix),
        pages_per_second,
        progress or (lambda _: None),
        page_size,
        sleep,
    )
    async with held(run.lease):
        return await run.take()


def watched_prefix(config: BucketConfig, prefix: str) -> str:
    """What of `prefix` is watched. Raises `UsageError` if that is nothing."""
    if not prefix.startswith(config.prefix) and not config.prefix.startswith(prefix):
        raise UsageError(
            f"Only keys below {config.prefix!r} of bucket {config.bucket} are watched: there is nothing to "
            f"compare {prefix!r} with."
        )
    return max(prefix, config.prefix, key=len)


@dataclass(slots=True)
class _Tally:
    """How far the listing is, and what it found; saved, and gone on with by another run."""

    complete: str = ""
    """The last key of which all is committed."""
    begun: int = 0
    """The first page's time; 0 before it."""
    pages: int = 0
    entries: int = 0
    stored: int = 0
    found: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Later:
    """Keys that cannot be compared yet, to be listed again when they are `due`."""

    due: int
    """UTC milliseconds by S3's clock."""
    known: Mapping[str, list[Observation]]
    """What the log knows of each."""
    after: str
    """A key before all of them, where a run that has yet to list them goes on after."""
    entries: int
    """How many had been listed up to that key."""
    tries: int


class _Compared:
    """What came of comparing a few keys."""

    def __init__(self, aligned: Iterable[Aligned], *, patient: bool) -> None:
        """Unless `patient`, keys that had better be listed again are compared as they are."""
        self.observations: list[Observation] = []
        self.found: Counter[str] = Counter()
        self.later: dict[str, list[Observation]] = {}
        self.due = 0
        self.entries = 0
        for known, listing in aligned:
            self.entries += len(listing.rows)
            due = again_at(known, listing) if patient else None
            if due is not None:
                self.later[listing.key] = known
                self.due = max(self.due, due)
                continue
            found = difference(known, listing)
            self.observations += found.observations
            self.found += found.found


class _Run:
    """One run, under the lease."""

    def __init__(
        self,
        engine: Tools,
        config: BucketConfig,
        prefix: str,
        pages_per_second: float | None,
        progress: Callable[[ReconcileProgress], None],
        page_size: int,
        sleep: Sleep,
    ) -> None:
        self._engine = engine
        self._config = config
        self._bucket = config.bucket
        self._prefix = prefix
        self._interval = 1 / pages_per_second if pages_per_second else 0.0
        self._progress = progress
        self._page_size = page_size
        self._sleep = sleep
        self._clock = ServerClock()
        self._task = f"{RECONCILE}:{blake2b(prefix.encode(), digest_size=8).hexdigest()}"
        self._tally = _Tally()
        self._pending: list[Observation] = []
        self._unsaved = 0
        self._later: deque[_Later] = deque()
        self._next_page_at = 0.0
        self.lease = Lease(engine.store, config.bucket, RECONCILE, engine.clock)

    async def take(self) -> ReconcileReport:
        """What is known is read at an epoch cut before the first page: so it all is older than any page."""
        self._tally = await asyncio.to_thread(self._saved)
        after_key = self._tally.complete
        listing = token_hex(8)
        async with self._engine.log() as log:
            cutter = EpochCutter(log, self._bucket, self._engine.clock)
            writer = StreamWriter(log, f"{RECONCILE}/{listing}", self._engine.clock)
            known = await asyncio.to_thread(self._known, await cutter.cut(), after_key)
            alignment = Alignment(known, listing, after_key)
            async with aclosing(self._pages(after_key)) as pages:
                async for page in pages:
                    await self._take(page, alignment)
                    await self._list_again(to_the_end=page.next_key is None)
                    await self._commit(writer, everything=page.next_key is None)
            # Only now, and before the epoch: a watermark must not be read by whoever cuts before the last
            # observation is there.
            await log.note_verified(self._bucket, self._prefix, self._tally.begun)
            await asyncio.to_thread(self._engine.store.clear_progress, self._bucket, self._task)
            epoch = await cutter.cut()
        return ReconcileReport(
            bucket=self._bucket,
            prefix=self._prefix,
            begun=self._tally.begun,
            ended=self._clock.about(self._clock.now()),
            epoch=epoch.number,
            pages=self._tally.pages,
            entries=self._tally.entries,
            stored=self._tally.stored,
            found=dict(self._tally.found),
            resumed=bool(after_key),
        )

    def _known(self, epoch: Epoch, after_key: str) -> Iterator[History]:
        ref = SnapshotRef(self._bucket, self._prefix, epoch.time, epoch.number)
        tables = observed_ranges(self._engine, ref, epoch, after=after_key)
        return chain.from_iterable(map(histories, tables))

    # Listing

    async def _pages(self, after_key: str) -> AsyncGenerator[Page, None]:
        pages = list_versions(
            self._engine.s3,
            self._bucket,
            prefix=self._prefix,
            after_key=after_key,
            page_size=self._page_size,
            owner=self._config.account,
            clock=self._clock,
        )
        # The second request goes out with the first, as pages are fetched ahead; from then on we wait.
        self._next_page_at = max(self._next_page_at, time.monotonic() + self._interval)
        async with aclosing(ahead(pages)) as upcoming:
            async for page in upcoming:
                yield page
                if self._interval and page.next_key is not None:
                    now = time.monotonic()
                    await self._rest(self._next_page_at - now)
                    self._next_page_at = max(self._next_page_at, now) + self._interval

    async def _rest(self, seconds: float) -> None:
        """Sleep, and keep the lease."""
        while seconds > 0:
            await self._sleep(min(seconds, _TICK))
            seconds -= _TICK
            await asyncio.to_thread(self.lease.renew)

    async def _take(self, page: Page, alignment: Alignment) -> None:
        tally = self._tally
        tally.begun = tally.begun or page.time
        tally.pages += 1
        compared = await self._compare(alignment.take(page), alignment.complete, tally.entries, tries=1)
        tally.entries += compared.entries
        tally.complete = alignment.complete

    async def _compare(self, aligned: Iterable[Aligned], after: str, entries: int, tries: int) -> _Compared:
        compared = await asyncio.to_thread(_Compared, aligned, patient=tries < _TRIES)
        self._pending += compared.observations
        self._tally.stored += len(compared.observations)
        self._tally.found += compared.found
        if compared.later:
            self._later.append(_Later(compared.due, compared.later, after, entries, tries + 1))
        return compared

    async def _list_again(self, *, to_the_end: bool) -> None:
        """List again the keys that could not be compared yet, those that are due; at the end, all."""
        while self._later:
            oldest = self._later[0]
            left = (oldest.due - self._clock.not_after(self._clock.now())) / 1000
            if left > 0 and not to_the_end:
                return
            await self._rest(left)
            alignment = Alignment(sorted(oldest.known.items()), token_hex(8), oldest.after)
            async with aclosing(self._pages(oldest.after)) as pages:
                async for page in pages:
                    aligned = (each for each in alignment.take(page) if each.listing.key in oldest.known)
                    await self._compare(aligned, oldest.after, oldest.entries, oldest.tries)
                    if alignment.complete >= max(oldest.known):
                        break
            self._later.popleft()

    # Committing

    async def _commit(self, writer: StreamWriter, *, everything: bool) -> None:
        """Append what was found, in batches; and save how far that is."""
        self._unsaved += 1
        if len(self._pending) >= _BATCH or self._unsaved >= _PAGES_UNSAVED or everything:
            await writer.append(self._bucket, self._pending)
            self._pending.clear()
        await asyncio.to_thread(self._save)
        tally = self._tally
        self._progress(
            ReconcileProgress(tally.pages, tally.entries, tally.stored, dict(tally.found), tally.complete)
        )

    def _save(self) -> None:
        self.lease.renew()
        if self._pending:
            return
        self._unsaved = 0
        tally = self._tally
        # What waits to be listed again is left to the next run too.
        complete, entries = min(
            ((later.after, later.entries) for later in self._later), default=(tally.complete, tally.entries)
        )
        saved: dict[str, str | int] = {
            "complete": complete,
            "begun": tally.begun,
            "pages": tally.pages,
            "entries": entries,
            "stored": tally.stored,
            "saved_at": self._engine.clock(),
            **{f"found.{kind}": count for kind, count in tally.found.items()},
            **self._identity(),
        }
        self._engine.store.save_progress(self._bucket, self._task, saved)

    def _saved(self) -> _Tally:
        """Where to go on: at the start, if what was saved is old, of an earlier enabling, or still there."""
        saved = self._engine.store.progress(self._bucket, self._task)
        if saved is None or any(saved.get(name) != value for name, value in self._identity().items()):
            return _Tally()
        if not saved["complete"] or int(saved["saved_at"]) < self._engine.clock() - STALE_MS:
            return _Tally()
        return _Tally(
            complete=str(saved["complete"]),
            begun=int(saved["begun"]),
            pages=int(saved["pages"]),
            entries=int(saved["entries"]),
            stored=int(saved["stored"]),
            found=Counter(
                {n.removeprefix("found."): int(c) for n, c in saved.items() if n.startswith("found.")}
            ),
        )

    def _identity(self) -> dict[str, str | int]:
        return {"prefix": self._prefix, "enabled_at": self._config.enabled_at or 0}
