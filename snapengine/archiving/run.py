"""A round of archiving: segments, a checkpoint if one is due, compaction, letting go, sweeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from snapengine.archive.manifest import Checkpoint, Differential, Segment
from snapengine.archive.roots import Root
from snapengine.archiving.checkpoints import checkpoint, differential, drop_damaged
from snapengine.archiving.compaction import compact
from snapengine.archiving.forget import finish_forgetting
from snapengine.archiving.leasing import Renew, at_work
from snapengine.archiving.letting_go import LetGo, let_go, mark_what_left
from snapengine.archiving.making import Show
from snapengine.archiving.policy import checkpoint_due, differential_due, thinned, useless
from snapengine.archiving.publishing import put_back_copies, retire
from snapengine.archiving.registry import claim, keep_registry
from snapengine.archiving.runs import archive_runs
from snapengine.archiving.segments import MAX_ROWS, make_segments, prepared_root
from snapengine.archiving.selections import archive_selections
from snapengine.archiving.sweeping import GRACE_MS, ORPHAN_MS, Swept, sweep_orphans, sweep_retired
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import ArchiveDamaged, UsageError
from snapengine.lease import ENABLE, Lease

ORPHANS_EVERY_MS = 6 * 3_600_000
"""Looking for orphans lists all of the bucket's archive."""
IDLE_MS = 3_600_000
"""Where rounds come often, so much of epochs without observations makes one segment."""
_SWEEP = "sweep"


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What a round did; instants in UTC milliseconds."""

    bucket: str
    root: str
    epoch: int
    """Up to which all is archived; 0 where nothing is."""
    epoch_time: int | None
    segments: int
    """Made in this round."""
    observations: int
    """In them."""
    bytes: int
    """Of all files made."""
    checkpoint: int | None
    """The instant of the checkpoint made."""
    compacted: int
    """Segments made of shorter ones."""
    let_go: int
    """Observations whose items leave the table within a day or so."""
    stubs: int
    """Log entries whose payloads left the table."""
    swept: int
    """Files deleted."""
    swept_bytes: int
    selections: int = 0
    """Narrowed views that were copied."""
    rows: int = 0
    """Of metadata, in the segments made."""
    differential: int | None = None
    """The instant of the differential made."""


async def archive_bucket(
    tools: ArchiveTools,
    bucket: str,
    *,
    every: float | None = None,
    checkpoints: bool = True,
    checkpoint_now: bool = False,
    compaction: bool = True,
    keep_days: int | None = None,
    max_rows: int = MAX_ROWS,
    progress: Show | None = None,
) -> ArchiveReport:
    """One round on a bucket, enabled or not any more; `every`: of rounds so many seconds apart.

    `checkpoints`: make one if it is due, thin the old ones out; `checkpoint_now`: make one in any case.
    `keep_days` is kept in the bucket's registration, for later rounds too; 0 ends the letting go.

    Raises `BucketNotEnabled`, `Refused` if there is no place for an archive, `Busy` if another process is at
    it, `LogDamaged`, `ArchiveDamaged`, and what the store and the root raise. What it did until then stands,
    and it may always be called again.
    """
    if keep_days is not None and keep_days < 0:
        raise UsageError(f"keep_days={keep_days}: it must be 1 or more, or 0 to keep all.")
    root = await asyncio.to_thread(prepared_root, tools, bucket)
    async with at_work(tools, bucket) as renew:
        await asyncio.to_thread(_claim, tools, root, bucket)
        await finish_forgetting(tools, root, bucket, renew)
        if keep_days is not None:
            await asyncio.to_thread(_remember_days, tools, bucket, keep_days or None)
        made = await asyncio.to_thread(
            make_segments,
            tools,
            root,
            bucket,
            max_rows=max_rows,
            idle_ms=IDLE_MS if every is not None else 0,
            progress=progress,
            renew=renew,
        )
        await asyncio.to_thread(_keep_registry, tools, root, bucket, renew)
        point = None
        if checkpoints or checkpoint_now:
            point = await _checkpoint(tools, root, bucket, renew, now=checkpoint_now)
        longer = await compact(tools, root, bucket, renew=renew) if compaction else []
        gone = await _let_go(tools, root, bucket, renew)
        swept = await _sweep(tools, root, bucket, renew)
        narrowed = await archive_selections(tools, root, bucket, renew)
        await asyncio.to_thread(archive_runs, tools, root, bucket, renew)
        await asyncio.to_thread(_keep_registry, tools, root, bucket, renew)
        return await asyncio.to_thread(
            _report, tools, root, bucket, made, point, longer, gone, swept, narrowed
        )


async def archive_forever(
    tools: ArchiveTools,
    buckets: Callable[[], Sequence[str]],
    every: float,
    stop: asyncio.Event,
    *,
    done: Callable[[ArchiveReport], None],
    failed: Callable[[str, Exception], None],
) -> None:
    """A round on each of the buckets, which are asked for anew each time, `every` so many seconds, until told
    to stop: then what is under way is left as it is.

    Failures, whatever they are, are told, and the next bucket's turn comes; told of the bucket "" is that the
    buckets could not be had.
    """
    loop = asyncio.get_running_loop()
    rounds = asyncio.create_task(_rounds(tools, buckets, every, done, failed, loop))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([rounds, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        rounds.cancel()
        ended = await asyncio.gather(rounds, return_exceptions=True)
    if isinstance(ended[0], Exception):
        raise ended[0]


async def _rounds(
    tools: ArchiveTools,
    buckets: Callable[[], Sequence[str]],
    every: float,
    done: Callable[[ArchiveReport], None],
    failed: Callable[[str, Exception], None],
    loop: asyncio.AbstractEventLoop,
) -> None:
    due = loop.time()
    while True:
        try:
            names = await asyncio.to_thread(buckets)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next round may fare better
            names = []
            failed("", error)
        for bucket in names:
            try:
                done(await archive_bucket(tools, bucket, every=every))
            except Exception as error:  # noqa: BLE001  # one bucket's failure is not the next one's
                failed(bucket, error)
        due = max(due + every, loop.time())  # a round that took longer is followed by the next at once
        await asyncio.sleep(due - loop.time())


def enabled_buckets(tools: ArchiveTools) -> list[str]:
    """Those that are enabled now, by name."""
    return [config.bucket for config in tools.store.buckets() if config.enabled]


def _claim(tools: ArchiveTools, root: Root, bucket: str) -> None:
    claim(tools.store, root, bucket, tools.archive(bucket).last_epoch)


def _keep_registry(tools: ArchiveTools, root: Root, bucket: str, renew: Renew) -> None:
    last = tools.archive(bucket).last_epoch
    renew()
    keep_registry(tools.store, root, bucket, last)


def _remember_days(tools: ArchiveTools, bucket: str, keep_days: int | None) -> None:
    with Lease(tools.store, bucket, ENABLE, tools.clock):
        config = tools.store.config(bucket)
        if config is not None and config.keep_days != keep_days:
            tools.store.put_config(replace(config, keep_days=keep_days))


async def _checkpoint(
    tools: ArchiveTools, root: Root, bucket: str, renew: Renew, *, now: bool
) -> Checkpoint | None:
    """The one that was made, or a differential, if any; older ones are thinned out."""
    if now:
        await asyncio.to_thread(drop_damaged, tools, root, bucket, renew, newest_only=True)
    before = await asyncio.to_thread(tools.archive, bucket)
    try:
        made = await _make_due(tools, root, bucket, renew, now=now)
    except ArchiveDamaged:  # perhaps of one that it began at: segments tell all that a checkpoint does
        if not await asyncio.to_thread(drop_damaged, tools, root, bucket, renew):
            raise
        before = await asyncio.to_thread(tools.archive, bucket)
        made = await _make_due(tools, root, bucket, renew, now=now)
    after = await asyncio.to_thread(tools.archive, bucket)
    for old in thinned(after.checkpoints, tools.clock()):
        await asyncio.to_thread(retire, tools.store, bucket, old, tools.clock())
    for one in useless(await asyncio.to_thread(tools.archive, bucket)):
        await asyncio.to_thread(retire, tools.store, bucket, one, tools.clock())
    known = {one.name for one in (*before.checkpoints, *before.differentials)}
    return made if made is not None and made.name not in known else None


async def _make_due(
    tools: ArchiveTools, root: Root, bucket: str, renew: Renew, *, now: bool
) -> Checkpoint | None:
    archive = await asyncio.to_thread(tools.archive, bucket)
    if now or checkpoint_due(archive):
        return await checkpoint(tools, root, bucket, renew=renew)
    if differential_due(archive):
        return await differential(tools, root, bucket, renew=renew)
    return None


async def _let_go(tools: ArchiveTools, root: Root, bucket: str, renew: Renew) -> LetGo:
    await asyncio.to_thread(mark_what_left, tools, root, bucket, renew)
    config = await asyncio.to_thread(tools.store.config, bucket)
    if config is None or config.keep_days is None:
        return LetGo()
    return await let_go(tools, root, bucket, config.keep_days, renew)


async def _sweep(tools: ArchiveTools, root: Root, bucket: str, renew: Renew) -> Swept:
    swept = await asyncio.to_thread(sweep_retired, tools, root, bucket, GRACE_MS, renew)
    saved = await asyncio.to_thread(tools.store.progress, bucket, _SWEEP)
    now = tools.clock()
    if saved is not None and int(saved["at"]) > now - ORPHANS_EVERY_MS:
        return swept
    await asyncio.to_thread(put_back_copies, tools.store, root, bucket)
    orphans = await sweep_orphans(tools, root, bucket, ORPHAN_MS, renew)
    await asyncio.to_thread(tools.store.save_progress, bucket, _SWEEP, {"at": now})
    return Swept(swept.files + orphans.files, swept.bytes + orphans.bytes, swept.manifests)


def _report(
    tools: ArchiveTools,
    root: Root,
    bucket: str,
    made: list[Segment],
    point: Checkpoint | None,
    longer: list[Segment],
    gone: LetGo,
    swept: Swept,
    narrowed: int,
) -> ArchiveReport:
    last = max(tools.archive(bucket).segments, key=lambda s: s.last, default=None)
    new: list[Segment | Checkpoint] = [*made, *longer, *([point] if point else [])]
    return ArchiveReport(
        bucket=bucket,
        root=root.url,
        epoch=last.last if last else 0,
        epoch_time=last.last_time if last else None,
        segments=len(made),
        observations=sum(s.rows for s in made),
        bytes=sum(f.size for manifest in new for f in manifest.files),
        checkpoint=point.at if point and not isinstance(point, Differential) else None,
        compacted=len(longer),
        let_go=gone.observations,
        stubs=gone.stubs,
        swept=swept.files,
        swept_bytes=swept.bytes,
        selections=narrowed,
        rows=sum(s.metadata_rows for s in made),
        differential=point.at if isinstance(point, Differential) else None,
    )
