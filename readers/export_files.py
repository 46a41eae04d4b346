"""A view's objects as files below a folder: each whole or not at all, each compared with what S3 says."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from readers.export_copying import Copier
from readers.export_evidence import CHUNK, NotAsTold, Stored, described, is_plain, part_count
from readers.export_outcomes import Conflict, Outcome, problem_of
from readers.export_paths import OURS, odd_paths
from snapengine.errors import Busy, SnapEngineError, UsageError
from snapengine.model import ObjectVersion
from snapengine.views import View

_CHECKSUMS: Final[dict[str, Callable[[], Any]]] = {"SHA256": hashlib.sha256, "SHA1": hashlib.sha1}
"""Those that Python computes, besides CRC32."""


@dataclass(slots=True)
class Folder:
    """A folder that a view is exported to."""

    path: Path
    view: View
    copier: Copier
    """Knows in which parts versions came."""
    overwrite: bool = False
    workers: int = 8
    _real: Path = field(init=False)

    def __post_init__(self) -> None:
        self._real = Path(os.path.realpath(self.path))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def ours(self) -> Path:
        return self.path / OURS

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, and keep another export out of it. What a killed one left half done goes."""
        self.ours.mkdir(parents=True, exist_ok=True)
        with (self.ours / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"Another export is writing to {self.path}. Wait for it to end.") from None
            for left in self.ours.glob("partial-*"):
                left.unlink()
            yield

    def folds(self) -> bool:
        """Whether the folder takes `A` for `a`; asked of the nearest one that is there."""
        here = next(path for path in (self._real, *self._real.parents) if path.is_dir())
        for probe in (*islice(here.iterdir(), 100), here):
            other = probe.name.swapcase()
            if other != probe.name and other.isascii():
                twin = probe.with_name(other)
                return os.path.lexists(twin) and twin.samefile(probe)
        return False

    def odd(self, keys: Iterator[str]) -> Iterator[tuple[str, str]]:
        return odd_paths(keys, folds=self.folds())

    def name(self, key: str) -> str:
        return str(self._path_of(key))

    def standing(self, versions: Iterator[ObjectVersion]) -> Iterator[tuple[ObjectVersion | None, str]]:
        """Each with `new`, `there` (a file of its size) or `other`, without reading any file; at last None
        with `beside` for each file that is there and none of them."""
        beside = sum(1 for _ in self._files())
        for version in versions:
            try:
                found = os.lstat(self._path_of(version.key))
            except (FileNotFoundError, NotADirectoryError):
                yield version, "new"
                continue
            same = stat.S_ISREG(found.st_mode) and version.size in {None, found.st_size}
            beside -= not stat.S_ISDIR(found.st_mode)
            yield version, "there" if same else "other"
        yield from ((None, "beside") for _ in range(beside))

    def _files(self) -> Iterator[str]:
        """All that is no folder below it, but for what is ours."""
        for here, folders, names in os.walk(self.path):
            if Path(here) == self.path and OURS.rstrip("/") in folders:
                folders.remove(OURS.rstrip("/"))
            yield from names
            yield from (name for name in folders if Path(here, name).is_symlink())

    def jobs(self, versions: Iterator[ObjectVersion]) -> Iterator[ObjectVersion]:
        return versions

    def put(self, version: ObjectVersion) -> Outcome:
        """Write one, unless it is there."""
        path = self._path_of(version.key)
        try:
            return self._put(version, path)
        except SnapEngineError as error:
            return problem_of(error, version, str(path))

    def keep_manifest(self, spooled: Path, name: str) -> str:
        """The manifest's path, once it is there, whole."""
        path = self.ours / name
        partial = self.ours / f"partial-{token_hex(8)}"
        shutil.copyfile(spooled, partial)
        partial.replace(path)
        return str(path)

    def _path_of(self, key: str) -> Path:
        return self.path.joinpath(*key.split("/"))

    def _put(self, version: ObjectVersion, path: Path) -> Outcome:
        if version.size is None or version.etag is None:
            known = self._described(version)
            version = replace(version, size=known.size, etag=known.etag)
        if os.path.lexists(path):
            checked = self._there(version, path)
            if checked:
                return Outcome("there", version, str(path), checked, version.size)
            if not self.overwrite or not stat.S_ISREG(path.lstat().st_mode):
                raise Conflict(f"{path} is there and is not this version: it is left as it is (--overwrite).")
        self._make_folder(path)
        partial = self.ours / f"partial-{token_hex(8)}"
        try:
            with partial.open("xb") as file:
                for start in range(0, version.size or 1, CHUNK):  # what is empty is asked for, too
                    end = min(start + CHUNK, version.size or 0)
                    file.write(self.view.read_version(version, start, end))
            checked = self._checked(version, partial)
            self._name(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return Outcome("copied", version, str(path), checked, version.size)

    def _name(self, partial: Path, path: Path) -> None:
        """Give the whole file its name; without `overwrite` never another's."""
        if self.overwrite:
            partial.replace(path)
            return
        try:
            os.link(partial, path)
        except FileExistsError:
            raise Conflict(f"{path} came to be meanwhile: it is left as it is. Run it again.") from None
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                raise Conflict(f"{path} came to be meanwhile: it is left as it is. Run it again.") from None
            partial.replace(path)

    def _make_folder(self, path: Path) -> None:
        """Raises `Conflict` where a file is in the way, or a link that leads out of the folder."""
        if not Path(os.path.realpath(path.parent)).is_relative_to(self._real):
            raise Conflict(f"{path.parent} leads out of {self.path}: nothing is written there.")
        with suppress(FileExistsError, NotADirectoryError):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.is_dir():
            raise Conflict(f"{path.parent} is there and is no folder: it is left as it is.")

    def _there(self, version: ObjectVersion, path: Path) -> tuple[str, ...]:
        """What shows that a file holds the version, or nothing if it does not."""
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != version.size:
            return ()
        if is_plain(version.etag) and _md5_of(path) == version.etag:
            return ("size", "etag")
        with path.open("rb") as file:
            for start in range(0, found.st_size, CHUNK):
                data = self.view.read_version(version, start, min(start + CHUNK, found.st_size))
                if file.read(len(data)) != data:
                    return ()
        return ("size", "bytes")

    def _checked(self, version: ObjectVersion, path: Path) -> tuple[str, ...]:
        """What of a file that was written now is as S3 says. Raises `NotAsTold` for what is not."""
        if is_plain(version.etag) and _md5_of(path) == version.etag:
            return ("size", "etag")
        known = self._described(version)
        if part_count(version.etag):
            sizes = [end - start for start, end in self.copier.cuts(self.view.bucket, version, known)]
            if _etag_of_parts(path, sizes) == version.etag:
                return ("size", "etag")
        for name, told in known.checksums.items():
            value, _, kind = told.partition(" ")
            if kind == "COMPOSITE" or "-" in value:
                continue
            computed = _checksum_of(path, name)
            if computed == value:
                return ("size", "checksum")
            if computed is not None and kind == "FULL_OBJECT":
                raise _not_as_told(self.view.bucket, version, f"{name} {computed}, not {value}")
        if known.md5 and is_plain(version.etag):
            raise _not_as_told(self.view.bucket, version, f"an MD5 that is not its ETag {version.etag}")
        return ("size",)

    def _described(self, version: ObjectVersion) -> Stored:
        return described(self.copier.client, self.view.bucket, version)


def _not_as_told(bucket: str, version: ObjectVersion, how: str) -> NotAsTold:
    return NotAsTold(
        f"s3://{bucket}/{version.key} version {version.version_id} was read with {how}: nothing was kept.",
        version.key,
        version.version_id,
    )


def folder(destination: str, view: View, copier: Copier, *, overwrite: bool) -> Folder:
    """Raises `UsageError` for what is there and is no folder."""
    path = Path(destination)
    if os.path.lexists(path) and not path.is_dir():
        raise UsageError(f"{destination} is there and is no folder.")
    return Folder(path, view, copier, overwrite)


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _etag_of_parts(path: Path, sizes: Sequence[int]) -> str:
    """The ETag that S3 gives to these bytes, uploaded in parts of these sizes."""
    digests = []
    with path.open("rb") as file:
        for size in sizes:
            md5 = hashlib.md5(usedforsecurity=False)
            for start in range(0, size, CHUNK):
                md5.update(file.read(min(CHUNK, size - start)))
            digests.append(md5.digest())
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def _checksum_of(path: Path, name: str) -> str | None:
    """Base64, as S3 writes it; None for one that Python does not compute."""
    if name == "CRC32":
        crc = 0
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                crc = zlib.crc32(data, crc)
        return base64.b64encode(crc.to_bytes(4, "big")).decode()
    if name not in _CHECKSUMS:
        return None
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, _CHECKSUMS[name]).digest()).decode()
