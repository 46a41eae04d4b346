"""Rows of metadata of one extractor, wherever they are: segments' files, and the tail of the metadata log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from threading import Lock
from typing import Any, NamedTuple
from weakref import finalize

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.identifying import IdentifyingParts, decoded
from snapengine.archive.manifest import ArchiveFile, Segment
from snapengine.archive.planning import Gap, KeyRange, Part, tile
from snapengine.archive.row_files import RowSchema, members_of
from snapengine.archive.schemas import EPOCH
from snapengine.archive.sorting import Sorter
from snapengine.archive.windows import Window
from snapengine.errors import IdentifyingRefused, PermissionMissing
from snapengine.metadata_rows import NAMES, conform, metadata_log
from snapengine.ports import LogReader
from snapengine.ranges import Reading


class Extracted(NamedTuple):
    """Whose rows, and how much of them."""

    extractor: str
    full: bool
    """All columns, also the identifying ones."""
    columns: frozenset[str] | None = None
    """Of the extractor's own only these are needed; None: all."""

    def reads(self, name: str) -> bool:
        """Whether a column is needed."""
        return self.columns is None or name in self.columns or name in NAMES


class RowWindow:
    """Rows in files, range by range of keys."""

    def __init__(self, reading: Reading, parts: Sequence[Part], wanted: Extracted, to: int) -> None:
        """`parts` of segments, or of a checkpoint's files; of their rows' schemas those count that there were
        at epoch `to`."""
        self.parts = parts
        files = [(part, file) for part in parts for file in part.files]
        self.files = [file for _, file in files]
        with refusing(wanted):
            schemas = list(reading.pool.map(lambda two: reading.reader().schema(two[1]), files))
        alike: dict[bytes, tuple[pa.Schema, list[Part]]] = {}
        self.members: list[RowSchema] = []
        for (part, file), schema in zip(files, schemas, strict=True):
            self.members += [one for one in members_of(schema, file.path) if one.first <= to]
            own = pa.schema([f for f in schema if f.name != EPOCH.name and wanted.reads(f.name)])
            known = alike.setdefault(own.serialize().to_pybytes(), (own, []))
            known[1].append(replace(part, files=(file,)))
        self._wanted = wanted
        self._windows: list[Window] = [reading.window(of_one, own) for own, of_one in alike.values()]

    def start(
        self, keys: KeyRange, schema: pa.Schema, only: Sequence[str] | None = None
    ) -> Callable[[], pa.Table]:
        """Begin to read a range's rows (with `only`, in order, of those keys); what is returned waits for
        them and gives them by `schema`, in no order."""
        with refusing(self._wanted):
            waits = [window.start(keys, only) for window in self._windows]

        def wait() -> pa.Table:
            with refusing(self._wanted):
                tables = [rows() for rows in waits]
            return pa.concat_tables([schema.empty_table(), *(conform(t, schema) for t in tables)])

        return wait

    def rows(self, keys: KeyRange, schema: pa.Schema, only: Sequence[str] | None = None) -> pa.Table:
        return self.start(keys, schema, only)()


@contextmanager
def refusing(wanted: Extracted) -> Iterator[None]:
    """A denied read of files with identifying columns is what `IdentifyingRefused` says."""
    try:
        yield
    except PermissionMissing as error:
        if not wanted.full:
            raise
        raise IdentifyingRefused(
            f"This role may not have the identifying columns of extractor {wanted.extractor}: files of the "
            "archive are denied. Leave those columns out, or have it allowed."
        ) from error


def archived_rows(reading: Reading, wanted: Extracted, after: int, to: int) -> RowWindow:
    """The rows that the archive has of the epochs `(after, to]`."""

    def files_of(segment: Segment) -> Sequence[ArchiveFile]:
        return segment.rows_of(wanted.extractor, full=wanted.full)

    last = min(to, reading.archive.last_epoch)
    parts = tile(reading.archive.segments, after, last, reading.keys, files_of=files_of)
    return RowWindow(reading, parts, wanted, to)


def row_files(reading: Reading, files: Sequence[ArchiveFile], wanted: Extracted) -> RowWindow:
    """Of files that are needed as they are."""
    inside = tuple(f for f in files if f.rows and reading.keys.overlaps(f.min_key, f.max_key))
    return RowWindow(reading, [Part(0, 0, True, inside)], wanted, reading.epoch.number)


class RowTail:
    """The rows that no segment has taken over, read at once; what is much waits on the disk."""

    def __init__(
        self,
        store: LogReader,
        bucket: str,
        tail: Mapping[int, tuple[int, int]],
        wanted: Extracted | None,
        pool: ThreadPoolExecutor,
    ) -> None:
        """`tail`: by stream the entries `(after, to]`. Without `wanted` only whose rows there are is
        found."""
        self.schemas: dict[str, list[pa.Schema]] = {}
        """By extractor, the full schemas of its rows, each once: an entry's takes some 60 KB."""
        self._known: set[tuple[str, bytes]] = set()
        self._store = store
        self._log = metadata_log(bucket)
        self._tail = tail
        self._wanted = wanted
        self._parts = IdentifyingParts(
            store,
            bucket,
            {stream: after for stream, (after, _) in tail.items()},
            {stream: to for stream, (_, to) in tail.items()},
        )
        self._lock = Lock()
        self._sorters: dict[bytes, Sorter] = {}
        stack = ExitStack()
        self._stack = stack
        finalize(self, stack.close)
        list(pool.map(self._read, sorted(tail)))
        self.bounds = [bounds for sorter in self._sorters.values() for bounds in sorter.bounds()]
        """Of what is held, to make ranges of."""

    def _read(self, stream: int) -> None:
        after, to = self._tail[stream]
        wanted = self._wanted
        for entry in self._store.entries(self._log, stream, after, to):
            if entry.form != "metadata":
                raise Gap(
                    f"Entry {entry.number} of stream {entry.stream} of {entry.bucket} has gone to the "
                    "archive, and no segment holds it."
                )
            found = decoded(entry)
            if not found.table.num_rows:
                continue
            table = None
            if wanted is not None and found.extractor == wanted.extractor:
                table = self._parts.whole(entry, found).table if wanted.full else found.table
            own = found.schema.remove_metadata()
            name = (found.extractor, own.serialize().to_pybytes())
            with self._lock:
                if name not in self._known:
                    self._known.add(name)
                    self.schemas.setdefault(found.extractor, []).append(own)
                if table is not None:
                    self._add(table)

    def _add(self, table: pa.Table) -> None:
        own = table.schema.remove_metadata()
        name = own.serialize().to_pybytes()
        if name not in self._sorters:
            self._sorters[name] = self._stack.enter_context(Sorter(own))
        self._sorters[name].add(table.cast(own))

    def rows(self, keys: KeyRange, schema: pa.Schema, only: Sequence[str] | None = None) -> pa.Table:
        """A range's rows (with `only`, of those keys) by `schema`, in no order. From one thread at a time."""
        found = [conform(sorter.within(keys), schema) for sorter in self._sorters.values()]
        table = pa.concat_tables([schema.empty_table(), *found])
        return table if only is None else of_keys(table, only)


def of_keys(table: pa.Table, keys: Sequence[str] | pa.Array[Any]) -> pa.Table:
    """The rows of these keys."""
    values = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
    return table.filter(pc.is_in(table["key"], value_set=values))
