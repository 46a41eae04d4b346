"""The extractor of Parquet footers: rows, columns, the schema, who wrote it. Reads from the object's end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from metadata_extractors.base import BudgetSpent, Extraction, Reader, column
from metadata_extractors.columns import pick

_MAGIC: Final = b"PAR1"
_ENCRYPTED: Final = b"PARE"
_LAST_BYTES: Final = 64 * 1024
_TRAILER: Final = 8
"""The footer's length, four bytes, little endian, then the magic."""

_FIELDS: Final = (
    column("RowCount", pa.int64(), "FileMetaData.num_rows"),
    column("ColumnCount", pa.int64(), "leaf columns of FileMetaData.schema"),
    column("RowGroupCount", pa.int64(), "FileMetaData.row_groups"),
    column("FormatVersion", pa.string(), "FileMetaData.version"),
    column("CreatedBy", pa.string(), "FileMetaData.created_by"),
    column("SchemaJson", pa.string(), "leaf columns of FileMetaData.schema"),
    column("FooterSize", pa.int64(), "the file's last eight bytes", unit="By"),
    column("KeyValueJson", pa.string(), "FileMetaData.key_value_metadata", identifying=True),
)


class ParquetExtractor:
    """Reads Parquet footers: the last 64 KiB, and what is before them if the footer is longer."""

    name = "parquet"
    version = "1"
    head_bytes = 4

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self._fields = pick(_FIELDS, columns)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(self._fields)

    def matches(self, key: str, size: int | None, head: bytes) -> bool:  # noqa: ARG002  # names lie
        return head[:4] in {_MAGIC, _ENCRYPTED}

    def extract(self, reader: Reader) -> Extraction:
        size = reader.size if reader.size is not None else getattr(reader.facts(), "size", None)
        if size is None:
            return _failed("the object's size is not known, so its end cannot be read")
        try:
            footer = _footer(reader, size)
        except BudgetSpent:
            return _failed("the footer is longer than may be read")
        if isinstance(footer, str):
            return _failed(footer)
        try:
            found = pq.read_metadata(pa.BufferReader(_MAGIC + footer))
            values = _values(found)
        except (pa.ArrowException, OSError, ValueError) as error:
            return _failed(f"the footer is damaged ({type(error).__name__})")
        return Extraction("ok", {field.name: values[field.name] for field in self._fields})


def _footer(reader: Reader, size: int) -> bytes | str:
    """The footer with its trailer, or why there is none."""
    end = reader.read(max(0, size - _LAST_BYTES), size)
    if end[-4:] == _ENCRYPTED:
        return "the footer is encrypted"
    if end[-4:] != _MAGIC or size < len(_MAGIC) + _TRAILER:
        return "the object does not end as Parquet does: it is cut, or still being written"
    length = int.from_bytes(end[-_TRAILER:-4], "little") + _TRAILER
    if length + len(_MAGIC) > size:
        return "the footer claims more bytes than the object has"
    if length <= len(end):
        return end[-length:]
    return reader.read(size - length, size - len(end)) + end


def _values(found: pq.FileMetaData) -> dict[str, object]:
    leaves = found.schema
    return {
        "RowCount": found.num_rows,
        "ColumnCount": found.num_columns,
        "RowGroupCount": found.num_row_groups,
        "FormatVersion": found.format_version,
        "CreatedBy": found.created_by or None,
        "SchemaJson": json.dumps([_leaf(leaves.column(place)) for place in range(len(leaves))]),
        "FooterSize": found.serialized_size,
        "KeyValueJson": _key_values(found.metadata),
    }


def _leaf(leaf: Any) -> dict[str, object]:
    logical = str(leaf.logical_type)
    return {
        "path": leaf.path,
        "physical": leaf.physical_type,
        "logical": None if logical == "None" else logical,
        "nullable": leaf.max_definition_level > 0,
        "repeated": leaf.max_repetition_level > 0,
    }


def _key_values(pairs: dict[bytes, bytes] | None) -> str | None:
    """Without the Arrow schema, which is binary and said again."""
    texts = {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in (pairs or {}).items()
        if key != b"ARROW:schema"
    }
    return json.dumps(texts, sort_keys=True) if texts else None


def _failed(why: str) -> Extraction:
    return Extraction("failed", problems=(why,))
