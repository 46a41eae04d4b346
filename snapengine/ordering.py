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


def fill_from_listing(fact: Fact, listed: Observation) -> None:
    """Give a fact what its event did not say; what the event said stands."""
    fact.storage_class = listed.storage_class if fact.storage_class is None else fact.storage_class
    fact.size = listed.size if fact.size is None else fact.size
    fact.etag = listed.etag if fact.etag is None else fact.etag


def event_rank(o: Observation) -> tuple[object, ...]:
    """Of two events that tell one fact differently, the least counts; what follows the ETag breaks ties.

    One event can come by two ways (SQS and EventBridge), which write it differently.
    """
    return (
        o.event_time,
        sequencer_key(o.sequencer or ""),
        o.etag or "",
        o.sequencer or "",
        -1 if o.size is None else o.size,
        o.storage_class or "",
        o.event_name or "",
    )


def listing_rank(o: Observation) -> tuple[object, ...]:
    """Of two listed observations the greater is the newer; what follows the listing's id breaks ties."""
    return (
        o.page_time or 0,
        o.listing or "",
        o.kind,
        o.event_time,
        o.etag or "",
        -1 if o.position is None else o.position,
        -1 if o.size is None else o.size,
        o.storage_class or "",
        o.origin,
    )


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
        [
            entry for _, entry in sorted(stack, key=lambda item: (-item[0], _time_rank(item[1])))
        ]  # oldest first
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

    It is the one with the greatest sequencer or one without, and what a listing shows beneath another of
    them is not it. What is left is compared by time. So the answer does not hang on the order in which
    they came, nor on which of them a later listing showed again.
    """
    live = list(entries)
    if len(live) < 2:
        return live[0] if live else None
    sequenced = max((e for e in live if e.sequencer is not None), key=_sequenced_rank, default=None)
    candidates = [entry for entry in live if entry.sequencer is None or entry is sequenced]
    top: dict[str, int] = {}
    for entry in live:
        for listing, place in entry.places.items():
            top[listing] = min(top.get(listing, place.position), place.position)
    standing = [e for e in candidates if all(p.position == top[name] for name, p in e.places.items())]
    return max(standing or candidates, key=_time_rank)  # none is left if listings contradict each other


def newest_first(entries: Iterable[Fact]) -> list[Fact]:
    """A key's live entries as a listing would show them: each the latest of what is left."""
    left = list(entries)
    if all(entry.sequencer is not None for entry in left):  # the usual case, without the square
        return sorted(left, key=_sequenced_rank, reverse=True)
    ordered: list[Fact] = []
    while (newest := latest(left)) is not None:
        ordered.append(newest)
        left = [entry for entry in left if entry is not newest]
    return ordered


def is_after(a: Fact, b: Fact) -> bool:
    """Whether `a` came after `b`: by sequencers if both have one, else by time."""
    if a.sequencer is not None and b.sequencer is not None:
        return sequencer_key(a.sequencer) > sequencer_key(b.sequencer)
    return a.time > b.time


def _sequenced_rank(fact: Fact) -> tuple[str, int, str, str]:
    return (sequencer_key(fact.sequencer or ""), fact.time, fact.version_id, fact.kind)


def _time_rank(fact: Fact) -> tuple[object, ...]:
    """By time, then with a sequencer after without; then by the newest listing, then by name."""
    newest = max(((p.page_time, name, -p.position) for name, p in fact.places.items()), default=(-1, "", 0))
    return (fact.time, fact.sequencer is not None, newest, fact.version_id, fact.kind)


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


def _null_rank(fact: Fact) -> tuple[int, int, int, str, str]:
    """A listed null was the newest when its page was requested: after every fact before that instant."""
    if fact.page_time is not None:
        return (fact.page_time, -1, fact.time, fact.kind, fact.etag or "")
    return (fact.time, 0, 0, fact.kind, fact.etag or "")
