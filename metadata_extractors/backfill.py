"""Extraction of what is already there: the versions of a view that have no row of an extractor yet."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from metadata_extractors.extract_sink import Forgetting, Wanted, Work
from metadata_extractors.extracting import Row, children
from metadata_extractors.having_rows import lacking
from metadata_extractors.limits import Limits
from metadata_extractors.row_keeping import RowKeeper
from snapengine.engine import Engine
from snapengine.errors import BucketNotEnabled, BucketUnknown, NotFound, Refused, TryAgain, UsageError
from snapengine.extraction_tasks import Task
from snapengine.further_columns import extractor_of, uses
from snapengine.instants import TimeInput
from snapengine.log import Committed, EpochCutter, RowWriter
from snapengine.model import ObjectVersion
from snapengine.views import View
from snapengine.workers.failures import plain

PATIENCE: Final = 60.0
"""Seconds for which an outage is waited out."""

CUT_EVERY: Final = 5.0
"""Seconds between epochs while it goes on."""

AHEAD: Final = 1_000
"""Objects begun before their rows are kept, which takes half a second."""

HOPELESS: Final = 1_000
"""Objects that may be refused before any is read; then it is the role, and no object."""


@dataclass(slots=True)
class Report:
    """What a run did. All numbers are of objects, but those of outcomes, which are of rows."""

    reference: str
    """Of the view whose versions were looked at."""
    versions: dict[str, str]
    """The extractors, and the version of each."""
    looked_at: int = 0
    had_rows: int = 0
    """Of these, how many had a row of every extractor in its version."""
    forgotten: int = 0
    """Of these, how many are forgotten, so that they are not read."""
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    """By extractor and outcome, the rows that were stored."""
    untried: Counter[str] = field(default_factory=Counter)
    """By error code, those that could not be asked for: they have no row, and the next run tries them."""
    epoch: int = 0
    """The one that covers what was stored."""

    def hopeless(self) -> bool:
        """So many were refused, and none was read."""
        return self.untried.total() >= HOPELESS and not any(self.outcomes.values())


async def backfill(
    engine: Engine,
    bucket: str,
    name: str,
    *,
    at: TimeInput = "now",
    prefix: str = "",
    extractors: Sequence[str] = (),
    again: bool = False,
    processes: int = 1,
    limits: Limits | None = None,
    progress: Callable[[View, Report], None] = lambda _view, _report: None,
) -> Report:
    """Extract every version of the view at `at` that lacks a row, by these extractors or else the bucket's.

    A version lacks a row if it has none of the extractor in the version that is installed, with the columns
    that are registered for the bucket; with `again` all do. `name` is the writer's identity. What is stored
    stays: a run that was stopped is gone on with by another. Raises `UsageError` for extractors that there
    are not, and `TryAgain` or `Refused` where S3 or the table is away for longer than a minute, or refuses
    everything.
    """
    names = await asyncio.to_thread(_uses, engine, bucket, extractors)
    try:
        async with (
            engine.log() as store,
            children(engine, engine.clock, processes, limits) as (workers, pool),
        ):
            faces = await asyncio.get_running_loop().run_in_executor(pool, workers.faces, names)
            cutter = EpochCutter(store, bucket, engine.clock)
            await cutter.cut()  # for what a run left that was stopped
            view = await asyncio.to_thread(engine.view, bucket, at, prefix=prefix)
            report = Report(view.reference, {extractor_of(each): faces[each].version for each in names})
            report.outcomes = {each: Counter() for each in report.versions}
            counts = _Counts(report)
            rows = RowWriter(store, name, engine.clock)
            async with RowKeeper(rows, _Cutting(cutter).cover, counts, patience=PATIENCE) as keeper:
                wanted = Wanted(engine.store.config, workers, pool)
                work = Work(
                    workers,
                    pool,
                    processes,
                    wanted,
                    Forgetting(store),
                    keeper,
                    counts,
                    patience=PATIENCE,
                    outages=(TryAgain,),
                )
                by_name = {extractor_of(each): each for each in names}
                await _all(engine, view, work, report, by_name, again=again, progress=progress)
            report.epoch = (await cutter.cut()).number
            progress(view, report)
            return report
    except ExceptionGroup as failures:
        raise plain(failures) from failures


def _uses(engine: Engine, bucket: str, extractors: Sequence[str]) -> tuple[str, ...]:
    """The extractors, each with the columns that the bucket has registered for it."""
    config = engine.store.config(bucket)
    if config is None:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    names = tuple(dict.fromkeys(extractors or config.extractors))
    if not names:
        raise UsageError(
            f"Bucket {bucket} has no extractors. Name one with `--extractor`, or have all new versions "
            f"extracted: `snapengine enable-bucket {bucket} --extract NAME,...`."
        )
    return uses(names, config.extractor_columns)


async def _all(
    engine: Engine,
    view: View,
    work: Work,
    report: Report,
    by_name: Mapping[str, str],
    *,
    again: bool,
    progress: Callable[[View, Report], None],
) -> None:
    """Every object that lacks rows, so many at once. `by_name` has their further columns."""
    places = asyncio.Semaphore(AHEAD)

    async def one(version: ObjectVersion, names: Sequence[str]) -> None:
        try:
            if not await work.object(task_of(view.bucket, version), [by_name[name] for name in names]):
                report.forgotten += 1
        except (Refused, NotFound) as error:
            report.untried[error.code] += 1
            if isinstance(error, BucketUnknown) or report.hopeless():
                raise
        finally:
            places.release()
        progress(view, report)

    found = lacking(engine, view, report.versions, again=again)
    async with asyncio.TaskGroup() as group:
        while (some := await asyncio.to_thread(next, found, None)) is not None:
            for version, names in some:
                report.looked_at += 1
                if not names:
                    report.had_rows += 1
                    continue
                await places.acquire()
                group.create_task(one(version, names))
            progress(view, report)


def task_of(bucket: str, version: ObjectVersion) -> Task:
    """What a message would say of the version."""
    return Task(
        bucket,
        version.key,
        version.version_id,
        version.size,
        version.etag,
        version.sequencer,
        version.event_time,
    )


class _Counts:
    """Rows by outcome, as they are kept."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def failed(self, step: str) -> None:
        """An outage that goes on ends the run; one that passes is no news."""

    def extracted(self, seconds: float) -> None:
        """Nobody asks for how long."""

    def kept(self, bucket: str, rows: Sequence[Row]) -> None:  # noqa: ARG002  # there is one
        for row in rows:
            self._report.outcomes.setdefault(row.extractor, Counter())[row.outcome] += 1


class _Cutting:
    """Cuts an epoch now and then, so that what is stored is seen while the run goes on."""

    def __init__(self, cutter: EpochCutter) -> None:
        self._cutter = cutter
        self._lock = asyncio.Lock()
        self._due = time.monotonic() + CUT_EVERY

    async def cover(self, _places: Sequence[Committed]) -> None:
        async with self._lock:  # a cutter makes one cut at a time
            if time.monotonic() >= self._due:
                await self._cutter.cut(patient=True)
                self._due = time.monotonic() + CUT_EVERY
