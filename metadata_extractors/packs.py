"""Several objects in one message to a sandbox's child: their heads there, one batch of rows back."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from typing import Any, Final, NamedTuple, get_args

import pyarrow as pa

from metadata_extractors.base import Extraction, Outcome

PACK_OBJECTS: Final = 16
"""As many share a message at most: a megabyte of heads."""

MOST_PROBLEMS: Final = 200
MOST_LETTERS: Final = 300

NO_ANSWER: Final = (
    ValueError,
    KeyError,
    TypeError,
    RecursionError,
    EOFError,
    OSError,
    struct.error,
    pa.ArrowException,
)
"""What taking an answer apart may raise that is none."""

_LENGTH: Final = struct.Struct("<I")
_CANNOT_CHANGE: Final = (str, bytes, int, float, date, time, type(None))


class Untried(Exception):
    """The object was not tried by itself, as no more was to be begun."""


class Told(NamedTuple):
    """What came of one object, without its values."""

    outcome: Outcome
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pack:
    """What came of the objects of a pack, in their order."""

    found: Sequence[Told | Exception]
    """An exception is what the object's reader raised, or `Untried`."""
    rows: pa.RecordBatch
    """The values, a row for each object, by the extractor's schema; nulls where there are none."""


class Asked(NamedTuple):
    """One object of a pack, as the child is told of it."""

    key: str
    size: int | None
    max_bytes: int
    head: bytes


def written(setting: Mapping[str, Any], objects: Sequence[Asked]) -> bytes:
    """What the child is sent: the setting that all share, and the objects."""
    told = [(each.key, each.size, each.max_bytes, len(each.head)) for each in objects]
    head = json.dumps({**setting, "objects": told}).encode()
    return b"".join((_LENGTH.pack(len(head)), head, *(each.head for each in objects)))


def read(message: bytes) -> tuple[dict[str, Any], list[Asked]]:
    """`written`, taken apart by the child."""
    (length,) = _LENGTH.unpack_from(message)
    at = _LENGTH.size + length
    setting = json.loads(message[_LENGTH.size : at])
    objects = []
    for key, size, max_bytes, head in setting.pop("objects"):
        objects.append(Asked(key, size, max_bytes, message[at : at + head]))
        at += head
    return setting, objects


def answered(found: Sequence[Extraction], rows: bytes) -> bytes:
    """What the child sends back, `rows` being an Arrow record batch without its schema."""
    head = json.dumps([(each.outcome, [str(one) for one in each.problems]) for each in found]).encode()
    return _LENGTH.pack(len(head)) + head + rows


def believed(answer: bytes, count: int, schema: pa.Schema) -> tuple[list[Told], pa.RecordBatch]:
    """`answered`, if that is what it is. Raises `ValueError`."""
    try:
        (length,) = _LENGTH.unpack_from(answer)
        head, rows = json.loads(answer[4 : 4 + length]), answer[4 + length :]
        found = [Told(outcome, problems_of(problems)) for outcome, problems in head]
        batch = pa.ipc.read_record_batch(pa.py_buffer(rows), schema)
        batch.validate(full=True)
        known = all(each.outcome in get_args(Outcome) for each in found)
    except NO_ANSWER:
        known = False
    if not known or not len(found) == batch.num_rows == count:
        raise ValueError("no answer to a pack")
    return found, batch


def problems_of(told: Sequence[object]) -> tuple[str, ...]:
    """A child's words, of bounded length."""
    return tuple(" ".join(str(each).split())[:MOST_LETTERS] for each in told[:MOST_PROBLEMS])


def batch_of(values: Sequence[Mapping[str, object]], shape: pa.StructType) -> pa.RecordBatch:
    """Rows by column name, as one batch. Raises where a value is none of its type."""
    # In one go: several times quicker than column by column.
    return pa.RecordBatch.from_struct_array(pa.array([dict(each) for each in values], shape))


def kept(values: Mapping[str, object]) -> dict[str, object]:
    """Values that stay as they are, though an extractor uses its lists again for the next object."""
    return {name: _kept(value) for name, value in values.items()}


def _kept(value: object) -> object:
    if isinstance(value, _CANNOT_CHANGE):
        return value
    return [_kept(each) for each in value] if type(value) is list else copy.deepcopy(value)
