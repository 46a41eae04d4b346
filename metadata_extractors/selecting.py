"""Rows of metadata by a condition, joined with the objects of a view, each object of which is counted once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from metadata_extractors.where import check_names, checked, closed_connection, duckdb_errors, quoted, run_failure
from snapengine.errors import BadData, UsageError
from snapengine.model import NULL_VERSION

if TYPE_CHECKING:
    import duckdb

Condition = str | pc.Expression
"""One SQL expression, or a pyarrow expression: of this caller's own making, so that it is only bound, not walked."""

_BATCH_ROWS: Final = 65_536
_VERDICT: Final = "snapengine verdict"


@dataclass(frozen=True, slots=True)
class Selected:
    """The rows for which the condition is true, and how many objects there were of each other kind."""

    table: pa.Table
    """In order of the join's columns; fields keep their metadata."""
    matched: int
    not_matched: int
    unknown: int
    """The condition is NULL: some value that it needs is not there."""
    without_row: int
    """Objects of the view of which there is no metadata. They are in none of the other numbers."""


def select_where(
    relation: pa.Table | pa.RecordBatchReader | Iterable[pa.RecordBatch],
    where: Condition,
    columns: Sequence[str] | None = None,
    *,
    schema: pa.Schema | None = None,
) -> Selected:
    """The rows of an Arrow relation for which `where` is true, in their order, with `columns` (None: all).

    Batches need their `schema`. They are read once, one at a time. Raises `UsageError` as `checked` does, for
    unknown `columns`, and for a condition that cannot be worked out for some row.
    """
    if isinstance(relation, pa.Table | pa.RecordBatchReader):
        batches, schema = _batches(relation), relation.schema
    elif schema is None:
        raise UsageError("record batches need their schema: give schema=.")
    else:
        batches = relation
    wanted = _wanted(columns, schema)
    if isinstance(where, str):
        text = checked(where, schema)
        with closed_connection(threads=1) as connection:
            return _gather((_sql_verdicts(connection, batch, text), batch) for batch in batches), wanted, schema)
    _check_expression(where, schema)
    return _gather(((_arrow_verdicts(where, batch), batch) for batch in batches), wanted, schema)
