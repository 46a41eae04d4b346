"""PURE: what the footers of Parquet files say of all rows at once.

Statistics bound what a column has: no row is outside of them, and `null_count` is exact. Where anything is
missing nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import pyarrow.parquet as pq

_WHOLE: Final = frozenset({"NONE", "STRING", "INT", "DATE"})
"""Logical types of which every value that is there is read as one that is there."""
_PHYSICAL: Final = frozenset({"BOOLEAN", "INT32", "INT64", "FLOAT", "DOUBLE", "BYTE_ARRAY"})


def has_no_null(footers: Sequence[pq.FileMetaData], name: str) -> bool:
    """Whether the statistics of every row group prove that each row has a value in this plain column."""
    return _each(footers, name, lambda found: found.has_null_count and found.null_count == 0)


def is_always_one_of(footers: Sequence[pq.FileMetaData], name: str, values: Sequence[str]) -> bool:
    """Whether they prove that the column has one of these values all through each row group."""

    def proven(found: pq.Statistics) -> bool:
        return bool(found.has_min_max and found.min == found.max and found.min in values)

    return has_no_null(footers, name) and _each(footers, name, proven)


def _each(footers: Sequence[pq.FileMetaData], name: str, proven: Callable[[Any], bool]) -> bool:
    return bool(footers) and all(
        found is not None and bool(proven(found)) for footer in footers for found in _of(footer, name)
    )


def _of(footer: pq.FileMetaData, name: str) -> Iterable[pq.Statistics | None]:
    """Of every row group the column's statistics, as far as they are known; of no such column just None."""
    schema = footer.schema
    # SQL does not tell `a` from `A`.
    places = [n for n in range(len(schema)) if schema.column(n).path.lower() == name.lower()]
    if len(places) != 1 or not _plain(schema.column(places[0]), name):
        return [None]
    place = places[0]
    return (_known(footer.row_group(n), place) for n in range(footer.num_row_groups))


def _plain(column: pq.ColumnSchema, name: str) -> bool:
    return (
        column.path == column.name == name  # no field of a struct
        and column.max_repetition_level == 0
        and column.max_definition_level <= 1
        and column.physical_type in _PHYSICAL
        and column.logical_type.type in _WHOLE
    )


def _known(group: pq.RowGroupMetaData, place: int) -> pq.Statistics | None:
    chunk = group.column(place)
    return chunk.statistics if chunk.is_stats_set and chunk.num_values == group.num_rows else None
