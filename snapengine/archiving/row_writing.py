"""Files of a segment's rows of metadata: plain ones, and beside them those with all columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import ArchiveFile, Role
from snapengine.archive.planning import KeyRange
from snapengine.archive.roots import Root
from snapengine.archive.row_files import ROW_FILE_ROWS, ROW_ORDER, RowSchema, telling, with_epochs
from snapengine.archiving import paths
from snapengine.archiving.publishing import Series
from snapengine.metadata_rows import conform, identifying_names, plain_schema

RANGE_ROWS: Final = 65_536
"""Rows that are sorted and written at a time, more or less: they may be wide."""
ALL_KEYS: Final = KeyRange("", None)


class Family(NamedTuple):
    """Rows that are one table."""

    schema: pa.Schema
    """The full one, of all rows together."""
    members: Sequence[RowSchema]
    """Those that the rows had."""
    tables: Iterator[pa.Table]
    """By `with_epochs(schema)`, in `ROW_ORDER`."""


def in_order(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Rows of a range of keys by `with_epochs(schema)`, in `ROW_ORDER`."""
    whole = with_epochs(schema)
    rows = pa.concat_tables([conform(table, whole) for table in tables])
    order = [(name, "ascending") for name in (*ROW_ORDER, "epoch")]
    return rows.take(pc.sort_indices(rows, sort_keys=order))


def write_rows(
    root: Root, bucket: str, extractor: str, first: int, last: int, made: Sequence[Family]
) -> list[ArchiveFile]:
    """The files of one extractor's rows in the epochs `[first, last]`, in the root.

    If any column is identifying there are files with all columns of all rows; whoever may read those reads
    them alone.
    """
    hidden = any(identifying_names(family.schema) for family in made)
    files: list[ArchiveFile] = []
    for family in made:
        whole = family.schema
        with ExitStack() as stack:
            written: list[tuple[Series, list[str]]] = []
            kinds: list[tuple[Role, pa.Schema]] = [("rows", plain_schema(whole))]
            for role, schema in [*kinds, ("identifying", whole)] if hidden else kinds:
                folder = paths.rows(bucket, extractor, first, last, identifying=role == "identifying")
                told = telling(with_epochs(schema), family.members)
                one = Series(
                    root, f"{folder}/rows", role, told, ROW_ORDER, ROW_FILE_ROWS, extractor=extractor
                )
                written.append((stack.enter_context(one), told.names))
            for table in family.tables:
                for one, names in written:
                    one.write(table.select(names))
            for one, _ in written:
                files += one.close()
    return files
