"""The `null` version, whose id S3 uses again: unversioned, suspended and formerly unversioned buckets.

Times are seconds; an object is told by its ETag.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from snapengine.fold import fold, merge, removal_of
from snapengine.model import ObjectVersion, Observation
from snapengine.nulls import merge_nulls
from snapengine.testing.strategies import (
    Row,
    absent,
    listing,
    marked,
    marker_row,
    millis,
    put,
    removed,
    row,
    sequencer_at,
)

NULL = "null"


def seen_at(observations: Iterable[Observation], at: float) -> ObjectVersion | None:
    """What the key showed; the same in whatever order the observations came."""
    observations = list(observations)
    orders: Iterable[Iterable[Observation]] = itertools.permutations(observations)
    if len(observations) > 5:
        orders = [observations, observations[::-1], [*observations[3:], *observations]]
    found = {fold(order, millis(at)) for order in orders}
    assert len(found) == 1, found
    return found.pop()


def etag_at(observations: Iterable[Observation], at: float) -> str | None:
    """The ETag of what the key showed."""
    found = seen_at(observations, at)
    return found.etag if found is not None else None


# Told by events


def test_in_an_unversioned_bucket_an_object_put_deleted_and_put_again_is_there() -> None:
    history = [put(NULL, 10, "a"), removed(NULL, 11), put(NULL, 12, "b")]
    assert [etag_at(history, at) for at in (10, 11, 11.999, 12)] == ["a", None, None, "b"]


def test_a_null_overwritten_is_gone_and_its_successors_removal_does_not_bring_it_back() -> None:
    history = [put(NULL, 10, "a"), put(NULL, 11, "b"), removed(NULL, 12)]
    assert [etag_at(history, at) for at in (10, 11, 12)] == ["a", "b", None]


def test_all_that_happens_to_a_null_in_one_millisecond_is_ordered_by_sequencer() -> None:
    history = [
        put(NULL, 10, "a")._replace(sequencer="0A"),
        removed(NULL, 10)._replace(sequencer="0a01"),
        put(NULL, 10, "b")._replace(sequencer="0A1"),
    ]
    assert etag_at(history, 10) == "b"
    assert etag_at(history[:2], 10) is None


def test_at_equal_times_a_null_fact_with_a_sequencer_is_later() -> None:
    assert etag_at([put(NULL, 20, "a"), absent(NULL, 20)], 20) == "a"
    assert etag_at([put(NULL, 20, "a"), removed(NULL, 20)._replace(sequencer=None)], 20) == "a"
    assert etag_at([put(NULL, 20, "a")._replace(sequencer=None), removed(NULL, 20)], 20) is None


def test_an_event_of_a_null_delivered_again_changes_nothing() -> None:
    history = [put(NULL, 10, "a"), removed(NULL, 11), put(NULL, 10, "a")]
    assert etag_at(history, 12) is None
    assert len(merge_nulls(history)) == 2


def test_events_without_sequencers_are_ordered_by_time() -> None:
    history = [
        o._replace(sequencer=None) for o in (put(NULL, 10, "a"), removed(NULL, 11), put(NULL, 12, "b"))
    ]
    assert [etag_at(history, at) for at in (10, 11, 12)] == ["a", None, "b"]


def test_in_a_suspended_bucket_a_marker_takes_the_place_of_the_null_object() -> None:
    history = [put(NULL, 10, "a"), marked(NULL, 11), removed(NULL, 12)]
    assert [etag_at(history, at) for at in (10, 11, 12)] == ["a", None, None]


def test_suspending_leaves_what_has_an_id_of_its_own_beneath_the_null() -> None:
    history = [put("v1", 10, "v"), marked(NULL, 11), put(NULL, 12, "a"), removed(NULL, 13)]
    assert [etag_at(history, at) for at in (10, 11, 12, 13)] == ["v", None, "a", "v"]


def test_an_object_older_than_versioning_lies_beneath_the_versions_and_comes_back_when_they_go() -> None:
    history = [
        *listing("L", 20, row("v1", 10), row(NULL, 5, "old")),
        put("v2", 30),
        removed("v2", 31),
        removed("v1", 32),
    ]
    assert [etag_at(history, at) for at in (5, 10, 30, 31, 32)] == ["old", "v1", "v2", "v1", "old"]


def test_a_delete_without_a_version_id_removes_the_null_and_no_other_version() -> None:
    assert etag_at([put("v1", 10), removed(NULL, 11)], 12) == "v1"
    assert etag_at([removed(NULL, 11)], 12) is None


# Told by a listing, and which event that is


def test_a_listed_null_that_is_the_last_event_is_that_event() -> None:
    history = [put(NULL, 10.7, "a"), *listing("L", 20, row(NULL, 10, "a"))]
    found = seen_at(history, 11)
    assert found is not None
    assert (found.event_time, found.time, found.sequencer, found.storage_class) == (
        10_700,
        "event",
        sequencer_at(10.7),
        "STANDARD",
    )
    assert etag_at(history, 10.6) is None


def test_an_event_on_the_very_instant_of_the_page_may_be_what_it_shows() -> None:
    found = seen_at([put(NULL, 20, "a"), *listing("L", 20, row(NULL, 20, "a"))], 20)
    assert found is not None
    assert (found.time, found.storage_class) == ("event", "STANDARD")


def test_an_event_on_the_very_instant_of_the_page_may_come_after_what_it_shows() -> None:
    history = [put(NULL, 10, "a"), put(NULL, 12, "b"), *listing("L", 12, row(NULL, 10, "a"))]
    assert len(merge(history).nulls) == 2
    found = [seen_at(history, at) for at in (10, 11.999, 12)]
    assert [(v.etag, v.time) for v in found if v] == [("a", "event"), ("a", "event"), ("b", "event")]


@pytest.mark.parametrize(
    "listed",
    [row(NULL, 10, "b"), row(NULL, 11, "a"), row(NULL, 9, "a"), marker_row(NULL, 10)],
    ids=["other content", "later", "earlier, though not multipart", "a marker"],
)
def test_a_listed_null_that_is_not_the_last_event_is_later_than_it(listed: Row) -> None:
    history = [put(NULL, 10.7, "a"), *listing("L", 20, listed)]
    found = seen_at(history, 20)
    assert (found and (found.etag, found.time)) == (listed.etag and (listed.etag, "listed"))
    assert etag_at([*history, put(NULL, 21, "c")], 21) == "c"


@pytest.mark.parametrize("begun", [9, 10, 0])
def test_a_listed_multipart_null_is_the_last_event_if_begun_before_it_ended(begun: float) -> None:
    history = [put(NULL, 10.7, "a-2"), *listing("L", 20, row(NULL, begun, "a-2"))]
    found = seen_at(history, 20)
    assert found is not None
    assert (found.event_time, found.time) == (10_700, "event")
    assert etag_at(history, 10) is None


def test_a_listed_multipart_null_begun_after_the_last_event_is_another() -> None:
    history = [put(NULL, 10.7, "a-2"), *listing("L", 20, row(NULL, 11, "a-2"))]
    found = seen_at(history, 20)
    assert found is not None
    assert found.time == "listed"


def test_a_listed_null_marker_dated_midnight_is_the_marker_that_the_last_event_tells() -> None:
    history = [put("v1", 9), marked(NULL, 10.7), *listing("L", 20, marker_row(NULL, 0), row("v1", 9))]
    assert len(merge_nulls(o for o in history if o.version_id == NULL)) == 1
    assert [etag_at(history, at) for at in (9, 10.699, 10.7)] == ["v1", "v1", None]


def test_a_listed_null_wins_over_an_overwritten_one_of_the_same_second() -> None:
    # The event of the second put, at 10.505, is lost.
    history = [put(NULL, 10.501, "a"), *listing("L", 20, row(NULL, 10, "b"))]
    assert [etag_at(history, at) for at in (10.501, 20)] == ["b", "b"]


def test_a_young_listed_null_listed_again_is_corrected() -> None:
    first = [put(NULL, 10.1, "a"), *listing("L", 10.3, row(NULL, 10, "a"))]
    again = listing("M", 13, row(NULL, 10, "b"))
    assert etag_at(first, 13) == "a"
    assert [etag_at([*first, *again], at) for at in (10.2, 13)] == ["a", "b"]


def test_a_listed_null_is_not_an_event_from_after_its_page() -> None:
    history = [put(NULL, 10.7, "a-2"), put(NULL, 25, "a-2"), *listing("L", 20, row(NULL, 9, "a-2"))]
    assert len(merge_nulls(history)) == 2
    found = seen_at(history, 20)
    assert found is not None
    assert (found.event_time, found.time, found.storage_class) == (10_700, "event", "STANDARD")


def test_a_listed_null_is_later_than_every_null_fact_before_its_page_and_no_later_one() -> None:
    page = listing("L", 20, row(NULL, 19, "b"))
    assert etag_at([put(NULL, 19.999, "a"), *page], 20) == "b"
    assert etag_at([put(NULL, 20, "a"), *page], 20) == "a"
    assert etag_at([put(NULL, 20.001, "a"), *page], 20) == "b"
    assert etag_at([put(NULL, 20.001, "a"), *page], 20.001) == "a"
    assert etag_at([removed(NULL, 20.001), *page], 20.001) is None


def test_content_written_again_after_other_content_is_not_the_first_writing_of_it() -> None:
    # z by multipart, then b, then z again with its event lost, listed with an early initiation.
    history = [put(NULL, 10, "z-2"), put(NULL, 15, "b"), *listing("L", 30, row(NULL, 9, "z-2"))]
    assert [etag_at(history, at) for at in (10, 14.999, 30)] == ["z-2", "z-2", "z-2"]
    found = seen_at(history, 30)
    assert found is not None
    assert found.time == "listed"


def test_a_null_removed_and_put_again_with_an_early_time_is_alive() -> None:
    history = [
        put(NULL, 20.504, "e-2"),
        removed(NULL, 22.605),
        *listing("L", 30, row(NULL, 20, "e-2")),
    ]
    assert [etag_at(history, at) for at in (20.504, 22.604, 30)] == ["e-2", "e-2", "e-2"]


def test_an_unmatched_null_is_not_shown_before_the_null_facts_that_it_must_have_followed() -> None:
    # Begun at 10; what was written at 15 it replaced, so until then the older content was there.
    history = [put(NULL, 11, "a"), put(NULL, 15, "b"), *listing("L", 30, row(NULL, 10, "z-2"))]
    assert [etag_at(history, at) for at in (10, 11, 14.999, 15, 30)] == [None, "a", "a", "z-2", "z-2"]


def test_of_two_listed_nulls_the_one_on_the_later_page_is_later() -> None:
    history = [*listing("L", 20, row(NULL, 15, "a")), *listing("M", 30, row(NULL, 25, "b"))]
    assert [etag_at(history, at) for at in (15, 24.999, 25, 30)] == ["a", "a", "b", "b"]


def test_a_null_seen_on_an_earlier_page_is_not_displaced_there_by_an_upload_begun_before_it() -> None:
    history = [*listing("L", 20, row(NULL, 15, "a")), *listing("M", 30, row(NULL, 10, "z-2"))]
    assert [etag_at(history, at) for at in (10, 15, 19.999, 30)] == [None, "a", "a", "z-2"]


def test_a_null_listed_after_another_one_is_not_an_event_older_than_that() -> None:
    history = [
        put(NULL, 10, "z-2"),
        *listing("L", 20, row(NULL, 15, "a")),
        *listing("M", 30, row(NULL, 9, "z-2")),
    ]
    assert [etag_at(history, at) for at in (10, 15, 30)] == ["z-2", "a", "z-2"]


def test_the_same_null_on_many_pages_is_one_fact() -> None:
    pages = [o for i in range(4) for o in listing(f"L{i}", 20 + i, row(NULL, 10, "a"))]
    assert len(merge_nulls(pages)) == 1
    assert len(merge_nulls([put(NULL, 10.7, "a"), *pages])) == 1


def test_a_null_removed_and_put_again_takes_no_place_from_the_pages_of_the_first() -> None:
    # On the first page v1 and v2 are above the null; on the last the null, put again, is above v1.
    history = [
        put("v1", 20.9),
        put(NULL, 20.5, "e-2"),
        *listing("L", 21, row("v2", 20), row("v1", 20), row(NULL, 20, "e-2")),
        removed("v2", 21.9),
        removed(NULL, 22),
        *listing("M", 30, row(NULL, 20, "e-2"), row("v1", 20)),
    ]
    assert [etag_at(history, at) for at in (20.5, 21, 21.999, 30)] == ["e-2", "v2", "v1", "e-2"]


def test_a_null_listed_above_a_version_that_came_after_its_event_is_another_null() -> None:
    # A null marker; versioning on and v1 put; suspended, and a lifecycle marker of the same day, event lost.
    history = [marked(NULL, 10), put("v1", 11), *listing("L", 20, marker_row(NULL, 0), row("v1", 11))]
    assert [etag_at(history, at) for at in (10, 20)] == [None, None]


def test_a_null_listed_above_a_version_with_a_lesser_sequencer_may_be_the_last_event() -> None:
    # Two requests at once: the one that was ordered first ended last.
    told = [put("v1", 10.8)._replace(sequencer=sequencer_at(10.6)), put(NULL, 10.7, "a")]
    found = seen_at([*told, *listing("L", 20, row(NULL, 10, "a"), row("v1", 10))], 20)
    assert found is not None
    assert (found.etag, found.event_time, found.time) == ("a", 10_700, "event")


def test_a_null_matched_with_its_event_dates_what_the_listing_shows_above_it() -> None:
    history = [put(NULL, 10.7, "n"), *listing("L", 20, row("v1", 10), row(NULL, 10, "n"))]
    assert [etag_at(history, at) for at in (10, 10.7)] == [None, "v1"]


def test_null_and_versions_of_one_second_are_ordered_by_the_listing_that_shows_them() -> None:
    rows = [row(NULL, 10, "n"), row("v1", 10)]
    assert etag_at([put("v1", 10.9), *listing("L", 20, *rows)], 11) == "n"
    assert etag_at([put("v1", 10.1), *listing("L", 20, *rows[::-1])], 11) == "v1"


# Removal by absence


def test_a_null_absent_from_a_listing_is_gone_from_its_page_on() -> None:
    history = [put(NULL, 10, "a"), absent(NULL, 20)]
    assert [etag_at(history, at) for at in (19.999, 20)] == ["a", None]
    assert etag_at([*history, put(NULL, 21, "b")], 21) == "b"
    assert len(merge_nulls([*history, absent(NULL, 20)])) == 2


def test_a_listed_null_whose_creation_is_known_from_listings_only_can_be_absent_too() -> None:
    history = [*listing("L", 15, row(NULL, 10, "a")), absent(NULL, 20, "M")]
    assert [etag_at(history, at) for at in (15, 19.999, 20)] == ["a", "a", None]


@pytest.mark.parametrize("before", [True, False], ids=["told by an event", "listed before"])
def test_a_later_page_that_shows_the_null_voids_its_absence(before: bool) -> None:
    first = [put(NULL, 10.2, "a")] if before else listing("K", 15, row(NULL, 10, "a"))
    history = [*first, absent(NULL, 20), *listing("M", 30, row(NULL, 10, "a"))]
    assert [etag_at(history, at) for at in (20, 25, 30)] == ["a", "a", "a"]
    found = seen_at(history, 30)
    assert found is not None
    assert found.time == ("event" if before else "listed")


def test_a_multipart_null_seen_before_and_after_an_absence_was_there_all_the_time() -> None:
    history = [
        *listing("K", 15, row(NULL, 9, "z-2")),
        absent(NULL, 20),
        *listing("M", 30, row(NULL, 9, "z-2")),
    ]
    assert len(merge_nulls(history)) == 1
    assert [etag_at(history, at) for at in (9, 20, 30)] == ["z-2", "z-2", "z-2"]


def test_a_page_of_the_same_instant_voids_no_absence_of_a_null() -> None:
    history = [put(NULL, 10.2, "a"), absent(NULL, 20), *listing("M", 20, row(NULL, 10, "a"))]
    assert [etag_at(history, at) for at in (19.999, 20)] == ["a", None]


def test_a_null_put_after_an_absence_does_not_void_it() -> None:
    history = [put(NULL, 10, "a"), absent(NULL, 20), *listing("M", 30, row(NULL, 25, "a"))]
    assert [etag_at(history, at) for at in (19.999, 20, 24.999, 25)] == ["a", None, None, "a"]


def test_a_null_that_may_have_been_put_in_the_second_of_an_absence_does_not_void_it() -> None:
    history = [put(NULL, 10, "a"), absent(NULL, 20.5), *listing("M", 30, row(NULL, 20, "b"))]
    assert [etag_at(history, at) for at in (19.999, 20.499, 20.5, 30)] == ["a", "a", "b", "b"]


def test_a_multipart_null_begun_before_an_absence_is_there_from_it_on() -> None:
    history = [put(NULL, 10, "a"), absent(NULL, 20), *listing("M", 30, row(NULL, 9, "z-2"))]
    assert [etag_at(history, at) for at in (10, 19.999, 20, 30)] == ["a", "a", "z-2", "z-2"]


# Why a null version is gone


def _ended(later: list[Observation], view: ObjectVersion | None) -> tuple[str, int] | None:
    assert view is not None
    removal = removal_of(merge(later), view)
    return None if removal is None else (removal.kind, removal.time)


def test_a_null_ends_with_what_took_its_place() -> None:
    history = [put(NULL, 10, "a"), put(NULL, 12, "b"), removed(NULL, 13)]
    assert _ended(history, seen_at(history, 10)) == ("Created", 12_000)
    assert _ended(history, seen_at(history, 12)) == ("VersionDeleted", 13_000)
    assert _ended(history[:2], seen_at(history, 12)) is None


def test_a_null_known_from_a_listing_ends_with_its_absence_from_another() -> None:
    listed = listing("L", 15, row(NULL, 10, "a"))
    assert _ended([*listed, absent(NULL, 20, "M")], seen_at(listed, 15)) == ("VersionDeleted", 20_000)


def test_a_null_whose_time_is_learned_better_has_not_ended() -> None:
    listed = listing("L", 15, row(NULL, 10, "a"))
    assert _ended([*listed, put(NULL, 10.7, "a")], seen_at(listed, 15)) is None


def test_a_null_written_again_with_the_same_content_can_be_read() -> None:
    history = [put(NULL, 10, "a"), put(NULL, 12, "b"), put(NULL, 14, "a")]
    assert _ended(history, seen_at(history, 10)) is None
