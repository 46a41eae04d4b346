"""PURE: rows of metadata, one extractor's outcome for one object version: their columns, fold and join.

A row has the columns `ROW_FIELDS` and then the extractor's own. A field says of itself by its metadata
whether it is `identifying`. The *full* schema has all columns, the *plain* one lacks those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.errors import BadData
from snapengine.further_columns import of_both
from snapengine.model import NULL_VERSION

ROW_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("key", pa.string(), nullable=False),
    pa.field("version_id", pa.string(), nullable=False),
    pa.field("etag", pa.string()),
    pa.field("sequencer", pa.string()),
    pa.field("extractor_version", pa.string(), nullable=False),
    pa.field("outcome", pa.string(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("extracted_at", pa.timestamp("ms", tz="UTC"), nullable=False),
]
"""The columns that every row has, first. ETag and sequencer are those of the version as it was observed: of a
`null` version they say which one."""

OUTCOME_FIELDS: Final[list[pa.Field[Any]]] = [
    field.with_nullable(True)
    for field in ROW_FIELDS
    if field.name in ("extractor_version", "outcome", "error", "extracted_at")
]
"""Those that stand after a view's columns when it is joined with rows."""

RANKS: Final = {"ok": 2, "partial": 2, "not_matched": 2, "failed": 1, "timeout": 1, "gone": 0, "archived": 0}
"""Of outcomes: one that says what the object holds is never replaced by one that does not."""

NAMES: Final = [field.name for field in ROW_FIELDS]
_RESERVED: Final = {*NAMES, *VIEW_SCHEMA.names, "became", "epoch", "extractor"}


def metadata_log(bucket: str) -> str:
    """The name under which the log holds a bucket's rows; no bucket can have it."""
    return f"{bucket}#metadata"


# Schemas


def row_schema(columns: pa.Schema) -> pa.Schema:
    """The full schema of an extractor's rows. Raises `BadData` for a column whose name is taken."""
    return checked(pa.schema([*ROW_FIELDS, *(field.with_nullable(True) for field in columns)]))


def own_columns(schema: pa.Schema) -> list[pa.Field[Any]]:
    """The extractor's own, of a full or a plain schema."""
    return list(schema)[len(ROW_FIELDS) :]


def identifying_names(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_identifying(field)]


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Without the identifying columns."""
    return pa.schema([field for field in schema if not _is_identifying(field)])


def _is_identifying(field: pa.Field[Any]) -> bool:
    return bool((field.metadata or {}).get(b"identifying", b"false") != b"false")


def unify(schemas: Sequence[pa.Schema], extractor: str) -> pa.Schema:
    """One full schema for rows of several versions of an extractor, whatever the order of the schemas.

    It has every column of any, identifying if any says so. Raises `BadData` for a column that has two types
    or units: its values cannot be compared.
    """
    merged: dict[str, pa.Field[Any]] = {}
    # Not a set: Arrow takes schemas for equal whose fields differ in whether they are identifying.
    for schema in sorted(schemas, key=lambda s: (-len(s), s.serialize().to_pybytes())):
        for field in own_columns(schema):
            known = merged.setdefault(field.name, field)
            if known.type != field.type:
                raise _conflict(extractor, field.name, "type", str(known.type), str(field.type))
            if _unit(known) != _unit(field):
                raise _conflict(extractor, field.name, "unit", _unit(known), _unit(field))
            if _is_identifying(field) and not _is_identifying(known):
                metadata = {**(known.metadata or {}), b"identifying": b"true"}
                known = known.with_metadata(metadata)
            merged[field.name] = of_both(known, field)
    return row_schema(pa.schema(list(merged.values())))


def _unit(field: pa.Field[Any]) -> str:
    return str((field.metadata or {}).get(b"unit", b""), "utf-8", "replace")


def _conflict(extractor: str, column: str, what: str, one: str, other: str) -> BadData:
    first, second = sorted((one, other))
    return BadData(
        f"Column {column} of extractor {extractor} has {what} {first or 'none'} in some rows and "
        f"{second or 'none'} in others. Give it another name in one of the extractor's versions."
    )


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows by `schema` (of `unify`, full or plain): columns it lacks are left out, missing ones null."""
    columns = [
        table[field.name] if field.name in table.schema.names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def checked(schema: pa.Schema) -> pa.Schema:
    """The schema, if it is one of rows. Raises `BadData`."""
    if len(schema) < len(ROW_FIELDS) or any(
        (found.name, found.type) != (field.name, field.type)
        for found, field in zip(schema, ROW_FIELDS, strict=False)
    ):
        raise BadData(f"Rows of metadata must begin with the columns {', '.join(NAMES)}.")
    seen = {_folded(name) for name in _RESERVED}
    for field in own_columns(schema):
        if not field.name or _folded(field.name) in seen:
            raise BadData(f"Rows of metadata may not have a column {field.name!r}: that name is taken.")
        seen.add(_folded(field.name))
    return schema


def _folded(name: str) -> str:
    """SQL compares names without regard to the case of ASCII letters."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


# Fold and join


def fold_rows(table: pa.Table) -> pa.Table:
    """One row a version: of those of one extractor the greatest, whatever their order and repetition.

    Columns as in `table`: `ROW_FIELDS` and the extractor's own, plain or full. Greater is an outcome of a
    higher rank (`RANKS`), then the later `extracted_at`, the greater `extractor_version`, the greater values.
    The result is in ascending order of key, version id, ETag, sequencer.
    """
    ranked = pa.table(
        {
            "id": version_ids(table).cast(pa.large_binary()).combine_chunks().dictionary_encode().indices,
            "rank": ranks(table["outcome"]),
            "at": table["extracted_at"].cast(pa.int64()),
            "version": table["extractor_version"],
        }
    )
    keys = [("id", "ascending"), *((name, "descending") for name in ("rank", "at", "version"))]
    order = pc.sort_indices(ranked, sort_keys=keys)
    ranked = ranked.take(order).combine_chunks()
    same_id = _like_the_one_before(ranked["id"])
    tied = same_id
    for name in ("rank", "at", "version"):
        tied = pc.and_(tied, _like_the_one_before(ranked[name]))
    first = pc.indices_nonzero(pc.invert(same_id)).to_pylist()
    chosen = order.take(pa.array(_decided(table, order, first, tied), pa.int64()))
    found = table.take(chosen)
    by = [(name, "ascending") for name in ("key", "version_id", "etag", "sequencer")]
    return found.take(pc.sort_indices(found, sort_keys=by)).combine_chunks()


def _decided(table: pa.Table, order: pa.Array[Any], first: Sequence[int], tied: pa.Array[Any]) -> list[int]:
    """The place in `order` of the greatest of each group, each beginning at a place of `first`."""
    if not pc.any(tied).as_py():
        return list(first)
    alike = [*tied.to_pylist(), False]
    groups: list[range] = []
    for start in first:
        end = start + 1
        while alike[end]:
            end += 1
        groups.append(range(start, end))
    several = [place for group in groups if len(group) > 1 for place in group]
    values = dict(zip(several, _values(table.take(order.take(pa.array(several, pa.int64())))), strict=True))
    return [max(group, key=values.__getitem__) if len(group) > 1 else group.start for group in groups]


def _values(rows: pa.Table) -> list[tuple[str, ...]]:
    """Each row's values in words, the identifying ones late, so that both tables choose the same row; and
    last what joined rows do not have."""
    parts: list[list[str]] = []
    version = [f for f in rows.schema if f.name in ("etag", "sequencer")]
    others = sorted((f for f in rows.schema if f not in version), key=lambda f: f.name)
    plain, hidden = ([f for f in others if _is_identifying(f) is which] for which in (False, True))
    for fields in (plain, hidden, version):
        texts = [""] * rows.num_rows
        for field in fields:
            for place, value in enumerate(_exact(rows[field.name]).to_pylist()):
                if value is not None:
                    texts[place] += f"{field.name}={value!r}\0"
        parts.append(texts)
    return list(zip(*parts, strict=True))


def _exact(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Times in nanoseconds as numbers: Python's have none."""
    kind = column.type
    if pa.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns":
        return column.cast(pa.int64())
    return column


def _like_the_one_before(column: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    values = column.combine_chunks()
    if not len(values):
        return pa.array([], pa.bool_())
    return pa.concat_arrays([pa.array([False]), pc.equal(values.slice(1), values.slice(0, len(values) - 1))])


def ranks(outcomes: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """By `RANKS`."""
    places = pc.index_in(outcomes, value_set=pa.array(list(RANKS)))
    return pa.chunked_array([pa.array(list(RANKS.values()), pa.int8())]).take(places)


def join_rows(view: pa.Table, rows: pa.Table) -> pa.Table:
    """A view's rows (`VIEW_SCHEMA`, also with `became`) in their order, each with the row of its version.

    `rows` are folded, of one extractor, plain or full. A `null` version has a row only if ETag and sequencer
    are equal too, nulls being equal. Without a row all row columns are null: see `joined_schema`.
    """
    found = pc.index_in(version_ids(view), value_set=version_ids(rows))
    schema = joined_schema(rows.schema, view.schema)
    taken = rows.select(schema.names[len(view.schema) :]).take(found)
    return pa.table([*view.columns, *taken.columns], schema=schema)


def joined_schema(schema: pa.Schema, view: pa.Schema = VIEW_SCHEMA) -> pa.Schema:
    """The view's columns, `OUTCOME_FIELDS`, and the extractor's own of `schema` (full or plain)."""
    return pa.schema([*view, *OUTCOME_FIELDS, *(f.with_nullable(True) for f in own_columns(schema))])


def version_ids(rows: pa.Table) -> pa.ChunkedArray[Any]:
    """What tells a version from all others, with lengths so that no two are spelled alike."""
    null = pc.equal(rows["version_id"], NULL_VERSION)
    parts = [_measured(rows["version_id"])]
    parts += [pc.if_else(null, _measured(rows[name]), "") for name in ("etag", "sequencer")]
    return pc.binary_join_element_wise(*parts, rows["key"], "").cast(pa.binary())


def _measured(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    length = pc.binary_length(column).cast(pa.string())
    return pc.fill_null(pc.binary_join_element_wise(length, column, ":"), "-")
