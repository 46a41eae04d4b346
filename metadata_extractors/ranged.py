"""Reads no more of an object than its header: ranged GETs that grow until the extractor has seen its end."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Final

from metadata_extractors.base import Extraction, Extractor, NeedMoreBytes, Prefix

FIRST_BYTES: Final = 64 * 1024
"""The first ranged GET: holds the whole header of most images."""
GROWTH: Final = 4
MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
ELEMENT_HEADER_BYTES: Final = 8
"""Tag, VR and length: what pydicom reads first of an element (PS3.5, 7.1)."""

ReadRange = Callable[[int, int], bytes]
"""`(start, end)` to the bytes `[start, end)` of one exact version; fewer where it ends before."""


def extract_ranged(read: ReadRange, size: int | None, extractor: Extractor) -> Extraction:
    """What the extractor finds in the object's header. `size` in bytes, None where nobody told it.

    Every byte is read once at most, and none beyond `MAX_HEADER_BYTES`.
    """
    data = b""
    length = next_length(0, 0, size)
    while True:
        if length is not None:
            data += read(len(data), length)
        whole = (length is not None and len(data) < length) or len(data) == size
        last = whole or length is None
        try:
            return extractor.extract(Prefix(data, whole, last))
        except NeedMoreBytes as more:
            if last:
                raise
            length = next_length(len(data), more.needed, size)


def next_length(known: int, needed: int, size: int | None) -> int | None:
    """PURE: how many of an object's bytes to have next, or None if more would not help.

    `needed` bytes beyond the limit are not fetched in part, except where the object ends within the limit:
    an element may claim more than there is.
    """
    limit = MAX_HEADER_BYTES if size is None else min(size, MAX_HEADER_BYTES)
    fits = needed <= MAX_HEADER_BYTES or (size is not None and size <= MAX_HEADER_BYTES)
    if known >= limit or not fits:
        return None
    return min(max(FIRST_BYTES, known * GROWTH, needed), limit)


class PrefixFile:
    """A prefix as a file that refuses to be read past its end, unless the object ends there.

    Parsers of DICOM take a short read for the end of the file and swallow exceptions, so a refusal is also
    kept in `needed`: a result is good only while that is None. So is the time limit, in `timed_out`.
    """

    def __init__(self, prefix: Prefix, seconds: float) -> None:
        self._data: bytes | bytearray = prefix.data
        self._prefix = prefix
        self._position = 0
        self._deadline = time.thread_time() + seconds  # CPU time: a busy machine is not the file's fault
        self._ended_cleanly = False
        self.needed: int | None = None
        self.timed_out = False

    @property
    def ended_cleanly(self) -> bool:
        """The last read asked for an element header right behind the object's last byte, and got nothing."""
        return self._ended_cleanly and self._position == len(self._data)

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise OSError("a header is never read as a whole")
        if time.thread_time() > self._deadline:
            self.timed_out = True
            raise OSError("reading the header takes too long")
        end = self._position + size
        self._make_known(end)
        data = bytes(self._data[self._position : end])
        self._ended_cleanly = size == ELEMENT_HEADER_BYTES and not data
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise OSError("the end of the object may not be known")
        self._position = max(0, offset + (self._position if whence == io.SEEK_CUR else 0))
        return self._position

    def tell(self) -> int:
        return self._position

    def _make_known(self, end: int) -> None:
        """Have the bytes up to `end`, or all there are."""
        if end > len(self._data) and not self._prefix.whole:
            self._refuse(end)

    def _refuse(self, needed: int) -> None:
        self.needed = needed
        raise NeedMoreBytes(needed)
