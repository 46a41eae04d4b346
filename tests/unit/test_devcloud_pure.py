"""The parts of the embedded cloud that are functions of values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine.devcloud.clock import EventClock, Moment
from snapengine.devcloud.listing import PageRequest, page_of
from snapengine.devcloud.records import encode_key
from snapengine.devcloud.rules import Rule, objection

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Version:
    version_id: str


def rule(*events: str, prefix: str = "", suffix: str = "") -> Rule:
    return Rule(
        None, "arn:aws:sqs:us-east-1:123456789012:q", events or ("s3:ObjectCreated:*",), prefix, suffix
    )


def test_sequencers_rise_even_when_the_clock_stands_still_or_goes_back() -> None:
    readings = iter([5_000_000_000, 5_000_000_000, 4_000_000_000, 6_000_000_000])
    clock = EventClock(read=lambda: next(readings))
    sequencers = [clock.tick(datetime(1970, 1, 1, tzinfo=UTC)).sequencer for _ in range(4)]
    assert sequencers == sorted(set(sequencers))
    assert {len(each) for each in sequencers} == {18}


def test_no_two_threads_get_the_same_moment() -> None:
    clock = EventClock(read=lambda: 0)
    with ThreadPoolExecutor(4) as pool:
        moments = list(pool.map(lambda _: clock.tick(LONG_AGO), range(400)))
    assert len(set(moments)) == 400


def test_an_event_is_never_before_the_change_it_tells_of() -> None:
    changed = datetime(2026, 11, 20, 10, 0, 0, 999_999, UTC).replace(tzinfo=None)  # as moto keeps it
    moment = EventClock(read=lambda: 0).tick(not_before=changed)
    assert moment.text == "2026-11-20T10:00:00.999Z"
    assert moment.sequencer.startswith("00")
    assert int(moment.sequencer[2:10], 16) == int(changed.replace(tzinfo=UTC).timestamp())


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_sequencers_compare_like_their_moments(one: int, other: int) -> None:
    one, other = one % (2**32 * 10**9), other % (2**32 * 10**9)
    assert (Moment(one).sequencer < Moment(other).sequencer) == (one < other)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_an_encoded_key_decodes_once_to_itself(key: str) -> None:
    assert unquote_plus(encode_key(key)) == key


@pytest.mark.parametrize(
    ("one", "other", "refused"),
    [
        (rule(prefix="a/"), rule(prefix="a/b/"), True),
        (rule(prefix="a/"), rule(prefix="b/"), False),
        (rule(prefix="a/", suffix=".dcm"), rule(prefix="a/", suffix=".png"), False),
        (rule(prefix="a/", suffix=".dcm"), rule(suffix="m"), True),
        (rule("s3:ObjectCreated:Put"), rule("s3:ObjectCreated:Copy"), False),
        (rule("s3:ObjectCreated:Put"), rule("s3:ObjectCreated:*"), True),
        (rule("s3:ObjectRemoved:*"), rule("s3:ObjectCreated:*"), False),
    ],
)
def test_rules_overlap_when_some_event_on_some_key_would_match_both(
    one: Rule, other: Rule, refused: bool
) -> None:
    assert (objection([one, other]) is not None) == refused
    assert (objection([other, one]) is not None) == refused


@given(
    st.dictionaries(
        st.text("ab/", min_size=1, max_size=4),
        st.integers(1, 4).map(lambda n: [Version(str(i)) for i in range(n)]),
    ),
    st.sampled_from(["", "a", "a/"]),
    st.sampled_from(["", "/"]),
    st.integers(1, 5),
)
def test_pages_put_together_are_the_whole_listing(
    versions: dict[str, list[Version]], prefix: str, delimiter: str, size: int
) -> None:
    whole = page_of(versions, PageRequest(prefix, delimiter)).entries
    collected = []
    key_marker = version_id_marker = ""
    while True:
        page = page_of(versions, PageRequest(prefix, delimiter, key_marker, version_id_marker, size))
        collected += page.entries
        if not page.truncated:
            break
        assert len(page.entries) == size
        last = page.entries[-1]
        key_marker, version_id_marker = last.name, last.version.version_id if last.version else ""
    assert collected == whole


@given(st.dictionaries(st.text("ab/", min_size=1, max_size=4), st.just([Version("1"), Version("2")])))
def test_within_a_key_the_newest_comes_first_and_it_alone_is_latest(
    versions: dict[str, list[Version]],
) -> None:
    rows = [
        (entry.name, entry.version.version_id if entry.version else None, entry.is_latest)
        for entry in page_of(versions, PageRequest()).entries
    ]
    assert rows == [row for key in sorted(versions) for row in ((key, "2", True), (key, "1", False))]


def test_a_removed_marker_version_repeats_its_key_rather_than_leave_some_out() -> None:
    versions = {"a": [Version("1"), Version("2")], "b": [Version("3")]}
    page = page_of(versions, PageRequest(key_marker="a", version_id_marker="gone"))
    assert [entry.name for entry in page.entries] == ["a", "a", "b"]
