"""Whatever the keys are: fsspec's calls agree with each other, and every key is reached by its own name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from snapengine import Engine, View
from snapengine.bulkfold import version_table
from snapengine.engine import NO_EPOCH
from snapengine.errors import CannotExpressKey
from snapengine.model import ObjectVersion, SnapshotRef
from tests.fsspec_house import AWKWARD
from tests.seed import T0, engine_at

KEYS = st.sets(
    st.text(st.sampled_from("ab/.*[]?"), min_size=1, max_size=7) | st.sampled_from(AWKWARD), max_size=12
).map(sorted)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_at(Path(tmp_path_factory.mktemp("log")) / "log.db")


def filesystem(engine: Engine, keys: list[str], size: int = 1) -> Any:
    rows = version_table([ObjectVersion(key, "v" + key, size, None, T0) for key in keys])
    return View(engine, SnapshotRef("scans", "", T0, 0), NO_EPOCH, rows).fs


@given(KEYS)
def test_going_down_from_the_root_reaches_every_key_once(engine: Engine, keys: list[str]) -> None:
    fs = filesystem(engine, keys)
    seen: list[str] = []
    ahead, entered = [""], set()
    while ahead:
        folder = ahead.pop()
        assert folder not in entered
        entered.add(folder)
        for info in fs.ls(folder):
            (seen if info["type"] == "file" else ahead).append(info["name"])
    assert sorted(seen) == keys == fs.find("")


@given(KEYS)
def test_each_key_is_a_file_of_its_own_version_and_no_other_name_is(engine: Engine, keys: list[str]) -> None:
    fs = filesystem(engine, keys)
    for key in {
        *keys,
        *(key + "/" for key in keys),
        *("/" + key for key in keys),
        *(key[:-1] for key in keys),
    }:
        assert fs.isfile(key) == (key in keys)
        if key in keys:
            assert fs.info(key)["version_id"] == "v" + key
            assert fs.expand_path([key]) == [key]


@given(KEYS, st.integers(1, 3))
def test_find_to_a_depth_is_what_lies_there(engine: Engine, keys: list[str], depth: int) -> None:
    fs = filesystem(engine, keys)
    assert fs.find("", maxdepth=depth) == [key for key in keys if key.count("/") < depth]
    folders = {key[: i + 1] for key in keys for i, letter in enumerate(key) if letter == "/"}
    found = fs.find("", maxdepth=depth, withdirs=True, detail=True)
    told = {name for name, info in found.items() if info["type"] == "directory"}
    paths = {fs.info(folder)["name"] for folder in folders - set(keys) if folder.count("/") <= depth}
    assert paths - set(keys) <= told


@example(["a", "a/?"], "a/")
@given(KEYS, st.text(st.sampled_from("ab/.*[]?"), min_size=1, max_size=6))
def test_a_pattern_gives_only_what_there_is_or_is_refused(
    engine: Engine, keys: list[str], pattern: str
) -> None:
    fs = filesystem(engine, keys)
    try:
        found = fs.glob(pattern, detail=True)
    except CannotExpressKey:
        assert pattern in keys
        return
    except ValueError as error:
        assert "'**' can only be an entire path component" in str(error)  # noqa: PT017  # one of three outcomes
        return
    if pattern in keys:
        assert list(found) == [pattern]
    for name, info in found.items():
        assert info["name"] == name
        assert fs.info(name) == info, "a name leads to what the pattern found by it"


@given(KEYS)
def test_markers_of_folders_are_folders(engine: Engine, keys: list[str]) -> None:
    fs = filesystem(engine, keys, size=0)
    assert fs.find("") == [key for key in keys if not key.endswith("/")]
    for key in keys:
        assert fs.isdir(key) == key.endswith("/")
