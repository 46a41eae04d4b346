"""Sweeping: files that nothing names any more are deleted, and none that a reader may still want.

Only the archive's own paths below `<bucket>/` are ever deleted, and never one that a standing manifest names.
A reader whose plan is older finds a file missing, and plans again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from snapengine.archive.manifest import Manifest, from_json
from snapengine.archive.roots import Root, Stored
from snapengine.archiving import paths
from snapengine.archiving.leasing import Renew, at_work
from snapengine.archiving.segments import prepared_root
from snapengine.archiving.tools import ArchiveTools
from snapengine.log import EpochCutter
from snapengine.model import BASELINE

GRACE_MS = 3_600_000
"""For so long the files of what was retired stay for readers who have begun."""
ORPHAN_MS = 24 * 3_600_000
"""A file that nothing names may be somebody's who is at work; after a day it is nobody's."""


@dataclass(slots=True)
class Swept:
    """What was deleted."""

    files: int = 0
    bytes: int = 0
    manifests: int = 0


async def sweep(
    tools: ArchiveTools, bucket: str, *, grace_ms: int = GRACE_MS, orphan_ms: int = ORPHAN_MS
) -> Swept:
    """Delete what was retired `grace_ms` ago, and orphans that the root says are `orphan_ms` old.

    Raises as `archive_segments` does. It may always be called again.
    """
    root = await asyncio.to_thread(prepared_root, tools, bucket)
    async with at_work(tools, bucket) as renew:
        swept = await asyncio.to_thread(sweep_retired, tools, root, bucket, grace_ms, renew)
        orphans = await sweep_orphans(tools, root, bucket, orphan_ms, renew)
    return Swept(
        swept.files + orphans.files, swept.bytes + orphans.bytes, swept.manifests + orphans.manifests
    )


def sweep_retired(tools: ArchiveTools, root: Root, bucket: str, grace_ms: int, renew: Renew) -> Swept:
    """For who has the lease: first the copies of a retired manifest, then its files, then itself."""
    swept = Swept()
    manifests = _manifests(tools, bucket)
    standing = _named(m for m in manifests if m.retired_at is None)
    before = tools.clock() - grace_ms
    for manifest in manifests:
        if manifest.retired_at is None or manifest.retired_at > before:
            continue
        for copy in list(root.paths(paths.copies(bucket, manifest.name))):
            _delete(root, copy, swept)
        for file in manifest.files:
            renew()
            if file.path not in standing and paths.owner(bucket, file.path):
                _delete(root, Stored(file.path, file.size, 0), swept)
        tools.store.delete_manifest(bucket, manifest.name)
        swept.manifests += 1
    return swept


async def sweep_orphans(tools: ArchiveTools, root: Root, bucket: str, orphan_ms: int, renew: Renew) -> Swept:
    """For who has the lease. The files of listings are left as long as a listing may still commit them."""
    before = tools.clock() - orphan_ms
    manifests = await asyncio.to_thread(_manifests, tools, bucket)
    found = await asyncio.to_thread(_orphans, root, bucket, manifests, before, renew)
    if any(_is_listing(bucket, orphan) for orphan in found):
        # An entry of the log may name files whose manifest its writer left to the next who cuts an epoch.
        async with tools.log() as log:
            await EpochCutter(log, bucket, tools.clock).cut()
        named = _named(await asyncio.to_thread(_manifests, tools, bucket))
        listing = await asyncio.to_thread(_may_list, tools, bucket)
        found = [o for o in found if o.path not in named and not (listing and _is_listing(bucket, o))]
    return await asyncio.to_thread(_delete_all, root, found, renew)


def _orphans(root: Root, bucket: str, manifests: list[Manifest], before: int, renew: Renew) -> list[Stored]:
    named = _named(manifests)
    copies = tuple(paths.copies(bucket, manifest.name) for manifest in manifests)
    found: list[Stored] = []
    for stored in root.paths(f"{bucket}/"):
        renew()
        kind = paths.owner(bucket, stored.path)
        if kind is None or stored.modified > before or stored.path in named:
            continue
        if kind == "selection" and not _is_partial(stored):
            continue  # kept for ever
        if kind != "manifest" or not stored.path.startswith(copies):
            found.append(stored)
    return found


def _is_partial(stored: Stored) -> bool:
    return stored.path.endswith(".partial") and stored.path.rpartition("/")[2].startswith(".")


def _may_list(tools: ArchiveTools, bucket: str) -> bool:
    """Whether a baseline is under way, or will go on: its files are named when it has ended."""
    config = tools.store.config(bucket)
    ended = config is not None and config.baseline_ended is not None
    return not ended or tools.store.progress(bucket, BASELINE) is not None


def _is_listing(bucket: str, stored: Stored) -> bool:
    return paths.owner(bucket, stored.path) == "listing"


def _manifests(tools: ArchiveTools, bucket: str) -> list[Manifest]:
    return [from_json(body) for body in tools.store.manifests(bucket)]


def _named(manifests: Iterable[Manifest]) -> set[str]:
    return {file.path for manifest in manifests for file in manifest.files}


def _delete_all(root: Root, files: Iterable[Stored], renew: Renew) -> Swept:
    swept = Swept()
    for stored in files:
        renew()
        _delete(root, stored, swept)
    return swept


def _delete(root: Root, stored: Stored, swept: Swept) -> None:
    root.delete(stored.path)
    swept.files += 1
    swept.bytes += stored.size
