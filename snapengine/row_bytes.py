"""PURE: the bytes of a view's row that its digest hashes and a diff compares, for whole tables at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from snapengine.errors import BadData

COLUMNS = ("key", "version_id", "etag", "size")
"""What makes a row the same data as another, in the digest's order."""

PIECE_ROWS = 16_384
"""So many rows' bytes are made and used while they are in the processor's cache."""

_Fixed: TypeAlias = npt.NDArray[Any]
"""As many bytes in each row."""
_Part: TypeAlias = "_Fixed | pa.BinaryArray"
"""Of each row, or, as an array of no dimension, of all rows."""


def encoded_rows(rows: pa.Table | pa.RecordBatch) -> pa.BinaryArray:
    """Each row as `snapengine.digest.digest` spells it out: equal bytes, equal data. At most 2 GiB of them.

    Raises `BadData` for a row that no digest can stand for: without a key, or of a negative size.
    """
    return _side_by_side(_parts(rows), rows.num_rows)


class Added:
    """Rows that belong among others: of all of them the bytes are made once, whoever has some."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        self.rows = rows
        self._whole: _Fixed | None = None
        self._known = False
        """Whether it has been found how they are side by side. Two threads may do so at a time: they find the
        same."""

    def within(self, first: int, after: int) -> pa.RecordBatch:
        """Those from `first` up to `after`."""
        return self.rows.slice(first, after - first)

    def side_by_side(self, first: int, after: int) -> _Fixed | None:
        """The bytes of those from `first` up to `after`, some; None if they are not of one width."""
        if not self._known:
            self._whole = _in_one_width(self.rows)
            self._known = True
        if self._whole is not None:
            return self._whole[first:after]
        return _in_one_width(self.within(first, after))


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some rows, some that were added, and of both, one after the other, the places of those that are
    meant."""

    held: pa.Table | pa.RecordBatch
    added: Added | None = None
    first: int = 0
    """Of the added ones the first that belongs here, and the one after the last."""
    after: int = 0
    order: npt.NDArray[np.int64] | None = None
    """None for the held alone."""

    def __len__(self) -> int:
        return self.held.num_rows if self.order is None else len(self.order)

    def part(self, start: int, stop: int) -> Piece:
        """The rows from `start` up to `stop`, without what they have no need of."""
        if self.added is None or self.order is None:
            return Piece(self.held.slice(start, stop - start))
        if stop - start == len(self):
            return self
        order, count = self.order[start:stop], self.held.num_rows
        own = order[order < count]
        first, after = (int(own.min()), int(own.max()) + 1) if len(own) else (0, 0)
        places = np.where(order < count, order - first, order - count + after - first)
        return replace(self, held=self.held.slice(first, after - first), order=places)


class Room:
    """Where rows are put side by side, one piece after the other: what they share is written once."""

    def __init__(self) -> None:
        self._rows: _Fixed = np.empty(0)

    def rows(self, parts: list[_Part], dtype: np.dtype[Any], count: int) -> _Fixed:
        """So many, until the next call; of the parts only the texts' lengths are there, which the layout
        says."""
        if self._rows.dtype != dtype or len(self._rows) < count:
            self._rows = np.empty(count + count // 8, dtype)
            _fill(self._rows, parts, 0)
        return self._rows[:count]


def bytes_of(piece: Piece, start: int, stop: int, room: Room) -> memoryview:
    """Of a piece's rows those from `start` up to `stop`, one after the other, as `encoded_rows` makes them.

    Where all are of one width only whole rows are put in order, and nothing holds Python up.
    """
    piece = piece.part(start, stop)
    added, order, count = piece.added, piece.order, piece.held.num_rows
    if added is None or order is None:
        return _values_of(encoded_rows(piece.held))
    held = _parts(piece.held)
    dtype = _layout(held)
    more = None
    if dtype is not None:
        none = piece.first == piece.after
        more = np.empty(0, dtype) if none else added.side_by_side(piece.first, piece.after)
    if dtype is None or more is None or more.dtype != dtype:
        both = [_side_by_side(held, count), encoded_rows(added.within(piece.first, piece.after))]
        return _values_of(pa.concat_arrays(both).take(pa.array(order)))
    rows = room.rows(held, dtype, count + len(more))
    _fill(rows[:count], held, 1)
    rows[count:] = more
    return rows.view(f"V{dtype.itemsize}").take(order).view(np.uint8).data


def _values_of(rows: pa.BinaryArray) -> memoryview:
    _, offsets, values = rows.buffers()
    first, last = (memoryview(offsets).cast("i")[rows.offset + i] for i in (0, len(rows)))
    return memoryview(values or b"")[first:last]


def _layout(parts: list[_Part]) -> np.dtype[Any] | None:
    """Of a row; None if not all are of one width."""
    if not all(isinstance(part, np.ndarray) for part in parts):
        return None
    return np.dtype([(f"{place}", part.dtype) for place, part in enumerate(parts)])


def _fill(rows: _Fixed, parts: list[_Part], *dimensions: int) -> None:
    """Write the parts of these dimensions."""
    if len(rows):
        for place, part in enumerate(parts):
            if part.ndim in dimensions:
                rows[f"{place}"] = part


def _parts(rows: pa.Table | pa.RecordBatch) -> list[_Part]:
    key, version_id, etag, size = (_whole(rows[name]) for name in COLUMNS)
    known = _filled(size, 0).to_numpy()
    if key.null_count or version_id.null_count or known.min(initial=0) < 0:
        raise BadData("A view's row has no key, no version id, or a negative size: it is damaged.")
    parts: list[_Part] = []
    for text in (key, version_id, _filled(etag, "")):
        parts += _with_length(text)
    parts.append(_filled(size, -1).to_numpy().astype(">i8"))  # 64 bits of ones: an unknown size
    return parts


def _filled(column: pa.Array[Any], value: str | int) -> pa.Array[Any]:
    return pc.fill_null(column, value) if column.null_count else column


def _whole(column: pa.ChunkedArray[Any] | pa.Array[Any]) -> pa.Array[Any]:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _with_length(text: pa.StringArray) -> list[_Part]:
    """The lengths and the texts' UTF-8; many rows fast where all have one length, as version ids, most ETags
    and keys do."""
    if width := _width(text):
        return [np.array(width, ">i4"), _values(text, width)]
    return [pc.binary_length(text).to_numpy().astype(">i4"), text.cast(pa.binary())]


def _width(values: pa.StringArray | pa.BinaryArray) -> int:
    """In bytes, if all have the same and there are some; else 0."""
    _, offsets, data = values.buffers()
    if not len(values) or offsets is None or data is None:
        return 0
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    first, width = int(ends[0]), int(ends[1]) - int(ends[0])
    if int(ends[-1]) - first != width * len(values):
        return 0
    if len(values) > PIECE_ROWS:
        return width if (np.diff(ends) == width).all() else 0
    steps = ends - first if first else ends
    return width if steps.tobytes() == _steps(width)[: steps.nbytes] else 0


@lru_cache(maxsize=64)
def _steps(width: int) -> bytes:
    """Where a piece's values end that have all this width: bytes are compared without a wait for other
    threads."""
    return (np.arange(PIECE_ROWS + 1, dtype=np.int64) * width).astype(np.int32).tobytes()


def _values(values: pa.StringArray | pa.BinaryArray, width: int) -> _Fixed:
    """The bytes of values of one width; nothing is copied."""
    if not len(values):
        return np.empty(0, f"V{width}")
    _, offsets, data = values.buffers()
    first = int(np.frombuffer(offsets, np.int32)[values.offset])
    return np.frombuffer(data, np.uint8)[first : first + width * len(values)].view(f"V{width}")


def _of_one_width(rows: _Fixed) -> pa.BinaryArray:
    width = rows.itemsize
    ends = np.arange(0, (len(rows) + 1) * width, width, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(ends), pa.py_buffer(rows)])


def _side_by_side(parts: list[_Part], count: int) -> pa.BinaryArray:
    """The parts of each row joined. What is of one width costs little; the rest goes through Arrow's join."""
    joined: list[pa.BinaryArray] = []
    beside: list[_Part] = []
    for part in parts:
        if isinstance(part, np.ndarray):
            beside.append(part)
            continue
        joined += [_of_one_width(_beside(beside, count)), part]
        beside = []
    joined.append(_of_one_width(_beside(beside, count)))  # the size, at least
    return joined[0] if len(joined) == 1 else pc.binary_join_element_wise(*joined, b"")


def _in_one_width(rows: pa.RecordBatch) -> _Fixed | None:
    parts = _parts(rows)
    return None if _layout(parts) is None else _beside(parts, rows.num_rows)


def _beside(columns: list[_Part], count: int) -> _Fixed:
    """Columns of one width each."""
    rows = np.empty(count, _layout(columns))
    _fill(rows, columns, 0, 1)
    return rows
