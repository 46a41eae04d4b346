"""PURE: the order of a key's facts, where S3 gives sequencers, listings and times of unequal worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from snapengine.model import Kind, Observation, Origin


def sequencer_key(sequencer: str) -> str:
    """A key that orders sequencers as S3 says: the shorter right-padded with zeros, without regard to case.

    Cutting trailing zeros compares alike, zero being the least of the letters and digits that
    `records.py` lets through. Source: S3 User Guide, "Event message structure".
    """
    return sequencer.lower().rstrip("0")


class Place(NamedTuple):
    """Where one listing showed an entry. Of two places in one listing, the lower position is the newer."""

    page_time: int
    position: int


@dataclass(slots=True)
class Fact:
    """A fact after merging: an entry (created, marker) or a removal, with the best that is known of it."""

    kind: Kind
    version_id: str
    time: int
    """Effective UTC milliseconds: an event's own; of a listed-only entry never before what lies beneath."""
    sequencer: str | None
    size: int | None
    etag: str | None
    storage_class: str | None
    origin: Origin
    event_name: str | None
    listed: bool
    """The time is known from a listing only."""
    page_time: int | None = None
    """Of a null entry that no event matches: its newest page, which says when it was the newest null."""
    places: dict[str, Place] = field(default_factory=dict)
    """By listing id."""


def fact_of(observation: Observation) -> Fact:
    """The fact that a single observation reports."""
    o = observation
    return Fact(
        kind=o.kind,
        version_id=o.version_id,
        time=o.event_time,
        sequencer=o.sequencer,
        size=o.size,
        etag=o.etag,
        storage_class=o.storage_class,
        origin=o.origin,
        event_name=o.event_name,
        listed=o.listing is not None,
    )


def event_rank(o: Observation) -> tuple[int, str, str]:
    """Of two events that tell one fact differently, the least counts."""
    return (o.event_time, sequencer_key(o.sequencer or ""), o.etag or "")


def places(listed: Iterable[Observation]) -> dict[str, Place]:
    """Where each listing showed an entry; of two sightings in one listing, that of the newer page."""
    found: dict[str, Place] = {}
    for o in listed:
        if o.listing is not None and o.position is not None:
            place = Place(o.page_time or 0, o.position)
            found[o.listing] = max(place, found.get(o.listing, place))
    return found


def lift_listed_times(entries: Sequence[Fact]) -> None:
    """Raise each listed-only entry's time to the greatest among the entries beneath it in any listing.

    `LastModified` is early (by hours for a multipart upload), but S3 lists the newest first: an entry
    cannot be older than what lies beneath. Repeated until nothing moves, as a raise in one listing may
    matter in another.
    """
    listings: dict[str, list[tuple[int, Fact]]] = {}
    for entry in entries:
        for listing, place in entry.places.items():
            listings.setdefault(listing, []).append((place.position, entry))
    stacks = [
        [entry for _, entry in sorted(stack, key=lambda item: -item[0])]  # the oldest first
        for stack in listings.values()
    ]
    moved = True
    while moved:
        moved = False
        for stack in stacks:
            least = 0
            for entry in stack:
                if entry.listed and entry.time < least:
                    entry.time = least
                    moved = True
                least = max(least, entry.time)


def latest(entries: Iterable[Fact]) -> Fact | None:
    """The latest of a key's live entries.

    The latest with a sequencer and the latest without are found apart and then compared, so that the
    answer does not hang on the order in which they came.
    """
    sequenced: Fact | None = None
    others: list[Fact] = []
    for entry in entries:
        if entry.sequencer is None:
            others.append(entry)
        elif sequenced is None or _sequenced_rank(entry) > _sequenced_rank(sequenced):
            sequenced = entry
    other = _latest_without_sequencer(others)
    if sequenced is None or other is None:
        return sequenced or other
    if (shared := _above(other, sequenced)) is not None:
        return other if shared else sequenced
    return other if other.time > sequenced.time else sequenced


def _sequenced_rank(fact: Fact) -> tuple[str, int, str]:
    return (sequencer_key(fact.sequencer or ""), fact.time, fact.version_id)


def _latest_without_sequencer(entries: list[Fact]) -> Fact | None:
    """By time; those of equal time by the newest listing that shows any of them, then by version id."""
    if len(entries) < 2:
        return entries[0] if entries else None
    newest = max(entry.time for entry in entries)
    tied = [entry for entry in entries if entry.time == newest]

    def rank(entry: Fact) -> tuple[int, str, int, str]:
        if not entry.places:
            return (-1, "", 0, entry.version_id)
        listing, place = max(entry.places.items(), key=lambda item: (item[1].page_time, item[0]))
        return (newest_page[listing], listing, -place.position, entry.version_id)

    newest_page: dict[str, int] = {}
    for entry in tied:
        for listing, place in entry.places.items():
            newest_page[listing] = max(newest_page.get(listing, 0), place.page_time)
    return max(tied, key=rank)


def _above(a: Fact, b: Fact) -> bool | None:
    """Whether the newest listing that shows both has `a` above (newer than) `b`; None if none shows both."""
    shared = a.places.keys() & b.places.keys()
    if not shared:
        return None
    listing = max(shared, key=lambda name: (a.places[name].page_time, name))
    return a.places[listing].position < b.places[listing].position


def latest_null(facts: Iterable[Fact]) -> Fact | None:
    """The latest of the facts about the `null` version, removals included."""
    sequenced: Fact | None = None
    other: Fact | None = None
    for fact in facts:
        if fact.sequencer is not None:
            if sequenced is None or _sequenced_rank(fact) > _sequenced_rank(sequenced):
                sequenced = fact
        elif other is None or _null_rank(fact) > _null_rank(other):
            other = fact
    if sequenced is None or other is None:
        return sequenced or other
    return other if _null_rank(other)[:2] > (sequenced.time, 1) else sequenced


def _null_rank(fact: Fact) -> tuple[int, int, str, str]:
    """A listed null was the newest when its page was requested: after every fact before that instant."""
    if fact.page_time is not None:
        return (fact.page_time, -1, fact.kind, fact.etag or "")
    return (fact.time, 0, fact.kind, fact.etag or "")
