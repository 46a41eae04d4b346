"""PURE: files of metadata rows: their columns, and what their schemas say of the versions of an extractor.

The rows of an extractor's versions come together in one file. Which schemas they had is kept in the file's
own, so that what is made of them all does not depend on what was put together when.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Final

import pyarrow as pa

from snapengine.archive.schemas import EPOCH
from snapengine.errors import ArchiveDamaged, BadData
from snapengine.metadata_rows import unify

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


def telling(schema: pa.Schema, schemas: Iterable[pa.Schema]) -> pa.Schema:
    """A file's schema that says which full schemas the rows in it had."""
    texts = [base64.b64encode(one.serialize().to_pybytes()).decode() for one in distinct(schemas)]
    packed = zlib.compress(json.dumps(texts).encode())
    return schema.with_metadata({_SCHEMAS: base64.b64encode(packed)})


def schemas_in(schema: pa.Schema, name: str) -> list[pa.Schema]:
    """What `telling` noted in the schema of the file `name`. Raises `ArchiveDamaged`."""
    try:
        packed = base64.b64decode((schema.metadata or {})[_SCHEMAS], validate=True)
        texts = json.loads(zlib.decompress(packed))
        return [pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text, validate=True))) for text in texts]
    except (KeyError, ValueError, TypeError, zlib.error, pa.ArrowException) as error:
        raise ArchiveDamaged(f"{name}, a file of the archive, does not say whose rows it has.") from error


def distinct(schemas: Iterable[pa.Schema]) -> list[pa.Schema]:
    """Each once, in an order that does not depend on theirs. Arrow takes schemas for equal whose fields say
    different things of themselves, such as whether they are identifying."""
    told = {one.remove_metadata().serialize().to_pybytes(): one.remove_metadata() for one in schemas}
    return [told[text] for text in sorted(told)]


def families(
    groups: Iterable[Sequence[pa.Schema]], extractor: str
) -> list[tuple[pa.Schema, list[Sequence[pa.Schema]]]]:
    """Groups of full schemas put together as far as they can be one table, and what each then has.

    An extractor that changes a column's type makes two: the archive takes in whatever came.
    """
    found: list[tuple[pa.Schema, list[Sequence[pa.Schema]]]] = []
    for group in groups:
        for place, (_, members) in enumerate(found):
            both = _together([one for member in (*members, group) for one in member], extractor)
            if both is not None:
                found[place] = (both, [*members, group])
                break
        else:
            found.append((unify(group, extractor), [group]))
    return found


def _together(schemas: Sequence[pa.Schema], extractor: str) -> pa.Schema | None:
    try:
        return unify(schemas, extractor)
    except BadData:
        return None
