"""A listing's pages and what the log knows, brought together key by key, wherever the pages end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine.buckets.align import Aligned, align, histories
from snapengine.buckets.listing import ListedEntry, Page
from snapengine.errors import BadData
from snapengine.model import CREATED, RECONCILE, Observation
from snapengine.observation_codec import decode_table, encode

T = 1_700_000_000_000


def entry(key: str, version: str = "v") -> ListedEntry:
    return ListedEntry(CREATED, key, version, T, "e", 1, "STANDARD", is_latest=True)


def page(time: int, *rows: str, ends: str | None = None, within: bool = True) -> Page:
    """A page with rows such as `a` or `a/2` (key a, version 2). `ends` is the next page's start marker: in
    the midst of that key, unless not `within` it."""
    entries = tuple(entry(*row.split("/")) for row in rows)
    return Page(entries, T + time, ends, "marker" if ends is not None and within else None)


def known(*keys: str) -> list[tuple[str, list[Observation]]]:
    return [(key, [Observation(CREATED, key, "v", T)]) for key in keys]


def met(pages: list[Page], *keys: str) -> list[tuple[str, str, int, bool]]:
    """Key, the versions shown, the first page's time after T, and whether the log knew the key."""
    return [
        (
            listing.key,
            " ".join(row.version_id for row in listing.rows),
            listing.first_page - T,
            bool(known),
        )
        for known, listing in align(pages, known(*keys), "L")
    ]


def test_a_key_shown_and_known_comes_with_both() -> None:
    assert met([page(1, "a")], "a") == [("a", "v", 1, True)]


def test_a_key_that_the_log_has_never_heard_of_comes_with_what_is_shown() -> None:
    assert met([page(1, "a")]) == [("a", "v", 1, False)]


def test_an_empty_bucket_shows_nothing_of_what_is_known() -> None:
    assert met([page(1)], "a", "b") == [("a", "", 1, True), ("b", "", 1, True)]


def test_an_empty_bucket_of_which_nothing_is_known_gives_nothing() -> None:
    assert met([page(1)]) == []


def test_keys_absent_before_between_and_after_those_shown_come_in_order() -> None:
    assert met([page(1, "b", "d")], "a", "c", "e") == [
        ("a", "", 1, True),
        ("b", "v", 1, False),
        ("c", "", 1, True),
        ("d", "v", 1, False),
        ("e", "", 1, True),
    ]


def test_versions_of_one_key_over_three_pages_are_one_key_first_touched_by_the_first() -> None:
    pages = [
        page(1, "a", "b/3", ends="b"),
        page(2, "b/2", ends="b"),
        page(3, "b/1", "c"),
    ]
    assert met(pages, "b") == [("a", "v", 1, False), ("b", "3 2 1", 1, True), ("c", "v", 3, False)]


def test_rows_have_the_time_of_their_own_page_and_places_that_run_on() -> None:
    pages = [page(1, "a", "b/3", ends="b"), page(2, "b/2", ends="b"), page(3, "b/1")]
    rows = [row for _, listing in align(pages, [], "L") for row in listing.rows]
    assert [(row.page_time, row.position) for row in rows] == [
        (T + 1, 0),
        (T + 1, 1),
        (T + 2, 2),
        (T + 3, 3),
    ]
    assert {(row.listing, row.origin) for row in rows} == {("L", RECONCILE)}


def test_a_key_is_first_touched_by_the_page_that_begins_with_it_not_by_the_one_before() -> None:
    assert met([page(1, "a", ends="a"), page(2, "b")]) == [("a", "v", 1, False), ("b", "v", 2, False)]


def test_a_key_absent_exactly_between_two_pages_is_touched_by_the_second() -> None:
    assert met([page(1, "a", ends="a"), page(2, "c")], "b")[1] == ("b", "", 2, True)
    assert met([page(1, "a", ends="a", within=False), page(2, "c")], "b")[1] == ("b", "", 2, True)


def test_a_key_absent_before_the_last_key_of_a_page_is_touched_by_that_page() -> None:
    assert met([page(1, "a", "c", ends="c"), page(2, "d")], "b")[1] == ("b", "", 1, True)


def test_keys_absent_after_the_last_page_are_touched_by_it() -> None:
    assert met([page(1, "a", ends="a"), page(2, "b")], "c", "d")[2:] == [
        ("c", "", 2, True),
        ("d", "", 2, True),
    ]


def test_keys_after_a_last_page_without_rows_are_touched_by_it() -> None:
    # All that was left of the bucket went between the two requests.
    assert met([page(1, "a", ends="a"), page(2)], "a", "b") == [("a", "v", 1, True), ("b", "", 2, True)]


def test_a_key_is_not_whole_before_the_page_that_ends_within_it_has_been_followed() -> None:
    alignment = align(iter([page(1, "a", "b/2", ends="b")]), known("b"), "L")
    assert [each.listing.key for each in alignment] == ["a"]


def test_a_key_whose_last_versions_went_while_it_was_listed_is_whole_with_what_was_shown() -> None:
    assert met([page(1, "a/2", ends="a"), page(2, "b")], "a") == [("a", "2", 1, True), ("b", "v", 2, False)]


def test_a_page_that_ends_after_a_key_it_does_not_show_touches_it() -> None:
    pages = [page(1, "a", ends="c", within=False), page(2, "d")]
    assert met(pages, "b", "c", "cc")[1:] == [
        ("b", "", 1, True),
        ("c", "", 1, True),
        ("cc", "", 2, True),
        ("d", "v", 2, False),
    ]


def test_a_page_that_ends_within_a_key_it_does_not_show_is_the_first_to_touch_it() -> None:
    pages = [page(1, "a", ends="c"), page(2, "c/1", "d")]
    assert met(pages, "b", "c") == [
        ("a", "v", 1, False),
        ("b", "", 1, True),
        ("c", "1", 1, True),
        ("d", "v", 2, False),
    ]


def test_pages_without_rows_in_the_midst_of_a_listing_end_nothing_but_their_range() -> None:
    pages = [page(1, ends="b", within=False), page(2, ends="d", within=False), page(3, "e")]
    assert met(pages, "a", "c", "f") == [
        ("a", "", 1, True),
        ("c", "", 2, True),
        ("e", "v", 3, False),
        ("f", "", 3, True),
    ]


def test_keys_are_met_in_the_order_of_their_utf8_bytes_beyond_the_basic_plane_too() -> None:
    # UTF-16 has surrogates, which it puts before U+FF5E; UTF-8 puts what they stand for after it.
    keys = ["a", "é", "日本", "～", "🦴"]
    assert keys == sorted(keys, key=str.encode)
    table = decode_table(encode([Observation(CREATED, key, "v", T) for key in reversed(keys)]))
    pages = [page(1, "a", "日本", ends="日本"), page(2, "🦴")]
    found = list(align(pages, histories(table), "L"))
    assert [(each.listing.key, len(each.listing.rows), len(each.known)) for each in found] == [
        ("a", 1, 1),
        ("é", 0, 1),
        ("日本", 1, 1),
        ("～", 0, 1),
        ("🦴", 1, 1),
    ]


@pytest.mark.parametrize("second", [page(2, "a"), page(2, "b"), page(2, "z", "a")])
def test_a_listing_that_goes_back_proves_nothing(second: Page) -> None:
    with pytest.raises(BadData, match="against the order of UTF-8"):
        met([page(1, "a", "b", "c", ends="c", within=False), second], "b")


def test_histories_have_all_of_a_key_together_and_begin_after_one() -> None:
    observations = [Observation(CREATED, key, version, T) for key in "cab" for version in "12"]
    table = decode_table(encode(observations))
    assert [(key, [o.version_id for o in history]) for key, history in histories(table)] == [
        ("a", ["1", "2"]),
        ("b", ["1", "2"]),
        ("c", ["1", "2"]),
    ]
    assert [key for key, _ in histories(table, "a")] == ["b", "c"]
    assert list(histories(table, "c")) == []


@given(
    there=st.lists(st.sampled_from("abcdef"), max_size=9),
    heard_of=st.sets(st.sampled_from("abcdefg")),
    page_size=st.integers(1, 4),
)
def test_wherever_pages_end_every_key_comes_once_whole_and_in_order(
    there: list[str], heard_of: set[str], page_size: int
) -> None:
    rows = [entry(key, str(number)) for number, key in enumerate(sorted(there))]
    cuts = range(0, max(len(rows), 1), page_size)
    pages = [
        Page(
            tuple(rows[cut : cut + page_size]),
            T + cut,
            rows[cut + page_size - 1].key if cut + page_size < len(rows) else None,
            rows[cut + page_size - 1].version_id if cut + page_size < len(rows) else None,
        )
        for cut in cuts
    ]
    found: list[Aligned] = list(align(pages, known(*sorted(heard_of)), "L"))
    assert [each.listing.key for each in found] == sorted(heard_of | set(there))
    for each in found:
        key = each.listing.key
        wanted = [row.version_id for row in rows if row.key == key]
        assert [row.version_id for row in each.listing.rows] == wanted
        assert bool(each.known) == (key in heard_of)
        before = sum(row.key < key for row in rows)
        touched = before // page_size if wanted or before < len(rows) else len(pages) - 1
        assert each.listing.first_page == T + touched * page_size
