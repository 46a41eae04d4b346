"""Laws of the fold, tried on random histories, and the fold against a key played on plain lists."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from snapengine.fold import KeyFacts, as_version, fold, live_entries, merge, state
from snapengine.model import CREATED, EVENT, NULL_VERSION, VERSION_DELETED, ObjectVersion, Observation
from snapengine.ordering import Fact
from snapengine.testing.strategies import (
    OPERATIONS,
    Entry,
    KeyHistory,
    Operation,
    adversarial_observations,
    key_histories,
    shuffled,
    some_of,
    steps,
)

anything = st.lists(adversarial_observations(), max_size=7)
WITHOUT_MULTIPART: tuple[Operation, ...] = tuple(
    o for o in OPERATIONS if o not in {"multipart", "expire", "switch"}
)


@st.composite
def lossy_histories(draw: st.DrawFn) -> list[Observation]:
    """What is known of a key by events, some lost, and up to two complete listings among them."""
    history = draw(key_histories())
    known = draw(some_of(history.events))
    for name in draw(st.sampled_from([(), ("L1",), ("L1", "L2")])):
        known += history.listed(name, known)
        before = len(history.events)
        history.play(draw(steps(most=3)))
        known += draw(some_of(history.events[before:]))
    return known


histories = anything | lossy_histories()


def instants(observations: list[Observation]) -> list[int]:
    """Every instant at which something may change, and those just before and after."""
    times = {o.event_time for o in observations} | {o.page_time or 0 for o in observations}
    return sorted({time + by for time in times for by in (-1, 0, 1, 500)})


def all_fields(fact: Fact) -> tuple[object, ...]:
    """A fact by value, its places in any order."""
    values = {field.name: getattr(fact, field.name) for field in fields(fact)}
    values["places"] = sorted(fact.places.items())
    return tuple(values.items())


def whole(facts: KeyFacts) -> tuple[list[str], ...]:
    """All that is known of a key, in every field, in an order of its own."""
    groups = (facts.entries, facts.removals.values(), facts.nulls)
    return tuple(sorted(repr(all_fields(fact)) for fact in group) for group in groups)


def deciding(observations: list[Observation]) -> list[tuple[ObjectVersion | None, object, list[str]]]:
    """At every instant: the object shown, the entry that decides, and all that are there."""
    facts = merge(observations)
    answers: list[tuple[ObjectVersion | None, object, list[str]]] = []
    for at in instants(observations):
        entry = state(facts, at)
        live = sorted(repr(all_fields(fact)) for fact in live_entries(facts, at))
        answers.append((fold(observations, at), entry and all_fields(entry), live))
    return answers


@given(st.data())
@settings(max_examples=300)
def test_observations_in_any_order_and_number_give_the_same_state_at_every_instant(
    data: st.DataObject,
) -> None:
    observations = data.draw(histories)
    again = data.draw(shuffled(observations))
    assert whole(merge(again)) == whole(merge(observations))
    assert deciding(again) == deciding(observations)


@given(st.data())
def test_an_exact_duplicate_never_changes_anything(data: st.DataObject) -> None:
    observations = data.draw(histories.filter(bool))
    again = [*observations, data.draw(st.sampled_from(observations))]
    assert whole(merge(again)) == whole(merge(observations))
    assert deciding(again) == deciding(observations)


@given(adversarial_observations(), st.sampled_from([-1, 0, 1]))
def test_the_short_way_for_a_single_observation_gives_what_the_long_way_gives(
    observation: Observation, by: int
) -> None:
    at = observation.event_time + by
    entry = state(merge([observation]), at)
    shown = as_version(observation.key, entry) if entry is not None and entry.kind == CREATED else None
    assert fold([observation], at) == shown


@given(histories)
def test_the_object_shown_is_the_deciding_entry_and_that_is_one_of_those_there(
    observations: list[Observation],
) -> None:
    facts = merge(observations)
    for at in instants(observations):
        entry, live = state(facts, at), live_entries(facts, at)
        assert (entry is None) == (not live)
        assert entry is None or any(entry is fact for fact in live)
        assert all(fact.time <= at for fact in live)
        assert sum(fact.version_id == NULL_VERSION for fact in live) <= 1
        shown = fold(observations, at)
        if entry is None or entry.kind != CREATED:
            assert shown is None
        else:
            assert shown == as_version(observations[0].key, entry)


@given(histories, adversarial_observations())
def test_a_further_observation_never_takes_a_fact_away(
    observations: list[Observation], further: Observation
) -> None:
    def entries(facts: KeyFacts) -> set[tuple[str, str]]:
        return {(fact.version_id, fact.kind) for fact in facts.entries if fact.version_id != NULL_VERSION}

    def ended(facts: KeyFacts) -> dict[str, int]:
        return {v: fact.time for v, fact in facts.removals.items() if fact.origin == EVENT}

    before, after = merge(observations), merge([*observations, further])
    assert entries(before) <= entries(after)
    assert all(ended(after)[version] <= time for version, time in ended(before).items())


@given(histories, st.integers(0, 30))
def test_a_later_event_changes_the_past_only_by_telling_what_a_listing_told(
    observations: list[Observation], chosen: int
) -> None:
    times = instants(observations)
    assume(times)
    at = times[chosen % len(times)]
    listed = {o.version_id for o in observations if o.origin != EVENT}
    past = [
        o
        for o in observations
        if o.origin != EVENT or o.event_time <= at or o.version_id in listed  # what listings merge with
    ]
    assert fold(past, at) == fold(observations, at)


@given(histories)
def test_the_latest_is_beneath_none_that_is_there_in_a_listing_unless_listings_or_sequencers_disagree(
    observations: list[Observation],
) -> None:
    facts = merge(observations)
    for at in instants(observations):
        live = live_entries(facts, at)
        top = state(facts, at)
        free = [
            fact
            for fact in live
            if not any(
                other.places[name].position < place.position
                for name, place in fact.places.items()
                for other in live
                if name in other.places
            )
        ]
        if len(live) > 1 and free and all(fact.sequencer is None for fact in live):
            assert any(top is fact for fact in free)


# Against a key played on plain lists


def shown(entry: Entry | None) -> tuple[object, ...] | None:
    """What every view has to say of an object, however it is known."""
    return entry and (entry.version_id, entry.etag, entry.size)


def folded(observations: list[Observation], at: int) -> tuple[object, ...] | None:
    found = fold(observations, at)
    return None if found is None else (found.version_id, found.etag, found.size)


def every_instant(history: KeyHistory) -> set[int]:
    return {time + by for time, _ in history.past for by in (-1, 0, 1)}


def assert_same_at_every_instant(history: KeyHistory, observations: list[Observation]) -> None:
    for at in every_instant(history):
        truth, found = history.at(at), fold(observations, at)
        assert folded(observations, at) == shown(truth), at
        if truth is not None and found is not None:
            assert (found.event_time, found.time) == (truth.time, "event")


@given(key_histories(("enabled",), tuple(o for o in OPERATIONS if o != "switch")), st.data())
def test_a_versioned_key_whose_events_all_came_is_known_exactly_at_every_instant(
    history: KeyHistory, data: st.DataObject
) -> None:
    assert_same_at_every_instant(history, data.draw(shuffled(history.events)))


@given(key_histories(("off", "suspended")), st.data())
def test_a_key_whose_null_version_is_used_again_is_known_exactly_if_all_events_came(
    history: KeyHistory, data: st.DataObject
) -> None:
    assert_same_at_every_instant(history, data.draw(shuffled(history.events)))


@given(key_histories(), st.integers(1, 3000), st.data())
@settings(max_examples=200)
def test_a_complete_listing_takes_nothing_from_what_events_told_exactly(
    history: KeyHistory, wait: int, data: st.DataObject
) -> None:
    history.now += wait
    known = history.events + history.listed("L", history.events)
    truth = [(at, history.at(at)) for at in every_instant(history)]
    known = data.draw(shuffled(known))
    for at, entry in truth:
        assert folded(known, at) == shown(entry), at


@given(key_histories(), st.integers(1, 3000), st.data())
@settings(max_examples=400)
def test_from_the_page_of_a_complete_listing_on_the_state_is_exact_whatever_was_lost(
    history: KeyHistory, wait: int, data: st.DataObject
) -> None:
    kept = data.draw(some_of(history.events))
    history.now += wait
    known = data.draw(shuffled(kept + history.listed("L", kept)))
    for at in (history.now, history.now + 1, history.now + 86_400_000):
        assert folded(known, at) == shown(history.current)


@given(key_histories(), st.integers(1, 3000), st.data())
@settings(max_examples=150)
def test_of_objects_older_than_all_events_a_complete_listing_tells_the_state_exactly(
    history: KeyHistory, wait: int, data: st.DataObject
) -> None:
    before = len(history.events)
    history.play(data.draw(steps(most=4)))
    kept = data.draw(some_of(history.events[before:]))
    history.now += wait
    known = kept + history.listed("L", kept)
    assert folded(known, history.now) == shown(history.current)


@given(key_histories(), st.data())
@settings(max_examples=400)
def test_what_one_complete_listing_showed_stays_so_whatever_is_learned_after_it(
    history: KeyHistory, data: st.DataObject
) -> None:
    # Later uploads begin, and are dated, in a later second: an early date is all that could mislead.
    known = data.draw(some_of(history.events))
    history.now = history.now // 1000 * 1000 + data.draw(st.integers(1001, 2999))
    first, at_first = history.now, history.current
    known += history.listed("L1", known)
    history.now = history.now // 1000 * 1000 + 1000
    before = len(history.events)
    history.play(data.draw(steps(WITHOUT_MULTIPART, most=5)))
    known += data.draw(some_of(history.events[before:]))
    history.now += data.draw(st.integers(1, 3000))
    known += history.listed("L2", known)
    assert folded(known, first) == shown(at_first)
    assert folded(known, history.now) == shown(history.current)


@given(key_histories(), st.data())
def test_an_event_that_comes_late_dates_what_a_listing_showed(
    history: KeyHistory, data: st.DataObject
) -> None:
    # Only the events of what is listed came, and they came last: the present is told by them in full.
    history.now += 1000
    rows = history.listed("L", [])
    times = {entry.version_id: entry.time for entry in history.entries}
    late = [
        o for o in history.events if o.kind != VERSION_DELETED and times.get(o.version_id) == o.event_time
    ]
    found = fold(data.draw(shuffled(rows + late)), history.now)
    if history.current is not None:
        assert found is not None
        assert (found.event_time, found.time) == (history.current.time, "event")
