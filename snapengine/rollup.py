"""PURE: keys rolled up into common prefixes, as S3's ListObjectsV2 does, and where a prefix's keys are."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa


class Found(NamedTuple):
    """Objects of one level, in key order."""

    rows: list[int]
    """Their numbers among all rows, from 0."""
    keys: list[str]


def roll_up(batches: Iterable[pa.Array[Any]], prefix: str, delimiter: str) -> tuple[Found, list[str]]:
    """Of keys in order, which all start with `prefix` (or are all below it), those that do not hold the
    delimiter after it; and what the others start with up to and with the first delimiter, each once.

    A run of keys of one common prefix costs as many looks as its length has digits, not each key one.
    """
    objects = Found([], [])
    prefixes: list[str] = []
    before = 0
    for keys in batches:
        row = end_of(keys, prefixes[-1], 0) if prefixes else 0
        while row < len(keys):
            key = keys[row].as_py()
            cut = key.find(delimiter, len(prefix))
            if cut < 0:
                objects.rows.append(before + row)
                objects.keys.append(key)
                row += 1
            else:
                prefixes.append(key[: cut + len(delimiter)])
                row = end_of(keys, prefixes[-1], row)
        before += len(keys)
    return objects, prefixes


def range_of(keys: Any, prefix: str) -> tuple[int, int]:
    """The rows whose keys start with `prefix`: Python compares text as UTF-8 bytes compare."""
    rows = range(len(keys))
    first = bisect_left(rows, prefix, key=lambda row: keys[row].as_py())
    last = bisect_right(rows, prefix, lo=first, key=lambda row: keys[row].as_py()[: len(prefix)])
    return first, last


def end_of(keys: pa.Array[Any], prefix: str, first: int) -> int:
    """The first row from `first` on whose key does not start with `prefix`; none there is below it."""
    low, step = first, 1
    while low + step < len(keys) and keys[low + step].as_py().startswith(prefix):
        low, step = low + step, 2 * step
    high = min(low + step, len(keys))
    return bisect_right(
        range(high), prefix, lo=min(low, high), key=lambda row: keys[row].as_py()[: len(prefix)]
    )
