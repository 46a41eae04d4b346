"""What a complete listing of one key tells that the log does not know yet."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapengine.buckets.compare import SKEW_MS, KeyListing, again_at, difference
from snapengine.fold import fold, live_entries, merge
from snapengine.model import EVENT, RECONCILE, VERSION_DELETED, Observation
from snapengine.ordering import newest_first
from snapengine.testing.strategies import (
    KEY,
    Entry,
    KeyHistory,
    Row,
    absent,
    key_histories,
    listing,
    marked,
    marker_row,
    millis,
    put,
    removed,
    row,
    shuffled,
    some_of,
    steps,
)


def shows(page: float, *rows: Row, name: str = "L") -> KeyListing:
    """A listing of the key, requested at `page`."""
    return KeyListing(KEY, tuple(listing(name, page, *rows)), millis(page), name)


def found(known: Sequence[Observation], seen: KeyListing) -> dict[str, int]:
    """What the difference is, by kind; and that it is told once."""
    told = difference(known, seen)
    assert bool(told.found) == bool(told.observations)
    assert not difference([*known, *told.observations], seen).found
    return dict(told.found)


# What is found


def test_what_is_known_already_is_no_difference() -> None:
    known = [put("v1", 10.5), marked("m2", 11.2), put("v3", 12.9)]
    assert found(known, shows(20, row("v3", 12), marker_row("m2", 11), row("v1", 10))) == {}


def test_versions_and_markers_that_nobody_reported_are_found() -> None:
    assert found([put("v1", 10)], shows(20, row("v3", 12), marker_row("m2", 11), row("v1", 10))) == {
        "created": 1,
        "markers": 1,
    }


def test_a_key_with_any_difference_is_stored_whole_in_the_order_of_the_listing() -> None:
    # v2's event came, v3's, of the same second, was lost: v3 alone would be dated before v2.
    seen = shows(30, row("v3", 20), row("v2", 20))
    told = difference([put("v2", 20.5)], seen)
    assert told.observations == seen.rows
    assert [(o.version_id, o.position, o.origin) for o in told.observations] == [
        ("v3", 0, RECONCILE),
        ("v2", 1, RECONCILE),
    ]
    version = fold([put("v2", 20.5), *told.observations], millis(30))
    assert version is not None
    assert version.version_id == "v3"


def test_a_version_that_is_not_shown_was_removed_by_the_time_of_the_page() -> None:
    told = difference([put("v1", 10), put("v2", 11)], shows(20, row("v2", 11)))
    assert told.found == {"removed": 1}
    assert told.observations[-1] == absent("v1", 20)
    assert len(told.observations) == 2, "the order of what is left is kept with it"


def test_a_key_that_is_not_shown_at_all_has_lost_all_its_entries() -> None:
    known = [put("v1", 10), marked("m2", 11)]
    assert found(known, shows(20)) == {"removed": 2}
    told = difference(known, shows(20)).observations
    assert {(o.kind, o.version_id, o.event_time, o.origin) for o in told} == {
        (VERSION_DELETED, "v1", millis(20), RECONCILE),
        (VERSION_DELETED, "m2", millis(20), RECONCILE),
    }


def test_what_is_known_to_be_removed_is_not_missed() -> None:
    known = [put("v1", 10), removed("v1", 11), put("v2", 12), absent("v2", 13)]
    assert found(known, shows(20)) == {}


@pytest.mark.parametrize("created", [20.0, 20.001])
def test_a_version_made_when_the_page_was_requested_or_later_may_still_be_there(created: float) -> None:
    assert found([put("v1", created)], shows(20)) == {}
    assert found([put("v1", 19.999)], shows(20)) == {"removed": 1}


def test_a_version_made_while_a_long_key_was_listed_is_on_neither_page_and_not_gone() -> None:
    # Page one at 4 shows v8, page two at 6 what is beneath; v9 was put on top at 5.
    rows = listing("L", 4, row("v8", 3)) + [o._replace(position=1) for o in listing("L", 6, row("v7", 2))]
    seen = KeyListing(KEY, tuple(rows), millis(4), "L")
    known = [put("v7", 2), put("v8", 3), put("v9", 5)]
    assert found(known, seen) == {}
    assert found([put("v7", 2), put("v6", 1), put("v9", 5)], seen) == {"created": 1, "removed": 1}


def test_a_version_thought_gone_by_mistake_is_back_in_the_later_epoch_only() -> None:
    before = [put("v1", 10), absent("v1", 20)]
    seen = shows(30, row("v1", 10), name="M")
    assert found(before, seen) == {"back": 1}
    assert fold(before, millis(25)) is None
    assert fold([*before, *difference(before, seen).observations], millis(25)) is not None


def test_a_removal_that_an_event_told_stands_whatever_a_listing_shows() -> None:
    assert found([put("v1", 10), removed("v1", 31)], shows(30, row("v1", 10))) == {}


def test_what_an_event_did_not_say_is_found_as_a_change() -> None:
    assert found([put("v1", 10)._replace(size=None)], shows(20, row("v1", 10))) == {"changed": 1}


def test_a_storage_class_is_a_change_unless_it_is_the_usual_one() -> None:
    seen = shows(20, row("v1", 10))
    archived = KeyListing(KEY, (seen.rows[0]._replace(storage_class="GLACIER"),), seen.first_page, "L")
    assert found([put("v1", 10)], seen) == {}
    assert found([put("v1", 10)], archived) == {"changed": 1}
    assert found([put("v1", 10), *archived.rows], shows(30, row("v1", 10), name="M")) == {"changed": 1}


def test_an_order_that_only_the_listing_tells_is_found() -> None:
    known = [put(version, 10)._replace(sequencer=None) for version in ("v1", "v2")]
    assert found(known, shows(20, row("v2", 10), row("v1", 10))) == {}
    assert found(known, shows(20, row("v1", 10), row("v2", 10))) == {"reordered": 1}


# Null versions


def test_a_null_that_is_the_last_event_is_no_difference() -> None:
    known = [put("null", 10.4, "a"), put("null", 12.7, "b")]
    assert found(known, shows(20, row("null", 12, "b"))) == {}


def test_a_null_with_other_content_is_found_and_wins() -> None:
    known = [put("null", 10.4, "a")]
    seen = shows(20, row("null", 12, "b"))
    assert found(known, seen) == {"null": 1}
    version = fold([*known, *difference(known, seen).observations], millis(20))
    assert version is not None
    assert version.etag == "b"


def test_a_null_written_again_with_the_same_content_after_its_removal_is_found() -> None:
    known = [put("null", 20.504, "a"), removed("null", 22.605)]
    assert found(known, shows(30, row("null", 20, "a"))) == {"null": 1}


def test_a_null_that_is_not_shown_is_gone_and_what_is_beneath_it_is_there() -> None:
    known = [put("v1", 9), put("null", 10, "a")]
    told = difference(known, shows(20, row("v1", 9)))
    assert told.found == {"removed": 1}
    version = fold([*known, *told.observations], millis(20))
    assert version is not None
    assert version.version_id == "v1"


def test_a_null_marker_shown_in_place_of_a_null_object_hides_it() -> None:
    known = [put("null", 10, "a")]
    seen = shows(20, marker_row("null", 12))
    assert found(known, seen) == {"null": 1}
    assert fold([*known, *difference(known, seen).observations], millis(20)) is None


def test_a_null_thought_gone_by_mistake_is_back() -> None:
    known = [put("null", 10, "a"), absent("null", 20)]
    assert found(known, shows(30, row("null", 10, "a"), name="M")) == {"back": 1}


# Keys to be listed again


def test_a_key_whose_facts_all_lie_before_its_page_can_be_compared() -> None:
    known = [put("v1", 19.999), put("null", 18, "a"), *listing("K", 19.9, row("v1", 19))]
    assert again_at(known, shows(20, row("v1", 19), row("null", 18, "a"))) is None


@pytest.mark.parametrize(
    ("known", "due"),
    [
        (put("v1", 20), 20.001),
        (put("v1", 20.7), 20.701),
        (removed("v1", 20.7), 20.701),
        (listing("K", 20.4, row("v1", 3))[0], 20.401),
        (absent("v1", 20.4), 20.401),
        (put("null", 19, "a"), 21),
        (removed("null", 18.5), 20.5),
    ],
)
def test_a_fact_within_the_margin_of_the_page_has_the_key_listed_again_when_it_is_past(
    known: Observation, due: float
) -> None:
    assert again_at([put("v0", 3), known], shows(20)) == millis(due)


def test_a_null_listed_within_two_seconds_of_its_page_is_listed_again() -> None:
    assert again_at([], shows(20.5, row("v1", 20), row("null", 19, "a"))) == millis(21)
    assert again_at([], shows(20.5, row("v1", 20), row("null", 18, "a"))) is None


def test_a_key_with_a_fact_far_in_the_future_is_not_waited_for() -> None:
    assert again_at([put("v1", 20 + SKEW_MS / 1000)], shows(20)) is None
    assert again_at([put("v1", 19.999 + SKEW_MS / 1000)], shows(20)) is not None


# Against a key played on plain lists


def there(known: list[Observation], at: int) -> list[tuple[object, ...]]:
    """All entries that the log has of the key, the newest first."""
    entries = newest_first(live_entries(merge(known), at))
    return [(entry.kind, entry.version_id, entry.etag, entry.size) for entry in entries]


def really(history: KeyHistory) -> list[tuple[object, ...]]:
    return [(entry.kind, entry.version_id, entry.etag, entry.size) for entry in history.entries]


def shown(history: KeyHistory) -> tuple[object, ...] | None:
    entry = history.current
    return entry and (entry.version_id, entry.etag, entry.size)


def folded(known: list[Observation], at: int) -> tuple[object, ...] | None:
    version = fold(known, at)
    return None if version is None else (version.version_id, version.etag, version.size)


def listed(history: KeyHistory, name: str, lag: int = 0) -> KeyListing:
    """All of the key on one page, whose time lies `lag` ms before S3 made it."""
    page = history.now - lag
    rows = tuple(o._replace(page_time=page) for o in history.listed(name, []))
    return KeyListing(KEY, rows, page, name)


@given(key_histories(), st.integers(1, 3000), st.data())
@settings(max_examples=400)
def test_whatever_was_lost_the_present_is_exact_and_every_survivor_known_after_one_comparison(
    history: KeyHistory, wait: int, data: st.DataObject
) -> None:
    known = data.draw(some_of(history.events))
    history.now += wait
    known += difference(known, listed(history, "L")).observations
    for at in (history.now, history.now + 1, history.now + 86_400_000):
        assert folded(known, at) == shown(history)
        assert there(known, at) == really(history)
    assert not difference(known, listed(history, "L")).found
    history.now += wait
    assert not difference(known, listed(history, "M")).found


@given(key_histories(), st.integers(1, 3000))
@settings(max_examples=300)
def test_if_nothing_was_lost_nothing_is_stored(history: KeyHistory, wait: int) -> None:
    history.now += wait
    assert difference(history.events, listed(history, "L")).observations == ()


@given(key_histories(), st.integers(1, 3000), st.data())
@settings(max_examples=200)
def test_events_that_were_not_lost_but_late_leave_the_present_as_it_was_found(
    history: KeyHistory, wait: int, data: st.DataObject
) -> None:
    known = data.draw(some_of(history.events))
    history.now += wait
    known += difference(known, listed(history, "L")).observations
    known = data.draw(shuffled(known + history.events))
    assert there(known, history.now) == really(history)


@given(key_histories(), st.integers(1, 3000), st.data())
@settings(max_examples=300)
def test_a_second_comparison_finds_what_was_lost_after_the_first(
    history: KeyHistory, wait: int, data: st.DataObject
) -> None:
    # Later uploads begin, and are dated, in a later second: an early date is all that could mislead.
    known = data.draw(some_of(history.events))
    history.now += wait
    known += difference(known, listed(history, "L")).observations
    history.now = history.now // 1000 * 1000 + 1000
    before = len(history.events)
    history.play(data.draw(steps(most=4)))
    known += data.draw(some_of(history.events[before:]))
    history.now += wait
    known += difference(known, listed(history, "M")).observations
    assert there(known, history.now) == really(history)
    history.now += wait
    assert not difference(known, listed(history, "N")).found


@given(key_histories(), st.integers(1, 3000), st.sampled_from([5, 700, 1100]), st.data())
@settings(max_examples=300)
def test_a_page_whose_time_lags_is_as_good_once_the_key_is_old_enough_for_it(
    history: KeyHistory, wait: int, lag: int, data: st.DataObject
) -> None:
    known = data.draw(some_of(history.events))
    history.now += wait
    seen = listed(history, "L", lag)
    if (due := again_at(known, seen)) is not None:
        history.now = max(history.now, due + lag)
        seen = listed(history, "L", lag)
        assert again_at(known, seen) is None
    known += difference(known, seen).observations
    assert there(known, history.now) == really(history)
    assert not difference(known, seen).found


def listed_in_pages(history: KeyHistory, name: str, lag: int, data: st.DataObject) -> KeyListing:
    """The key on up to three pages, between which it goes on changing."""
    size = data.draw(st.integers(1, 3))
    first, left = history.now - lag, list(history.entries)
    rows: list[Observation] = []
    for is_last in (False, False, True):
        left = [entry for entry in left if any(entry is other for other in history.entries)]
        page: list[Entry] = left if is_last else left[:size]
        left = left[len(page) :]
        seen = KeyHistory(history.versioning)
        seen.entries, seen.now = page, history.now - lag
        rows += [o._replace(position=len(rows) + (o.position or 0)) for o in seen.listed(name, [])]
        if not left:
            break
        history.now += 1
        history.play(data.draw(steps(most=2)))
        history.now += 1
    return KeyListing(KEY, tuple(rows), first, name)


@given(key_histories(), st.integers(1, 3000), st.sampled_from([0, 5, 1100]), st.data())
@settings(max_examples=400)
def test_whatever_happens_while_a_key_is_listed_its_events_and_the_listing_together_tell_the_present(
    history: KeyHistory, wait: int, lag: int, data: st.DataObject
) -> None:
    known = data.draw(some_of(history.events))
    history.now += wait
    told_live = len(history.events)
    for name in ("L1", "L2", "L3"):
        seen = listed_in_pages(history, name, lag, data)
        if (due := again_at(known, seen)) is None:
            break
        history.now = max(history.now, due + lag)
    known += difference(known, seen).observations
    history.now += 1
    history.play(data.draw(steps(most=2)))
    known = data.draw(shuffled(known + history.events[told_live:]))
    assert there(known, history.now) == really(history)
    assert {o.origin for o in known} <= {EVENT, RECONCILE}
