"""The order of a key's entries: sequencers, listings, times, and which of them decides."""

from __future__ import annotations

import itertools

import pytest

from snapengine.model import CREATED, MARKER_CREATED, Kind
from snapengine.ordering import (
    Fact,
    Place,
    event_rank,
    fact_of,
    latest,
    lift_listed_times,
    places,
    sequencer_key,
)
from snapengine.testing.strategies import listing, millis, put, row


def entry(
    version: str,
    at: float,
    sequencer: str | None = None,
    kind: Kind = CREATED,
    **shown: tuple[float, int],
) -> Fact:
    """An entry without a sequencer is known from listings; `shown` gives its page and place in each."""
    return Fact(
        kind=kind,
        version_id=version,
        time=millis(at),
        sequencer=sequencer,
        size=None,
        etag=None,
        storage_class=None,
        origin="event" if sequencer else "reconcile",
        event_name=None,
        listed=sequencer is None,
        places={name: Place(millis(page), position) for name, (page, position) in shown.items()},
    )


def latest_version(*entries: Fact) -> str:
    """The latest entry's version; the same whatever the order in which the entries come."""
    found = {
        fact.version_id for order in itertools.permutations(entries) if (fact := latest(order)) is not None
    }
    assert len(found) == 1, found
    return found.pop()


@pytest.mark.parametrize(
    ("less", "greater"),
    [
        ("0055AED6DCD90281E5", "0055AED6DCD90281E6"),
        ("0055aed6dcd90281e5", "0055AED6DCD90281E6"),
        ("0055AED6DCD90281E5", "0055aed6dcd90281e6"),
        ("617f", "617f08"),
        ("617f08299329d189", "62"),
        ("9", "A"),
        ("0a", "A"),
        ("", "1"),
    ],
)
def test_sequencers_compare_right_padded_and_without_regard_to_case(less: str, greater: str) -> None:
    assert sequencer_key(less) < sequencer_key(greater)


@pytest.mark.parametrize(("a", "b"), [("617F", "617f"), ("617f", "617f00"), ("00", "0"), ("A0", "a000")])
def test_sequencers_that_differ_in_case_or_in_zeros_at_the_end_are_equal(a: str, b: str) -> None:
    assert sequencer_key(a) == sequencer_key(b)


def test_of_two_entries_with_sequencers_the_greater_is_later_whatever_their_times() -> None:
    assert latest_version(entry("v1", 12, "0a"), entry("v2", 11, "0A1")) == "v2"


def test_of_two_entries_in_one_listing_the_higher_one_is_later() -> None:
    assert latest_version(entry("v1", 10, L=(20, 1)), entry("v2", 10, L=(20, 0))) == "v2"


def test_a_listing_places_an_entry_above_one_with_a_sequencer_and_a_later_time() -> None:
    assert latest_version(entry("v1", 10.9, "0a", L=(20, 1)), entry("v2", 10, L=(20, 0))) == "v2"


def test_a_listing_places_an_entry_beneath_one_with_a_sequencer_and_an_earlier_time() -> None:
    assert latest_version(entry("v1", 10.5, L=(20, 1)), entry("v2", 10.2, "0a", L=(20, 0))) == "v2"


def test_where_no_listing_shows_both_time_decides() -> None:
    assert latest_version(entry("v1", 10, L=(20, 0)), entry("v2", 21, "0a")) == "v2"
    assert latest_version(entry("v1", 10, "0a"), entry("v2", 11, L=(20, 0))) == "v2"


def test_at_equal_times_the_one_with_a_sequencer_is_later() -> None:
    assert latest_version(entry("v1", 10, L=(20, 0)), entry("v2", 10, "0a")) == "v2"
    assert latest_version(entry("v2", 10, L=(20, 0)), entry("v1", 10, "0a")) == "v1"


def test_a_later_listing_does_not_raise_what_an_earlier_one_showed_beneath() -> None:
    # v2 was removed between the listings; at an instant before that it is still above v1.
    v1 = entry("v1", 10, L1=(11, 1), L2=(20, 0))
    v2 = entry("v2", 10, L1=(11, 0))
    assert latest_version(v1, v2) == "v2"


def test_what_is_beneath_one_of_them_in_any_listing_is_not_the_latest_of_equal_times() -> None:
    # v1's event is dated on the second; v3 is above v2 in one listing, and v2 above v1 in another.
    v1 = entry("v1", 10, "0a", L1=(11, 1))
    v2 = entry("v2", 10, L1=(11, 0), L2=(20, 1))
    v3 = entry("v3", 10, L2=(20, 0))
    assert latest_version(v1, v2, v3) == "v3"


def test_listings_that_contradict_each_other_still_give_one_answer() -> None:
    v1 = entry("v1", 10, L1=(11, 0), L2=(20, 1))
    v2 = entry("v2", 10, L1=(11, 1), L2=(20, 0))
    assert latest_version(v1, v2) == "v2"
    circle = [
        entry("v1", 10, L1=(11, 0), L3=(13, 1)),
        entry("v2", 10, L2=(12, 0), L1=(11, 1)),
        entry("v3", 10, L3=(13, 0), L2=(12, 1)),
    ]
    assert latest_version(*circle) in {"v1", "v2", "v3"}


def test_a_version_and_a_marker_that_nothing_tells_apart_still_give_one_answer() -> None:
    pair = [entry("v1", 10, "0a"), entry("v1", 10, "0A0", kind=MARKER_CREATED)]
    kinds = {fact.kind for order in itertools.permutations(pair) if (fact := latest(order)) is not None}
    assert len(kinds) == 1


def test_a_listed_time_is_raised_to_the_times_beneath() -> None:
    v1, v2, v3 = entry("v1", 10.7, "0a", L=(20, 2)), entry("v2", 10, L=(20, 1)), entry("v3", 9, L=(20, 0))
    lift_listed_times([v1, v2, v3])
    assert [v1.time, v2.time, v3.time] == [10_700, 10_700, 10_700]


def test_a_listed_time_is_not_raised_by_what_lies_above() -> None:
    v1, v2 = entry("v1", 10, L=(20, 1)), entry("v2", 11.5, "0a", L=(20, 0))
    lift_listed_times([v1, v2])
    assert v1.time == 10_000


def test_the_time_of_an_event_is_never_raised() -> None:
    v1, v2 = entry("v1", 12, L=(20, 1)), entry("v2", 11, "0a", L=(20, 0))
    lift_listed_times([v1, v2])
    assert v2.time == 11_000


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_raise_in_one_listing_raises_what_another_shows_above(order: tuple[int, ...]) -> None:
    facts = [
        entry("v1", 10.7, "0a", L1=(11, 1)),
        entry("v2", 10, L1=(11, 0), L2=(20, 1)),
        entry("v3", 10, L2=(20, 0)),
    ]
    lift_listed_times([facts[i] for i in order])
    assert facts[2].time == 10_700


def test_of_two_sightings_in_one_listing_the_newer_page_places_the_entry() -> None:
    [first] = listing("L", 20, row("v1", 10))
    again = first._replace(page_time=21_000, position=5)
    other = first._replace(listing="M", position=3)
    assert places([again, first, other]) == {"L": Place(21_000, 5), "M": Place(20_000, 3)}
    assert places([put("v1", 10)]) == {}


def test_an_observation_becomes_a_fact_with_all_that_it_says() -> None:
    fact = fact_of(put("v1", 10.7, "e"))
    assert (fact.kind, fact.version_id, fact.time, fact.etag, fact.size) == (CREATED, "v1", 10_700, "e", 7)
    assert not fact.listed
    assert fact_of(listing("L", 20, row("v1", 10))[0]).listed


def test_events_that_differ_rank_by_time_then_sequencer_then_etag() -> None:
    events = [
        put("v1", 10, "b")._replace(sequencer="0A"),
        put("v1", 10, "a")._replace(sequencer="0b"),
        put("v1", 10, "a")._replace(sequencer="0a0"),
        put("v1", 9, "z")._replace(sequencer="ff"),
    ]
    ranked = sorted(events, key=event_rank)
    assert [(o.event_time, o.sequencer, o.etag) for o in ranked] == [
        (9_000, "ff", "z"),
        (10_000, "0a0", "a"),
        (10_000, "0A", "b"),
        (10_000, "0b", "a"),
    ]
