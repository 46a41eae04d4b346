"""PURE: the bytes of a view's row that its digest hashes and a diff compares, for whole tables at once."""

from __future__ import annotations

import sys
from array import array
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.errors import BadData

COLUMNS = ("key", "version_id", "etag", "size")
"""What makes a row the same data as another, in the digest's order."""


def encoded_rows(rows: pa.Table | pa.RecordBatch) -> pa.BinaryArray:
    """Each row as `snapengine.digest.digest` spells it out: equal bytes, equal data. At most 2 GiB of them.

    Raises `BadData` for a row that no digest can stand for: without a key, or of a negative size.
    """
    key, version_id, etag, size = (_whole(rows[name]) for name in COLUMNS)
    if key.null_count or version_id.null_count or (pc.min(size).as_py() or 0) < 0:
        raise BadData("A view's row has no key, no version id, or a negative size: it is damaged.")
    parts: list[pa.Array[Any]] = []
    for text in (key, version_id, pc.fill_null(etag, "")):
        raw = text.cast(pa.binary())
        parts += [_big_endian(pc.binary_length(raw), "i"), raw]
    parts.append(_big_endian(pc.fill_null(size, -1), "q"))  # 64 bits of ones: an unknown size
    return pc.binary_join_element_wise(*parts, b"")


def _whole(column: pa.ChunkedArray[Any] | pa.Array[Any]) -> pa.Array[Any]:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _big_endian(numbers: pa.Array[Any], code: str) -> pa.Array[Any]:
    """Integers without nulls as their bytes, the most significant first."""
    swapped = array(code)
    width = swapped.itemsize
    held = numbers.buffers()[1]
    if held is not None:  # an array without rows may have none
        start = numbers.offset * width
        swapped.frombytes(memoryview(held)[start : start + len(numbers) * width])
    if sys.byteorder == "little":
        swapped.byteswap()
    fixed = pa.Array.from_buffers(pa.binary(width), len(numbers), [None, pa.py_buffer(swapped)])
    return fixed.cast(pa.binary())
