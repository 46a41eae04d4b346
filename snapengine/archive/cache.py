"""Bytes of archive files on the local disk, shared between processes. A bad or missing one is only a miss."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import secrets
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final

from snapengine.checksums import crc32

_HEAD: Final = struct.Struct("<4sIQ")
"""Magic, CRC-32 of name and data, length of the data."""
HEAD_BYTES: Final = _HEAD.size
"""Of a file, before the data."""
_MAGIC: Final = b"SEC1"
_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{3,199}")
_LOCK: Final = ".lock"
_TOUCH_SECONDS: Final = 60
_KEPT: Final = 0.9
"""The share of the limit that eviction leaves."""
_COUNTED: Final = 1 / 16
"""After putting this share of the limit a process looks again at what others have put."""

_logger = logging.getLogger(__name__)


class Cache:
    """Thread-safe; any number of processes may share the folder.

    It may pass its limit by a sixteenth for each process that is writing. Nothing here raises for the disk's
    sake: where it is full or may not be written to, one warning is logged and nothing more is kept.
    """

    def __init__(self, folder: Path, limit: int, *, setting: str = "SNAPENGINE_CACHE") -> None:
        """`limit`: bytes in all. The folder, which `setting` names, is made for its owner alone."""
        self._setting = setting
        self._folder = folder
        self._limit = limit
        self._lock = Lock()
        self._writable = True
        self._uncounted: int | None = None
        """Bytes put since the folder was last looked through; None: never yet."""

    def get(self, name: str) -> bytes | None:
        """What was put by that name, or None."""
        path = self._path(name)
        try:
            with path.open("rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                head = file.read(_HEAD.size)
                data = file.readall()
                if time.time() - status.st_mtime > _TOUCH_SECONDS:
                    with suppress(OSError):  # not ours to touch
                        os.utime(file.fileno())
        except OSError:
            return None
        if head == _head(name, data):
            return data
        self.drop(name)
        return None

    def has(self, name: str) -> bool:
        """Whether there is something by that name; it is not looked at."""
        return self._path(name).is_file()

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Keep the data, at the cost of what has not been read for longest."""
        path = self._path(name)
        if not self._writable or len(data) > self._limit // 4:
            return
        partial = path.with_name(f".{secrets.token_hex(8)}.partial")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                with partial.open("xb") as file:
                    file.write(_head(name, data))
                    file.write(data)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            self._count(_HEAD.size + len(data))
        except OSError as error:
            if error.errno != errno.ENOENT:  # somebody clears the folder meanwhile
                self._give_up(error)

    def whole(self, name: str, size: int) -> Path | None:
        """Where a whole file of `size` bytes may be kept under that name, as it is, until room is needed;
        None where it may not. Who puts it there renames it into place."""
        path = self._path(name).with_suffix(".parquet")
        if not self._writable or size > self._limit // 4:
            return None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if path.exists():
                os.utime(path)
            else:
                self._count(size)
        except OSError as error:
            self._give_up(error)
            return None
        return path

    def drop(self, name: str) -> None:
        """Forget what was put by that name, as it turned out to be wrong."""
        with suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a file of the cache")
        return self._folder / name[:2] / name

    def _give_up(self, error: OSError) -> None:
        with self._lock:
            told, self._writable = not self._writable, False
        if not told:
            _logger.warning(
                "The cache %s cannot be written to (%s). Going on without; set %s to another folder, or to "
                "`off`.",
                self._folder,
                error.strerror or error,
                self._setting,
            )

    def _count(self, size: int) -> None:
        with self._lock:
            if self._uncounted is not None:
                self._uncounted += size
                if self._uncounted <= self._limit * _COUNTED:
                    return
            self._uncounted = 0
        with _alone(self._folder / _LOCK) as alone:
            if alone:
                self._evict()

    def _evict(self) -> None:
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        if total <= self._limit * (1 - _COUNTED):
            return
        for _, size, path in files:
            if total <= self._limit * _KEPT:
                return
            with suppress(FileNotFoundError):
                path.unlink()
            total -= size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """When each was last read (ns), its bytes, its path; those that crashed processes left included."""
        for folder in self._folder.iterdir():
            if not folder.is_dir():
                continue
            for path in folder.iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    yield status.st_mtime_ns, status.st_size, path


def _head(name: str, data: bytes | memoryview) -> bytes:
    return _HEAD.pack(_MAGIC, crc32(data, crc32(name.encode())), len(data))


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no other process holds the lock; it ends with the process, whatever ends that."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
