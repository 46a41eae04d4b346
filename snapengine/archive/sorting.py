"""Rows sorted in bounded memory: runs on the disk, merged range by range of keys."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.planning import Bounds, KeyRange, groups_in
from snapengine.archive.windows import in_range

RUN_BYTES = 128 * 2**20
"""Of a run: what is sorted in memory at a time."""
BATCH_ROWS = 8192
"""Of a run's batches, the least that is read of it."""


class _Run(NamedTuple):
    bounds: list[Bounds]
    """Of its batches."""
    batch: Callable[[int], pa.Table]


class Sorter:
    """A context manager: `add` tables as they come, then read them back by key ranges.

    What fits into one run never touches the disk.
    """

    def __init__(self, schema: pa.Schema, *, run_bytes: int = RUN_BYTES) -> None:
        """`schema` has a column `key`."""
        self.rows = 0
        self._schema = schema
        self._run_bytes = run_bytes
        self._waiting: list[pa.Table] = []
        self.waiting_bytes = 0
        """Of what is in memory; not right any more after `bounds`."""
        self._runs: list[_Run] = []
        self._names = count()
        self._folder: Path | None = None
        self._open: list[Any] = []

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        self.rows += table.num_rows
        self._waiting.append(table)
        self.waiting_bytes += table.nbytes
        if self.waiting_bytes >= self._run_bytes:
            self.spill()

    def spill(self) -> None:
        """Put on the disk what is in memory."""
        if self._waiting:
            self._runs.append(self._spilled(self._sorted()))

    def bounds(self) -> list[Bounds]:
        """Of all batches, to make ranges of. No row can be added after this."""
        if self._waiting:
            self._runs.append(_in_memory(self._sorted()))
        return [bounds for run in self._runs for bounds in run.bounds]

    def within(self, keys: KeyRange) -> pa.Table:
        """The rows of a range of keys, in no order. Only after `bounds`."""
        found = [
            in_range(run.batch(number), keys) for run in self._runs for number in groups_in(run.bounds, keys)
        ]
        return pa.concat_tables([self._schema.empty_table(), *found])

    def _sorted(self) -> pa.Table:
        table = pa.concat_tables(self._waiting)
        self._waiting, self.waiting_bytes = [], 0
        return table.take(pc.sort_indices(table, sort_keys=[("key", "ascending")]))

    def _spilled(self, table: pa.Table) -> _Run:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="snapengine-"))
        path = str(self._folder / f"{next(self._names)}.arrow")
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, self._schema, options=options) as writer:
            for start in range(0, table.num_rows, BATCH_ROWS):
                (batch,) = table.slice(start, BATCH_ROWS).combine_chunks().to_batches()
                writer.write_batch(batch)
        source = pa.OSFile(path, "rb")
        self._open.append(source)
        reader = pa.ipc.open_file(source)
        return _Run(_bounds(table), lambda number: pa.Table.from_batches([reader.get_batch(number)]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runs.clear()
        for source in self._open:
            source.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _in_memory(table: pa.Table) -> _Run:
    return _Run(_bounds(table), lambda number: table.slice(number * BATCH_ROWS, BATCH_ROWS))


def _bounds(table: pa.Table) -> list[Bounds]:
    keys: Sequence[Any] = table["key"]
    starts = range(0, table.num_rows, BATCH_ROWS)
    ends = [min(start + BATCH_ROWS, table.num_rows) for start in starts]
    return [
        Bounds(end - start, keys[start].as_py(), keys[end - 1].as_py())
        for start, end in zip(starts, ends, strict=True)
    ]
