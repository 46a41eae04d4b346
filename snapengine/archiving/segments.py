"""Segments: what epochs cover and the archive lacks is written to it, segment by segment, and committed."""

from __future__ import annotations

import asyncio

from snapengine.archive.manifest import Archive, Listed, Segment, archive_of, from_json
from snapengine.archive.roots import Root
from snapengine.archive_root import archive_root, remember_root
from snapengine.archiving.leasing import Renew, at_work
from snapengine.archiving.making import Making, Show
from snapengine.archiving.publishing import publish, retire
from snapengine.archiving.row_making import RowLog
from snapengine.archiving.tail import Tail
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import BucketNotEnabled, Busy

MAX_ROWS = 2_000_000
"""Of a segment, as long as one epoch alone has no more."""


async def archive_segments(
    tools: ArchiveTools, bucket: str, *, max_rows: int = MAX_ROWS, progress: Show | None = None
) -> list[Segment]:
    """Archive all that the newest epoch covers and the archive lacks; the segments made, which stand.

    Raises `BucketNotEnabled`, `Refused` if there is no place for an archive, `Busy` if another process is at
    it, `LogDamaged`, `ArchiveDamaged`, and what the store and the root raise. It may always be called again.
    """
    root = await asyncio.to_thread(prepared_root, tools, bucket)
    async with at_work(tools, bucket) as renew:
        return await asyncio.to_thread(
            make_segments, tools, root, bucket, max_rows=max_rows, progress=progress, renew=renew
        )


def prepared_root(tools: ArchiveTools, bucket: str) -> Root:
    """Where the bucket's archive is, noted in its registration."""
    config = tools.store.config(bucket)
    if config is None:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    url = archive_root(tools, config)
    if config.archive is None or config.archive_id is None:
        url = remember_root(tools, bucket, url).archive or url
    return tools.root(url)


def make_segments(
    tools: ArchiveTools,
    root: Root,
    bucket: str,
    *,
    max_rows: int = MAX_ROWS,
    idle_ms: int = 0,
    progress: Show | None = None,
    renew: Renew = lambda: None,
) -> list[Segment]:
    """The same, for who has the lease. Epochs that tell of no observation and no row of metadata wait until
    so many milliseconds of them have come together (`idle_ms`)."""
    made: list[Segment] = []
    archive = take_over_listings(tools, bucket)
    newest = tools.store.newest_epoch(bucket)
    if newest is None or newest.number <= archive.last_epoch:
        return made
    last = max(archive.segments, key=lambda s: s.last, default=None)
    if (
        last
        and (last.cover, last.rows_cover) == (newest.cover, newest.rows)
        and newest.time - last.last_time < idle_ms
    ):
        return made
    after = last.last if last else 0
    tail = Tail(tools.store, bucket, last.cover if last else {}, newest)
    row_log = RowLog(tools.store, bucket, last.rows_cover if last else {}, newest)
    epochs = tools.store.epochs(bucket, after + 1, newest.number)
    while after < newest.number:
        with Making(tools, root, bucket, after + 1, last, progress or (lambda _: None), renew) as making:
            making.gather(epochs, tail, row_log, newest.number, max_rows)
            segment = making.write()
        renew()
        _commit(tools, root, bucket, segment, after)
        take_over_listings(tools, bucket)
        made.append(segment)
        last, after = segment, segment.last
    return made


def take_over_listings(tools: ArchiveTools, bucket: str) -> Archive:
    """Retire the manifests of listings that segments hold, also those that a run before this one left, or
    that a writer who slept put late. Returns the archive as it stood."""
    manifests = [from_json(body) for body in tools.store.manifests(bucket)]
    archive = archive_of(manifests)
    archived = max(archive.segments, key=lambda s: s.last).cover if archive.segments else {}
    for one in manifests:
        if isinstance(one, Listed) and one.retired_at is None and one.number <= archived.get(one.stream, 0):
            retire(tools.store, bucket, one, tools.clock())
    return archive


def _commit(tools: ArchiveTools, root: Root, bucket: str, segment: Segment, after: int) -> None:
    if tools.archive(bucket).last_epoch != after or not publish(root, tools.store, bucket, segment):
        raise Busy(
            f"Another process has archived epochs from {segment.first:,} on of bucket {bucket} meanwhile. "
            "Nothing is lost: run `snapengine archive` again to go on from there."
        )
