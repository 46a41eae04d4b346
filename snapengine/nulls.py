"""PURE: the facts about the `null` version of a key, whose id S3 uses again and again.

Events tell themselves apart by sequencer; a listing shows at most one null a key, the newest of its page's
time. So a listed null is matched with an event only where nothing else can be meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from snapengine.model import EVENT, MARKER_CREATED, VERSION_DELETED, Observation
from snapengine.ordering import (
    Fact,
    event_rank,
    fact_of,
    fill_from_listing,
    is_after,
    latest_null,
    listing_rank,
    places,
    sequencer_key,
)


def merge_nulls(observations: Iterable[Observation], others: Sequence[Fact] = ()) -> list[Fact]:
    """The facts that observations of one key's null version report, each once, removals included.

    `others` are the key's entries with version ids of their own.
    """
    events: list[Observation] = []
    listed: list[Observation] = []
    absences: dict[int, Observation] = {}
    for o in observations:
        if o.origin == EVENT:
            events.append(o)
        elif o.kind == VERSION_DELETED:
            absences[o.event_time] = min(o, absences.get(o.event_time, o), key=listing_rank)
        else:
            listed.append(o)
    told = _merge_events(events)
    told += [fact_of(o) for o in absences.values() if not _voided(o, listed)]
    return told + _match_listed(told, listed, others)


def _merge_events(events: Iterable[Observation]) -> list[Fact]:
    """Deliveries of one event are one fact: the same sequencer, or without one the same time and ETag."""
    groups: dict[tuple[object, ...], list[Observation]] = {}
    for o in events:
        same = (o.event_time, o.etag or "") if o.sequencer is None else (sequencer_key(o.sequencer),)
        groups.setdefault((o.kind, *same), []).append(o)
    return [fact_of(min(group, key=event_rank)) for group in groups.values()]


def _voided(absence: Observation, listed: Sequence[Observation]) -> bool:
    """Whether a later page shows the null that an earlier one was thought to lack.

    That is certain if the same one was listed before too, or if its `LastModified`, cut to the second,
    lies before the absence; but a multipart upload or a marker may be dated long before it came to be.
    """
    seen_before = {_identity(o) for o in listed if _page(o) < absence.event_time}
    return any(
        _identity(o) in seen_before or (not _dated_early(o) and o.event_time + 1000 <= absence.event_time)
        for o in listed
        if _page(o) > absence.event_time
    )


def _match_listed(told: list[Fact], listed: list[Observation], others: Sequence[Fact]) -> list[Fact]:
    """Give each listed null to the event it is, or make it a fact of its own; returns the latter."""
    unmatched: list[Fact] = []
    since = 0  # the last page that shows another null: what follows came to be after it
    for run in _runs(listed, told):
        newest = run[-1]
        if before := _told_of(newest, [f for f in told if f.time >= since], others):
            fill_from_listing(before, newest)
            before.places |= places(run)
        else:
            fact = fact_of(newest)
            fact.page_time = _page(newest)
            fact.places = places(run)
            # It came after every null known from before its page, so it cannot be older than they are.
            fact.time = max([fact.time, since, *(f.time for f in told if f.time < _page(newest))])
            unmatched.append(fact)
        since = _page(newest)
    return unmatched


def _told_of(listed: Observation, told: Sequence[Fact], others: Sequence[Fact]) -> Fact | None:
    """The event that a listed null is, if one is: the latest null fact before its page.

    What has the page's own millisecond may have come before it or after it.
    """
    for until in (_page(listed), _page(listed) - 1):
        before = latest_null(fact for fact in told if fact.time <= until)
        if before and _is_same(before, listed) and _may_top(before, listed, others):
            return before
    return None


def _runs(listed: list[Observation], told: Sequence[Fact]) -> list[list[Observation]]:
    """The listed nulls in the order of their pages, those that are one and the same null together.

    The same kind, `LastModified` and ETag are the same null unless another fact lies between the pages.
    """
    runs: list[list[Observation]] = []
    for o in sorted(listed, key=listing_rank):
        if (
            runs
            and _identity(last := runs[-1][-1]) == _identity(o)
            and all(_is_same(f, o) for f in told if _page(last) <= f.time < _page(o))
        ):
            runs[-1].append(o)
        else:
            runs.append([o])
    return runs


def _is_same(event: Fact, listed: Observation) -> bool:
    """Whether a listed null can be what a fact tells of."""
    if event.kind != listed.kind or (event.etag or "") != (listed.etag or ""):
        return False
    if event.time // 1000 * 1000 == listed.event_time:
        return True
    return _dated_early(listed) and event.time >= listed.event_time


def _may_top(event: Fact, listed: Observation, others: Sequence[Fact]) -> bool:
    """Whether nothing that the listing shows beneath the null came after the event."""
    for other in others:
        place = other.places.get(listed.listing or "")
        if place and place.position > (listed.position or 0) and is_after(other, event):
            return False
    return True


def _dated_early(o: Observation) -> bool:
    """Multipart uploads have the `LastModified` of their initiation; lifecycle markers are dated midnight."""
    return o.kind == MARKER_CREATED or "-" in (o.etag or "")


def _identity(o: Observation) -> tuple[str, int, str]:
    return (o.kind, o.event_time, o.etag or "")


def _page(o: Observation) -> int:
    return o.page_time or 0
