"""Rows of sorted Parquet files, one key range after the other: what the next range needs too is kept."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import ArchiveFile
from snapengine.archive.planning import Bounds, KeyRange, Part, groups_in, groups_of

DECODERS = max(1, min(4, (os.cpu_count() or 1) - 1))
"""Threads: one processor is left to those who use what is read."""
GROUPS_AT_ONCE = 16
"""Row groups of a file that are in memory when single keys are wanted of it."""


class Reader(Protocol):
    """What is needed of `reading.ArchiveReader`."""

    def groups(self, file: ArchiveFile) -> Sequence[tuple[int, str, str]]:
        """Of each row group the rows, the least key and the greatest."""
        ...

    def schema(self, file: ArchiveFile) -> pa.Schema:
        """Its columns."""
        ...

    def name(self, file: ArchiveFile) -> str:
        """The file in messages."""
        ...

    def local(self, file: ArchiveFile, folder: Path) -> Path:
        """The whole file on this machine's disk, if need be in that folder."""
        ...

    def read(
        self,
        file: ArchiveFile,
        *,
        groups: Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
        decoders: ThreadPoolExecutor | None = None,
    ) -> pa.Table: ...


class Window:
    """Files of equal columns, read in ascending key ranges. It holds a row group a file beyond the range."""

    def __init__(
        self,
        reader: Callable[[], Reader],
        parts: Iterable[Part],
        schema: pa.Schema,
        pool: ThreadPoolExecutor,
        decoders: ThreadPoolExecutor | None = None,
    ) -> None:
        """Rows come by `schema`; where a part is not whole, only those of its epochs. `decoders`: as
        `ArchiveReader.read` takes them."""
        self._schema = schema
        self._pool = pool
        self._files = [_Open(reader, file, part, schema, decoders) for part in parts for file in part.files]

    @classmethod
    def of_files(
        cls,
        reader: Callable[[], Reader],
        files: Iterable[ArchiveFile],
        schema: pa.Schema,
        pool: ThreadPoolExecutor,
        decoders: ThreadPoolExecutor | None = None,
    ) -> Window:
        """Files that are needed as they are."""
        return cls(reader, [Part(0, 0, True, tuple(files))], schema, pool, decoders)

    def start(self, keys: KeyRange, only: Sequence[str] | None = None) -> Callable[[], pa.Table]:
        """Begin to read a range's rows, each file's in its own order; what is returned waits for them.

        With `only` (in order) just the rows of those keys. No two calls may be under way at a time.
        """
        wanted = [f for f in self._files if keys.overlaps(f.file.min_key, f.file.max_key)]
        running = [self._pool.submit(f.rows, keys, only) for f in wanted]

        def wait() -> pa.Table:
            tables = [future.result() for future in running]
            return pa.concat_tables([self._schema.empty_table(), *(t for t in tables if t.num_rows)])

        return wait

    def rows(self, keys: KeyRange, only: Sequence[str] | None = None) -> pa.Table:
        return self.start(keys, only)()


class _Open:
    """One file, with the row groups of it that are kept."""

    def __init__(
        self,
        reader: Callable[[], Reader],
        file: ArchiveFile,
        part: Part,
        schema: pa.Schema,
        decoders: ThreadPoolExecutor | None,
    ) -> None:
        self.file = file
        self._reader = reader
        self._decoders = decoders
        self._part = part
        self._schema = schema
        self._columns = [*schema.names, *(() if part.whole else ("epoch",))]
        self._groups: list[Bounds] | None = None
        self._kept: dict[int, pa.Table] = {}

    def rows(self, keys: KeyRange, only: Sequence[str] | None) -> pa.Table:
        file = self.file
        if only is None and not self._kept and keys.includes(file.min_key, file.max_key):
            return self._as_wanted(self._read(None))
        if self._groups is None:
            self._groups = [Bounds(*group) for group in self._reader().groups(file)]
        groups = self._groups
        numbers = groups_in(groups, keys)
        if only is None:
            return self._of_groups(groups, numbers, keys)
        hits = set(groups_of(groups, only))
        numbers = [number for number in numbers if number in hits]
        wanted = pa.array(only, pa.string())
        found = [self._schema.empty_table()]
        for start in range(0, len(numbers), GROUPS_AT_ONCE):  # they may be all that there are
            table = self._of_groups(groups, numbers[start : start + GROUPS_AT_ONCE], keys)
            found.append(table.filter(pc.is_in(table["key"], value_set=wanted)))
        return pa.concat_tables(found)

    def _of_groups(self, groups: Sequence[Bounds], numbers: Sequence[int], keys: KeyRange) -> pa.Table:
        """The rows of a range in some row groups; those that the next range needs too are kept."""
        self._fetch(groups, [number for number in numbers if number not in self._kept])
        pieces = [_slice(self._kept[number], groups[number], keys) for number in numbers]
        if keys.after is None:
            self._kept.clear()
        else:
            self._kept = {n: t for n, t in self._kept.items() if groups[n].max_key >= keys.after}
        return pa.concat_tables([self._schema.empty_table(), *pieces])

    def _fetch(self, groups: Sequence[Bounds], numbers: Sequence[int]) -> None:
        if not numbers:
            return
        table = self._read(numbers)
        if self._part.whole:
            table = self._as_wanted(table)
        begin = 0
        for number in numbers:
            rows = table.slice(begin, groups[number].rows)
            self._kept[number] = rows if self._part.whole else self._as_wanted(rows)
            begin += groups[number].rows

    def _read(self, groups: Sequence[int] | None) -> pa.Table:
        return self._reader().read(self.file, groups=groups, columns=self._columns, decoders=self._decoders)

    def _as_wanted(self, table: pa.Table) -> pa.Table:
        if not self._part.whole:
            epochs = table["epoch"]
            table = table.filter(
                pc.and_(pc.greater(epochs, self._part.after), pc.less_equal(epochs, self._part.to))
            )
        table = table.select(self._schema.names)
        return table if table.schema.equals(self._schema) else table.cast(self._schema)


def _slice(table: pa.Table, group: Bounds, keys: KeyRange) -> pa.Table:
    """The rows of a sorted table that are in the range."""
    if keys.includes(group.min_key, group.max_key):
        return table
    return in_range(table, keys)


def in_range(table: pa.Table, keys: KeyRange) -> pa.Table:
    """The rows of a table, sorted by key, whose keys are in the range."""
    column = table["key"]
    numbers = range(table.num_rows)
    first = bisect_left(numbers, keys.first, key=lambda i: column[i].as_py())
    last = table.num_rows
    if keys.after is not None:
        last = bisect_left(numbers, keys.after, lo=first, key=lambda i: column[i].as_py())
    return table.slice(first, last - first)
