"""PURE: observations as Arrow IPC (zstd), the payload of a log entry, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from snapengine.errors import LogDamaged, SchemaTooNew
from snapengine.model import Observation

FORMAT_VERSION = 1
MAX_ROWS = 500
MAX_BYTES = 200_000
"""Of a payload, so that an item stays well under DynamoDB's 400 KB."""

_millis = pa.timestamp("ms", tz="UTC")
_FIELDS: list[pa.Field[Any]] = [
    pa.field("kind", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("version_id", pa.string(), nullable=False),
    pa.field("event_time", _millis, nullable=False),
    pa.field("sequencer", pa.string()),
    pa.field("size", pa.int64()),
    pa.field("etag", pa.string()),
    pa.field("storage_class", pa.string()),
    pa.field("origin", pa.string(), nullable=False),
    pa.field("event_name", pa.string()),
    pa.field("listing", pa.string()),
    pa.field("page_time", _millis),
    pa.field("position", pa.int64()),
]
SCHEMA = pa.schema(_FIELDS, metadata={"snapengine.format": str(FORMAT_VERSION)})
"""One column a field of `Observation`, in its order."""

# A payload is too small to be worth handing to Arrow's threads, for which the worker's loop would wait.
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)


def encode(observations: Sequence[Observation]) -> bytes:
    """One Arrow IPC stream with one batch."""
    columns = zip(*observations, strict=True) if observations else [()] * len(SCHEMA)
    arrays = [pa.array(list(column), type=f.type) for column, f in zip(columns, SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=_OPTIONS) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
    return bytes(sink.getvalue())


def pack(observations: Sequence[Observation]) -> Iterator[tuple[Sequence[Observation], bytes]]:
    """Observations in payloads of at most 500 rows and some 200 KB each, in order."""
    for start in range(0, len(observations), MAX_ROWS):
        yield from _fit(observations[start : start + MAX_ROWS])


def _fit(chunk: Sequence[Observation]) -> Iterator[tuple[Sequence[Observation], bytes]]:
    payload = encode(chunk)
    if len(payload) <= MAX_BYTES or len(chunk) == 1:
        yield chunk, payload
        return
    middle = len(chunk) // 2
    yield from _fit(chunk[:middle])
    yield from _fit(chunk[middle:])


def decode_table(payload: bytes) -> pa.Table:
    """The rows of a payload, by `SCHEMA`."""
    try:
        table = pa.ipc.open_stream(payload).read_all()
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise LogDamaged(f"A log entry cannot be read: {error}.") from error
    version = (table.schema.metadata or {}).get(b"snapengine.format", b"")
    if version.isdigit() and int(version) > FORMAT_VERSION:
        raise SchemaTooNew(
            f"A log entry has format {int(version)}; "
            f"this snapengine reads up to {FORMAT_VERSION}. Upgrade it."
        )
    if not table.schema.equals(SCHEMA):
        raise LogDamaged("A log entry has columns that are none of the log's.")
    return table


def decode(payload: bytes) -> list[Observation]:
    """The observations of a payload."""
    return observations_of(decode_table(payload))


def observations_of(table: pa.Table) -> list[Observation]:
    """Rows as observations; instants become UTC milliseconds again."""
    columns = [
        (column.cast(pa.int64()) if column.type == _millis else column).to_pylist()
        for column in table.columns
    ]
    return [Observation._make(row) for row in zip(*columns, strict=True)]
