"""Forgetting beside what is named: old files, their earlier versions in S3, old manifests' copies, caches."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from snapengine.archive.manifest import Manifest, from_json, to_json
from snapengine.archive.roots import Root
from snapengine.archiving import paths, selected_files
from snapengine.archiving.leasing import Renew
from snapengine.archiving.sweeping import sweep_retired
from snapengine.archiving.tools import ArchiveTools
from snapengine.aws_errors import code_of, translated
from snapengine.errors import BadData, SchemaTooNew
from snapengine.forgotten import Forgotten
from snapengine.settings import Settings
from snapengine.tensor_folder import count_samples, forget_here

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_FOLDERS: Final = ("metadata", "identifying")
"""Below the bucket's own, those with rows of metadata, and with conditions over identifying columns."""
_UPLOADS: Final = "uploads that did not end"
_EARLIER: Final = "earlier versions of deleted files"
_DAY_MS: Final = 24 * 3_600_000
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_TEMPORARY: Final = re.compile(r"snapengine-[a-z0-9_]{8}")
_UNFINISHED_SECONDS: Final = 60
_LEFT_SECONDS: Final = 24 * 3600


@dataclass(slots=True)
class PlacesForgotten:
    """What was deleted."""

    files: int = 0
    """Of the archive, that no manifest names any more."""
    versions: int = 0
    """Of such files, in a bucket with versioning."""
    cached: int = 0
    temporary: int = 0
    tensors: int = 0
    """Samples in this machine's tensor snapshots; also counted where nothing is deleted."""
    remains: list[str] = field(default_factory=list)
    """Where something may still be, in words."""


def sweep_now(tools: ArchiveTools, root: Root, bucket: str, renew: Renew) -> PlacesForgotten:
    """For who has the lease: delete what was retired and what nobody names, without waiting for readers."""
    done = PlacesForgotten()
    done.files += sweep_retired(tools, root, bucket, -_DAY_MS, renew).files  # whatever the clocks
    standing = [m for m in _manifests(tools, bucket) if m.retired_at is None]
    _copies(root, bucket, standing, renew)
    named = {file.path for manifest in standing for file in manifest.files}
    named |= selected_files.named(bucket, selected_files.listed(root, bucket) or {})
    for folder in _FOLDERS:
        for stored in list(root.paths(f"{bucket}/{folder}/")):
            renew()
            if stored.path not in named and _is_ours(bucket, stored.path):
                root.delete(stored.path)
                done.files += 1
    if root.url.startswith("s3://"):
        _Versions(tools.client("s3"), root.url, bucket, named, renew, done).delete()
    return done


def _manifests(tools: ArchiveTools, bucket: str) -> list[Manifest]:
    return [from_json(body) for body in tools.store.manifests(bucket)]


def _is_ours(bucket: str, path: str) -> bool:
    return paths.owner(bucket, path) in {"segment", "checkpoint", "selection"}


def _copies(root: Root, bucket: str, standing: list[Manifest], renew: Renew) -> None:
    """Have every standing manifest with rows one copy that names its files, and no other."""
    wanted = {m.name: m for m in standing if any(file.extractor for file in m.files)}
    there: set[str] = set()
    for stored in list(root.paths(f"{bucket}/manifests/")):
        renew()
        try:
            copy = from_json(root.read(stored.path).decode())
        except (BadData, SchemaTooNew, UnicodeDecodeError):
            continue  # not one of ours to judge
        manifest = wanted.get(copy.name)
        if manifest is None:
            continue
        if copy.files == manifest.files and copy.name not in there:
            there.add(copy.name)
        else:
            root.delete(stored.path)
    for name in wanted.keys() - there:
        text = to_json(wanted[name])
        root.put_bytes(f"{paths.copies(bucket, name)}{token_hex(4)}.json", text.encode())


class _Versions:
    """Versions of files that no manifest names, in a bucket that keeps them."""

    def __init__(
        self,
        s3: S3Client,
        url: str,
        bucket: str,
        named: Collection[str],
        renew: Renew,
        done: PlacesForgotten,
    ) -> None:
        self._s3 = s3
        self._home, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = bucket
        self._named = named
        self._renew = renew
        self._done = done

    def delete(self) -> None:
        self._as_allowed(_UPLOADS, self._abort_uploads)
        self._as_allowed(_EARLIER, self._delete_versions)

    def _as_allowed(self, what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except ClientError as error:
            if code_of(error) not in {"AccessDenied", "NotImplemented", "MethodNotAllowed"}:
                with translated(f"s3://{self._home}"):
                    raise
            self._remain(what, f"this role may not list or delete them ({code_of(error)})")

    def _delete_versions(self) -> None:
        found = self._found()
        while some := list(islice(found, 1000)):
            self._renew()
            reply = self._s3.delete_objects(Bucket=self._home, Delete={"Objects": some, "Quiet": True})
            failed = reply.get("Errors", [])
            self._done.versions += len(some) - len(failed)
            if failed:
                self._remain(_EARLIER, f"{len(failed):,} could not be deleted ({failed[0].get('Code')})")

    def _abort_uploads(self) -> None:
        """Parts that a killed archiver had sent of a file, which no listing of objects shows."""
        pages = self._s3.get_paginator("list_multipart_uploads")
        for folder in _FOLDERS:
            for page in pages.paginate(Bucket=self._home, Prefix=f"{self._prefix}{self._bucket}/{folder}/"):
                for upload in page.get("Uploads", []):
                    self._renew()
                    self._s3.abort_multipart_upload(
                        Bucket=self._home, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    self._done.files += 1

    def _remain(self, what: str, why: str) -> None:
        place = f"s3://{self._home}/{self._prefix}{self._bucket}/"
        self._done.remains.append(f"{what} below {place}, if there are any: {why}")

    def _found(self) -> Iterator[Any]:
        pages = self._s3.get_paginator("list_object_versions")
        for folder in _FOLDERS:
            for page in pages.paginate(Bucket=self._home, Prefix=f"{self._prefix}{self._bucket}/{folder}/"):
                for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                    path = item["Key"].removeprefix(self._prefix)
                    if path not in self._named and _is_ours(self._bucket, path):
                        yield {"Key": item["Key"], "VersionId": item["VersionId"]}


# This machine


def clear_tensors(
    settings: Settings, bucket: str, forgotten: Forgotten, done: PlacesForgotten, *, apply: bool
) -> None:
    """Delete from this machine's tensor snapshots the samples of forgotten objects, or count them."""
    folder = settings.tensor_folder
    if folder is None:
        return
    try:
        if apply:
            done.tensors += forget_here(folder, bucket, settings.store, forgotten)
        else:
            done.tensors += count_samples(folder, bucket, forgotten)
    except OSError as error:
        done.remains.append(
            f"tensor snapshots in {folder} on this machine, which could not be gone through ({error}): "
            "delete the folder"
        )


def clear_here(tools: ArchiveTools, done: PlacesForgotten) -> None:
    """Delete from this machine's cache what is of no file that stands, and what killed processes left."""
    folder = tools.settings.cache_folder
    if folder is not None:
        hashes = {
            file.sha256
            for config in tools.store.buckets()
            for manifest in _manifests(tools, config.bucket)
            for file in manifest.files
        }
        done.cached += _clear_cache(folder, hashes)
    _clear_temporary(done)


def _clear_cache(folder: Path, hashes: Collection[str]) -> int:
    """What is being put there at this moment is left."""
    deleted = 0
    with suppress(FileNotFoundError):
        for path in [path for sub in folder.iterdir() if sub.is_dir() for path in sub.iterdir()]:
            found = _HASH.match(path.name)
            with suppress(FileNotFoundError):
                young = time.time() - path.stat().st_mtime < _UNFINISHED_SECONDS
                if (found and found[0] not in hashes) or (not found and not young):
                    path.unlink()
                    deleted += 1
    return deleted


def _clear_temporary(done: PlacesForgotten) -> None:
    left = 0
    for path in Path(tempfile.gettempdir()).glob("snapengine-*"):
        with suppress(OSError):
            status = path.stat()
            if status.st_uid != os.getuid() or not path.is_dir() or not _TEMPORARY.fullmatch(path.name):
                continue
            newest = max([status.st_mtime, *(one.stat().st_mtime for one in path.iterdir())])
            if time.time() - newest < _LEFT_SECONDS:
                left += 1
                continue
            shutil.rmtree(path, ignore_errors=True)
            done.temporary += 1
    if left:
        done.remains.append(
            f"{left} folders {tempfile.gettempdir()}/snapengine-* on this machine, less than a day old: in "
            "use, or left by a process that was killed"
        )
