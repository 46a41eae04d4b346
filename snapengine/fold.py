"""PURE: the observations of one key, and the state of that key at an instant. The reference for all else.

Merging comes before the cut at an instant, and the cut at an epoch (the caller's) before merging: in any
other order a late event would change a past that was promised.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from snapengine.model import (
    CREATED,
    EVENT,
    MARKER_CREATED,
    NULL_VERSION,
    SLACK_MS,
    VERSION_DELETED,
    ObjectVersion,
    Observation,
)
from snapengine.nulls import merge_nulls
from snapengine.ordering import (
    Fact,
    event_rank,
    fact_of,
    fill_from_listing,
    latest,
    latest_null,
    lift_listed_times,
    listing_rank,
    places,
)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What is known of one key, before any cut in time."""

    entries: tuple[Fact, ...]
    """Created versions and markers, null ones included."""
    removals: dict[str, Fact]
    """By version id; the null version's are in `nulls`."""
    nulls: tuple[Fact, ...]
    """All facts about the null version, removals included."""


def fold(observations: Iterable[Observation], at: int) -> ObjectVersion | None:
    """The object that a key showed at `at` (UTC milliseconds, inclusive), or None if it showed none.

    `observations` are all of one key that the epoch covers, in any order, with any repetition.
    """
    observations = list(observations)
    if len(observations) == 1 and observations[0].kind == CREATED:  # most keys, at little cost
        only = fact_of(observations[0])
        return as_version(observations[0].key, only) if only.time <= at else None
    if not observations:
        return None
    current = state(merge(observations), at)
    if current is None or current.kind == MARKER_CREATED:
        return None
    return as_version(observations[0].key, current)


def state(facts: KeyFacts, at: int) -> Fact | None:
    """The entry that decides at `at`: a created version, a marker, or None where nothing is left."""
    return latest(live_entries(facts, at))


def live_entries(facts: KeyFacts, at: int) -> list[Fact]:
    """The entries that existed at `at`: begun, and not removed. Of null entries only the latest can live."""
    newest_null = latest_null(fact for fact in facts.nulls if fact.time <= at)
    return [
        entry
        for entry in facts.entries
        if entry.time <= at
        and (
            entry is newest_null
            if entry.version_id == NULL_VERSION
            else not ((removal := facts.removals.get(entry.version_id)) and removal.time <= at)
        )
    ]


def merge(observations: Iterable[Observation]) -> KeyFacts:
    """The facts that the observations of one key report, each once."""
    groups: dict[tuple[str, str], list[Observation]] = {}
    for observation in observations:
        groups.setdefault((observation.version_id, observation.kind), []).append(observation)
    entries: list[Fact] = []
    removals: dict[str, Fact] = {}
    null_observations: list[Observation] = []
    for (version_id, kind), group in groups.items():
        if version_id == NULL_VERSION:
            null_observations += group
        elif kind != VERSION_DELETED:
            entries.append(_merge_entry(group))
        elif removal := _merge_removal(group, _last_seen(groups, version_id)):
            removals[version_id] = removal
    nulls = merge_nulls(null_observations, entries)
    entries += [fact for fact in nulls if fact.kind != VERSION_DELETED]
    lift_listed_times(entries)
    return KeyFacts(tuple(entries), removals, tuple(nulls))


def _merge_entry(group: list[Observation]) -> Fact:
    """An event's fields win over a listing's; of two listings the newer's; of two events the least."""
    listed = [o for o in group if o.listing is not None]
    events = [o for o in group if o.listing is None]
    newest = max(listed, key=listing_rank) if listed else None
    fact = fact_of(min(events, key=event_rank) if events else newest or group[0])
    if events and newest is not None:  # a listing knows what an event does not say
        fill_from_listing(fact, newest)
    fact.places = places(listed)
    return fact


def _merge_removal(group: list[Observation], last_seen: int) -> Fact | None:
    """The first absence that no later page has voided; a real event's time wins, unless it is later: then it
    tells of a removal of what was gone already."""
    proofs = [o for o in group if o.origin != EVENT and o.event_time >= last_seen]
    absence = min(proofs, key=lambda o: (o.event_time, listing_rank(o)), default=None)
    event = min((o for o in group if o.origin == EVENT), key=event_rank, default=None)
    if event is not None and (absence is None or event.event_time <= absence.event_time + SLACK_MS):
        return fact_of(event)
    return fact_of(absence) if absence is not None else None


def _last_seen(groups: dict[tuple[str, str], list[Observation]], version_id: str) -> int:
    """The time of the newest page that shows the version, or 0."""
    shown = groups.get((version_id, CREATED), []) + groups.get((version_id, MARKER_CREATED), [])
    return max((o.page_time or 0 for o in shown), default=0)


def as_version(key: str, fact: Fact) -> ObjectVersion:
    """The public face of an entry."""
    return ObjectVersion(
        key=key,
        version_id=fact.version_id,
        size=fact.size,
        etag=fact.etag,
        event_time=fact.time,
        time="listed" if fact.listed else "event",
        storage_class=fact.storage_class,
        sequencer=fact.sequencer,
    )


def removal_of(facts: KeyFacts, version: ObjectVersion) -> Fact | None:
    """The fact by which a version was removed for good, if it is known.

    A null version ends with the first later null fact: a removal, or a write that took its place. It is
    known again by its ETag, as its time may have been learned better since the view was resolved; a write
    of the same content brings its bytes back.
    """
    if version.version_id != NULL_VERSION:
        return facts.removals.get(version.version_id)
    own = latest_null(f for f in facts.nulls if f.kind == CREATED and f.etag == version.etag)
    later = [f for f in facts.nulls if own is not None and latest_null((own, f)) is not own]
    return min(later, key=lambda f: (f.time, f.kind, f.etag or ""), default=None)
