"""PURE: rows of metadata as the payloads of a log entry, and back.

A payload is an Arrow IPC stream, compressed with zstd as a whole: a schema outweighs a few rows. The schema's
metadata names the extractor and the format; that of a plain payload also carries the full schema, as Arrow
serializes it: not as base64, which would not compress beside what it repeats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.errors import BadData, LogDamaged, SchemaTooNew
from snapengine.metadata_rows import NAMES, RANKS, ROW_FIELDS, checked, plain_schema

FORMAT_VERSION: Final = 1
MAX_ROWS: Final = 500
MAX_BYTES: Final = 200_000
"""Of a payload of several rows, as of one of observations."""
MAX_ROW_BYTES: Final = 380_000
"""Of a payload of one row, so that it fits into an item of DynamoDB (400 KB)."""
MAX_INFLATED_BYTES: Final = 1 << 28
"""Of a payload, inflated; one of 380 KB that is greater was not made by us."""

_LEVEL: Final = 6
"""Of the compression: a tenth smaller than by the default one."""
_EXTRACTOR: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FORMAT_KEY, _EXTRACTOR_KEY, _FULL_KEY = b"snapengine.format", b"snapengine.extractor", b"snapengine.full"


class Decoded(NamedTuple):
    """What a payload holds."""

    extractor: str
    schema: pa.Schema
    """The full schema, also where the table is the plain one."""
    table: pa.Table


class Packed(NamedTuple):
    """The payloads of an entry."""

    rows: int
    plain: bytes
    identifying: bytes | None
    """All columns; None where no column is identifying."""


def pack(extractor: str, table: pa.Table) -> Iterator[Packed]:
    """Rows (by a full schema) in payloads of at most 500 rows and 200 KB each, in order.

    A row that no item can hold becomes one of outcome `failed` that says so, without values. Raises `BadData`
    for rows that are not whole.
    """
    for start in range(0, table.num_rows, MAX_ROWS):
        yield from _fit(extractor, table.slice(start, MAX_ROWS))


def _fit(extractor: str, rows: pa.Table) -> Iterator[Packed]:
    packed = encode(extractor, rows)
    size = max(len(packed.plain), len(packed.identifying or b""))
    if size <= MAX_BYTES or (rows.num_rows == 1 and size <= MAX_ROW_BYTES):
        yield packed
        return
    if rows.num_rows > 1:
        middle = rows.num_rows // 2
        yield from _fit(extractor, rows.slice(0, middle))
        yield from _fit(extractor, rows.slice(middle))
        return
    packed = encode(extractor, _without_values(rows, size))
    size = max(len(packed.plain), len(packed.identifying or b""))
    if size > MAX_ROW_BYTES:
        raise BadData(
            f"A row of extractor {extractor} for {rows['key'][0].as_py()!r} takes {size:,} bytes without any "
            f"values; it may take {MAX_ROW_BYTES:,}. Ask the extractor for fewer columns."
        )
    yield packed


def _without_values(row: pa.Table, size: int) -> pa.Table:
    told = {
        "outcome": "failed",
        "error": f"what was read takes {size:,} bytes; a row may take {MAX_ROW_BYTES:,}",
    }
    columns = [
        pa.array([told[field.name]], field.type)
        if field.name in told
        else row[field.name]
        if field.name in NAMES
        else pa.nulls(1, field.type)
        for field in row.schema
    ]
    return pa.table(columns, schema=row.schema)


def encode(extractor: str, table: pa.Table) -> Packed:
    """The rows (by a full schema) as the payloads of one entry. Raises `BadData` for rows not whole."""
    if not _EXTRACTOR.fullmatch(extractor):
        raise BadData(
            f"{extractor!r} is no name for an extractor: letters, digits, '.', '_' and '-', at most 64."
        )
    full = checked(table.schema).remove_metadata()
    if fault := _fault(table):
        raise BadData(f"Rows of extractor {extractor} {fault}.")
    about = {_FORMAT_KEY: str(FORMAT_VERSION).encode(), _EXTRACTOR_KEY: extractor.encode()}
    plain = plain_schema(full)
    if len(plain) == len(full):
        return Packed(table.num_rows, _written(table, full.with_metadata(about)), None)
    told = {**about, _FULL_KEY: full.serialize().to_pybytes()}
    return Packed(
        table.num_rows,
        _written(table.select(plain.names), plain.with_metadata(told)),
        _written(table, full.with_metadata(about)),
    )


def _written(table: pa.Table, schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(use_threads=False)) as writer:
        # A copy: Arrow pads the values of a slice with those of the rows that follow it.
        rows = table.take(pa.array(range(table.num_rows), pa.int64()))
        writer.write_table(compacted(rows.combine_chunks()).cast(schema))
    compressed: bytes = pa.Codec("zstd", _LEVEL).compress(sink.getvalue(), asbytes=True)
    return compressed


def decode(payload: bytes) -> Decoded:
    """The rows of a payload, plain or identifying. Raises `LogDamaged`, `SchemaTooNew`."""
    try:
        table = pa.ipc.open_stream(_inflated(payload)).read_all()
        about = table.schema.metadata or {}
        _check_format(about.get(_FORMAT_KEY, b""))
        table.validate(full=True)
        extractor = about.get(_EXTRACTOR_KEY, b"").decode()
        own = table.schema.remove_metadata()
        full = checked(pa.ipc.read_schema(pa.py_buffer(about[_FULL_KEY])) if _FULL_KEY in about else own)
    except SchemaTooNew:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError, TypeError, MemoryError, BadData) as error:
        raise LogDamaged(f"An entry of rows cannot be read: {error}.") from error
    if not _EXTRACTOR.fullmatch(extractor) or not (own.equals(full) or own.equals(plain_schema(full))):
        raise LogDamaged("An entry of rows does not have the columns that it says it has.")
    if fault := _fault(table):
        raise LogDamaged(f"An entry has rows of extractor {extractor} that {fault}.")
    return Decoded(extractor, full, table.replace_schema_metadata(None))


def without(payload: bytes, unwanted: Callable[[pa.Table], pa.ChunkedArray[Any]]) -> tuple[bytes, int]:
    """The payload without the rows that are unwanted, and how many are left. Nothing of them stays: values of
    a dictionary that no row has go too. Raises as `decode`."""
    found = decode(payload)
    left = found.table.filter(pc.invert(unwanted(found.table)))
    schema = pa.ipc.open_stream(_inflated(payload)).schema
    return _written(compacted(left).cast(schema), schema), left.num_rows


def compacted(rows: pa.Table) -> pa.Table:
    """The same rows, whose dictionaries have no values but theirs."""
    columns = [_compacted(rows[field.name], field.type) for field in rows.schema]
    return pa.table(columns, schema=rows.schema)


def _compacted(column: pa.ChunkedArray[Any], kind: pa.DataType) -> pa.ChunkedArray[Any]:
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type).dictionary_encode().cast(kind)
    if "dictionary<" in str(kind):
        return pa.chunked_array([pa.array(column.to_pylist(), kind)])
    return column


def _inflated(payload: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(payload), "zstd") as squeezed:
        raw: bytes = squeezed.read(MAX_INFLATED_BYTES + 1)
    if len(raw) > MAX_INFLATED_BYTES:
        raise LogDamaged(f"it has more than {MAX_INFLATED_BYTES:,} bytes")
    return raw


def _check_format(version: bytes) -> None:
    if version.isdigit() and int(version) > FORMAT_VERSION:
        raise SchemaTooNew(
            f"An entry of rows has format {int(version)}; "
            f"this snapengine reads up to {FORMAT_VERSION}. Upgrade it."
        )


def _fault(table: pa.Table) -> str:
    for field in ROW_FIELDS:
        if not field.nullable and table[field.name].null_count:
            return f"lack a value of {field.name}"
    unknown = pc.unique(table["outcome"]).to_pylist()
    return "".join(f"have the outcome {name!r}" for name in sorted(set(unknown) - RANKS.keys())[:1])
