"""Pages of a view's listing as S3 cuts them: keys and common prefixes in one order, from any key on."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from itertools import groupby, islice
from threading import Lock
from typing import Any, Final, NamedTuple

import pyarrow as pa

from snapengine.rollup import end_of
from snapengine.views import View

COLUMNS: Final = ("key", "size", "etag", "event_time", "storage_class")
"""What a listing tells of an object: `bulkfold.VIEW_SCHEMA`."""

MOST_KEYS: Final = 1000
"""Keys and common prefixes at most in a page (S3 API Reference, ListObjectsV2)."""

_OPEN: Final = 16
"""Listings that are kept where they stand, for whoever asks for their next page."""

_ANEW: Final = 16
"""Of so many listings each reads its own rows; from then on those of a view of few rows are all in memory."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What S3 is asked for."""

    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    """Exclusive. Where it is itself a common prefix of this listing, what is below it is passed over, too: so
    a page goes on after the one whose last entry it was."""
    limit: int = MOST_KEYS


class Page(NamedTuple):
    """A part of a listing."""

    objects: list[dict[str, Any]]
    """The rows, by `COLUMNS`, in key order."""
    prefixes: list[str]
    """The common prefixes, in order."""
    last: str | None
    """The last entry of both, if there is more after it."""


class _Entry(NamedTuple):
    name: str
    batch: pa.RecordBatch | None
    """Where the object is; None of a common prefix."""
    row: int


_Entries = Generator[_Entry, None, None]


def entries(batches: Iterable[pa.RecordBatch], asked: PageRequest) -> _Entries:
    """A listing's entries one by one: of rows in key order, all below the prefix and after `after`."""
    prefix, delimiter = asked.prefix, asked.delimiter
    group = asked.after if _group(asked.after, prefix, delimiter) == asked.after else ""
    for batch in batches:
        keys = batch.column(0)
        row = end_of(keys, group, 0) if group and len(keys) else 0
        while row < len(keys):
            key = keys[row].as_py()
            group = _group(key, prefix, delimiter)
            yield _Entry(group or key, None if group else batch, row)
            row = end_of(keys, group, row) if group else row + 1


def _group(key: str, prefix: str, delimiter: str) -> str:
    """The common prefix that stands for a key; nothing where the key stands for itself."""
    if not delimiter or not key.startswith(prefix):
        return ""
    cut = key.find(delimiter, len(prefix))
    return key[: cut + len(delimiter)] if cut >= 0 else ""


def _rows(found: Iterable[_Entry]) -> Iterator[dict[str, Any]]:
    for _, same in groupby(found, key=lambda entry: id(entry.batch)):
        some = list(same)
        batch = some[0].batch
        if batch is not None:
            yield from batch.take(pa.array([entry.row for entry in some], pa.int64())).to_pylist()


class Listings:
    """The pages of one view. Thread-safe, and after a fork of use to the child.

    A listing that is not at its end stays open, so that its next page costs only that page. Any other page
    is read from its first key on; after some of those, a view of at most 2,000,000 objects is in memory.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._left_behind: list[object] = []
        self._begun = 0
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        self._open: OrderedDict[PageRequest, tuple[_Entry, _Entries]] = OrderedDict()

    def page(self, asked: PageRequest) -> Page:
        """The entries after `asked.after`, at most `asked.limit` of them. Raises what reading a view does."""
        if os.getpid() != self._pid:
            self._left_behind.append(self._open)  # their threads are the parent's: not to be closed here
            self._begin()
        if asked.limit == 0:
            return Page([], [], None)
        start = replace(asked, limit=0)
        with self._lock:
            kept = self._open.pop(start, None)
        first, rest = kept or (None, self._from(asked))
        found = [] if first is None else [first]
        found += islice(rest, asked.limit - len(found))
        following = next(rest, None)
        last = found[-1].name if following is not None else None
        if following is not None:
            self._keep(replace(start, after=found[-1].name), (following, rest))
        objects = list(_rows(entry for entry in found if entry.batch is not None))
        return Page(objects, [entry.name for entry in found if entry.batch is None], last)

    def _from(self, asked: PageRequest) -> _Entries:
        self._begun += 1
        if self._begun > _ANEW:
            self._view.rows_if_few()
        batches = self._view.to_batches(COLUMNS, prefix=asked.prefix, after=asked.after)
        return entries(batches, asked)

    def _keep(self, start: PageRequest, standing: tuple[_Entry, _Entries]) -> None:
        with self._lock:
            replaced = self._open.pop(start, None)
            self._open[start] = standing
            oldest = self._open.popitem(last=False)[1] if len(self._open) > _OPEN else None
        for closing in (replaced, oldest):
            if closing is not None:
                closing[1].close()

    def close(self) -> None:
        """End what is open; another page begins anew."""
        with self._lock:
            standing, self._open = list(self._open.values()), OrderedDict()
        if os.getpid() == self._pid:
            for _, rest in standing:
                rest.close()


def as_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """One of a page's objects as S3 lists it, in boto3's types. What the view does not know is left out."""
    known: dict[str, Any] = {
        "Key": row["key"],
        "LastModified": row["event_time"].astimezone(UTC).replace(microsecond=0),
        "ETag": None if row["etag"] is None else f'"{row["etag"]}"',
        "Size": row["size"],
        "StorageClass": row["storage_class"],
    }
    return {name: value for name, value in known.items() if value is not None}
