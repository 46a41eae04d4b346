"""An open file of a view: one exact version, through the buffers that fsspec offers."""

from __future__ import annotations

from typing import Any

from fsspec.spec import AbstractBufferedFile

from readers.concurrent import read_whole
from readers.fsspec_lookup import Keys
from readers.fsspec_tree import told
from snapengine.model import ObjectVersion
from snapengine.views import View


class SnapFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec tells no types
    """Reads the version that it was opened with, whatever is asked of its path later. Seekable, binary.

    `block_size`, `cache_type` and `cache_options` are fsspec's own; what is read beyond a block is read at
    once, in parts side by side. Reading raises what `OSError` the version's bytes cannot be had for.
    """

    def __init__(self, fs: Any, path: str, keys: Keys, version: ObjectVersion, **options: Any) -> None:
        self._keys = keys
        self._version = version
        self._whole: bytes | None = None
        if version.size is None:  # no event or listing told it, so only reading does
            self._whole = self._read(0, None)
        size = len(self._whole or b"") if version.size is None else version.size
        super().__init__(fs, path, "rb", size=size, **options)

    @property
    def version(self) -> ObjectVersion:
        return self._version

    def __reduce__(self) -> tuple[Any, ...]:
        """Of this version elsewhere, too, whatever the filesystem has forgotten meanwhile."""
        cache = self.cache.name if self.cache else "none"
        buffers = {"block_size": self.blocksize, "cache_type": cache}
        return (_opened, (self.fs, self.path, self._keys.view, self._version, buffers, self.loc))

    def _fetch_range(self, start: int, end: int) -> bytes:
        if self._whole is not None:
            return self._whole[start:end]
        return self._read(start, min(end, self.size))

    def _read(self, start: int, end: int | None) -> bytes:
        with told(self._version.key):
            return read_whole(self._keys.read, self._version, start, end, self._keys.read_into)


def _opened(
    fs: Any, path: str, view: View, version: ObjectVersion, buffers: dict[str, Any], at: int
) -> SnapFile:
    file = SnapFile(fs, path, Keys(view), version, **buffers)
    file.seek(at)
    return file
