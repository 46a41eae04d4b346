"""Pages of listings: S3's rule told key by key, against views of few rows and of many."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers.errors import NOT_OFFERED
from readers.s3_answers import Unanswered, as_token, from_token, listing, page_request, url_encoded
from readers.s3_listing import Listings, Page, PageRequest, as_entry
from tests.unit.test_view_streaming import KEY_SETS, KEYS, both

PREFIXES = KEYS | st.just("")
DELIMITERS = st.sampled_from(["", "/", "a", "b/", "é"])


def entries(keys: set[str], asked: PageRequest) -> list[tuple[str, bool]]:
    """S3's rule: names after the start, each with whether it is a common prefix."""
    found: dict[str, bool] = {}
    for key in sorted(keys, key=str.encode):
        if not key.startswith(asked.prefix) or key <= asked.after:
            continue
        cut = key.find(asked.delimiter, len(asked.prefix)) if asked.delimiter else -1
        name = key if cut < 0 else key[: cut + len(asked.delimiter)]
        if cut < 0 or name != asked.after:
            found[name] = cut >= 0
    return list(found.items())


def shown(page: Page) -> tuple[list[str], list[str], str | None]:
    return [row["key"] for row in page.objects], page.prefixes, page.last


def expected(found: Sequence[tuple[str, bool]], limit: int) -> tuple[list[str], list[str], str | None]:
    here = found[:limit]
    last = here[-1][0] if len(found) > limit else None
    return [name for name, grouped in here if not grouped], [name for name, grouped in here if grouped], last


@given(KEY_SETS, PREFIXES, DELIMITERS, PREFIXES, st.integers(1, 7), st.integers(1, 9), st.booleans())
def test_a_page_is_what_s3_would_give_from_any_key_on(
    keys: set[str], prefix: str, delimiter: str, after: str, limit: int, step: int, resolved: bool
) -> None:
    asked = PageRequest(prefix, delimiter, after, limit)
    for view in both(keys, step):
        if resolved and not view._source.great:  # type: ignore[attr-defined]  # it is our source
            view.to_arrow()
        assert shown(Listings(view).page(asked)) == expected(entries(keys, asked), limit)


@given(KEY_SETS, PREFIXES, DELIMITERS, st.lists(st.integers(1, 5), min_size=1), st.sets(st.integers(0, 40)))
def test_pages_together_are_the_listing_whether_it_stayed_open_or_not(
    keys: set[str], prefix: str, delimiter: str, limits: list[int], closed_at: set[int]
) -> None:
    whole = entries(keys, PageRequest(prefix, delimiter))
    for view in both(keys):
        listings, after, names = Listings(view), "", []
        for number in range(len(whole) + 1):
            if number in closed_at:
                listings.close()
            limit = limits[number % len(limits)]
            page = listings.page(PageRequest(prefix, delimiter, after, limit))
            names += sorted([row["key"] for row in page.objects] + page.prefixes, key=str.encode)
            if page.last is None:
                break
            after = page.last
        assert names == [name for name, _ in whole]


def test_the_next_page_reads_no_row_again() -> None:
    _, great = both({f"k{number:03}" for number in range(100)})
    source: Any = great._source
    listings, after = Listings(great), ""
    for _ in range(20):
        page = listings.page(PageRequest("", "", after, 5))
        after = page.last or ""
    assert after == ""
    assert source.asked == [("batches", "", ("key", "size", "etag", "event_time", "storage_class"))]


def test_the_same_page_can_be_asked_for_again_and_by_several_at_once() -> None:
    keys = {f"k{number:03}" for number in range(60)}
    for view in both(keys):
        listings = Listings(view)
        answers: list[tuple[Any, ...]] = []

        def ask(listings: Listings = listings, answers: list[tuple[Any, ...]] = answers) -> None:
            starts = ("", "k004", "k009", "k004")
            answers.extend((after, *shown(listings.page(PageRequest("", "", after, 5)))) for after in starts)

        threads = [Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(answers) == 24
        for after, *found in answers:
            assert tuple(found) == expected(entries(keys, PageRequest(after=after)), 5)


def test_many_listings_from_scratch_bring_a_small_view_into_memory_and_leave_a_great_one() -> None:
    small, great = both({f"{number:03}" for number in range(50)})
    for view in (small, great):
        listings = Listings(view)
        for number in range(50):
            assert shown(listings.page(PageRequest(f"{number:03}", "", "", 1))) == (
                [f"{number:03}"],
                [],
                None,
            )
    asked: Any = small._source
    assert len(asked.asked) < 20
    asked = great._source
    assert len(asked.asked) == 50


def test_a_page_of_no_keys_has_none_and_is_the_last() -> None:
    small, _ = both({"a", "b"})
    assert Listings(small).page(PageRequest(limit=0)) == Page([], [], None)


@given(st.text(min_size=1), st.text(), st.text(max_size=3))
def test_a_token_goes_on_where_it_was_and_in_no_other_listing(last: str, prefix: str, delimiter: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in last):
        return
    token = as_token(last, "snap://b@x", prefix, delimiter)
    assert from_token(token, "snap://b@x", prefix, delimiter) == last
    for other in (
        ("snap://b@y", prefix, delimiter),
        ("snap://b@x", prefix + "a", delimiter),
        ("snap://b@x", prefix, delimiter + "a"),
    ):
        with pytest.raises(Unanswered, match="continuation token"):
            from_token(token, *other)


@pytest.mark.parametrize("token", ["", "x", "é", "AAAA", "AAAAAAAAAAAA", "\ud800"])
def test_what_is_no_token_of_ours_is_refused(token: str) -> None:
    with pytest.raises(Unanswered, match="continuation token"):
        from_token(token, "snap://b@x", "", "")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"FetchOwner": True}, "owners"),
        ({"OptionalObjectAttributes": ["RestoreStatus"]}, "restored"),
        ({"EncodingType": "gzip"}, "Encoding"),
        ({"MaxKeys": -1}, "maxKeys"),
    ],
)
def test_what_a_view_cannot_say_is_refused_rather_than_left_out(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(Unanswered, match=says) as refused:
        page_request("ListObjectsV2", asked, "snap://b@x")
    assert (refused.value.answer == NOT_OFFERED) == (says in {"owners", "restored"})


def test_what_nobody_told_of_an_object_is_left_out_of_its_entry() -> None:
    small, _ = both({"a"})
    row = next(iter(small.to_batches())).to_pylist()[0]
    assert as_entry(row).keys() == {"Key", "LastModified", "ETag", "Size"}
    assert as_entry(row | {"size": None, "etag": None}).keys() == {"Key", "LastModified"}


def test_keys_are_encoded_as_s3_does() -> None:
    page = Page([], ["a b+c/é/"], None)
    found = listing("ListObjects", "b", {"Delimiter": "/"}, PageRequest("a b", "/", "*~"), page, "r")
    url_encoded(found)
    assert found["CommonPrefixes"] == [{"Prefix": "a+b%2Bc/%C3%A9/"}]
    assert (found["Prefix"], found["Delimiter"], found["Marker"]) == ("a+b", "/", "*~")
