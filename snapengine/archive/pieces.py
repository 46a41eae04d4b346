"""PURE: which bytes of a Parquet file to ask for, and a file that has only those."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import pyarrow as pa

GAP: Final = 1024 * 1024
"""Bytes that are read for nothing rather than ask twice."""
REQUEST: Final = 16 * 1024 * 1024
"""Bytes of a request, unless a single piece is larger."""


class Piece(NamedTuple):
    """Bytes `[start, end)` of a file."""

    start: int
    end: int


Chunks: TypeAlias = Sequence[Sequence[tuple[str, Piece]]]
"""Of each row group, by top-level column, where in the file its column chunks are."""


def chunks_of(metadata: Any, columns: Iterable[str] | None = None) -> Chunks:
    """Those that a footer names (with `columns`, of these alone)."""
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    named = [(i, path.partition(".")[0]) for i, path in enumerate(paths)]
    if columns is not None:
        wanted = set(columns)
        named = [(i, name) for i, name in named if name in wanted]
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return [[(name, _range(group.column(i))) for i, name in named] for group in groups]


def pieces_of(
    chunks: Chunks, groups: Iterable[int], columns: Iterable[str], end: int, block: int, gap: int = GAP
) -> list[Piece]:
    """The pieces that hold the columns of these row groups, in order: whole blocks of `block` bytes, and no
    piece of two groups, so that another choice of groups finds them in a cache. `end`: of the last block;
    `gap`: as for `merged`."""
    wanted = set(columns)
    pieces: list[Piece] = []
    for index in sorted(set(groups)):
        ranges = sorted(chunk for name, chunk in chunks[index] if name in wanted)
        aligned = [Piece(a - a % block, min(b + -b % block, end)) for a, b in ranges]
        pieces += merged(aligned, gap, None)
    return pieces


def data_end(chunks: Chunks) -> int:
    """Where the last column chunk ends."""
    magic = 4  # bytes, at the start
    return max((chunk.end for group in chunks for _, chunk in group), default=magic)


def _range(chunk: Any) -> Piece:
    first = min(at for at in (chunk.dictionary_page_offset, chunk.data_page_offset) if at)
    return Piece(first, first + chunk.total_compressed_size)


def merged(pieces: Sequence[Piece], gap: int, limit: int | None) -> list[Piece]:
    """Neighbours joined where at most `gap` bytes are between them and the whole is at most `limit` bytes."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and piece.start - last.end <= gap and (limit is None or piece.end - last.start <= limit):
            joined[-1] = Piece(last.start, max(last.end, piece.end))
        else:
            joined.append(piece)
    return joined


def sparse_file(size: int, parts: Sequence[tuple[int, bytes | memoryview]]) -> pa.NativeFile:
    """A file of `size` bytes that has only the parts; reading any others raises `ValueError`.

    `parts`: offsets and bytes, by their starts and by their ends too; they may overlap.
    """
    return pa.PythonFile(_SparseFile(size, parts), mode="r")


class _SparseFile:
    closed = False

    def __init__(self, size: int, parts: Sequence[tuple[int, bytes | memoryview]]) -> None:
        self._size = size
        self._starts = [start for start, _ in parts]
        self._parts = [pa.py_buffer(data) for _, data in parts]
        self._at = 0

    def size(self) -> int:
        return self._size

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, length: int = -1) -> bytes:
        return bytes(self.read_buffer(length))

    def read_buffer(self, length: int = -1) -> pa.Buffer:
        """Without a copy where the bytes are of one part."""
        start = self._at
        end = self._size if length < 0 else min(start + length, self._size)
        found: list[pa.Buffer] = []
        while self._at < end:
            found.append(self._part(start, end))
            self._at += len(found[-1])
        return found[0] if len(found) == 1 else pa.py_buffer(b"".join(found))

    def _part(self, start: int, end: int) -> pa.Buffer:
        index = bisect_right(self._starts, self._at) - 1
        if index >= 0:
            offset = self._at - self._starts[index]
            part = self._parts[index]
            if offset < len(part):
                return part.slice(offset, min(end - self._at, len(part) - offset))
        raise ValueError(f"bytes {start} to {end} were not read beforehand")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        self.closed = True
