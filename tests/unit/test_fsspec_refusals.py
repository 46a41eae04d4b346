"""What a view's filesystem refuses: whatever would change something, and what no path can tell apart."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from snapengine import Engine
from snapengine.errors import UsageError
from tests.seed import T0, enable, engine_at, event, record

TREE = ["ct/1.dcm", "ct/2.dcm", "ct/sub/3.dcm", "index.csv", "mr/x/y/4.dcm"]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    return engine


def filesystem(engine: Engine, *keys: str) -> Any:
    record(engine, [event(key, "v" + key, 1) for key in keys])
    return engine.view("scans").fs


@pytest.mark.parametrize(
    "change",
    [
        lambda fs: fs.open("new", "wb"),
        lambda fs: fs.open("ct/1.dcm", "ab"),
        lambda fs: fs.open("new", "xb"),
        lambda fs: fs.open("ct/1.dcm", "r+b"),
        lambda fs: fs.open("new", "w"),
        lambda fs: fs.touch("new"),
        lambda fs: fs.touch("ct/1.dcm", truncate=False),
        lambda fs: fs.pipe("new", b""),
        lambda fs: fs.pipe({"new": b""}),
        lambda fs: fs.pipe_file("new", b""),
        lambda fs: fs.write_bytes("new", b""),
        lambda fs: fs.write_text("new", ""),
        lambda fs: fs.put(__file__, "new"),
        lambda fs: fs.put_file(__file__, "new"),
        lambda fs: fs.upload(__file__, "new"),
        lambda fs: fs.rm("ct", recursive=True),
        lambda fs: fs.rm_file("ct/1.dcm"),
        lambda fs: fs.rm(["ct/1.dcm"]),
        lambda fs: fs.delete("ct/1.dcm"),
        lambda fs: fs.rmdir("ct"),
        lambda fs: fs.mkdir("new"),
        lambda fs: fs.makedir("new"),
        lambda fs: fs.makedirs("new", exist_ok=True),
        lambda fs: fs.mkdirs("new"),
        lambda fs: fs.cp("ct/1.dcm", "new"),
        lambda fs: fs.copy("ct/1.dcm", "new"),
        lambda fs: fs.cp_file("ct/1.dcm", "new"),
        lambda fs: fs.mv("ct/1.dcm", "new"),
        lambda fs: fs.move("ct/1.dcm", "new"),
        lambda fs: fs.rename("ct/1.dcm", "new"),
        lambda fs: fs.start_transaction(),
        lambda fs: fs.transaction,
        lambda fs: fs.get_mapper("").update(new=b"bytes"),
    ],
)  # fmt: skip
def test_whatever_would_change_something_is_refused(engine: Engine, change: Any) -> None:
    fs = filesystem(engine, *TREE)
    with pytest.raises(OSError, match="A view is read-only") as refused:
        change(fs)
    assert refused.value.errno == errno.EROFS


def test_a_slice_of_all_versions_is_refused_and_one_of_the_last_is_read(engine: Engine) -> None:
    record(engine, [event("a", "v1", 1), event("a", "v2", 2), event("b", "v3", 50)])
    with pytest.raises(UsageError, match="several objects of one key"):
        _ = engine.slice("scans", T0, T0 + 10_000, versions="all").fs
    fs = engine.slice("scans", T0, T0 + 10_000).fs
    assert fs.find("") == ["a"]
    assert fs.info("a")["version_id"] == "v2"


def test_a_narrowed_view_has_its_objects_and_no_others(engine: Engine) -> None:
    filesystem(engine, *TREE)
    fs = engine.view("scans").select(["ct/1.dcm", "mr/x/y/4.dcm"]).fs
    assert fs.find("") == ["ct/1.dcm", "mr/x/y/4.dcm"]
    assert not fs.exists("ct/2.dcm")


def test_a_view_of_a_prefix_keeps_whole_keys_as_paths(engine: Engine) -> None:
    filesystem(engine, *TREE)
    fs = engine.view("scans", prefix="ct/").fs
    assert fs.ls("", detail=False) == ["ct"]
    assert fs.find("") == TREE[:3]
    assert not fs.exists("index.csv")
