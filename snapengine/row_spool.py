"""Record batches that are read several times: in memory as long as they are few, then on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

MOST_BYTES = 64 * 2**20
"""What is kept in memory."""


class Spool:
    """Written once from start to end, then read as often as wanted, also at once."""

    def __init__(self, schema: pa.Schema, path: Path) -> None:
        """`path`: for what does not fit in memory; the caller's to delete."""
        self._schema = schema
        self._path = path
        self._held: list[pa.RecordBatch] = []
        self._bytes = 0
        self._writer: Any = None

    def write(self, table: pa.Table) -> None:
        for batch in table.to_batches(max_chunksize=65_536):
            self._bytes += batch.nbytes
            if self._writer is None and self._bytes <= MOST_BYTES:
                self._held.append(batch)
                continue
            if self._writer is None:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writer = pa.ipc.new_stream(str(self._path), self._schema, options=options)
            self._writer.write_batch(batch)

    def close(self) -> None:
        """No more comes."""
        if self._writer is not None:
            self._writer.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All of them, in order."""
        yield from self._held
        if self._writer is not None:
            with pa.OSFile(str(self._path), "rb") as source:
                yield from pa.ipc.open_stream(source)
