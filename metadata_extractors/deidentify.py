"""A table of metadata without what identifies, by PS3.15's Basic Application Level Confidentiality Profile.

Pseudonyms are made with a secret key, so that the rows of one patient still belong together.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import os
import re
import uuid
from collections.abc import Callable, Collection
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from metadata_extractors.profile import OPTIONS, action_of
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.errors import UsageError
from snapengine.metadata_rows import OUTCOME_FIELDS

KEY_VARIABLE: Final = "SNAPENGINE_DEIDENTIFY_KEY"
"""The environment variable that has the key, as hexadecimal digits, where none is given."""

OLDEST: Final = 90.0
"""Years: whoever is older than 89 has this age, for there are few of them."""

_OWN: Final = frozenset([*VIEW_SCHEMA.names, *(field.name for field in OUTCOME_FIELDS), "became"])
"""Columns of the object itself and of its reading, which no profile speaks of."""

LOOKED_THROUGH: Final = frozenset({"PatientAge", "PatientAgeYears", "PatientSex"})
"""Columns that are not kept as they are where they are kept."""

_HOW: Final = "Make one with `python -c 'import secrets; print(secrets.token_hex(32))'` and keep it secret."
_MAX_DAYS: Final = 3650
_AGE: Final = re.compile(r"(\d{3})([DWMY])")
_PER_YEAR: Final = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}
_SEXES: Final = frozenset({"M", "F", "O"})


def deidentify(table: pa.Table, key: bytes | str | None = None, options: Collection[str] = ()) -> pa.Table:
    """The table with the same columns and types, what identifies being null or replaced.

    `key` is at least 16 bytes, or the name of an environment variable with them in hexadecimal digits. The
    same key gives the same pseudonyms. `options` are keys of `profile.OPTIONS`. The object's own columns stay
    as they are, its key among them. The metadata of each field and of the schema says under `deidentified`
    what was done; the fields no longer count as identifying. Raises `UsageError` without a key, or
    for an unknown option.
    """
    secret = _secret(key)
    chosen = frozenset([options] if isinstance(options, str) else options)
    if unknown := sorted(chosen - set(OPTIONS)):
        raise UsageError(f"There is no option {unknown[0]!r}; there are: {', '.join(OPTIONS)}.")
    fields, columns = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        action = column_action(field, chosen)
        columns.append(_done(field, column, action, table, secret))
        metadata = {**(field.metadata or {}), b"identifying": b"false", b"deidentified": action.encode()}
        fields.append(pa.field(field.name, field.type, metadata=metadata))
    said = "; ".join(["PS3.15 E.1-1 basic profile", *sorted(chosen)])
    return pa.table(columns, schema=pa.schema(fields, metadata={"deidentified": said}))


def column_action(field: pa.Field, options: frozenset[str] = frozenset()) -> str:
    """What is done with a column: X, Z, D, U, K or C, as `profile` has them.

    An unlisted one is kept only where its extractor says that it does not identify, and it is no JSON.
    """
    if field.name in _OWN:
        return "K"
    metadata = field.metadata or {}
    listed = action_of(_keyword(field.name), options)
    if listed is not None:
        return "X" if field.name.endswith("Text") and listed in "KC" else listed
    private = re.fullmatch(rb"[0-9A-Fa-f]{3}[13579BDFbdf][0-9A-Fa-f]{4}", metadata.get(b"tag", b""))
    if metadata.get(b"vr") == b"SQ" or private or metadata.get(b"identifying") != b"false":
        return "X"
    return "K"


def is_nulled(field: pa.Field, options: frozenset[str]) -> bool:
    """Whether nothing is left of the column: then it need not be read."""
    return column_action(field, options) in {"X", "Z"} and field.name != "PatientID"


def needs_patient(field: pa.Field, options: frozenset[str]) -> bool:
    """Whether the column is de-identified by way of the `PatientID` beside it."""
    return column_action(field, options) == "C"


def option_that_keeps(name: str) -> str | None:
    """The option under which something is left of a column that is otherwise removed."""
    return next((option for option, kept in OPTIONS.items() if _keyword(name) in kept), None)


def pseudonym(secret: bytes, domain: str, value: str) -> str:
    """32 hexadecimal digits that only who has the key can make from the value."""
    return _digest(secret, domain, value)[:16].hex()


def _keyword(name: str) -> str:
    """A column beside another (`PatientAgeYears`, `StudyDateText`) is of the same attribute."""
    for suffix in ("Years", "Text"):
        base = name.removesuffix(suffix)
        if base != name and action_of(base, frozenset()) is not None:
            return base
    return name


def _secret(key: bytes | str | None) -> bytes:
    named: bytes | str = KEY_VARIABLE if key is None else key
    if isinstance(named, str):
        text = os.environ.get(named, "")
        if not text:
            raise UsageError(f"Pseudonyms need a key, and the variable {named} has none. {_HOW}")
        named = key_from(text, named)
    if len(named) < 16:
        raise UsageError(f"The key for pseudonyms has {len(named)} bytes; at least 16 are needed. {_HOW}")
    return named


def key_from(text: str, variable: str) -> bytes:
    """A key as hexadecimal digits. Raises `UsageError` that does not show it."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"The key in {variable} is not written in hexadecimal digits. {_HOW}") from None


def _digest(secret: bytes, domain: str, value: str) -> bytes:
    return hmac.new(secret, f"{domain}\0{value}".encode(), hashlib.sha256).digest()


def _done(
    field: pa.Field, column: pa.ChunkedArray, action: str, table: pa.Table, secret: bytes
) -> pa.ChunkedArray | pa.Array:
    name = field.name
    if action == "K":
        return _kept(name, column)
    if action == "C":
        return _moved(column, table, secret)
    if name == "PatientID":
        return _replaced(column, lambda value: pseudonym(secret, "patient", value))
    if action == "U":
        return _replaced(column, lambda value: _uid(secret, value))
    if action == "D":
        return _replaced(column, lambda value: pseudonym(secret, name, value))
    return pa.nulls(len(column), field.type)


def _kept(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Of an age and a sex only what is one: whatever else stands there was not looked through."""
    if name == "PatientAge":
        return _replaced(column, _age)
    if name == "PatientAgeYears":
        return pc.if_else(pc.greater(column, OLDEST - 1), OLDEST, column)
    if name == "PatientSex":
        return _replaced(column, lambda value: value if value in _SEXES else None)
    return column


def _age(value: str) -> str | None:
    found = _AGE.fullmatch(value.strip())
    if found is None:
        return None
    old = int(found[1]) / _PER_YEAR[found[2]] > OLDEST - 1
    return f"{int(OLDEST):03}Y" if old else found[0]


def _uid(secret: bytes, value: str) -> str:
    """PS3.5, B.2: `2.25.` and a UUID as an integer. One UID has one successor, whatever column it is in."""
    return f"2.25.{uuid.UUID(bytes=_digest(secret, 'uid', value)[:16], version=4).int}"


def _moved(column: pa.ChunkedArray, table: pa.Table, secret: bytes) -> pa.ChunkedArray | pa.Array:
    """Dates earlier by 1 to 3650 days, as many for all of one patient; null without a patient."""
    kind = column.type
    if "PatientID" not in table.column_names or not (pa.types.is_date32(kind) or pa.types.is_timestamp(kind)):
        return pa.nulls(len(column), kind)
    days = _mapped(table["PatientID"], lambda value: _days(secret, value), pa.int64())
    if pa.types.is_date32(kind):
        return pc.subtract(column.cast(pa.int32()).cast(pa.int64()), days).cast(pa.int32()).cast(kind)
    spans = pc.multiply(days, int(dt.timedelta(days=1).total_seconds())).cast(pa.duration("s"))
    return pc.subtract(column, spans.cast(pa.duration(kind.unit))).cast(kind)


def _days(secret: bytes, patient: str) -> int:
    return int.from_bytes(_digest(secret, "days", patient.strip())[:8], "big") % _MAX_DAYS + 1


def _replaced(column: pa.ChunkedArray, new: Callable[[str], str | None]) -> pa.Array:
    """Text, or lists of text, with each value replaced; what is neither becomes null."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lists = column.combine_chunks()
        values = _replaced(pa.chunked_array([lists.flatten()]), new)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64())
        ends = pc.cumulative_sum(lengths)
        offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends])
        made = pa.LargeListArray.from_arrays(offsets, values, mask=pc.is_null(lists))
        return made.cast(kind)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return pa.nulls(len(column), kind)
    return _mapped(column, lambda value: new(value.strip()), kind)


def _mapped(column: pa.ChunkedArray, new: Callable[[str], Any], kind: pa.DataType) -> pa.Array:
    """Each different value is replaced once; null, and what is blank, is null."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    values = encoded.dictionary.to_pylist()
    mapped = pa.array([new(value) if value and value.strip() else None for value in values], kind)
    return mapped.take(encoded.indices)
