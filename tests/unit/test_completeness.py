"""What a view promises follows from its instant, its prefix and its epoch, and from nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine.completeness import completeness, settled_until, verified_since
from snapengine.log import EpochCutter
from snapengine.model import Epoch, Level, Watermarks
from snapengine.testing.store_contract import BUCKET, T, config
from tests.worker_fakes import Store

SETTLE = 120_000
ENABLED, BASELINE_ENDED, LISTED, CAUGHT_UP = T - 9_000_000, T - 6_000_000, T - 3_000_000, T
MARKS = Watermarks(
    caught_up=CAUGHT_UP,
    verified={"": LISTED},
    baseline_ended=BASELINE_ENDED,
    enabled_at=ENABLED,
    settle_ms=SETTLE,
)
RANK = {"provisional": 0, "settled": 1, "verified": 2}


def epoch(marks: Watermarks = MARKS) -> Epoch:
    return Epoch(number=7, time=T + 60_000, cover={0: 3}, watermarks=marks)


def level(at: int, prefix: str = "", **changes: object) -> Level:
    marks = replace(MARKS, **changes)  # type: ignore[arg-type]  # fields by name
    return completeness(at, prefix, epoch(marks)).level


def reason(at: int, prefix: str = "", **changes: object) -> str:
    marks = replace(MARKS, **changes)  # type: ignore[arg-type]  # fields by name
    return completeness(at, prefix, epoch(marks)).reason


def test_verified_needs_a_listing_begun_strictly_after_the_instant() -> None:
    assert level(LISTED - 1) == "verified"
    assert level(LISTED) != "verified"
    assert "A complete listing begun at 2023-11-14T21:23:20.000Z, after this instant" in reason(LISTED - 1)


def test_settled_reaches_up_to_the_watermark_less_the_settle_time_inclusive() -> None:
    assert settled_until(MARKS) == CAUGHT_UP - SETTLE
    assert level(CAUGHT_UP - SETTLE) == "settled"
    assert level(CAUGHT_UP - SETTLE + 1) == "provisional"
    assert "all events sent before 2023-11-14T22:13:20.000Z, 120 s and more" in reason(CAUGHT_UP - SETTLE)
    assert "may still be on their way" in reason(CAUGHT_UP)


def test_the_settle_time_is_the_buckets_own() -> None:
    assert level(CAUGHT_UP - 5_000, settle_ms=5_000) == "settled"
    assert level(CAUGHT_UP - 4_999, settle_ms=5_000) == "provisional"
    assert level(CAUGHT_UP, settle_ms=0) == "settled"


def test_without_a_caught_up_watermark_nothing_is_settled() -> None:
    assert settled_until(replace(MARKS, caught_up=None)) is None
    assert level(LISTED, caught_up=None) == "provisional"
    assert level(LISTED - 1, caught_up=None) == "verified"


def test_before_the_baseline_has_ended_everything_is_provisional() -> None:
    for at in (0, LISTED - 1, CAUGHT_UP - SETTLE):
        assert level(at, baseline_ended=None) == "provisional"
    assert "the baseline) had not ended" in reason(0, baseline_ended=None)


def test_until_a_complete_listing_was_compared_everything_is_provisional() -> None:
    for at in (0, BASELINE_ENDED, CAUGHT_UP - SETTLE):
        assert level(at, verified={}) == "provisional"
    assert "no complete listing has been compared" in reason(BASELINE_ENDED, verified={})


def test_a_listing_of_the_whole_bucket_verifies_every_prefix() -> None:
    assert level(LISTED - 1, "ct/") == "verified"
    assert level(LISTED - 1, "ct/2026/") == "verified"


def test_a_listing_of_a_prefix_verifies_what_is_below_it_alone() -> None:
    listed = {"ct/": LISTED}
    assert level(LISTED - 1, "ct/", verified=listed) == "verified"
    assert level(LISTED - 1, "ct/2026/", verified=listed) == "verified"
    for other in ("", "c", "ct", "mr/", "CT/"):
        assert level(LISTED - 1, other, verified=listed) == "provisional"
        assert level(CAUGHT_UP - SETTLE, other, verified=listed) == "provisional"


def test_of_several_listings_the_newest_that_includes_the_prefix_counts() -> None:
    listed = {"": LISTED, "ct/": LISTED + 50, "ct/2026/": LISTED + 20, "mr/": LISTED + 99}
    marks = replace(MARKS, verified=listed)
    assert verified_since("", marks) == LISTED
    assert verified_since("ct/", marks) == LISTED + 50
    assert verified_since("ct/2026/08/", marks) == LISTED + 50
    assert verified_since("us/", marks) == LISTED
    assert verified_since("mr", marks) == LISTED
    assert verified_since("mr/", replace(MARKS, verified={})) is None


def test_history_is_recorded_from_the_instant_of_enabling_on() -> None:
    assert completeness(ENABLED, "", epoch()).history == "recorded"
    before = completeness(ENABLED - 1, "", epoch())
    assert before.history == "surviving"
    assert before.level == "verified"
    assert "was enabled at 2023-11-14T19:43:20.000Z, after that" in before.reason
    unknown = completeness(T, "", epoch(replace(MARKS, enabled_at=None)))
    assert unknown.history == "surviving"
    assert "was not known either" in unknown.reason


def test_a_bucket_of_which_nothing_is_known_yet_promises_nothing() -> None:
    found = completeness(T, "", Epoch(number=0, time=0, cover={}))
    assert (found.level, found.history) == ("provisional", "surviving")
    assert found.watermarks == Watermarks()


def test_the_watermarks_are_those_of_the_epoch() -> None:
    assert completeness(T, "", epoch()).watermarks is MARKS


_INSTANTS = st.integers(T - 10, T + 10)
_MAYBE = st.none() | _INSTANTS
_MARKS = st.builds(
    Watermarks,
    caught_up=_MAYBE,
    verified=st.dictionaries(st.sampled_from(["", "a", "a/", "b/"]), _INSTANTS),
    baseline_ended=_MAYBE,
    enabled_at=_MAYBE,
    settle_ms=st.integers(0, 5),
)


@given(_MARKS, _INSTANTS, st.integers(0, 20), st.sampled_from(["", "a", "a/", "a/c", "b/"]))
def test_an_earlier_instant_never_promises_less(
    marks: Watermarks, at: int, earlier: int, prefix: str
) -> None:
    late, early = (completeness(each, prefix, epoch(marks)) for each in (at, at - earlier))
    assert RANK[early.level] >= RANK[late.level]


@given(_MARKS, _INSTANTS, st.sampled_from(["", "a", "a/", "b/"]), st.sampled_from(["", "c", "/"]))
def test_a_longer_prefix_never_promises_less(marks: Watermarks, at: int, prefix: str, more: str) -> None:
    whole, part = (completeness(at, each, epoch(marks)) for each in (prefix, prefix + more))
    assert RANK[part.level] >= RANK[whole.level]


@pytest.fixture
def store() -> Store:
    store = Store()
    store.reader.put_config(config(enabled_at=ENABLED, baseline_ended=BASELINE_ENDED))
    return store


async def test_a_level_never_changes_for_an_epoch_whatever_is_learned_later(store: Store) -> None:
    cutter = EpochCutter(store.log, BUCKET, lambda: T)
    at = CAUGHT_UP - SETTLE
    levels = [(await cutter.cut()).number]
    await store.log.note_verified(BUCKET, "", LISTED)
    levels.append((await cutter.cut()).number)
    await store.log.raise_caught_up(BUCKET, CAUGHT_UP)
    levels.append((await cutter.cut()).number)
    await store.log.note_verified(BUCKET, "", at + 1)
    levels.append((await cutter.cut()).number)
    found = []
    for number in levels:
        kept = store.reader.epoch(BUCKET, number)
        assert kept
        found.append(completeness(at, "", kept).level)
    assert found == ["provisional", "provisional", "settled", "verified"]


def test_a_slice_that_begins_before_the_bucket_was_enabled_says_so() -> None:
    marks = Watermarks(enabled_at=1_000, baseline_ended=2_000)
    found = completeness(5_000, "", Epoch(1, 9_000, {}, marks), start=500)
    assert found.history == "surviving"
    assert completeness(5_000, "", Epoch(1, 9_000, {}, marks), start=1_000).history == "recorded"


def test_a_view_after_the_bucket_was_disabled_says_that_the_rest_is_unknown() -> None:
    marks = Watermarks(enabled_at=1_000, baseline_ended=2_000, disabled_at=4_000)
    found = completeness(5_000, "", Epoch(1, 9_000, {}, marks))
    assert found.history == "ended"
    assert "what happened since then is unknown" in found.reason
    assert completeness(4_000, "", Epoch(1, 9_000, {}, marks)).history == "recorded"


def test_before_the_first_epoch_nothing_was_known() -> None:
    assert "nothing was known" in completeness(5, "", Epoch(0, 0, {})).reason


def test_a_listing_from_before_the_bucket_was_enabled_again_settles_nothing() -> None:
    marks = Watermarks(
        enabled_at=5_000, baseline_ended=6_000, caught_up=500_000, verified={"": 4_999}, settle_ms=1_000
    )
    assert completeness(7_000, "", Epoch(1, 9_000, {}, marks)).level == "provisional"
    again = replace(marks, verified={"": 6_500})
    assert completeness(7_000, "", Epoch(1, 9_000, {}, again)).level == "settled"
