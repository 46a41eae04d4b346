"""Reads no more of an object than its header: ranged GETs that grow until the extractor has seen its end."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Final

from metadata_extractors.base import (
    BudgetSpent,
    Extraction,
    Extractor,
    NeedMoreBytes,
    ObjectFacts,
    Prefix,
    Reader,
)

FIRST_BYTES: Final = 64 * 1024
"""The first ranged GET: holds the whole header of most images."""
GROWTH: Final = 4
MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
MAX_REQUESTS: Final = 64
"""Ranged GETs for one object and one extractor."""
ELEMENT_HEADER_BYTES: Final = 8
"""Tag, VR and length: what pydicom reads first of an element (PS3.5, 7.1)."""

ReadRange = Callable[[int, int], bytes]
"""`(start, end)` to the bytes `[start, end)` of one exact version; fewer where it ends before."""


class RangedReader:
    """Reads one version by ranges; keeps what was read from the front, and the last other range.

    Several extractors may share one: what is kept is not fetched again. Not for two threads at once.
    """

    def __init__(
        self,
        read: ReadRange,
        size: int | None,
        key: str = "",
        facts: Callable[[], ObjectFacts | None] | None = None,
        max_bytes: int = MAX_HEADER_BYTES,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self.key = key
        self.size = size
        self.max_bytes = max_bytes
        self.fetched = 0
        """Bytes that were read of the object, since it began or since `begin_again`."""
        self._read = read
        self._facts = facts
        self._max_requests = max_requests
        self._requests = 0
        self._front = b""
        self._other = (0, b"")

    def begin_again(self) -> None:
        """A fresh budget, for the next extractor; what was read is kept."""
        self.fetched = self._requests = 0

    def read(self, start: int, end: int) -> bytes:
        if not 0 <= start <= end:
            raise ValueError(f"no range: [{start}, {end})")
        end = end if self.size is None else min(end, self.size)
        if end <= len(self._front):
            return self._front[start:end]
        if start <= len(self._front):
            self._front += self._fetch(len(self._front), end)
            return self._front[start:end]
        at, data = self._other
        if not at <= start <= end <= at + len(data):
            at, data = self._other = (start, self._fetch(start, end))
        return data[start - at : end - at]

    def facts(self) -> ObjectFacts | None:
        return None if self._facts is None else self._facts()

    def _fetch(self, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        if self.fetched + end - start > self.max_bytes or self._requests >= self._max_requests:
            raise BudgetSpent("the object's header costs too many bytes or requests")
        self._requests += 1
        data = self._read(start, end)
        self.fetched += len(data)
        if len(data) < end - start and (data or start == len(self._front)):
            self.size = start + len(data)
        return data


def extract_from(extractor: Extractor, reader: Reader) -> Extraction:
    """What the extractor finds in the object, or `not_matched`. Only what `reader` raises is raised, and what
    is wrong with the extractor."""
    head = reader.read(0, getattr(extractor, "head_bytes", FIRST_BYTES))
    if not extractor.matches(reader.key, reader.size, head):
        return Extraction("not_matched")
    return extractor.extract(reader)


def from_front(reader: Reader, parse: Callable[[Prefix], Extraction]) -> Extraction:
    """What `parse` finds in the object's first bytes, as many as it needs: it raises `NeedMoreBytes` for a
    prefix that is not the last and ends within the header.

    Every byte is read once at most, and none beyond `MAX_HEADER_BYTES` or the reader's budget.
    """
    limit = min(reader.max_bytes, MAX_HEADER_BYTES)
    data = b""
    length = next_length(0, 0, reader.size, limit)
    while True:
        if length is not None:
            data = reader.read(0, length)
        whole = (length is not None and len(data) < length) or len(data) == reader.size
        last = whole or length is None
        try:
            return parse(Prefix(data, whole, last))
        except NeedMoreBytes as more:
            if last:
                raise
            length = next_length(len(data), more.needed, reader.size, limit)


def next_length(known: int, needed: int, size: int | None, most: int = MAX_HEADER_BYTES) -> int | None:
    """PURE: how many of an object's bytes to have next, or None if more would not help.

    `needed` bytes beyond the limit are not fetched in part, except where the object ends within the limit:
    an element may claim more than there is.
    """
    limit = most if size is None else min(size, most)
    fits = needed <= most or (size is not None and size <= most)
    if known >= limit or not fits:
        return None
    return min(max(FIRST_BYTES, known * GROWTH, needed), limit)


class ReaderFile:
    """An object as a file, read by ranges of at least `block` bytes, for parsers that jump about.

    Parsers swallow exceptions, so what happened is kept: `refused` (a read was beyond the budget) and `short`
    (one was beyond the object's end). Values are good only while both are False.
    """

    def __init__(self, reader: Reader, size: int, block: int = 16 * 1024) -> None:
        self._reader = reader
        self._size = size
        self._block = block
        self._position = 0
        self.refused = False
        self.short = False

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else self._position + size
        try:
            data = self._reader.read(self._position, max(end, self._position + self._block))
        except BudgetSpent as spent:
            self.refused = True
            raise OSError("beyond the budget") from spent
        data = data[: max(end - self._position, 0)]
        self.short = self.short or len(data) < end - self._position
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """Nothing is open."""


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
