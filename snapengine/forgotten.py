"""Of which objects a bucket keeps no rows of metadata any more, so that nothing brings forgotten ones back.

What is forgotten is a *unit*: a key with all its versions, also later ones; one version of a key; or all keys
below a prefix. It is kept as a SHA-256, so that this makes no further copy of a name.

The units are entries of a log that no bucket has, `<bucket>#forgotten`, stream 0. An entry adds units, takes
some back, or has all there are. Its number says how much had been forgotten by then: see `Forgotten.number`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from secrets import token_hex
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.errors import IdentifyingRefused, LogDamaged, PermissionMissing, SchemaTooNew
from snapengine.metadata_codec import Decoded, compacted, decode, without
from snapengine.metadata_rows import identifying_names, metadata_log
from snapengine.model import NULL_VERSION, LogEntry
from snapengine.ports import Clock, LogStore

FORMAT: Final = 1
UNITS_AT_ONCE: Final = 3_000
"""Of an entry, so that it fits into an item of DynamoDB (400 KB)."""

Action = Literal["forget", "allow", "all"]
"""Of an entry: its units are forgotten; are not any more; are all that there are."""


def forgotten_log(bucket: str) -> str:
    """The name under which the log holds what is forgotten of a bucket; no bucket can have it."""
    return f"{bucket}#forgotten"


# Units


def key_unit(key: str) -> str:
    """All versions of a key."""
    return f"key:{_hash(key)}"


def version_unit(key: str, version_id: str, etag: str | None) -> str:
    """One version of a key. Of a `null` version the ETag says which: all with those bytes."""
    return f"version:{_hash(key, version_id, *((etag or '',) if version_id == NULL_VERSION else ()))}"


def prefix_unit(prefix: str) -> str:
    """All keys that start with `prefix`, to the letter. Its length in characters is told."""
    return f"prefix-{len(prefix)}:{_hash(prefix)}"


def _hash(*texts: str) -> str:
    found = sha256()
    for text in texts:
        data = text.encode()
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()


@dataclass(frozen=True)
class Forgotten:
    """What is forgotten of a bucket."""

    number: int = 0
    """Of the last entry that told of it; it only grows. 0 where nothing ever was."""
    units: frozenset[str] = frozenset()

    @cached_property
    def _lengths(self) -> list[int]:
        kinds = {unit.partition(":")[0] for unit in self.units}
        return sorted(int(kind.partition("-")[2]) for kind in kinds if kind.startswith("prefix-"))

    @cached_property
    def _versions(self) -> bool:
        return any(unit.startswith("version:") for unit in self.units)

    def by_prefix(self, key: str) -> str | None:
        """The forgotten prefix that the key starts with, if there is one."""
        prefixes = (key[:length] for length in self._lengths if len(key) >= length)
        return next((prefix for prefix in prefixes if prefix_unit(prefix) in self.units), None)

    def has_key(self, key: str) -> bool:
        """Whether every version of the key is forgotten."""
        return bool(self.units) and (key_unit(key) in self.units or self.by_prefix(key) is not None)

    def covers(self, key: str, version_id: str, etag: str | None) -> bool:
        """Whether no rows are kept of a version."""
        if not self.units:
            return False
        return self.has_key(key) or (self._versions and version_unit(key, version_id, etag) in self.units)

    def mask(self, rows: pa.Table) -> pa.ChunkedArray[Any]:
        """Which of the rows (`key`, `version_id`, `etag`) are forgotten, one truth value each."""
        if not self.units or not rows.num_rows:
            return pa.chunked_array([pa.repeat(pa.scalar(False), rows.num_rows)])
        keys = rows["key"].combine_chunks().dictionary_encode()
        whole = pa.array([self.has_key(key) for key in keys.dictionary.to_pylist()], pa.bool_())
        found = whole.take(keys.indices)
        if self._versions:
            columns = (rows[name].to_pylist() for name in ("key", "version_id", "etag"))
            told = [version_unit(*row) in self.units for row in zip(*columns, strict=True)]
            found = pc.or_(found, pa.array(told, pa.bool_()))
        return pa.chunked_array([found])

    def left(self, rows: pa.Table) -> pa.Table:
        """The rows that are not forgotten, and nothing of others."""
        if not self.units:
            return rows
        mask = self.mask(rows)
        return compacted(rows.filter(pc.invert(mask))) if pc.any(mask).as_py() else rows


# Kept in the log


async def read_forgotten(store: LogStore, bucket: str, before: Forgotten | None = None) -> Forgotten:
    """What is forgotten now; `before` spares reading what it knows. Raises `LogDamaged`, `SchemaTooNew`."""
    log = forgotten_log(bucket)
    head = await store.head(log, 0)
    if before is not None and before.number >= head:
        return before
    known = before or Forgotten()
    told: list[tuple[Action, list[str]]] = []
    for number in range(head, known.number, -1):
        entry = await store.get_entry(log, 0, number)
        if entry is None:
            raise LogDamaged(f"Entry {number} of stream 0 of {log} is missing.")
        told.append(_told(entry))
        if told[-1][0] == "all":
            break
    units = set(known.units)
    for action, some in reversed(told):
        if action == "allow":
            units.difference_update(some)
        else:
            units = set(some) if action == "all" else units | set(some)
    return Forgotten(head, frozenset(units))


def _told(entry: LogEntry) -> tuple[Action, list[str]]:
    try:
        body: Mapping[str, Any] = json.loads(entry.payload)
        if body["format"] > FORMAT:
            raise SchemaTooNew(
                f"{entry.bucket} has format {body['format']}; this snapengine reads up to {FORMAT}. "
                "Upgrade it."
            )
        return body["action"], [str(unit) for unit in body["units"]]
    except (ValueError, KeyError, TypeError) as error:
        raise LogDamaged(f"Entry {entry.number} of {entry.bucket} cannot be read: {error!r}.") from error


async def tell(store: LogStore, bucket: str, action: Action, units: Iterable[str], clock: Clock) -> Forgotten:
    """Say that units are forgotten, or are not any more; what then is. Safe to repeat."""
    known = await read_forgotten(store, bucket)
    new = sorted(set(units) - known.units if action == "forget" else set(units) & known.units)
    for start in range(0, len(new), UNITS_AT_ONCE):
        some = new[start : start + UNITS_AT_ONCE]
        nonce = token_hex(12)
        number = await store.head(forgotten_log(bucket), 0) + 1
        while not await store.put_entry(_entry(bucket, number, nonce, action, some, clock())):
            number += 1
    return await read_forgotten(store, bucket, known)


async def put_back(store: LogStore, bucket: str, forgotten: Forgotten, at: int) -> None:
    """Have a table that knows nothing know what was forgotten, under the same number or a later one. Safe to
    repeat. Raises `LogDamaged` if it knows something else."""
    units = sorted(forgotten.units)
    for place, start in enumerate(range(0, max(len(units), 1), UNITS_AT_ONCE)):
        some = units[start : start + UNITS_AT_ONCE]
        nonce = sha256("".join(some).encode()).hexdigest()[:24]
        entry = _entry(bucket, forgotten.number + place, nonce, "forget" if place else "all", some, at)
        if not await store.put_entry(entry):
            raise LogDamaged(f"{forgotten_log(bucket)} tells of something else than the archive does.")


def _entry(bucket: str, number: int, nonce: str, action: Action, units: Sequence[str], at: int) -> LogEntry:
    payload = json.dumps({"format": FORMAT, "action": action, "units": list(units)}).encode()
    return LogEntry(forgotten_log(bucket), 0, number, nonce, at, len(units), payload, "metadata")


# Taken out of the log of rows


async def forget_in_entry(
    store: LogStore,
    entry: LogEntry,
    forgotten: Forgotten,
    *,
    parts: bool = True,
    part: bytes | None = None,
) -> int:
    """Take forgotten rows out of an entry of the log of rows, its identifying part first; how many there
    were. `part` spares reading that to who has it; without `parts` it is left alone.

    Safe to repeat from any point: in between the part has fewer rows than the entry, and only those that both
    have count. Raises what the store raises; then, if it is for lack of a right, nothing was taken out.
    """
    if entry.form != "metadata" or not forgotten.units:
        return 0
    found = decode(entry.payload)
    if not pc.any(forgotten.mask(found.table)).as_py():
        return 0
    if parts and identifying_names(found.schema):
        await store.rewrite_entry(entry)  # as it is: whether it may be is known before anything goes
        await _forget_in_part(store, entry, forgotten, part)
    payload, rows = without(entry.payload, forgotten.mask)
    await store.rewrite_entry(replace(entry, payload=payload, count=rows))
    return int(found.table.num_rows) - rows


async def forget_if_allowed(
    store: LogStore, entry: LogEntry, forgotten: Forgotten, *, part: bytes | None = None
) -> int:
    """The same for who completes an entry. A role that may not rewrite entries leaves it as it is: the
    archiver, which may, meets the rows in its next segment, and goes through the log again."""
    try:
        return await forget_in_entry(store, entry, forgotten, part=part)
    except (PermissionMissing, IdentifyingRefused):
        return 0


async def forget_until_none_is_new(
    store: LogStore, bucket: str, entry: LogEntry, known: Forgotten, *, part: bytes | None = None
) -> tuple[Forgotten, int]:
    """Take out of an entry that was just put whatever was told after `known`; what is forgotten then, and how
    many rows that were.

    It is looked at again after each rewriting: that may have undone what a forgetting that was told meanwhile
    had taken out. One that is told later finds the entry as it is left here.
    """
    rows = 0
    while (now := await read_forgotten(store, bucket, known)).number > known.number:
        rows = await forget_if_allowed(store, entry, now, part=part)
        known = now
    return known, rows


async def _forget_in_part(store: LogStore, entry: LogEntry, forgotten: Forgotten, part: bytes | None) -> None:
    bucket = entry.bucket.removesuffix(metadata_log(""))
    if part is None:
        part = await store.get_identifying(bucket, entry.stream, entry.number, entry.nonce)
    if part is not None:
        payload, _ = without(part, forgotten.mask)
        await store.put_identifying(bucket, entry.stream, entry.number, entry.nonce, payload, replacing=True)


def in_both(plain: Decoded, full: Decoded) -> Decoded | None:
    """The rows of an entry with all columns, where a forgetting has come as far as one of its two parts. None
    if neither part has all rows of the other."""
    names = ("key", "version_id", "etag", "sequencer", "extractor_version", "outcome", "extracted_at")

    def ids(rows: pa.Table) -> list[tuple[Any, ...]]:
        return list(
            zip(*(rows[name].cast(_plain_type(rows[name].type)).to_pylist() for name in names), strict=True)
        )

    those, these = ids(plain.table), ids(full.table)
    shorter, longer = sorted((those, these), key=len)
    rest = iter(longer)
    if not all(one in rest for one in shorter):
        return None
    if len(these) <= len(those):
        return full
    wanted, kept = iter([*those, None]), []
    one = next(wanted)
    for place, other in enumerate(these):
        if other == one:
            kept.append(place)
            one = next(wanted)
    return full._replace(table=full.table.take(pa.array(kept, pa.int64())))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return pa.int64() if pa.types.is_timestamp(kind) else kind
