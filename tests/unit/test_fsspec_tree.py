"""Files and folders of a view through fsspec: by exact key, and never another's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from readers.fsspec_fs import ViewFileSystem
from snapengine import Engine, View
from snapengine.errors import CannotExpressKey, TableMissing
from snapengine.model import ObjectVersion
from tests.fsspec_house import AWKWARD
from tests.seed import T0, enable, engine_at, event, record


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    return engine


def filesystem(engine: Engine, *keys: str, size: int = 10) -> Any:
    record(engine, [event(key, "v" + key, 1, size=size) for key in keys])
    return engine.view("scans").fs


TREE = ["ct/1.dcm", "ct/2.dcm", "ct/sub/3.dcm", "index.csv", "mr/x/y/4.dcm"]


def test_a_file_is_told_with_its_version(engine: Engine) -> None:
    fs = filesystem(engine, *TREE)
    assert fs.info("ct/1.dcm") == {
        "name": "ct/1.dcm",
        "size": 10,
        "type": "file",
        "version_id": "vct/1.dcm",
        "ETag": '"etag-vct/1.dcm"',
        "LastModified": datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC),
        "StorageClass": None,
        "mtime": T0 / 1000 + 1,
    }
    assert fs.size("ct/1.dcm") == 10
    assert fs.modified("ct/1.dcm") == fs.created("ct/1.dcm") == datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC)
    assert (fs.isfile("ct/1.dcm"), fs.isdir("ct/1.dcm"), fs.exists("ct/1.dcm")) == (True, False, True)


@pytest.mark.parametrize("path", ["ct", "ct/"])
def test_a_folder_is_known_by_what_is_in_it(engine: Engine, path: str) -> None:
    fs = filesystem(engine, *TREE)
    assert fs.info(path) == {"name": "ct", "size": 0, "type": "directory"}
    assert fs.ls(path, detail=False) == ["ct/1.dcm", "ct/2.dcm", "ct/sub"]
    assert [info["type"] for info in fs.ls(path)] == ["file", "file", "directory"]
    with pytest.raises(IsADirectoryError):
        fs.modified(path)


@pytest.mark.parametrize(
    "path", ["nothing", "ct/nothing", "/ct/1.dcm", "ct/1.dcm/", "c", "ct/./1.dcm", "ct//1.dcm"]
)
def test_what_is_not_there_is_not_found_and_nothing_like_it_is_taken(engine: Engine, path: str) -> None:
    fs = filesystem(engine, *TREE)
    assert (fs.isfile(path), fs.isdir(path), fs.exists(path)) == (False, False, False)
    for ask in (fs.info, fs.ls, fs.open, fs.cat_file, fs.cat, fs.size, fs.modified, fs.ukey, fs.checksum):
        with pytest.raises(FileNotFoundError, match="has no object"):
            ask(path)
    assert fs.find(path) == fs.glob(path) == list(fs.walk(path)) == []


def test_the_root_is_a_folder_even_of_nothing(engine: Engine) -> None:
    fs = filesystem(engine)
    assert fs.info("")["type"] == "directory"
    assert fs.ls("") == fs.ls("/") == fs.find("") == []


def test_a_slash_alone_is_the_root_unless_keys_begin_with_one(engine: Engine) -> None:
    assert filesystem(engine, *TREE).ls("/", detail=False) == ["ct", "index.csv", "mr"]
    assert filesystem(engine, "/a").ls("/", detail=False) == ["/a"]


def test_find_descends_as_far_as_it_is_asked_to(engine: Engine) -> None:
    fs = filesystem(engine, *TREE)
    assert fs.find("") == fs.find("/") == TREE
    assert fs.find("ct") == fs.find("ct/") == TREE[:3]
    assert fs.find("ct", maxdepth=1) == TREE[:2]
    assert fs.find("mr", maxdepth=2, withdirs=True) == ["mr", "mr/x", "mr/x/y"]
    assert fs.find("index.csv") == ["index.csv"]
    assert fs.find("ct", detail=True)["ct/sub/3.dcm"]["size"] == 10
    assert fs.du("ct") == 30


def test_a_walk_visits_each_folder_and_may_be_cut_short(engine: Engine) -> None:
    fs = filesystem(engine, *TREE)
    assert list(fs.walk("ct")) == [("ct", ["sub"], ["1.dcm", "2.dcm"]), ("ct/sub", [], ["3.dcm"])]
    assert [root for root, _, _ in fs.walk("", topdown=False)] == ["ct/sub", "ct", "mr/x/y", "mr/x", "mr", ""]
    assert [root for root, _, _ in fs.walk("", maxdepth=2)] == ["", "ct", "mr"]
    visited = []
    for root, folders, _ in fs.walk(""):
        visited.append(root)
        folders[:] = [name for name in folders if name != "ct"]
    assert visited == ["", "mr", "mr/x", "mr/x/y"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("ct/*", ["ct/1.dcm", "ct/2.dcm", "ct/sub"]),
        ("ct/*/", ["ct/sub"]),
        ("ct/[12].dcm", ["ct/1.dcm", "ct/2.dcm"]),
        ("ct/?.dcm", ["ct/1.dcm", "ct/2.dcm"]),
        ("ct/[!1].dcm", ["ct/2.dcm"]),
        ("*/*.dcm", ["ct/1.dcm", "ct/2.dcm"]),
        ("**/*.dcm", ["ct/1.dcm", "ct/2.dcm", "ct/sub/3.dcm", "mr/x/y/4.dcm"]),
        ("ct/**", ["ct", "ct/1.dcm", "ct/2.dcm", "ct/sub", "ct/sub/3.dcm"]),
        ("*", ["ct", "index.csv", "mr"]),
        ("index*", ["index.csv"]),
        ("nothing*", []),
        ("nothing/**", []),
        ("mr/**/4.dcm", ["mr/x/y/4.dcm"]),
        ("ct", ["ct"]),
        ("ct/", ["ct"]),
    ],
)
def test_patterns_find_what_fsspecs_own_find(engine: Engine, pattern: str, found: list[str]) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    fs = filesystem(engine, *TREE)
    assert fs.glob(pattern) == found

    class Own(MemoryFileSystem):  # type: ignore[misc]  # fsspec tells no types
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

    own = Own(skip_instance_cache=True)
    own.pipe({f"/{key}": b"0123456789" for key in TREE})
    assert [name.removeprefix("/") for name in own.glob("/" + pattern)] == found


# Keys that look alike, and names that are two things


def test_each_odd_key_is_told_by_its_own_name(engine: Engine) -> None:
    fs = filesystem(engine, *AWKWARD)
    for key in AWKWARD:
        assert (fs.info(key)["name"], fs.info(key)["version_id"]) == (key, "v" + key)
        assert fs.isfile(key)
        assert fs.version(key).key == key
    assert fs.find("") == sorted(AWKWARD)
    assert (
        len({fs.ukey(key) for key in AWKWARD}) == len({fs.checksum(key) for key in AWKWARD}) == len(AWKWARD)
    )


def test_folders_without_a_name_are_listed_by_paths_that_lead_into_them(engine: Engine) -> None:
    fs = filesystem(engine, *AWKWARD)
    seen, ahead = set(), [""]
    while ahead:
        for info in fs.ls(ahead.pop()):
            seen.add(info["name"]) if info["type"] == "file" else ahead.append(info["name"])
    assert seen == set(AWKWARD)


def test_a_walk_refuses_what_its_names_cannot_tell(engine: Engine) -> None:
    fs = filesystem(engine, "a//b", "c/d")
    assert list(fs.walk("c")) == [("c", [], ["d"])]
    with pytest.raises(CannotExpressKey, match="a folder without a name"):
        list(fs.walk(""))


@pytest.mark.parametrize("pattern", ["a*", "[a]", "a?b"])
def test_a_pattern_that_is_also_a_key_is_refused_where_it_may_mean_others(
    engine: Engine, pattern: str
) -> None:
    fs = filesystem(engine, *AWKWARD)
    for ask in (fs.glob, fs.cat, fs.expand_path):
        with pytest.raises(CannotExpressKey, match="as \\[a\\]\\*"):
            ask(pattern)
    assert fs.expand_path([pattern]) == [pattern], "in a list a key is a key"
    assert fs.glob("[a]*") == ["a", "a#b", "a%2Bb", "a*", "a+b", "a::b", "a?b"]


def test_a_pattern_that_stands_only_for_the_key_itself_is_no_doubt(engine: Engine) -> None:
    assert filesystem(engine, "b*").glob("b*") == ["b*"]


def test_a_name_of_an_object_and_a_folder_is_the_object_and_lists_the_folder(engine: Engine) -> None:
    fs = filesystem(engine, "a", "a/b")
    assert (fs.isfile("a"), fs.isdir("a")) == (True, False)
    assert fs.ls("a", detail=False) == ["a/b"]
    assert [(info["name"], info["type"]) for info in fs.ls("")] == [("a", "file"), ("a", "directory")]
    assert fs.find("", withdirs=True, detail=True)["a"]["type"] == "file"
    assert fs.find("") == ["a", "a/b"]


def test_an_empty_object_that_marks_a_folder_shows_as_that_folder(engine: Engine) -> None:
    fs = filesystem(engine, "ct/", "ct/sub/", size=0)
    assert fs.info("ct/") == {"name": "ct", "size": 0, "type": "directory"}
    assert (fs.isdir("ct"), fs.isfile("ct/")) == (True, False)
    assert fs.ls("ct", detail=False) == ["ct/sub"]
    assert (fs.ls("ct/sub"), fs.find("")) == ([], [])
    assert fs.find("", withdirs=True) == ["ct", "ct/sub"]


def test_an_object_with_bytes_whose_key_ends_in_a_slash_is_a_file(engine: Engine) -> None:
    fs = filesystem(engine, "ct/", "ct/1")
    assert fs.ls("ct", detail=False) == fs.find("") == ["ct/", "ct/1"]
    assert (fs.isfile("ct/"), fs.isdir("ct")) == (True, True)
    assert list(fs.walk("ct")) == [("ct", [], ["", "1"])]


# What looking costs, and what goes wrong


class Counting:
    """How often a view's rows were resolved, and single keys looked up."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tables = self.look_ups = 0
        table, version = engine.table, engine.version

        def counted_table(*args: Any) -> Any:
            self.tables += 1
            return table(*args)

        def counted_version(*args: Any) -> ObjectVersion | None:
            self.look_ups += 1
            return version(*args)

        monkeypatch.setattr(engine, "table", counted_table)
        monkeypatch.setattr(engine, "version", counted_version)


def test_one_file_costs_one_look_up_and_many_are_read_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"k{i:03}" for i in range(200)]
    fs = filesystem(engine, *keys)
    counting = Counting(engine, monkeypatch)
    for _ in range(3):
        assert fs.info("k000")["size"] == 10
    assert (counting.look_ups, counting.tables) == (1, 0)
    for key in keys:
        fs.info(key)
    assert counting.tables == 1
    assert counting.look_ups <= 64


def test_existence_that_cannot_be_found_out_is_not_denied(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = filesystem(engine, *TREE)

    def missing(*_: Any) -> None:
        raise TableMissing("the table is not there")

    monkeypatch.setattr(engine, "version", missing)
    for ask in (fs.exists, fs.isfile, fs.isdir, fs.info, fs.cat, fs.open):
        with pytest.raises(TableMissing):
            ask("ct/1.dcm")


def test_equal_references_of_two_tables_are_two_filesystems(engine: Engine, tmp_path: Path) -> None:
    first = filesystem(engine, *TREE)
    other = engine_at(tmp_path / "other.db")
    enable(other)
    second = filesystem(other, *TREE)
    assert first.view == second.view
    assert first != second
    assert first == engine.view("scans").fs
    assert hash(first) == hash(engine.view("scans").fs)
    assert isinstance(first, ViewFileSystem)


def test_a_path_has_a_url_that_names_its_view_for_ever(engine: Engine) -> None:
    fs = filesystem(engine, *TREE)
    view: View = fs.view
    assert fs.unstrip_protocol("ct/1.dcm") == f"{view.reference}ct/1.dcm"


def test_a_view_too_large_to_keep_is_never_read_whole(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{folder}/{i:03}" for folder in "abc" for i in range(40)]
    record(engine, [event(key, "v" + key, 1) for key in keys])
    monkeypatch.setattr("snapengine.view_rows.FEW_ROWS", 30)
    asked: list[str] = []
    batches = engine.batches

    def noted(ref: Any, *args: Any, **options: Any) -> Any:
        asked.append(ref.prefix)
        return batches(ref, *args, **options)

    monkeypatch.setattr(engine, "batches", noted)
    counting = Counting(engine, monkeypatch)
    fs = engine.view("scans").fs
    for _ in range(20):
        assert fs.ls("b", detail=False) == keys[40:80]
    assert fs.find("b") == fs.glob("b/*") == keys[40:80]
    assert fs.glob("b/00?") == keys[40:50]
    assert (fs.isdir("c"), fs.exists("d"), fs.isfile("a/001")) == (True, False, True)
    assert {prefix[:1] for prefix in asked} == {"b", "c", "d"}, "only what is below was read"
    assert fs.version("a/001").version_id == "va/001"
    assert fs._keys.many(keys).keys() == set(keys)
    assert counting.tables == 0


def test_a_pattern_for_what_is_in_a_folder_does_not_stand_for_an_object_of_the_folders_name(
    engine: Engine,
) -> None:
    fs = filesystem(engine, "a", "a/b", "c/d")
    assert fs.glob("a/**") == ["a/b"]
    assert fs.expand_path("a/**") == ["a/b"]
    assert fs.glob("c/**") == ["c", "c/d"]
