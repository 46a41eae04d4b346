"""Compaction: neighbouring segments become one. Their observations stay as they are, so no answer changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import ArchiveFile, Segment
from snapengine.archive.planning import Bounds, KeyRange, split
from snapengine.archive.roots import Root
from snapengine.archive.schemas import ARCHIVED, EPOCHS, OBSERVATION_ROWS, ORDER, with_rows
from snapengine.archive.windows import Reader, Window
from snapengine.archiving import paths
from snapengine.archiving.policy import to_put_together
from snapengine.archiving.publishing import publish, retire, write_sorted
from snapengine.archiving.row_merging import merge_rows
from snapengine.archiving.tools import ArchiveTools
from snapengine.ranges import GROUP_ROWS, ROWS_AT_ONCE

_ALL = KeyRange("", None)


async def compact(
    tools: ArchiveTools, root: Root, bucket: str, *, renew: Callable[[], None] = lambda: None
) -> list[Segment]:
    """Put together the segments of hours, days and months that have ended; returns the new ones.

    `renew` is called now and then; what it raises ends the work, which harms nothing.
    """
    return await asyncio.to_thread(_compact, tools, root, bucket, renew)


def _compact(tools: ArchiveTools, root: Root, bucket: str, renew: Callable[[], None]) -> list[Segment]:
    made: list[Segment] = []
    archive = tools.archive(bucket)
    for shorter in _held_by_longer(archive.segments):  # an earlier run may have ended before it came to this
        retire(tools.store, bucket, shorter, tools.clock())
    for run in to_put_together(archive.segments, tools.clock()):
        segment = put_together(tools, root, bucket, run, renew)
        for file in segment.files:
            renew()
            tools.reader(root.url).check(file)
        renew()  # who was thought dead may find the files swept
        if publish(root, tools.store, bucket, segment):
            made.append(segment)
            for shorter in run:
                retire(tools.store, bucket, shorter, tools.clock())
    return made


def _held_by_longer(segments: Sequence[Segment]) -> list[Segment]:
    """But for those that say that items are leaving, where the longer one does not."""
    return [
        s
        for s in segments
        if any(
            o is not s
            and o.first <= s.first
            and s.last <= o.last
            and (s.leaving_since is None or o.leaving_since is not None)
            for o in segments
        )
    ]


def put_together(
    tools: ArchiveTools, root: Root, bucket: str, run: Sequence[Segment], renew: Callable[[], None]
) -> Segment:
    """One segment of neighbours, in order; its files are in the root, it is not committed."""
    first, last = run[0], run[-1]
    files: list[ArchiveFile] = []
    reader = tools.files(bucket)
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="snapengine-compact") as pool:
        for role in ("regular", "irregular"):
            old = [f for s in run for f in s.files if f.role == role and f.rows]
            stem = f"{paths.observations(bucket, first.first, last.last)}/{role}"
            tables = _merged(reader, old, pool, renew)
            files += write_sorted(root, stem, role, ARCHIVED, ORDER, tables, OBSERVATION_ROWS)
        files += merge_rows(reader, root, bucket, run, pool, renew)
    epochs = [f for s in run for f in s.files if f.role == "epochs"]
    tables = (with_rows(reader.read(file)) for file in epochs)
    stem = f"{paths.epochs(bucket, first.first, last.last)}/epochs"
    files += write_sorted(root, stem, "epochs", EPOCHS, ("number",), tables, 16 * OBSERVATION_ROWS)
    leaving = [s.leaving_since for s in run if s.leaving_since is not None]
    return Segment(
        first=first.first,
        last=last.last,
        files=tuple(files),
        cover=last.cover,
        last_time=last.last_time,
        listed_until=last.listed_until,
        created_at=tools.clock(),
        leaving_since=max(leaving, default=None),
        rows_cover=last.rows_cover,
    )


def _merged(
    reader: Reader, files: Sequence[ArchiveFile], pool: ThreadPoolExecutor, renew: Callable[[], None]
) -> Iterator[pa.Table]:
    """The rows of sorted files in one order, range by range of keys."""
    if not files:
        return
    window = Window.of_files(lambda: reader, files, ARCHIVED, pool)
    groups: list[Bounds] = []
    for file in files:
        if file.rows > GROUP_ROWS:
            groups += [Bounds(*group) for group in reader.groups(file)]
        else:
            groups.append(Bounds(file.rows, file.min_key, file.max_key))
    for keys in split(groups, _ALL, ROWS_AT_ONCE):
        renew()
        rows = window.rows(keys)
        yield rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in ORDER]))
