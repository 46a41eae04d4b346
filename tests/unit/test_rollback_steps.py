"""What is to be done with each key, by what a view shows and by what a listing of all versions shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from readers.rollback_steps import Step, may_predate, predates, step_of_line, steps
from snapengine.buckets.listing import ListedEntry
from snapengine.errors import BadData
from snapengine.model import CREATED, MARKER_CREATED, ObjectVersion


def shown(key: str, version: str = "v1", etag: str | None = "e1", size: int | None = 10) -> ObjectVersion:
    return ObjectVersion(key, version, size, etag, 0)


def listed(
    key: str,
    version: str,
    etag: str = "e1",
    size: int = 10,
    *,
    latest: bool = False,
    stored: str = "STANDARD",
) -> ListedEntry:
    return ListedEntry(CREATED, key, version, 0, etag, size, stored, latest)


def marked(key: str, version: str = "m1", *, latest: bool = True) -> ListedEntry:
    return ListedEntry(MARKER_CREATED, key, version, 0, None, None, None, latest)


def kinds(view: list[ObjectVersion], bucket: list[ListedEntry]) -> dict[str, str]:
    return {step.key: step.kind for step in steps(view, bucket)}


def test_the_version_itself_being_the_latest_leaves_nothing_to_do() -> None:
    assert kinds([shown("k")], [listed("k", "v1", latest=True), listed("k", "v0", "e0")]) == {"k": "same"}


def test_another_version_of_the_same_etag_and_size_is_equal() -> None:
    assert kinds([shown("k")], [listed("k", "v2", latest=True), listed("k", "v1")]) == {"k": "equal"}
    assert kinds([shown("k")], [listed("k", "v2", latest=True)]) == {"k": "equal"}, "even if it is gone"
    assert kinds([shown("k", size=9)], [listed("k", "v2", latest=True), listed("k", "v1", size=9)]) == {
        "k": "copy"
    }


def test_an_earlier_version_is_copied_over_a_later_one_and_over_a_marker() -> None:
    over = [listed("k", "v2", "e2", 12, latest=True), listed("k", "v1")]
    (step,) = steps([shown("k")], over)
    assert (step.kind, step.latest_id, step.latest_etag, step.latest_size) == ("copy", "v2", "e2", 12)
    (step,) = steps([shown("k")], [marked("k"), listed("k", "v1")])
    assert (step.kind, step.latest_id, step.latest_etag) == ("copy", "m1", None)


def test_a_key_that_was_not_there_gets_a_marker_unless_it_shows_nothing() -> None:
    assert kinds([], [listed("k", "v2", latest=True)]) == {"k": "mark"}
    assert kinds([], [marked("k"), listed("k", "v2")]) == {"k": "absent"}


def test_a_version_that_is_not_listed_any_more_is_gone() -> None:
    assert kinds([shown("k")], []) == {"k": "gone"}
    assert kinds([shown("k")], [marked("k"), listed("k", "v0", "e0")]) == {"k": "gone"}
    assert kinds([shown("k", "m1")], [marked("k", "m1")]) == {"k": "gone"}, "a marker is no version"


def test_a_null_version_is_known_by_its_etag_too() -> None:
    null = shown("k", "null")
    assert kinds([null], [listed("k", "null", latest=True)]) == {"k": "same"}
    assert kinds([null], [listed("k", "null", "e9", latest=True)]) == {"k": "gone"}
    assert kinds([null], [listed("k", "v2", "e2", latest=True), listed("k", "null")]) == {"k": "copy"}
    assert kinds([null], [listed("k", "v2", "e2", latest=True), listed("k", "null", "e9")]) == {"k": "gone"}


@pytest.mark.parametrize("stored", ["GLACIER", "DEEP_ARCHIVE"])
def test_a_version_in_an_archive_is_told(stored: str) -> None:
    (step,) = steps([shown("k")], [marked("k"), listed("k", "v1", stored=stored)])
    assert (step.kind, step.stored_class) == ("archived", stored)
    assert stored in step.detail


def test_every_key_of_either_side_has_its_step_in_order() -> None:
    view = [shown("a"), shown("c"), shown("é")]
    bucket = [listed("b", "v1", latest=True), listed("c", "v1", latest=True), marked("d")]
    assert list(kinds(view, bucket).items()) == [
        ("a", "gone"),
        ("b", "mark"),
        ("c", "same"),
        ("d", "absent"),
        ("é", "gone"),
    ]


def test_a_listing_that_does_not_say_what_is_latest_is_no_ground_to_act_on() -> None:
    with pytest.raises(BadData, match="the latest"):
        list(steps([shown("k")], [listed("k", "v2", "e2")]))
    with pytest.raises(BadData, match="order"):
        list(steps([], [marked("b"), marked("a")]))


def test_what_is_the_latest_since_before_the_instant_contradicts_a_view_that_shows_another() -> None:
    def contradicts(latest: ListedEntry, at: int) -> bool:
        (step,) = steps([shown("k")], [latest, listed("k", "v1")])
        return predates(step, at)

    assert contradicts(replace(listed("k", "v2", "e2", latest=True), last_modified=5_000), 6_000)
    assert not contradicts(replace(listed("k", "v2", "e2", latest=True), last_modified=5_000), 5_999)
    assert not contradicts(replace(listed("k", "v2", "e2-2", latest=True), last_modified=5_000), 90_000)
    assert contradicts(replace(marked("k"), last_modified=5_000), 6_000)
    assert not contradicts(replace(marked("k"), last_modified=86_400_000), 172_000_000)
    assert not contradicts(replace(listed("k", "v2", latest=True), last_modified=5_000), 6_000), "equal"


def test_what_is_dated_early_may_be_the_latest_since_before_the_instant_or_not() -> None:
    def may_contradict(latest: ListedEntry, at: int) -> bool:
        (step,) = steps([shown("k")], [latest, listed("k", "v1")])
        assert not predates(step, at)
        return may_predate(step, at)

    assert may_contradict(replace(listed("k", "v2", "e2-2", latest=True), last_modified=5_000), 6_000)
    assert not may_contradict(replace(listed("k", "v2", "e2-2", latest=True), last_modified=5_000), 5_999)
    assert may_contradict(replace(marked("k"), last_modified=86_400_000), 172_000_000)
    assert not may_contradict(replace(marked("k"), last_modified=86_400_000), 86_400_000)
    assert not may_contradict(replace(listed("k", "v2", "e1-2", latest=True), last_modified=90_000), 90_000)


def test_what_a_listing_shows_from_before_the_instant_is_told_unless_the_view_agrees() -> None:
    def under(view: list[ObjectVersion], *older: ListedEntry, at: int = 6_000) -> tuple[str | None, bool]:
        latest = replace(listed("k", "v9", "e9", latest=True), last_modified=7_000)
        (step,) = steps(view, [latest, *older], at)
        return step.under_id, step.under_early

    older = replace(listed("k", "v2", "e2"), last_modified=5_000)
    assert under([], older) == ("v2", False)
    assert under([], older, at=5_999) == (None, False)
    assert under([], replace(older, etag="e2-2")) == ("v2", True)
    assert under([], replace(marked("k", latest=False), last_modified=5_000), older) == (None, False)
    assert under([shown("k")], listed("k", "v1"), older) == (None, False)
    assert under([shown("k")], older, listed("k", "v1")) == ("v2", False)
    assert under(
        [shown("k")], replace(marked("k", latest=False), last_modified=5_000), listed("k", "v1")
    ) == (
        "m1",
        False,
    )


def test_a_version_without_an_etag_is_never_taken_for_another() -> None:
    assert kinds([shown("k", etag=None)], [listed("k", "v2", latest=True), listed("k", "v1")]) == {
        "k": "copy"
    }


def test_a_step_is_the_same_after_a_line_of_text() -> None:
    one = Step("copy", "a\n\u2028é", shown("a\n\u2028é"), "v2", "e", 3, 5, 6, "STANDARD", "d")
    two = Step("mark", "b", None, "v2", "e", 3)
    assert one.line().count("\n") == 1
    assert [step_of_line(one.line()), step_of_line(two.line())] == [one, two]
