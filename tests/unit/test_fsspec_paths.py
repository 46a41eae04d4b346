"""Paths of filesystems over views: each names one key or one prefix, and is found again from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers.fsspec_opening import _absolute
from readers.fsspec_paths import (
    folder_of,
    folders_of,
    located,
    path_of,
    prefix_of,
    reference_of,
    url_of,
)
from snapengine.errors import BadReference
from snapengine.reference import parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4
KEYS = st.text(st.sampled_from("ab/.*?~@#[]:=é "), min_size=1, max_size=8) | st.sampled_from(
    ["a?select=none", "?select=" + DIGEST, "snap://x", "a?select=b/c"]
)


@pytest.mark.parametrize(
    ("prefix", "folder"),
    [("ct/", "ct"), ("a//", "a//"), ("/", "/"), ("a/../", "a/.."), ("//", "//"), ("", "")],
)
def test_a_folder_is_named_without_its_slash_unless_that_is_another_name(prefix: str, folder: str) -> None:
    assert (folder_of(prefix), prefix_of(folder)) == (folder, prefix)


@given(KEYS)
def test_no_two_folders_share_a_path(key: str) -> None:
    for prefix in folders_of(key + "/", "", None):
        assert prefix_of(folder_of(prefix)) == prefix


def test_folders_are_counted_from_the_base_on() -> None:
    assert list(folders_of("a/b//c/d", "a/", None)) == ["a/b/", "a/b//", "a/b//c/"]
    assert list(folders_of("a/b//c/d", "a/", 2)) == ["a/b/", "a/b//"]
    assert list(folders_of("abc", "", None)) == []


@given(KEYS)
def test_a_path_is_found_again_from_its_url_whatever_its_key(key: str) -> None:
    path = f"scans@2026-11-20T09:00:00Z~12/{key}"
    assert path_of(url_of(path)) == path
    assert path_of(path) == path, "paths stay as they are"
    assert located(path).key == key


@given(KEYS)
def test_what_is_selected_goes_to_the_front_of_a_path(key: str) -> None:
    path = path_of(f"snap://scans@2026-11-20T09:00:00Z~12/{key}?select={DIGEST}")
    assert path == f"scans@2026-11-20T09:00:00Z~12~{DIGEST}/{key}"
    authority, found = located(path)
    assert found == key
    parsed = parse_reference(reference_of(authority))
    assert (parsed.bucket, parsed.epoch, parsed.prefix, parsed.selection) == ("scans", 12, "", DIGEST)


@pytest.mark.parametrize(
    "authority",
    [
        "scans@2026-11-20",
        "scans@now",
        "scans@2026-11-01..2026-11-20~7",
        "scans@-7d..now~all",
        "b@snapshot:run-42",
    ],
)
def test_an_authority_is_the_reference_of_the_whole_bucket(authority: str) -> None:
    assert reference_of(authority) == f"snap://{authority}/"
    parse_reference(reference_of(authority))


@pytest.mark.parametrize("path", ["scans/ct/a.csv", "scans", "scans@/a"])
def test_a_path_without_a_time_is_refused_and_told_what_to_write(path: str) -> None:
    with pytest.raises(BadReference, match=r"names no time\. Write snap://scans@2026-.*snap://scans@now/"):
        located(path)


@pytest.mark.parametrize("path", ["", "/", "@now/x", "/ct/a.csv"])
def test_a_path_without_a_bucket_is_refused(path: str) -> None:
    with pytest.raises(BadReference, match="begin with a bucket and a time"):
        located(path)


def test_a_selection_that_is_cut_off_is_refused() -> None:
    with pytest.raises(BadReference, match="not whole"):
        path_of("snap://scans@2026-11-20~12/a?select=sha256:01")


def test_look_backs_and_now_are_counted_from_one_instant() -> None:
    now = 1_700_000_000_000
    assert _absolute("snap://b@now/", now) == "snap://b@2023-11-14T22:13:20.000Z/"
    assert _absolute("snap://b@-1h..now~all/", now) == (
        "snap://b@2023-11-14T21:13:20.000Z..2023-11-14T22:13:20.000Z~all/"
    )
    fixed = "snap://b@2023-11-14T21:13Z~3/"
    assert _absolute(fixed, now) == fixed
