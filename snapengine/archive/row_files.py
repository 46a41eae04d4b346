"""PURE: files of metadata rows: their columns, and what their schemas say of the versions of an extractor.

The rows of an extractor's versions come together in one file. Which schemas they had is kept in the file's
own, so that what is made of them all does not depend on what was put together when.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from snapengine.archive.schemas import EPOCH
from snapengine.errors import ArchiveDamaged, BadData
from snapengine.metadata_rows import identifying_names, unify

ROW_ORDER: Final = ("key", "version_id", "extracted_at")
"""Of a segment's rows."""
ROW_FILE_ROWS: Final = 1_048_576
"""The most rows of a file."""
LIVE_GROUP_ROWS: Final = 61_440
"""Of a checkpoint's objects with their rows: DuckDB shares them out by row groups."""

_SCHEMAS: Final = b"snapengine.row-schemas"


def with_epochs(schema: pa.Schema) -> pa.Schema:
    """Rows in a segment's file: the first epoch that covers each is its last column."""
    return pa.schema([*schema, EPOCH])


class RowSchema(NamedTuple):
    """A full schema that rows had."""

    schema: pa.Schema
    first: int
    """The first epoch that covers such rows."""


def distinct(members: Iterable[RowSchema]) -> list[RowSchema]:
    """Each schema once, in an order that does not depend on theirs. Arrow takes for equal those whose fields
    say different things of themselves, such as whether they are identifying."""
    found: dict[bytes, RowSchema] = {}
    for one in members:
        own = one.schema.remove_metadata()
        text = own.serialize().to_pybytes()
        first = min(one.first, found[text].first) if text in found else one.first
        found[text] = RowSchema(own, first)
    return [found[text] for text in sorted(found)]


def telling(schema: pa.Schema, members: Iterable[RowSchema]) -> pa.Schema:
    """A file's schema that says which full schemas the rows in it had, and since when."""
    texts = [
        [base64.b64encode(one.schema.serialize().to_pybytes()).decode(), one.first]
        for one in distinct(members)
    ]
    packed = zlib.compress(json.dumps(texts).encode())
    return schema.with_metadata({_SCHEMAS: base64.b64encode(packed)})


def members_of(schema: pa.Schema, name: str) -> list[RowSchema]:
    """What `telling` noted in the schema of the file `name`. Raises `ArchiveDamaged`."""
    try:
        packed = base64.b64decode((schema.metadata or {})[_SCHEMAS], validate=True)
        return [
            RowSchema(pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text, validate=True))), int(first))
            for text, first in json.loads(zlib.decompress(packed))
        ]
    except (KeyError, ValueError, TypeError, zlib.error, pa.ArrowException) as error:
        raise ArchiveDamaged(f"{name}, a file of the archive, does not say whose rows it has.") from error


Group = Sequence[RowSchema]


def families(groups: Iterable[Group], extractor: str) -> list[tuple[pa.Schema, list[Group]]]:
    """Groups of schemas put together as far as they can be one table, and the full schema that each then has.

    An extractor that changes a column's type makes two: the archive takes in whatever came. So does one that
    comes to call a column identifying: as earlier epochs know it, its values are none of the hidden ones.
    """
    found: list[tuple[pa.Schema, list[Group]]] = []
    for group in groups:
        for place, (_, others) in enumerate(found):
            both = _together([*others, group], extractor)
            if both is not None:
                found[place] = (both, [*others, group])
                break
        else:
            found.append((unify([one.schema for one in group], extractor), [group]))
    return found


def _together(groups: Sequence[Group], extractor: str) -> pa.Schema | None:
    schemas = [one.schema for group in groups for one in group]
    hidden: dict[str, bool] = {}
    for schema in schemas:
        names = set(identifying_names(schema))
        if any(hidden.setdefault(name, name in names) != (name in names) for name in schema.names):
            return None
    try:
        return unify(schemas, extractor)
    except BadData:
        return None
