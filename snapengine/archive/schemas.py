"""PURE: the columns of the archive's files. Those of observations are the log's, and the epoch."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from snapengine.observation_codec import SCHEMA

EPOCH: pa.Field[Any] = pa.field("epoch", pa.int64(), nullable=False)
"""The first epoch that covers the observation."""

ARCHIVED = pa.schema([*SCHEMA, EPOCH])
"""Of `regular` and `irregular` files, sorted by `ORDER`. A checkpoint's side files have the log's columns
(`snapengine.observation_codec.SCHEMA`), its objects those of `snapengine.bulkfold.VIEW_SCHEMA`."""
ORDER = ("key", "event_time", "epoch")

_FIELDS: list[pa.Field[Any]] = [
    pa.field("number", pa.int64(), nullable=False),
    pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
    pa.field("cover", pa.string(), nullable=False),
    pa.field("watermarks", pa.string(), nullable=False),
    pa.field("rows", pa.string()),
]
EPOCHS = pa.schema(_FIELDS)
"""Of `epochs` files: what the table's items hold, to restore them from; cover, watermarks and rows are JSON.
`rows` is null, or the column missing, where an epoch covers no rows of metadata."""

GONE = pa.schema([pa.field("key", pa.string(), nullable=False)])
"""Of a differential's keys that are gone, in order; its other files have the columns of a checkpoint's."""

OBSERVATION_ROWS = 1_048_576
"""The most rows of a file of observations."""
OBJECT_ROWS = 1_048_576
"""The most rows of a checkpoint's part: its footer, too, is read for a prefix."""
ROW_GROUP_ROWS = 16_384
"""What a prefix of a few keys costs, whatever the bucket's size."""


def with_rows(epochs: pa.Table) -> pa.Table:
    """The contents of an `epochs` file by `EPOCHS`, also of one from before there were rows of metadata."""
    if "rows" in epochs.schema.names:
        return epochs.select(EPOCHS.names)
    return epochs.append_column(EPOCHS.field("rows"), pa.nulls(epochs.num_rows, pa.string()))
