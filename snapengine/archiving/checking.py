"""Checking: every file that a bucket's archive names is read from its root, and its hash compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from snapengine.archive.manifest import ArchiveFile
from snapengine.archiving.runs import check_runs
from snapengine.archiving.selections import check_selections
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import ArchiveDamaged, BucketNotEnabled, Refused

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found."""

    bucket: str
    root: str
    files: int
    bytes: int
    damaged: Mapping[str, str]
    """By path, in what way a file is not as it was written."""


def check_archive(
    tools: ArchiveTools, bucket: str, progress: Callable[[int, int], None] = lambda *_: None
) -> CheckReport:
    """Read all files of the manifests that stand, those of narrowed views, and the notes of runs. `progress`
    is told bytes read, and of how many in manifests.

    Raises `BucketNotEnabled`, `Refused` for a bucket without an archive, and what the store and the root
    raise: what cannot be read for now is not taken for damaged.
    """
    config = tools.store.config(bucket)
    if config is None:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    if config.archive is None:
        raise Refused(f"Bucket {bucket} has no archive yet. `snapengine archive {bucket}` makes it.")
    reader = tools.reader(config.archive)
    files = _files(tools, bucket)
    total = sum(file.size for file in files)

    def check(file: ArchiveFile) -> str:
        try:
            reader.check(file)
        except ArchiveDamaged as error:
            return str(error)
        return ""

    damaged: dict[str, str] = {}
    done = 0
    with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="snapengine-check") as pool:
        try:
            for file, how in zip(files, pool.map(check, files), strict=True):
                done += file.size
                progress(done, total)
                if how:
                    damaged[file.path] = how
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if damaged:  # what was let go meanwhile is not missed
        named = {file.path for file in _files(tools, bucket)}
        damaged = {path: how for path, how in damaged.items() if path in named}
    root = tools.root(config.archive)
    more, size, faults = check_selections(tools, root, bucket)
    notes, read, lacking = check_runs(tools, root, bucket)
    return CheckReport(
        bucket, root.url, len(files) + more + notes, total + size + read, damaged | faults | lacking
    )


def _files(tools: ArchiveTools, bucket: str) -> list[ArchiveFile]:
    archive = tools.archive(bucket)
    return [file for manifest in archive.standing for file in manifest.files]
