"""PURE: the pages of a listing and the histories that the log knows, brought together key by key.

Both come in the order of the keys' UTF-8 bytes, which is Python's order of text by code points. A page's
range is what its request asked S3 about: all after its start marker, up to and with the last key it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.buckets.bookkeeping import observations_of
from snapengine.buckets.compare import KeyListing
from snapengine.buckets.listing import Page
from snapengine.errors import BadData
from snapengine.model import RECONCILE, Observation
from snapengine.observation_codec import observations_of as rows_of

_ROWS_AT_ONCE = 20_000

History = tuple[str, list[Observation]]
"""A key, and all that is known of it."""


class Aligned(NamedTuple):
    """One key: what is known of it, and what a complete listing shows of it."""

    known: list[Observation]
    """Empty for a key that the log has never heard of."""
    listing: KeyListing
    """Without rows for a key that the listing has passed."""


def histories(observations: pa.Table, after_key: str = "") -> Iterator[History]:
    """The observations by key, in the keys' order, of the keys after `after_key`; decoded bit by bit."""
    if after_key:
        observations = observations.filter(pc.greater(observations["key"], after_key))
    order = pc.sort_indices(observations, sort_keys=[("key", "ascending")])
    rows = (
        row
        for start in range(0, len(order), _ROWS_AT_ONCE)
        for row in rows_of(observations.take(order.slice(start, _ROWS_AT_ONCE)))
    )
    for key, history in groupby(rows, attrgetter("key")):
        yield key, list(history)


def align(pages: Iterable[Page], known: Iterable[History], listing: str) -> Iterator[Aligned]:
    """Every key of a listing's pages or of `known`, in order, as soon as all of it has been listed."""
    alignment = Alignment(known, listing)
    for page in pages:
        yield from alignment.take(page)


class Alignment:
    """`align`, for pages that come one by one."""

    def __init__(self, known: Iterable[History], listing: str, after_key: str = "") -> None:
        """`known` begins, as the listing does, after `after_key`."""
        self.complete = after_key
        """The last key that has been seen whole: where another listing can go on after."""
        self._listing = listing
        self._known = iter(known)
        self._next_known = next(self._known, None)
        self._open: tuple[str, list[Observation], int] | None = None
        self._position = 0

    def take(self, page: Page) -> Iterator[Aligned]:
        """The keys that this page makes whole; to be exhausted before the next page is taken.

        Raises `BadData` if the listing is not in the keys' order, as nothing could be proved absent then.
        """
        for key, entries in groupby(page.entries, attrgetter("key")):
            rows = observations_of(entries, page.time, self._listing, self._position, RECONCILE)
            self._position += len(rows)
            yield from self._reach(key, page.time)
            if self._open is not None:
                self._open[1].extend(rows)
        if page.next_key is None:
            yield from self._reach(None, page.time)
            return
        yield from self._reach(page.next_key, page.time)
        if page.next_version_id is None:  # the next page begins after this key, not within it
            yield from self._close()

    def _reach(self, key: str | None, page_time: int) -> Iterator[Aligned]:
        """Open `key`, if it is not open (None: the end). All before it is whole, and what is known of the
        keys between is what this page's range holds and does not show."""
        if self._open is not None and self._open[0] == key:
            return
        yield from self._close()
        if key is not None and key <= self.complete:
            raise BadData(f"The listing has key {key!r} after {self.complete!r}, against the order of UTF-8.")
        while self._next_known and (key is None or self._next_known[0] < key):
            self._open = (self._next_known[0], [], page_time)
            yield from self._close()
        if key is not None:
            self._open = (key, [], page_time)

    def _close(self) -> Iterator[Aligned]:
        """Every page that could show the open key has been seen."""
        if self._open is None:
            return
        key, rows, first_page = self._open
        self._open = None
        self.complete = key
        known: list[Observation] = []
        if self._next_known and self._next_known[0] == key:
            known = self._next_known[1]
            self._next_known = next(self._known, None)
        if known or rows:
            yield Aligned(known, KeyListing(key, tuple(rows), first_page, self._listing))
