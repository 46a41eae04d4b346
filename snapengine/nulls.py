"""PURE: the facts about the `null` version of a key, whose id S3 uses again and again.

Events tell themselves apart by sequencer; a listing shows at most one null a key, the newest of its page's
time. So a listed null is matched with an event only where nothing else can be meant.
"""

from __future__ import annotations

from collections.abc import Iterable

from snapengine.model import EVENT, MARKER_CREATED, VERSION_DELETED, Observation
from snapengine.ordering import Fact, event_rank, fact_of, latest_null, places, sequencer_key


def merge_nulls(observations: Iterable[Observation]) -> list[Fact]:
    """The facts that observations of one key's null version report, each once, removals included."""
    events: list[Observation] = []
    listed: dict[tuple[str, int, str], list[Observation]] = {}
    absences: list[Observation] = []
    for o in observations:
        if o.origin == EVENT:
            events.append(o)
        elif o.kind == VERSION_DELETED:
            absences.append(o)
        else:
            listed.setdefault((o.kind, o.event_time, o.etag or ""), []).append(o)
    told = _merge_events(events)
    told += [fact_of(o) for o in absences if not _voided(o, listed.values())]
    return told + _match_listed(told, listed.values())


def _merge_events(events: Iterable[Observation]) -> list[Fact]:
    """Deliveries of one event are one fact: the same sequencer, or without one the same time and ETag."""
    groups: dict[tuple[object, ...], list[Observation]] = {}
    for o in events:
        same = (sequencer_key(o.sequencer),) if o.sequencer else (o.event_time, o.etag)
        groups.setdefault((o.kind, *same), []).append(o)
    return [fact_of(min(group, key=event_rank)) for group in groups.values()]


def _voided(absence: Observation, listed: Iterable[list[Observation]]) -> bool:
    """Whether a later page shows the null that an earlier one was thought to lack.

    That is certain if the same one was listed before too, or if its `LastModified`, cut to the second,
    lies before the absence; but a multipart upload or a marker may be dated long before it came to be.
    """
    for group in listed:
        if all((o.page_time or 0) <= absence.event_time for o in group):
            continue
        newest = group[0]
        exact = newest.kind != MARKER_CREATED and "-" not in (newest.etag or "")
        if exact and newest.event_time + 1000 <= absence.event_time:
            return True
        if any((o.page_time or 0) < absence.event_time for o in group):
            return True
    return False


def _match_listed(told: list[Fact], listed: Iterable[list[Observation]]) -> list[Fact]:
    """Give each listed null to the event it is, or make it a fact of its own; returns the latter."""
    unmatched: list[Fact] = []
    for group in sorted(listed, key=lambda group: max(_page(o) for o in group)):
        newest = max(group, key=_page)
        page_time = newest.page_time or 0
        before = latest_null(fact for fact in told if fact.time <= page_time)
        replaced = unmatched and unmatched[-1].page_time
        if before and _is_same(before, newest) and not (replaced and before.time < replaced):
            before.storage_class = newest.storage_class
            before.size = newest.size if before.size is None else before.size
            before.places = {**places(group), **before.places}
            continue
        fact = fact_of(newest)
        fact.page_time = page_time
        fact.places = places(group)
        # It came after every null fact before its page's time, so it cannot be older than they are.
        fact.time = max([fact.time, *(f.time for f in told if f.time < page_time)])
        unmatched.append(fact)
    return unmatched


def _page(o: Observation) -> tuple[int, str, str, int, str]:
    return (o.page_time or 0, o.listing or "", o.kind, o.event_time, o.etag or "")


def _is_same(event: Fact, listed: Observation) -> bool:
    """Whether a listed null is what the latest null fact before its page tells of."""
    if event.kind != listed.kind or (event.etag or "") != (listed.etag or ""):
        return False
    if event.time // 1000 * 1000 == listed.event_time:
        return True
    early = listed.kind == MARKER_CREATED or "-" in (listed.etag or "")
    return early and event.time >= listed.event_time
