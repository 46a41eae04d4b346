"""Sees to it that what was committed becomes visible: cuts epochs, of each bucket one a second or so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from snapengine.log import Committed, EpochCutter
from snapengine.metadata_rows import metadata_log
from snapengine.model import Epoch
from snapengine.ports import Clock, LogStore
from snapengine.workers import logs
from snapengine.workers.backoff import delays
from snapengine.workers.failures import plain
from snapengine.workers.metrics import WorkerMetrics

PACE: Final = 1_000
"""Milliseconds between two epochs of a bucket, as far as workers cut them."""

SWEEP: Final = 60.0
"""Seconds after which a bucket is looked at without news of our own: other workers may have died with entries
that no epoch covers."""


class Epochs:
    """Cuts epochs through the logs of several buckets. Several workers may: each loses or wins harmlessly.

    A cutter keeps state from cut to cut, so there is one for each bucket, and one cut of it at a time.
    """

    def __init__(
        self, store: LogStore, clock: Clock, metrics: WorkerMetrics, *, sweep: float = SWEEP
    ) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._sweep = sweep
        self._buckets: dict[str, _Bucket] = {}
        self._start: Callable[[_Bucket], None] = _not_kept

    def note(self, places: Sequence[Committed]) -> None:
        """Entries that are to be covered, of observations or of rows of metadata."""
        for place in places:
            bucket = self._of(place.bucket.partition("#")[0])  # of `metadata_log`; no bucket's name has one
            stream = (place.bucket, place.stream)
            bucket.wanted[stream] = max(place.number, bucket.wanted.get(stream, 0))
            bucket.news.set()

    async def covered(self, places: Sequence[Committed]) -> None:
        """Return once an epoch has these entries: `note` and `cover`."""
        self.note(places)
        for name in {place.bucket.partition("#")[0] for place in places}:
            await self.cover(name)

    def note_raised(self, name: str, caught_up: int) -> None:
        """A watermark, in UTC milliseconds, that an epoch is to carry: it is stored already."""
        bucket = self._of(name)
        bucket.caught_up = max(caught_up, bucket.caught_up or 0)
        bucket.news.set()

    def watch(self, name: str) -> None:
        """Look at a bucket now and every so often, though nothing was committed for it here."""
        self._of(name)

    def _of(self, name: str) -> _Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            cutter = EpochCutter(self._store, name, self._clock)
            bucket = self._buckets[name] = _Bucket(name, cutter)
            self._start(bucket)
        return bucket

    async def cover(self, name: str) -> None:
        """Return once an epoch has what was noted, cutting where nobody else does.

        Patient, so it may take two cuts where a living writer is at work on an entry before ours.
        """
        bucket = self._of(name)
        async with bucket.lock:
            waited_for = -1
            newest = await self._store.newest_epoch(name)
            while not bucket.covered_by(newest):
                age = self._clock() - newest.time if newest else PACE
                if newest and age < PACE and newest.number != waited_for:
                    # Only once for each epoch: its time may be ahead of our clock for longer than that.
                    waited_for = newest.number
                    await asyncio.sleep(min(PACE - age, PACE) / 1000)
                    newest = await self._store.newest_epoch(name)
                else:
                    newest = await self._cut(bucket, newest, patient=True)

    async def _cut(self, bucket: _Bucket, before: Epoch | None, *, patient: bool) -> Epoch:
        epoch = await bucket.cutter.cut(patient=patient)
        # Another may have cut it at this very moment: counting is all that this is for.
        if before is None or epoch.number > before.number:
            self._metrics.epochs.labels(bucket.name).inc()
        return epoch

    async def _look(self, bucket: _Bucket, *, patient: bool) -> None:
        async with bucket.lock:
            before = await self._store.newest_epoch(bucket.name)
            bucket.covered_by(await self._cut(bucket, before, patient=patient))

    async def cut_all(self, *, everything: bool = False) -> None:
        """A last cut of each bucket for which entries were noted, or of every one that was ever noted or
        watched; waiting for nobody. Raises what fails.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for bucket in self._buckets.values():
                    if everything or bucket.wanted:
                        group.create_task(self._look(bucket, patient=False))
        except ExceptionGroup as failures:
            raise plain(failures) from failures

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Within, what is noted gets covered, and every watched bucket swept. Failures are tried again."""
        async with asyncio.TaskGroup() as group:
            tasks = []

            def start(bucket: _Bucket) -> None:
                tasks.append(group.create_task(self._keep(bucket)))

            for bucket in self._buckets.values():
                start(bucket)
            self._start = start
            try:
                yield
            finally:
                self._start = _not_kept
                for task in tasks:
                    task.cancel()

    async def _keep(self, bucket: _Bucket) -> None:
        loop = asyncio.get_running_loop()
        pauses = delays()
        sweep_at = loop.time()
        while True:
            try:
                if loop.time() >= sweep_at:
                    await self._look(bucket, patient=True)
                    sweep_at = loop.time() + self._sweep
                await self.cover(bucket.name)
            except Exception as error:  # noqa: BLE001  # nothing is lost: the entries stay, and wanted
                self._metrics.failed("epoch")
                pause = next(pauses)
                logs.warning(
                    "epoch-failed", bucket=bucket.name, again_in=round(pause, 3), **logs.reason(error)
                )
                await asyncio.sleep(pause)
                continue
            pauses = delays()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(sweep_at):
                    await bucket.news.wait()
            bucket.news.clear()


class _Bucket:
    """A bucket's cutter, and what is to be covered."""

    def __init__(self, name: str, cutter: EpochCutter) -> None:
        self.name = name
        self.cutter = cutter
        self.lock = asyncio.Lock()
        self.news = asyncio.Event()
        self.wanted: dict[tuple[str, int], int] = {}
        """For each log and stream the last entry noted that no epoch is known to cover."""

        self.caught_up: int | None = None
        """The watermark noted that no epoch is known to carry."""

    def covered_by(self, epoch: Epoch | None) -> bool:
        """Whether the epoch has all that is wanted. What it has is wanted no more."""
        covers = {self.name: epoch.cover, metadata_log(self.name): epoch.rows} if epoch else {}
        self.wanted = {
            (log, stream): number
            for (log, stream), number in self.wanted.items()
            if number > covers.get(log, {}).get(stream, 0)
        }
        carried = epoch.watermarks.caught_up if epoch else None
        if self.caught_up is not None and carried is not None and carried >= self.caught_up:
            self.caught_up = None
        return not self.wanted and self.caught_up is None


def _not_kept(_: _Bucket) -> None:
    """Where nobody keeps the epochs (a Lambda environment), `cover` is called for each bucket."""
