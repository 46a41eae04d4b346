"""One key's state at an instant, from versions with ids of their own. Times are seconds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from snapengine.fold import fold, merge, removal_of
from snapengine.model import BASELINE, ObjectVersion, Observation
from snapengine.testing.strategies import (
    KEY,
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


def seen_at(observations: Iterable[Observation], at: float) -> ObjectVersion | None:
    """What the key showed; the same in whatever order the observations came."""
    observations = list(observations)
    orders: Iterable[Iterable[Observation]] = itertools.permutations(observations)
    if len(observations) > 5:
        orders = [observations, observations[::-1], [*observations[3:], *observations]]
    found = {fold(order, millis(at)) for order in orders}
    assert len(found) == 1, found
    return found.pop()


def version_at(observations: Iterable[Observation], at: float) -> str | None:
    """The id of the version that the key showed."""
    found = seen_at(observations, at)
    return found.version_id if found is not None else None


# Versioned buckets


def test_a_key_that_nobody_reported_is_absent() -> None:
    assert fold([], millis(10)) is None


def test_the_instant_is_inclusive() -> None:
    history = [put("v1", 10.5), put("v2", 11)]
    assert version_at(history, 10.499) is None
    assert version_at(history, 10.5) == "v1"
    assert version_at(history, 10.999) == "v1"
    assert version_at(history, 11) == "v2"


def test_a_version_shows_all_that_its_event_said() -> None:
    event = put("v1", 10.5, "e")
    assert seen_at([event, marked("v0", 9)], 11) == ObjectVersion(
        KEY, "v1", 7, "e", 10_500, "event", None, sequencer_at(10.5)
    )


def test_a_marker_hides_the_object_and_its_removal_brings_it_back() -> None:
    history = [put("v1", 10), marked("v2", 11), removed("v2", 12)]
    assert [version_at(history, at) for at in (10, 11, 11.999, 12)] == ["v1", None, None, "v1"]


def test_removing_the_current_version_brings_the_earlier_one_back() -> None:
    history = [put("v1", 10), put("v2", 11), removed("v2", 12)]
    assert [version_at(history, at) for at in (10, 11, 12)] == ["v1", "v2", "v1"]


def test_removing_a_noncurrent_version_changes_nothing_but_what_lies_beneath() -> None:
    history = [put("v1", 10), put("v2", 11), removed("v1", 12), removed("v2", 13)]
    assert [version_at(history, at) for at in (12, 13)] == ["v2", None]


def test_a_removed_version_is_there_until_it_is_removed() -> None:
    history = [put("v1", 10), removed("v1", 12)]
    assert [version_at(history, at) for at in (10, 11.999, 12)] == ["v1", "v1", None]


def test_a_marker_on_a_marker_changes_nothing_and_each_has_to_be_removed() -> None:
    history = [put("v1", 10), marked("v2", 11), marked("v3", 12), removed("v3", 13), removed("v2", 14)]
    assert [version_at(history, at) for at in (11, 12, 13, 14)] == [None, None, None, "v1"]


def test_a_marker_of_a_key_never_seen_is_absence() -> None:
    assert version_at([marked("v1", 10)], 11) is None
    assert version_at([marked("v1", 10), removed("v1", 11)], 12) is None


def test_the_removal_of_a_version_nobody_recorded_changes_nothing() -> None:
    assert version_at([removed("v9", 10)], 11) is None
    assert version_at([put("v1", 10), removed("v9", 10.5)], 11) == "v1"


def test_a_removal_and_a_creation_within_one_second() -> None:
    history = [put("v1", 10.100), removed("v1", 10.200), put("v2", 10.300), marked("v3", 10.300_4)]
    history[3] = history[3]._replace(sequencer=sequencer_at(10.301))
    assert [version_at(history, at) for at in (10.1, 10.2, 10.299, 10.3)] == ["v1", None, None, None]


def test_a_version_put_then_removed_for_good_stays_absent_when_its_event_is_delivered_again() -> None:
    history = [put("v1", 10), removed("v1", 11)]
    assert version_at([*history, put("v1", 10)], 12) is None


def test_a_marker_removed_after_a_checkpoint_brings_back_what_was_beneath() -> None:
    assert version_at([put("v1", 10), marked("v2", 11), removed("v2", 30)], 30) == "v1"


@pytest.mark.parametrize("extra", ["", "0", "00000"])
def test_sequencers_of_unequal_length_and_case_order_events_of_one_millisecond(extra: str) -> None:
    first = put("v1", 10)._replace(sequencer="0055AED6DCD9028")
    second = put("v2", 10)._replace(sequencer="0055aed6dcd90281e5" + extra)
    assert version_at([first, second], 10) == "v2"


def test_sequencers_order_events_whose_times_are_swapped() -> None:
    earlier, later = put("v1", 10.002), put("v2", 10.001)
    later = later._replace(sequencer=sequencer_at(10.003))
    assert version_at([earlier, later], 10.002) == "v2"


# One fact told several times


def test_an_event_is_believed_before_a_listing_and_the_listing_tells_the_rest() -> None:
    event = put("v1", 10.7, "e")._replace(size=None)
    [listed] = listing("L", 20, row("v1", 10, "other"))
    assert seen_at([event, listed], 11) == ObjectVersion(
        KEY, "v1", 7, "e", 10_700, "event", "STANDARD", sequencer_at(10.7)
    )


def test_what_an_event_said_is_not_taken_back_by_a_listing() -> None:
    event = put("v1", 10.7)._replace(storage_class="GLACIER")
    for known in (None, "STANDARD"):
        [listed] = listing("L", 20, row("v1", 10))
        found = seen_at([event, listed._replace(storage_class=known)], 11)
        assert found is not None
        assert found.storage_class == "GLACIER"


def test_of_two_listings_the_newer_is_believed() -> None:
    [old], [new] = listing("M", 20, row("v1", 10, "old")), listing("L", 30, row("v1", 10, "new"))
    found = seen_at([old, new], 11)
    assert found is not None
    assert found.etag == "new"


def test_of_two_events_that_differ_the_least_is_believed() -> None:
    a, b = put("v1", 10.7), put("v1", 10)._replace(sequencer=sequencer_at(10.7).lower()[:-2])
    found = seen_at([a, b, put("v1", 10.9)], 11)
    assert found is not None
    assert (found.event_time, found.sequencer) == (10_000, b.sequencer)


def test_one_event_written_in_two_ways_gives_one_answer() -> None:
    by_queue = put("v1", 10)._replace(sequencer="0AB0", event_name="ObjectCreated:Put")
    by_bus = by_queue._replace(sequencer="0ab", event_name="Object Created", size=None)
    assert version_at([by_queue, by_bus], 10) == "v1"
    assert version_at([by_queue, by_queue._replace(sequencer="0ab")], 10) == "v1"


def test_two_pages_of_one_listing_that_differ_give_one_answer() -> None:
    [page] = listing("L", 20, row("v1", 10))
    assert version_at([page, page._replace(storage_class="GLACIER", position=1)], 11) == "v1"


def test_a_version_first_listed_and_later_told_by_an_event_keeps_the_promised_past_and_gains_its_time() -> (
    None
):
    listed = listing("L", 20, row("v1", 10))
    event = put("v1", 10.7)
    assert version_at(listed, 10.3) == "v1"  # the view at an epoch that covers the listing only
    assert version_at([*listed, event], 10.3) is None  # today's best knowledge
    assert version_at([*listed, event], 10.7) == "v1"


# Listed times


def test_the_time_of_what_only_a_listing_shows_says_so() -> None:
    history = [put("v1", 10), *listing("L", 30, row("v2", 20), row("v1", 10))]
    found = seen_at(history, 20.3)
    assert found is not None
    assert (found.version_id, found.event_time, found.time, found.sequencer) == ("v2", 20_000, "listed", None)
    before = seen_at(history, 19.999)
    assert before is not None
    assert (before.version_id, before.time) == ("v1", "event")


def test_a_marker_listed_above_a_put_of_the_same_second_hides_it() -> None:
    history = [put("v1", 10.2), *listing("L", 20, marker_row("v2", 10), row("v1", 10))]
    assert version_at(history, 11) is None


def test_a_put_and_a_delete_of_one_second_seen_only_by_listing_are_ordered_by_it() -> None:
    assert version_at(listing("L", 20, marker_row("v2", 10), row("v1", 10)), 10) is None
    assert version_at(listing("L", 20, row("v1", 10), marker_row("v2", 10)), 10) == "v1"


def test_a_multipart_upload_listed_with_its_initiation_counts_as_the_listing_orders_it() -> None:
    # Begun at 10 and ended at 12, its event lost, against a put at 11.
    above = [put("v1", 11), *listing("L", 20, row("v2", 10, "e-2"), row("v1", 11))]
    assert [version_at(above, at) for at in (10.5, 11)] == [None, "v2"]
    beneath = [put("v1", 11), *listing("L", 20, row("v1", 11), row("v2", 10, "e-2"))]
    assert [version_at(beneath, at) for at in (10.5, 11)] == ["v2", "v1"]


def test_a_lifecycle_marker_dated_midnight_is_not_before_what_it_hides() -> None:
    history = [put("v1", 50_000), *listing("L", 90_000, marker_row("v2", 0), row("v1", 50_000))]
    assert [version_at(history, at) for at in (0, 49_999, 50_000)] == [None, None, None]
    removed_again = [*history, removed("v2", 95_000)]
    assert version_at(removed_again, 95_000) == "v1"


def test_a_lifecycle_marker_whose_event_is_dated_midnight_hides_what_it_was_put_on() -> None:
    told = marked("v2", 0)._replace(sequencer=sequencer_at(60_000))
    history = [put("v1", 50_000), told]
    assert version_at(history, 60_000) is None


def test_a_listed_version_lies_above_the_later_event_of_the_same_second_beneath_it() -> None:
    # All three are listed as 20.000; v2's event says 20.502, and v3's is lost.
    history = [put("v2", 20.502), *listing("L", 30, row("v3", 20), row("v2", 20), row("v1", 20))]
    assert [version_at(history, at) for at in (20, 20.501, 20.502)] == ["v1", "v1", "v3"]


def test_an_entry_raised_by_a_lower_one_raises_the_upper_one_in_another_listing() -> None:
    history = [
        put("v1", 20.502),
        *listing("L1", 30, row("v2", 20), row("v1", 20)),
        *listing("L2", 40, row("v3", 20), row("v2", 20)),
    ]
    assert [version_at(history, at) for at in (20.501, 20.502)] == [None, "v3"]


def test_a_late_event_dates_the_listed_version_and_uncovers_the_one_before_it() -> None:
    history = [put("v2", 10), *listing("L", 30, row("v3", 20), row("v2", 10))]
    assert version_at(history, 20.3) == "v3"
    assert [version_at([*history, put("v3", 20.7)], at) for at in (20.3, 20.7)] == ["v2", "v3"]


def test_a_reconcile_that_stores_every_entry_of_a_key_keeps_the_order_of_one_second() -> None:
    history = [put("v2", 10.9), *listing("L", 20, row("v3", 10), row("v2", 10))]
    assert version_at(history, 11) == "v3"
    assert version_at([history[0], history[1]], 11) == "v2"  # had it stored v3 only


def test_a_version_removed_since_is_still_above_the_one_that_a_later_listing_shows_again() -> None:
    history = [
        *listing("L1", 11, row("v2", 10), row("v1", 10)),
        removed("v2", 15),
        *listing("L2", 20, row("v1", 10)),
    ]
    assert [version_at(history, at) for at in (11, 14.999, 15, 20)] == ["v2", "v2", "v1", "v1"]


def test_a_baseline_and_a_reconcile_tell_the_same() -> None:
    rows = listing("L", 20, row("v2", 10), row("v1", 10))
    baseline = [o._replace(origin=BASELINE) for o in rows]
    assert seen_at(baseline, 15) == seen_at(rows, 15)


# Removal by absence


def test_a_version_absent_from_a_listing_is_gone_from_its_page_on() -> None:
    history = [put("v1", 10), absent("v1", 20)]
    assert [version_at(history, at) for at in (19.999, 20)] == ["v1", None]


def test_a_later_page_that_shows_the_version_voids_its_absence() -> None:
    history = [put("v1", 10), absent("v1", 20)]
    assert version_at(history, 25) is None  # as the epoch before the later page still says
    later = [*history, *listing("M", 30, row("v1", 10))]
    assert [version_at(later, at) for at in (20, 25, 30)] == ["v1", "v1", "v1"]


def test_an_earlier_page_that_shows_the_version_voids_nothing() -> None:
    history = [*listing("L", 15, row("v1", 10)), absent("v1", 20)]
    assert [version_at(history, at) for at in (19.999, 20)] == ["v1", None]


def test_a_page_of_the_same_instant_voids_no_absence() -> None:
    history = [put("v1", 10), absent("v1", 20), *listing("M", 20, row("v1", 10))]
    assert [version_at(history, at) for at in (19.999, 20)] == ["v1", None]


def test_a_marker_shown_on_a_later_page_is_still_there() -> None:
    history = [put("v1", 9), marked("v2", 10), absent("v2", 20, "M"), *listing("N", 30, marker_row("v2", 10))]
    assert version_at(history, 25) is None


def test_an_absence_after_the_page_that_voided_an_earlier_one_counts() -> None:
    history = [
        put("v1", 10),
        absent("v1", 20),
        *listing("M", 30, row("v1", 10)),
        absent("v1", 40, "N"),
        absent("v1", 50, "O"),
    ]
    assert [version_at(history, at) for at in (20, 39.999, 40)] == ["v1", "v1", None]


def test_of_several_absences_the_first_that_stands_says_since_when() -> None:
    # The version was gone by 20: that it was gone at 30 too takes nothing back.
    history = [put("v1", 10), absent("v1", 30, "M"), absent("v1", 20)]
    assert [version_at(history, at) for at in (19.999, 20)] == ["v1", None]


@pytest.mark.parametrize("told_at", [12, 25])
def test_the_time_of_a_real_removal_wins_over_an_absence(told_at: float) -> None:
    history = [put("v1", 10), absent("v1", 20), removed("v1", told_at)]
    assert [version_at(history, at) for at in (told_at - 0.001, told_at)] == ["v1", None]


def test_no_page_voids_a_real_removal() -> None:
    history = [put("v1", 10), removed("v1", 12), *listing("L", 20, row("v1", 10))]
    assert version_at(history, 20) is None


def test_a_version_that_is_gone_still_orders_and_dates_what_was_listed_above_it() -> None:
    history = [put("v1", 10.7), *listing("L", 20, row("v2", 10), row("v1", 10)), removed("v1", 25)]
    assert [version_at(history, at) for at in (10, 10.7, 25)] == [None, "v2", "v2"]


# Why a version is gone


def test_the_removal_of_a_version_is_found_by_its_id() -> None:
    facts = merge([put("v1", 10), put("v2", 11), removed("v1", 12), absent("v2", 20)])
    v1, v2 = fold([put("v1", 10)], 11_000), fold([put("v2", 11)], 11_000)
    assert v1 is not None
    assert v2 is not None
    assert [(r.time, r.origin) for v in (v1, v2) if (r := removal_of(facts, v))] == [
        (12_000, "event"),
        (20_000, "reconcile"),
    ]
    assert removal_of(merge([put("v1", 10)]), v1) is None
