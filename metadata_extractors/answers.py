"""What the sandbox tells a child that asks, and what it takes from it: a row's values, if they are that."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import asdict

import pyarrow as pa

from metadata_extractors.base import BudgetSpent
from metadata_extractors.ranged import RangedReader
from metadata_extractors.wire import DATA, FACTS, REFUSED

Answer = Callable[[bytes, bytes], tuple[bytes, bytes]]
"""The kind and payload of a child's question to those of its answer."""


class Answers:
    """What the child may ask for, from the reader. Once that has failed, nothing more is read."""

    def __init__(self, reader: RangedReader, most: int) -> None:
        self._reader = reader
        self._most = most
        self.failure: Exception | None = None

    def to(self, asked: bytes, told: bytes) -> tuple[bytes, bytes]:
        """The answer's kind and payload."""
        if self.failure is not None:
            return REFUSED, b""
        try:
            return DATA, self._facts() if asked == FACTS else self._range(told)
        except BudgetSpent:
            return REFUSED, b""
        except Exception as error:  # noqa: BLE001  # raised again when the child is done
            self.failure = error
            return REFUSED, b""

    def _facts(self) -> bytes:
        facts = self._reader.facts()
        return json.dumps(None if facts is None else asdict(facts)).encode()

    def _range(self, told: bytes) -> bytes:
        start, end = struct.unpack("<QQ", told) if len(told) == 16 else (1, 0)
        if start > end or end - start > self._most:
            raise BudgetSpent("no range")
        return self._reader.read(start, end)


def values_of(row: bytes, schema: pa.Schema) -> dict[str, object]:
    """By column. Raises where the bytes are no batch of one row by the schema."""
    batch = pa.ipc.read_record_batch(pa.py_buffer(row), schema)
    batch.validate(full=True)
    if batch.num_rows != 1:
        raise ValueError("not one row")
    return {
        name: None if column.null_count else column[0].as_py()  # most of a row is null
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
