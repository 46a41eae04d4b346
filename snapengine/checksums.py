"""CRC-32, as zlib has it, by whatever is fastest on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_combine: Callable[[int, int, int], int] | None
try:
    from isal.isal_zlib import crc32, crc32_combine

    _combine = crc32_combine
except ImportError:  # there is none for this machine
    from zlib import crc32

    _combine = None

__all__ = ["crc32", "first_wrong"]


def first_wrong(data: memoryview, block: int, sums: Sequence[int]) -> int | None:
    """The number of the first block, of so many bytes (the last may have fewer), that has another checksum
    than these say; None if all have theirs.

    All are taken at once where that can be done: each call lets other threads run, and waits for them.
    """
    starts = range(0, len(data), block)
    if len(starts) != len(sums):
        raise ValueError(f"{len(data)} bytes in blocks of {block} have not {len(sums)} checksums")
    if _combine is not None:
        whole = 0
        for start, one in zip(starts, sums, strict=True):
            whole = _combine(whole, one, min(block, len(data) - start))
        if crc32(data) == whole:
            return None
    return next((n for n, at in enumerate(starts) if crc32(data[at : at + block]) != sums[n]), None)
