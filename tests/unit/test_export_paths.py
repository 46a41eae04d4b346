"""Which keys have no exact name at a destination, found in bounded memory from keys in order."""

from __future__ import annotations

import pytest

from readers.export_paths import odd_keys, odd_paths


def odd(*keys: str, folds: bool = False) -> set[str]:
    return {key for key, _ in odd_paths(sorted(keys), folds=folds)}


@pytest.mark.parametrize("key", ["/a", "a/", "a//b", "a/../b", ".", "..", "a/./b", "n\0l", "x" * 256, ""])
def test_a_key_that_no_path_names_exactly_is_odd(key: str) -> None:
    assert odd("fine", key) == {key}


@pytest.mark.parametrize("key", ["a::b", "a*", "[a]", "a?b", "a#b", "a%2Bb", "a+b", "~a", "é", " ", "a\\b"])
def test_a_key_that_is_a_path_to_the_letter_is_not(key: str) -> None:
    assert odd(key, folds=True) == set()


def test_an_object_that_is_the_folder_of_others_is_odd_whatever_lies_between() -> None:
    assert odd("a", "a!", "a-b", "a/b", "a/c") == {"a"}
    assert odd("a", "a/b", "a/b/c", "a/bb") == {"a", "a/b"}
    assert odd("a", "a!", "a-/b", "aa/b", "b/a") == set()


def test_each_odd_key_is_told_once_with_its_reason() -> None:
    told = list(odd_paths(["a", "a/b", "a/c", "a/d"], folds=False))
    assert told == [("a", "is an object, and the folder of 'a/b' as well")]


@pytest.mark.parametrize(
    ("keys", "later"),
    [(["A", "a"], {"a"}), (["é", "e\u0301"], {"é"}), (["A/x", "a"], {"a"}), (["A", "a/x"], {"a/x"})],
)
def test_keys_that_a_folder_does_not_tell_apart_are_odd_there_alone(keys: list[str], later: set[str]) -> None:
    assert odd(*keys, folds=True) == later
    assert odd(*keys) == set()


def test_folders_of_several_cases_may_share_a_name() -> None:
    assert odd("A/x", "a/y", folds=True) == set()


def test_what_would_be_among_the_manifests_is_odd_everywhere() -> None:
    assert odd(".snapengine-export/x") == {".snapengine-export/x"}
    assert [key for key, _ in odd_keys([".snapengine-export/x", "a"], "p/")] == [".snapengine-export/x"]


def test_a_key_that_a_prefix_makes_too_long_is_odd_for_a_bucket() -> None:
    assert [key for key, _ in odd_keys(["é" * 511, "é" * 512, "a//b"], "p/")] == ["é" * 512]
