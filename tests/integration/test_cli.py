"""The command line as people and programs meet it: output, exit codes, errors, the audit log."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from snapengine import Engine
from snapengine.cli.main import run
from snapengine.devcloud import DevCloud
from snapengine.instants import render
from tests.integration.cli_calls import EARLY, LATE, NASTY, Bucket, Lines, at_a_terminal, snapengine
from tests.seed import T0, enable, engine_at, event, marker, record


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A log with two epochs. By EARLY three objects; by LATE one overwritten, one deleted, one new."""
    path = tmp_path_factory.mktemp("log") / "log.db"
    engine = engine_at(path)
    enable(engine)
    record(engine, [event("ct/0001", "v1", 1, size=2048), event(NASTY, "v2", 2), event("mr/ü", "v3", 3)])
    record(engine, [event("ct/0001", "v4", 100, size=99), marker("mr/ü", "m1", 101), event("new", "v5", 102)])
    return f"sqlite:///{path}"


@pytest.fixture
def store(seeded: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SNAPENGINE_STORE", seeded)
    return seeded


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def in_cloud(cloud: DevCloud, monkeypatch: pytest.MonkeyPatch) -> str:
    """The cloud's environment with a table of its own; its address."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    address = f"dynamodb://t-{uuid4().hex}"
    monkeypatch.setenv("SNAPENGINE_STORE", address)
    return address


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> Callable[..., Lines]:
    """Run a command that succeeds with `--json`; its lines."""

    def call(*arguments: str) -> Lines:
        capsys.readouterr()
        code = run([*arguments, "--json"])
        output = capsys.readouterr()
        assert (code, output.err) == (0, "")
        return [json.loads(line) for line in output.out.splitlines()]

    return call


# Views


def test_ls_gives_rows_on_stdout_and_what_they_are_on_stderr(store: str) -> None:
    done = snapengine("ls", "scans", "--at", EARLY)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [
        rf"      10 B  {render(T0 + 2000)}   v2  ct/\x1b[31mred\r\n\x07",
        f"   2.0 KiB  {render(T0 + 1000)}   v1  ct/0001",
        f"      10 B  {render(T0 + 3000)}   v3  mr/ü",
    ]
    remarks = done.stderr.decode()
    assert f"3 objects, 2.0 KiB in snap://scans@{EARLY}~2/" in remarks
    assert "provisional: All that epoch 2 of" in remarks


def test_ls_as_json_has_keys_to_the_letter(store: str, rows: Callable[..., Lines]) -> None:
    first, second, _ = rows("ls", "scans", "--at", EARLY)
    assert first["key"] == NASTY
    assert second == {
        "key": "ct/0001",
        "version_id": "v1",
        "size": 2048,
        "etag": "etag-v1",
        "event_time": render(T0 + 1000),
        "time": "event",
        "storage_class": None,
    }


def test_a_printed_reference_can_be_pasted_in_place_of_the_bucket(
    store: str, rows: Callable[..., Lines]
) -> None:
    (summary,) = rows("ls", "scans", "--at", EARLY, "--prefix", "ct/", "--summary")
    (again,) = rows("ls", summary["reference"], "--summary")
    assert again == summary
    assert (summary["objects"], summary["bytes"], summary["level"]) == (2, 2058, "provisional")
    assert summary["digest"].startswith("sha256:")
    assert [row["key"] for row in rows("ls", summary["reference"])] == [NASTY, "ct/0001"]


def test_a_reference_takes_no_time_of_its_own(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", f"snap://scans@{EARLY}/", "--at", "now"]) == 2
    assert "leave out the options" in capsys.readouterr().err


def test_ls_as_known_at_an_epoch_does_not_know_what_came_later(
    store: str, rows: Callable[..., Lines]
) -> None:
    assert [row["key"] for row in rows("ls", "scans", "--epoch", "1")] == [NASTY, "ct/0001", "mr/ü"]
    assert rows("ls", "scans", "--epoch", "1970-01-02") == []


def test_ls_with_a_delimiter_shows_one_level(store: str, rows: Callable[..., Lines]) -> None:
    top = rows("ls", "scans", "--delimiter", "/")
    assert [row.get("prefix") or row["key"] for row in top] == ["ct/", "new"]
    below = rows("ls", "scans", "--delimiter", "/", "--prefix", "ct/")
    assert [row["key"] for row in below] == [NASTY, "ct/0001"]


def test_slice_shows_what_was_ingested_and_what_became_of_it(store: str, rows: Callable[..., Lines]) -> None:
    interval = ("slice", "scans", "--start", "2023-11-14", "--end", LATE)
    assert [row["version_id"] for row in rows(*interval)] == ["v2", "v4", "v5"]
    every = rows(*interval, "--versions", "all")
    assert [(row["version_id"], row["became"]) for row in every] == [
        ("v2", "current"),
        ("v1", "superseded"),
        ("v4", "current"),
        ("v3", "deleted"),
        ("v5", "current"),
    ]


def test_diff_shows_what_was_added_changed_and_removed(
    store: str, rows: Callable[..., Lines], capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows("diff", "scans", "--from", EARLY, "--to", LATE)
    assert [(row["change"], row["key"]) for row in found] == [
        ("changed", "ct/0001"),
        ("removed", "mr/ü"),
        ("added", "new"),
    ]
    assert (found[0]["before"]["version_id"], found[0]["after"]["version_id"]) == ("v1", "v4")
    assert (found[1]["after"], found[2]["before"]) == (None, None)
    assert run(["diff", "scans", "--from", EARLY, "--to", LATE]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[0] == "~ ct/0001  (2.0 KiB → 99 B, version v1 → v4)"
    assert "1 added, 1 changed, 1 removed" in output.err


def test_the_clock_is_read_once_for_both_ends_of_a_diff(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = itertools.count(T0 + 300_000, 1000)
    monkeypatch.setattr(Engine.__init__, "__kwdefaults__", {"clock": lambda: next(ticks)})
    assert run(["diff", "scans", "--from", "now", "--to", "now"]) == 0
    said = re.findall(r"snap://scans@(\S+)~", capsys.readouterr().err)
    assert len(said) == 2
    assert said[0] == said[1]


def test_diff_of_two_references_shows_what_was_learned_late(store: str, rows: Callable[..., Lines]) -> None:
    found = rows("diff", f"snap://scans@{LATE}~1/", f"snap://scans@{LATE}~2/")
    assert len(found) == 3
    assert rows("diff", f"snap://scans@{LATE}~2/", f"snap://scans@{LATE}~2/") == []


def test_a_pipe_that_is_closed_early_is_no_error(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(f"key-{number:05}", f"v{number}", 1) for number in range(3000)])
    process = subprocess.Popen(
        [sys.executable, "-m", "snapengine", "ls", "scans", "--json"],
        env={**os.environ, "SNAPENGINE_STORE": engine.settings.store},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    assert json.loads(process.stdout.readline())["key"] == "key-00000"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 141
    process.stderr.close()


def test_a_terminal_gets_headers_and_colours_but_never_a_keys_own_escapes(store: str) -> None:
    code, shown = at_a_terminal("ls", "scans")
    assert code == 0
    assert "EVENT TIME" in shown
    assert "\x1b[2m" in shown
    assert "\x1b[31m" not in shown
    assert r"\x1b[31mred" in shown
    _, plain = at_a_terminal("ls", "scans", env={"NO_COLOR": "1"})
    assert "EVENT TIME" in plain
    assert "\x1b" not in plain


@pytest.fixture
def bucket(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_cloud: str) -> Bucket:
    engine = engine_at(tmp_path / "log.db")
    monkeypatch.setenv("SNAPENGINE_STORE", engine.settings.store)
    monkeypatch.chdir(tmp_path)
    return Bucket(cloud, engine)


def test_get_writes_the_version_of_that_instant(bucket: Bucket, rows: Callable[..., Lines]) -> None:
    first = bucket.put("ct/0001.dcm", b"first")
    bucket.put("ct/0001.dcm", b"second")
    (got,) = rows("get", bucket.name, "ct/0001.dcm", "--at", first)
    assert (got["path"], got["size"]) == ("0001.dcm", 5)
    assert Path("0001.dcm").read_bytes() == b"first"
    Path("sub").mkdir()
    assert run(["get", bucket.name, "ct/0001.dcm", "-o", "sub/now.dcm"]) == 0
    assert Path("sub/now.dcm").read_bytes() == b"second"


def test_get_to_stdout_is_the_bytes_and_nothing_else(bucket: Bucket) -> None:
    body = bytes(range(256)) * 200 + b"\r\n\xff"
    bucket.put("blob", body)
    done = snapengine("get", bucket.name, "blob", "-o", "-")
    assert (done.returncode, done.stdout, done.stderr) == (0, body, b"")


def test_get_overwrites_nothing_that_was_not_named(
    bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.put("ct/notes.txt", b"theirs")
    Path("notes.txt").write_bytes(b"mine")
    assert run(["get", bucket.name, "ct/notes.txt"]) == 2
    assert "Replace it with `-o notes.txt`" in capsys.readouterr().err
    assert Path("notes.txt").read_bytes() == b"mine"
    assert run(["get", bucket.name, "ct/notes.txt", "-o", "notes.txt"]) == 0
    assert Path("notes.txt").read_bytes() == b"theirs"


@pytest.mark.parametrize("key", ["..", "a/..", "a/", "a/\x1b[2J", "a/" + "ü" * 200])
def test_a_key_that_gives_no_good_file_name_wants_one(
    bucket: Bucket, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert run(["get", bucket.name, key]) == 2
    assert "Choose one with `-o FILE`" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir() if path.name[:6] != "log.db"] == []


def test_get_writes_all_of_a_view_below_a_folder(bucket: Bucket, rows: Callable[..., Lines]) -> None:
    bucket.put("ct/1", b"one")
    at = bucket.put("ct/sub/2", b"two")
    bucket.put("mr/3", b"three")
    got = rows("get", bucket.name, "--prefix", "ct/", "--at", at, "--to", "data")
    assert [(row["key"], row["path"]) for row in got] == [
        ("ct/1", "data/ct/1"),
        ("ct/sub/2", "data/ct/sub/2"),
    ]
    found = {path.as_posix(): path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    assert found == {"data/ct/1": b"one", "data/ct/sub/2": b"two"}


@pytest.mark.parametrize(
    "arguments", [[], ["key", "--to", "data"], ["key", "--prefix", "a/"], ["--to", "data", "-o", "file"]]
)
def test_get_wants_one_object_or_many_but_not_both(
    store: str, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(["get", "scans", *arguments]) == 2
    assert "Write `snapengine get BUCKET KEY" in capsys.readouterr().err


def test_get_says_when_the_bytes_went(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    at = bucket.put("k", b"body")
    bucket.remove("k", Engine().view(bucket.name, at)["k"].version_id)
    assert run(["get", bucket.name, "k", "--at", at, "-o", "out", "--json"]) == 1
    error = json.loads(capsys.readouterr().err)
    assert error["code"] == "version-gone"
    assert f"went at {render(T0 + 2000)}" in error["message"]
    assert not Path("out").exists()


def test_a_file_that_cannot_be_written_is_named(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    bucket.put("k", b"body")
    Path("file").write_bytes(b"")
    assert run(["get", bucket.name, "k", "-o", "file/below"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error (os-error): file")
    assert "Traceback" not in said


def test_what_is_no_regular_file_is_written_into_and_stays_what_it_is(bucket: Bucket) -> None:
    body = bytes(range(256)) * 2000
    bucket.put("k", body)
    os.mkfifo("pipe")
    Path("to-pipe").symlink_to("pipe")
    for name in ("pipe", "to-pipe"):
        with ThreadPoolExecutor() as pool:
            read = pool.submit(Path("pipe").read_bytes)
            assert run(["get", bucket.name, "k", "-o", name]) == 0
            assert read.result(30) == body
    assert Path("pipe").is_fifo()
    assert Path("to-pipe").is_symlink()


def test_a_link_stays_one_and_its_file_is_replaced(bucket: Bucket, rows: Callable[..., Lines]) -> None:
    bucket.put("k", b"body")
    Path("folder").mkdir()
    Path("link").symlink_to("folder/file")
    for _ in range(2):  # a file that is not there yet, and one that is
        (got,) = rows("get", bucket.name, "k", "-o", "link")
        assert got["path"] == "link"
        assert Path("link").readlink() == Path("folder/file")
        assert Path("folder/file").read_bytes() == b"body"
    assert [path.name for path in Path("folder").iterdir()] == ["file"]


def test_a_file_in_no_folder_and_a_folder_are_no_place_for_an_object(
    bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.put("k", b"body")
    Path("folder").mkdir()
    for output, said in (
        ("none/x", "none: There is no such folder."),
        ("folder", "folder: This is a folder"),
    ):
        assert run(["get", bucket.name, "k", "-o", output]) == 1
        assert said in capsys.readouterr().err
    assert not Path("none").exists()
    assert list(Path("folder").iterdir()) == []
