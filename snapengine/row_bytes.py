"""PURE: the bytes of a view's row that its digest hashes and a diff compares, for whole tables at once."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from snapengine.errors import BadData

COLUMNS = ("key", "version_id", "etag", "size")
"""What makes a row the same data as another, in the digest's order."""

_Fixed: TypeAlias = npt.NDArray[Any]
"""As many bytes in each row."""


def encoded_rows(rows: pa.Table | pa.RecordBatch) -> pa.BinaryArray:
    """Each row as `snapengine.digest.digest` spells it out: equal bytes, equal data. At most 2 GiB of them.

    Raises `BadData` for a row that no digest can stand for: without a key, or of a negative size.
    """
    key, version_id, etag, size = (_whole(rows[name]) for name in COLUMNS)
    if key.null_count or version_id.null_count or (pc.min(size).as_py() or 0) < 0:
        raise BadData("A view's row has no key, no version id, or a negative size: it is damaged.")
    parts: list[_Fixed | pa.BinaryArray] = []
    for text in (key, version_id, pc.fill_null(etag, "")):
        parts += [pc.binary_length(text).to_numpy().astype(">i4"), _of_one_width(text)]
    parts.append(pc.fill_null(size, -1).to_numpy().astype(">i8"))  # 64 bits of ones: an unknown size
    return _side_by_side(parts)


def _whole(column: pa.ChunkedArray[Any] | pa.Array[Any]) -> pa.Array[Any]:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _of_one_width(text: pa.StringArray) -> _Fixed | pa.BinaryArray:
    """The texts' UTF-8; many rows fast where all have one length, as version ids, most ETags and keys do."""
    _, offsets, values = text.buffers()
    if not len(text) or offsets is None or values is None:
        return text.cast(pa.binary())
    ends = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1]
    width = int(ends[1] - ends[0])
    if not width or (np.diff(ends) != width).any():
        return text.cast(pa.binary())
    return np.frombuffer(values, np.uint8)[ends[0] : ends[-1]].view(f"V{width}")


def _side_by_side(parts: list[_Fixed | pa.BinaryArray]) -> pa.BinaryArray:
    """The parts of each row joined. What is of one width costs little; the rest goes through Arrow's join."""
    joined: list[pa.BinaryArray] = []
    beside: list[_Fixed] = []
    for part in parts:
        if isinstance(part, np.ndarray):
            beside.append(part)
            continue
        joined += [_packed(beside), part]
        beside = []
    joined.append(_packed(beside))  # the size, at least
    return joined[0] if len(joined) == 1 else pc.binary_join_element_wise(*joined, b"")


def _packed(columns: list[_Fixed]) -> pa.BinaryArray:
    packed = np.empty(len(columns[0]), [(f"{place}", column.dtype) for place, column in enumerate(columns)])
    for place, column in enumerate(columns):
        packed[f"{place}"] = column
    width = packed.itemsize
    ends = np.arange(0, (len(packed) + 1) * width, width, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), len(packed), [None, pa.py_buffer(ends), pa.py_buffer(packed)])
