"""What a view's rows of metadata should be, by brute force; and what is read of them, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snapengine.metadata_rows import conform, fold_rows, join_rows, plain_schema, row_schema, unify
from snapengine.model import Epoch
from snapengine.row_reading import Joined

Told = Mapping[tuple[int, int], tuple[str, pa.Table]]
"""By stream and number what an entry of the metadata log was given: the extractor, and its rows."""


def covered(told: Told, epoch: Epoch, extractor: str) -> pa.Table:
    """All rows of an extractor that the epoch covers, by their full schema."""
    tables = [
        table
        for (stream, number), (name, table) in told.items()
        if name == extractor and number <= epoch.rows.get(stream, 0)
    ]
    schema = unify([t.schema for t in tables], extractor) if tables else row_schema(pa.schema([]))
    return pa.concat_tables([schema.empty_table(), *(conform(t, schema) for t in tables)])


def expected(view: pa.Table, rows: pa.Table, *, full: bool) -> pa.Table:
    """The view's rows, each with the row of its version."""
    schema = rows.schema if full else plain_schema(rows.schema)
    return join_rows(view, conform(fold_rows(rows), schema))


def read(joined: Joined) -> pa.Table:
    """All of it, as whoever asks puts it together."""
    tables = [pa.Table.from_batches(joined.batches(), joined.read)]
    for path in joined.files:
        there = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in joined.read.names if name in there])
        table = conform(table.replace_schema_metadata(None), joined.read)
        kept = pc.invert(pc.is_in(table["key"], value_set=joined.changed))
        kept = pc.and_(kept, pc.greater_equal(table["key"], joined.keys.first))
        if joined.keys.after is not None:
            kept = pc.and_(kept, pc.less(table["key"], joined.keys.after))
        if joined.start is not None:
            kept = pc.and_(kept, pc.greater_equal(table["event_time"].cast(pa.int64()), joined.start))
        tables.append(table.filter(kept))
    found = pa.concat_tables(tables)
    return found.take(pc.sort_indices(found, sort_keys=[("key", "ascending")]))


def same(one: pa.Table, other: pa.Table, names: Sequence[str] | None = None) -> bool:
    """Whether they have equal columns, in the same order, and equal rows."""
    return bool(one.schema.names == other.schema.names and one.to_pylist() == other.to_pylist())
