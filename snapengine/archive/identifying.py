"""The identifying parts of entries of the metadata log: each stream's are read once, as its entries come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from snapengine.archive.planning import Gap
from snapengine.errors import LogDamaged
from snapengine.forgotten import in_both
from snapengine.metadata_codec import Decoded, decode
from snapengine.metadata_rows import identifying_names
from snapengine.model import LogEntry
from snapengine.ports import LogReader


def decoded(entry: LogEntry) -> Decoded:
    """The plain rows of an entry of the metadata log. Raises `LogDamaged`."""
    try:
        found = decode(entry.payload)
    except LogDamaged as error:
        raise LogDamaged(f"{_name(entry)} is damaged: {error}") from error
    if found.table.num_rows != entry.count:
        raise LogDamaged(
            f"{_name(entry)} has {found.table.num_rows:,} rows where it should have {entry.count:,}."
        )
    return found


class IdentifyingParts:
    """Of the entries `(after, to]` of each stream. Parts in the table that are nobody's are passed over."""

    def __init__(
        self, store: LogReader, bucket: str, after: Mapping[int, int], to: Mapping[int, int]
    ) -> None:
        """`bucket`: the bucket itself, not its metadata log."""
        self._store = store
        self._bucket = bucket
        self._after = after
        self._to = to
        self._streams: dict[int, Iterator[tuple[int, str, bytes]]] = {}
        self._next: dict[int, tuple[int, str, bytes] | None] = {}

    def whole(self, entry: LogEntry, plain: Decoded) -> Decoded:
        """The rows of an entry with all columns; a stream's entries in order.

        Raises `Gap` if there is no such part, or one of other rows: the entry went to the archive meanwhile,
        or rows of it are being forgotten, or it is damaged. And `IdentifyingRefused`.
        """
        if not identifying_names(plain.schema):
            return plain
        payload = self._payload(entry)
        if payload is None:
            raise Gap(f"{_name(entry)} has no identifying part, and should.")
        found = decode(payload)
        both = found if found.table.num_rows == plain.table.num_rows else in_both(plain, found)
        whole = found.table.schema.names == plain.schema.names
        if found.extractor != plain.extractor or both is None or not whole:
            raise Gap(f"The identifying part of {_name(entry)} is of other rows.")
        return both

    def _payload(self, entry: LogEntry) -> bytes | None:
        stream = entry.stream
        if stream not in self._streams:
            self._streams[stream] = iter(
                self._store.identifying(
                    self._bucket, stream, self._after.get(stream, 0), self._to.get(stream, 0)
                )
            )
            self._next[stream] = next(self._streams[stream], None)
        found = None
        while (part := self._next[stream]) is not None and part[0] <= entry.number:
            if part[:2] == (entry.number, entry.nonce):
                found = part[2]
            self._next[stream] = next(self._streams[stream], None)
        return found


def _name(entry: LogEntry) -> str:
    return f"Entry {entry.number} of stream {entry.stream} of {entry.bucket}"
