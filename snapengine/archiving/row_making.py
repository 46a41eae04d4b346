"""The rows of metadata of one segment, being made: gathered with its epochs, sorted, written by extractor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from operator import attrgetter

import pyarrow as pa

from snapengine.archive.identifying import IdentifyingParts, decoded
from snapengine.archive.manifest import ArchiveFile
from snapengine.archive.planning import split
from snapengine.archive.roots import Root
from snapengine.archive.row_files import RowSchema, families, with_epochs
from snapengine.archive.schemas import EPOCH
from snapengine.archive.sorting import RUN_BYTES, Sorter
from snapengine.archiving.leasing import Renew
from snapengine.archiving.row_writing import ALL_KEYS, RANGE_ROWS, Family, in_order, write_rows
from snapengine.archiving.tail import Tail
from snapengine.errors import LogDamaged
from snapengine.metadata_rows import metadata_log
from snapengine.model import Epoch
from snapengine.ports import LogReader


class RowLog:
    """The metadata log behind the archive, epoch by epoch, with all columns."""

    def __init__(self, store: LogReader, bucket: str, after: Mapping[int, int], newest: Epoch) -> None:
        """`after`: by stream, the last entry that is archived."""
        self._tail = Tail(store, metadata_log(bucket), after, newest, attrgetter("rows"))
        self._parts = IdentifyingParts(store, bucket, after, newest.rows)

    def rows(self, epoch: Epoch) -> Iterator[tuple[str, pa.Schema, pa.Table]]:
        """Of each entry that the epoch is the first to cover the extractor, the full schema and the rows."""
        for entry in self._tail.entries(epoch):
            if entry.form != "metadata":
                raise LogDamaged(
                    f"Entry {entry.number} of stream {entry.stream} of {entry.bucket} has no rows any more, "
                    "and the archive lacks them."
                )
            found = self._parts.whole(entry, decoded(entry))
            yield found.extractor, found.schema, found.table


class GatheredRows:
    """Rows of all extractors, in bounded memory. A context manager, as some may be on the disk."""

    def __init__(self) -> None:
        self.rows = 0
        self._stack = ExitStack()
        self._sorters: dict[str, dict[bytes, tuple[RowSchema, Sorter]]] = {}

    def add(self, extractor: str, schema: pa.Schema, table: pa.Table, epoch: int) -> None:
        """Rows by a full schema, which the epoch is the first to cover."""
        if not table.num_rows:
            return
        known = self._sorters.setdefault(extractor, {})
        own = with_epochs(schema.remove_metadata())
        name = own.serialize().to_pybytes()
        if name not in known:  # epochs come in order
            sorter = Sorter(own, run_bytes=RUN_BYTES + 1)
            known[name] = (RowSchema(schema.remove_metadata(), epoch), self._stack.enter_context(sorter))
        numbers = pa.repeat(pa.scalar(epoch, pa.int64()), table.num_rows)
        known[name][1].add(table.append_column(EPOCH, numbers).cast(own))
        self.rows += table.num_rows
        sorters = [sorter for of_one in self._sorters.values() for _, sorter in of_one.values()]
        if sum(sorter.waiting_bytes for sorter in sorters) >= RUN_BYTES:
            max(sorters, key=lambda sorter: sorter.waiting_bytes).spill()

    def by_extractor(self) -> dict[str, int]:
        """How many there are of each."""
        return {
            name: sum(sorter.rows for _, sorter in known.values()) for name, known in self._sorters.items()
        }

    def write(self, root: Root, bucket: str, first: int, last: int, renew: Renew) -> list[ArchiveFile]:
        """The files of a segment of the epochs `[first, last]`, in the root."""
        files: list[ArchiveFile] = []
        for extractor, known in sorted(self._sorters.items()):
            made: list[Family] = []
            by_first = sorted(known.values(), key=lambda two: two[0].first)
            sorter_of = {id(member): sorter for member, sorter in by_first}
            for schema, groups in families(([member] for member, _ in by_first), extractor):
                members = [member for group in groups for member in group]
                sorters = [sorter_of[id(member)] for member in members]
                made.append(Family(schema, members, _sorted(schema, sorters, renew)))
            files += write_rows(root, bucket, extractor, first, last, made)
        return files

    def __enter__(self) -> GatheredRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _sorted(schema: pa.Schema, sorters: Sequence[Sorter], renew: Renew) -> Iterator[pa.Table]:
    """All rows, range by range of keys."""
    bounds = [bound for sorter in sorters for bound in sorter.bounds()]
    for keys in split(bounds, ALL_KEYS, RANGE_ROWS):
        renew()
        yield in_order([sorter.within(keys) for sorter in sorters], schema)
