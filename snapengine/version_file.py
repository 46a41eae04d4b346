"""A seekable file over one exact version in S3, by ranged reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from snapengine.model import ObjectVersion

Read = Callable[[ObjectVersion, int, int | None], bytes]
"""`(version, start, end)` to bytes `[start, end)`; `end=None` means to its end."""


class VersionFile(io.RawIOBase):
    """Raw, read-only; wrap it in `io.BufferedReader`, so that small reads share one request."""

    def __init__(self, read: Read, version: ObjectVersion) -> None:
        super().__init__()
        self._read = read
        self._version = version
        self._position = 0
        self._whole: bytes | None = None
        if version.size is None:  # no event or listing told it, so only reading does
            self._whole = read(version, 0, None)
        self._size = version.size if version.size is not None else len(self._whole or b"")

    @property
    def name(self) -> str:
        return self._version.key

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}, before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._fetch(self._position + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._fetch(self._size)

    def _fetch(self, end: int) -> bytes:
        end = min(end, self._size)
        if self._position >= end:
            return b""
        if self._whole is not None:
            data = self._whole[self._position : end]
        else:
            data = self._read(self._version, self._position, end)
        self._position += len(data)
        return data
