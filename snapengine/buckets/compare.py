"""PURE: what a complete listing of one key tells that the log does not know yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from snapengine.buckets.bookkeeping import YOUNG_MS
from snapengine.fold import KeyFacts, live_entries, merge
from snapengine.model import CREATED, NULL_VERSION, RECONCILE, VERSION_DELETED, Observation
from snapengine.ordering import Fact, newest_first

FOREVER = 1 << 62
"""Later than every fact."""
SKEW_MS = 60_000
"""A page's time lags S3's clock by a request at most: what lies further ahead, waiting does not explain."""
_PLAIN = {None, "STANDARD"}
"""Storage classes that make no difference: an event does not name the class, and this is the usual one."""


@dataclass(frozen=True, slots=True)
class KeyListing:
    """All that one listing shows of one key."""

    key: str
    rows: tuple[Observation, ...]
    """In the listing's order, the newest first; none if the listing has passed the key without showing it."""
    first_page: int
    """The time of the first page whose range touches the key: UTC milliseconds by S3's clock."""
    listing: str
    """The listing's id."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What to store of a key, and what was found, by kind."""

    observations: tuple[Observation, ...]
    found: Counter[str]
    """`created`, `markers` (not known before), `removed` (proved gone), `back` (thought gone), `null`
    (another null version), `changed` (an entry's fields), `reordered`."""


def difference(known: Sequence[Observation], listing: KeyListing) -> Difference:
    """Compare what the log knows of a key with a complete listing of it.

    If the listing would change anything, in any entry or in their order, every entry of it is stored, so that
    the order of the whole is kept; otherwise nothing. What is proved gone is stored as a removal at the
    page's time: its creation lies before the request of the first page that could have shown it, and no
    page did. An entry made or removed while the listing ran proves nothing either way.
    """
    before = merge(known)
    after = merge([*known, *listing.rows])
    found = _changes(before, after)
    gone = [_absence(entry, listing) for entry in _missing(after, listing)]
    found["removed"] += len(gone)
    found += Counter()  # drops what was not found
    if not found:
        return Difference((), found)
    return Difference((*listing.rows, *gone), found)


def again_at(known: Sequence[Observation], listing: KeyListing) -> int | None:
    """When to list the key again (UTC milliseconds by S3's clock), or None if it can be compared now.

    A page's time is a lower bound of when S3 made the page, so that what is known from the moment before may
    seem to lie after it: then an absence would not count. And a null version that is nearly as young as its
    page may have been overwritten within the second that S3 shows.
    """
    settled = 0
    for o in known:
        margin = YOUNG_MS if o.version_id == NULL_VERSION else 1
        settled = max(settled, o.event_time + margin, (o.page_time or 0) + 1)
    for row in listing.rows:
        if row.version_id == NULL_VERSION:
            settled = max(settled, row.event_time + YOUNG_MS)
    return settled if listing.first_page < settled <= listing.first_page + SKEW_MS else None


def _missing(facts: KeyFacts, listing: KeyListing) -> Iterable[Fact]:
    shown = {(row.kind, row.version_id) for row in listing.rows}
    null_shown = any(row.version_id == NULL_VERSION for row in listing.rows)
    for entry in live_entries(facts, FOREVER):
        is_shown = null_shown if entry.version_id == NULL_VERSION else (entry.kind, entry.version_id) in shown
        if not is_shown and entry.time < listing.first_page:
            yield entry


def _absence(entry: Fact, listing: KeyListing) -> Observation:
    return Observation(
        kind=VERSION_DELETED,
        key=listing.key,
        version_id=entry.version_id,
        event_time=listing.first_page,
        origin=RECONCILE,
        listing=listing.listing,
        page_time=listing.first_page,
    )


def _changes(before: KeyFacts, after: KeyFacts) -> Counter[str]:
    """How the facts differ once the listing is known, by kind."""
    found: Counter[str] = Counter()
    old = {_name(fact): fact for fact in before.entries}
    for fact in after.entries:
        same = old.get(_name(fact))
        if same is None:
            found[_kind_of_new(fact)] += 1
        elif _content(same) != _content(fact):
            found["changed"] += 1
    found["back"] += len(before.removals.keys() - after.removals.keys())
    was_gone = {_name(f) for f in before.nulls if f.kind == VERSION_DELETED}
    found["back"] += len(was_gone - {_name(f) for f in after.nulls if f.kind == VERSION_DELETED})
    if not found.total() and _order(before) != _order(after):
        found["reordered"] += 1
    return found


def _kind_of_new(fact: Fact) -> str:
    if fact.version_id == NULL_VERSION:
        return "null"
    return "created" if fact.kind == CREATED else "markers"


def _name(fact: Fact) -> tuple[object, ...]:
    """What makes a fact the same fact before and after; a listed null is known by what the listing shows."""
    if fact.version_id != NULL_VERSION:
        return (fact.kind, fact.version_id)
    return (fact.kind, fact.version_id, fact.sequencer, fact.etag, fact.time, fact.listed)


def _content(fact: Fact) -> tuple[object, ...]:
    plain = None if fact.storage_class in _PLAIN else fact.storage_class
    return (fact.time, fact.size, fact.etag, plain, fact.listed)


def _order(facts: KeyFacts) -> list[tuple[object, ...]]:
    return [_name(fact) for fact in newest_first(live_entries(facts, FOREVER))]
