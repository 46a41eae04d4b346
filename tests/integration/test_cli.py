"""The command line as people and programs meet it: output, exit codes, errors, the audit log."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from snapengine import Engine, Settings
from snapengine.buckets import queues
from snapengine.cli import plugins
from snapengine.cli.audit import attempted, audited
from snapengine.cli.main import run
from snapengine.cli.output import Output
from snapengine.devcloud import DevCloud
from snapengine.errors import Busy, Refused, SnapEngineError, Unreachable, UsageError
from snapengine.instants import render
from snapengine.model import AuditRecord
from tests.seed import T0, enable, engine_at, event, marker, record, removal

NASTY = "ct/\x1b[31mred\r\n\x07"
EARLY, LATE = render(T0 + 10_000), render(T0 + 200_000)


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


Lines = list[dict[str, Any]]


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


def snapengine(
    *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "snapengine", *arguments],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        check=False,
        cwd=cwd,
    )


def at_a_terminal(*arguments: str, typed: str = "", env: dict[str, str] | None = None) -> tuple[int, str]:
    """The real command with a terminal for its three streams; exit code and all that was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "snapengine", *arguments],
        env={**os.environ, "TERM": "xterm", **(env or {})},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    if typed:
        os.write(ours, typed.encode())
    shown = b""
    while True:
        try:
            data = os.read(ours, 65_536)
        except OSError:  # how Linux says that the other side has closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    return process.wait(60), shown.decode()


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


# Bytes


class Bucket:
    """A versioned bucket in the cloud; each write goes into the log by hand."""

    def __init__(self, cloud: DevCloud, engine: Engine) -> None:
        self.s3: Any = boto3.client("s3", **cloud.client_arguments())
        self.engine = engine
        self.name = f"b-{uuid4().hex}"
        self.s3.create_bucket(Bucket=self.name)
        self.s3.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})
        self._seconds = 0
        enable(engine, self.name)

    def put(self, key: str, body: bytes) -> str:
        """The instant just after, as text."""
        reply = self.s3.put_object(Bucket=self.name, Key=key, Body=body)
        self._seconds += 1
        seen = event(key, reply["VersionId"], self._seconds, size=len(body), etag=reply["ETag"].strip('"'))
        record(self.engine, [seen], self.name)
        return render(seen.event_time)

    def remove(self, key: str, version: str) -> None:
        self.s3.delete_object(Bucket=self.name, Key=key, VersionId=version)
        self._seconds += 1
        record(self.engine, [removal(key, version, self._seconds)], self.name)


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


# Errors

NO_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "",
    "AWS_SECRET_ACCESS_KEY": "",
    "SNAPENGINE_STORE": "dynamodb://snapengine",
}


@pytest.mark.parametrize(
    ("arguments", "env", "exit_code", "code", "remedy"),
    [
        (["ls", "scans", "--at", ""], {}, 2, "bad-time", "not a time with a zone"),
        (["ls", "scans", "--at", "2026-11-20T09:00:00"], {}, 2, "bad-time", "Write '2026-11-20T09:00:00Z'"),
        (["ls", "scans", "--at", "9999-01-01"], {}, 2, "future-time", "Use `now`"),
        (["ls", "scans", "--at", "20231114"], {}, 2, "bad-time", "epoch milliseconds"),
        (["ls", "other"], {}, 1, "bucket-not-enabled", "snapengine enable-bucket other"),
        (["ls", "scans", "--epoch", "99"], {}, 1, "no-such-epoch", "Leave out --epoch"),
        (["ls", "snap://scans/ct"], {}, 2, "bad-reference", "Write snap://BUCKET@TIME/PREFIX"),
        (["get", "scans", "nope", "-o", "-"], {}, 1, "no-such-key", "snapengine ls"),
        (["ls", "scans"], {"SNAPENGINE_STORE": "sqlite:////nowhere/log.db"}, 1, "table-missing", "init"),
        (["status"], {"SNAPENGINE_STORE": "sqlite:////nowhere/log.db"}, 1, "table-missing", "init"),
        (["audit-log"], {"SNAPENGINE_STORE": "sqlite:////nowhere/log.db"}, 1, "table-missing", "init"),
        (
            ["ls", "scans"],
            {"SNAPENGINE_STORE": "mysql://x"},
            *(
                2,
                "usage",
                "'mysql://x' is neither dynamodb://TABLE nor sqlite:///PATH. See docs/settings.md.",
            ),
        ),
        (["ls", "scans"], {"SNAPENGINE_STREAMS": "none"}, 2, "usage", "docs/settings.md"),
        (["ls", "scans"], NO_CREDENTIALS, 1, "credentials-missing", "aws sso login"),
        (["ls"], {}, 2, "usage", "See `snapengine ls --help`"),
        (["ls", "scans", "--nope"], {}, 2, "usage", "See `snapengine ls --help`"),
        (["ls", "scans", "--at"], {}, 2, "usage", "See `snapengine ls --help`"),
        (["slice", "scans"], {}, 2, "usage", "--start"),
        (["slice", "scans", "--start", "-1d", "--versions", "some"], {}, 2, "usage", "`last` or `all`"),
        (["diff", "scans"], {}, 2, "usage", "--from TIME"),
        (["diff", f"snap://scans@{EARLY}/"], {}, 2, "usage", "REFERENCE REFERENCE"),
        (["dev", "--port", "70000"], {}, 2, "usage", "See `snapengine dev --help`"),
        (["lss"], {}, 2, "usage", "Did you mean 'ls'? See `snapengine --help`."),
        (["ls", "s3://scans/ct"], {}, 2, "usage", "Give the bare name, without s3:// or an ARN"),
        (["ls", "s3://scans/ct"], NO_CREDENTIALS, 2, "usage", "a snap:// reference"),
        (["status", "scans/"], {}, 2, "usage", "'scans/' is no bucket's name"),
        (["enable-bucket", "", "--yes"], {}, 2, "usage", "'' is no bucket's name"),
        (["reconcile", "arn:aws:s3:::scans"], {}, 2, "usage", "Give the bare name"),
        (["ls", "caf\udce9"], {}, 2, "usage", "Write it in UTF-8"),
        (["enable-bucket", "scans"], {}, 2, "usage", "--yes"),
        (["disable-bucket", "scans"], {}, 2, "usage", "--yes"),
    ],
)
def test_an_error_is_one_sentence_with_a_remedy_or_one_object(
    store: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    env: dict[str, str],
    exit_code: int,
    code: str,
    remedy: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    assert run(arguments) == exit_code
    output = capsys.readouterr()
    assert output.out == ""
    assert re.fullmatch(rf"Error \({code}\): [^\n]+\n", output.err)
    assert remedy in output.err
    assert run([*arguments, "--json"]) == (2 if arguments[-1] == "--at" else exit_code)
    assert time.monotonic() - began < 10
    output = capsys.readouterr()
    assert output.out == ""
    error = json.loads(output.err)
    assert set(error) == {"code", "message"}
    if arguments[-1] != "--at" and arguments[0] != "dev":
        assert error["code"] == code
        assert remedy in error["message"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("store = [", "is not TOML"),
        ('stor = "x"', "STOR: there is no such setting"),
        ("streams = 0", "SNAPENGINE_STREAMS"),
    ],
)
def test_a_wrong_settings_file_is_bad_usage(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    said: str,
) -> None:
    (tmp_path / "snapengine.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert run(["ls", "scans"]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "docs/settings.md" in message


def test_a_missing_dynamodb_table_is_said_with_its_remedy(
    in_cloud: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["ls", "scans"], ["status"], ["enable-bucket", "scans", "--yes"]):
        assert run([*arguments, "--json"]) == 1
        error = json.loads(capsys.readouterr().err.splitlines()[-1])
        assert error["code"] == "table-missing"
        assert "snapengine init" in error["message"]


@pytest.mark.slow
def test_an_endpoint_that_does_not_answer_is_given_up_in_bounded_time() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses every connection
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        env = {"AWS_ENDPOINT_URL": url, "SNAPENGINE_STORE": "dynamodb://snapengine"}
        began = time.monotonic()
        done = snapengine("ls", "scans", "--json", env=env)
        assert time.monotonic() - began < 60
    assert (done.returncode, done.stdout) == (1, b"")
    error = json.loads(done.stderr)
    assert error["code"] == "unreachable"
    assert "AWS_ENDPOINT_URL" in error["message"]


def test_the_real_command_prints_no_traceback_and_no_box(store: str) -> None:
    done = snapengine("ls", "scans", "--at", "2026-11-20T09:00:00")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"Error (bad-time): ")


def test_debug_adds_the_traceback(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["--debug", "ls", "other"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    monkeypatch.setenv("SNAPENGINE_DEBUG", "1")
    assert run(["ls", "other"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_fault_of_our_own_is_a_sentence_too(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(Engine, "view", broken)
    assert run(["ls", "scans"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error (unexpected): An unexpected ZeroDivisionError: oh no.")
    assert said.count("\n") == 1


# The root


def test_help_and_version_load_nothing_heavy_and_say_what_there_is() -> None:
    heavy = {"boto3", "pandas", "pyarrow", "moto", "aiohttp", "pydantic", "rich"}
    for argument, expected in (("--help", "enable-bucket"), ("--version", "snapengine 0.1.0")):
        script = (
            "import sys; from snapengine.cli.main import run\n"
            f"code = run([{argument!r}])\n"
            "print(*sys.modules, file=sys.stderr); sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert expected in done.stdout
        assert heavy & set(done.stderr.split()) == set()


def test_ls_loads_neither_the_worker_nor_the_cloud(store: str) -> None:
    script = (
        "import sys; from snapengine.cli.main import run\n"
        "run(['ls', 'scans', '--json']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 3
    assert {"aiohttp", "aioboto3", "moto", "ingest_worker.command"} & set(done.stderr.split()) == set()


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "See the past:" in capsys.readouterr().out


def test_a_broken_plug_in_breaks_no_other_command(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [
        EntryPoint("absent", "no_such_package.command:absent", plugins.GROUP),
        EntryPoint("ls", "no_such_package.command:ls", plugins.GROUP),
    ]

    def installed(group: str, name: str = "") -> list[EntryPoint]:
        return [entry for entry in entries if name in {"", entry.name}]

    monkeypatch.setattr(plugins, "entry_points", installed)
    monkeypatch.setattr("snapengine.plugins.entry_points", installed)
    assert run(["--help"]) == 0
    assert "absent" in capsys.readouterr().out
    assert run(["ls", "scans", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert run(["absent"]) == 2
    assert "no_such_package" in capsys.readouterr().err


# The table, and who changed what


def test_init_creates_the_table_once_and_notes_who_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Callable[..., Lines]
) -> None:
    address = f"sqlite:///{tmp_path}/deep/log.db"
    monkeypatch.setenv("SNAPENGINE_STORE", address)
    monkeypatch.setenv("SNAPENGINE_ACTOR", "ana")
    ((first,), (second,)) = (rows("init"), rows("init"))
    assert (first["store"], len(first["created"]), second["created"]) == (address, 1, [])
    (line,) = rows("audit-log")
    assert (line["actor"], line["action"], line["target"], line["outcome"]) == ("ana", "init", address, "ok")
    assert rows("audit-log", "--since", "-1h") == [line]
    assert rows("audit-log", "--since", "now") == []


def test_init_on_dynamodb_notes_the_aws_identity(
    in_cloud: str, rows: Callable[..., Lines], capsys: pytest.CaptureFixture[str]
) -> None:
    rows("init")
    (line,) = rows("audit-log")
    assert line["actor"].startswith("arn:aws:sts::123456789012:")
    assert run(["audit-log"]) == 0
    assert re.search(rf"Z  ok  arn:\S+  init  {in_cloud}  table", capsys.readouterr().out)


def _audit(engine: Engine) -> list[tuple[str, str, str]]:
    return [(line.action, line.target, line.outcome) for line in engine.store.audit_log()]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Busy("x"), "failed: busy"),
        (KeyboardInterrupt(), "interrupted"),
        (ValueError("x"), "failed: unexpected"),
    ],
)
def test_a_command_that_fails_or_is_interrupted_leaves_its_line(
    tmp_path: Path, error: BaseException, outcome: str
) -> None:
    engine = engine_at(tmp_path / "log.db")
    with pytest.raises(type(error)), audited(engine, Output(as_json=False), "do", "it", ask_aws=False):
        raise error
    assert _audit(engine) == [("do", "it", "started"), ("do", "it", outcome)]


def test_a_failure_keeps_what_was_to_be_done_and_why_it_was_not(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "log.db")
    with (
        pytest.raises(Busy),
        audited(engine, Output(as_json=False), "do", "it", detail="plan", ask_aws=False),
    ):
        raise Busy("why")
    first, last = engine.store.audit_log()
    assert (first.detail, last.detail) == ("plan", "plan; error: why")
    assert first.time < last.time


def test_what_fails_before_anything_is_changed_leaves_one_line_and_bad_usage_none(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "log.db")
    for error in (Refused("no"), UsageError("wrong")):
        with (
            pytest.raises(type(error)),
            attempted(engine, Output(as_json=False), "do", "it", ask_aws=False),
        ):
            raise error
    (line,) = engine.store.audit_log()
    assert (line.outcome, line.detail) == ("failed: refused", "no")


class Forgetful:
    """A registry that takes so many audit lines, and no more."""

    def __init__(self, takes: int) -> None:
        self.takes = takes

    def append_audit(self, line: AuditRecord) -> None:
        self.takes -= 1
        if self.takes < 0:
            raise Unreachable("The table is away. Try again later.")


def test_a_line_that_cannot_be_written_is_never_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(Settings(store=f"sqlite:///{tmp_path}/log.db"))
    engine.__dict__["store"] = Forgetful(1)
    out = Output(as_json=False)
    with (
        pytest.raises(SnapEngineError, match="do it was done, but its audit line could not be written"),
        audited(engine, out, "do", "it", ask_aws=False),
    ):
        pass
    engine.__dict__["store"] = Forgetful(1)
    with pytest.raises(Busy), audited(engine, out, "do", "it", ask_aws=False):
        raise Busy("x")
    assert "Warning: The audit log has no line of this failure" in capsys.readouterr().err


def test_nothing_is_begun_whose_line_cannot_be_written(tmp_path: Path) -> None:
    engine = Engine(Settings(store=f"sqlite:///{tmp_path}/log.db"))
    engine.__dict__["store"] = Forgetful(0)
    with (
        pytest.raises(SnapEngineError, match="do it was not begun, as its audit line could not be written"),
        audited(engine, Output(as_json=False), "do", "it", ask_aws=False),
    ):
        pytest.fail("it was begun")


# Buckets


@pytest.fixture
def fresh(in_cloud: str, cloud: DevCloud) -> str:
    """A bucket with two objects, and a table; nothing is enabled."""
    assert run(["init", "--json"]) == 0
    name = f"b-{uuid4().hex[:12]}"
    s3: Any = boto3.client("s3", **cloud.client_arguments())
    s3.create_bucket(Bucket=name)
    for key in ("a", "b"):
        s3.put_object(Bucket=name, Key=key, Body=b"x")
    return name


def test_a_dry_run_shows_the_plan_and_changes_nothing(fresh: str, rows: Callable[..., Lines]) -> None:
    (plan,) = rows("enable-bucket", fresh, "--dry-run", "--prefix", "ct/")
    assert plan["event"] == "plan"
    assert [step["step"] for step in plan["steps"]][-1] == "take-baseline"
    assert plan["prefix"] == "ct/"
    assert rows("status") == []
    assert [line["action"] for line in rows("audit-log")] == ["init"]


def test_a_bucket_is_enabled_watched_and_disabled(
    fresh: str, rows: Callable[..., Lines], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["enable-bucket", fresh, "--yes", "--no-wait"]) == 0
    output = capsys.readouterr()
    assert f"Bucket {fresh} is enabled." in output.out
    assert "2 versions" in output.out
    assert "· switch versioning on" in output.err

    assert run(["enable-bucket", fresh, "--yes", "--no-wait"]) == 0
    assert "there is nothing to do" in capsys.readouterr().err
    plan, done = rows("enable-bucket", fresh, "--yes", "--no-wait")
    assert (plan["steps"], done["event"], done["enabled"]) == ([], "done", True)
    assert [line["event"] for line in rows("enable-bucket", fresh, "--dry-run")] == ["plan"]

    (status,) = rows("status")
    assert (status["bucket"], status["enabled"], status["drift"]) == (fresh, True, [])
    assert status["baseline"]["state"] == "ended"
    assert status["trusted_since"].endswith("Z")
    assert run(["status", fresh]) == 0
    assert "as it should be" in capsys.readouterr().out
    assert run(["status"]) == 0
    assert re.search(rf"{fresh}  enabled  .*ended", capsys.readouterr().out)
    assert [row["key"] for row in rows("ls", fresh)] == ["a", "b"]

    lines = rows("disable-bucket", fresh, "--yes", "--no-wait")  # S3's test event is still in the queue
    assert "is kept for the worker" in lines[-1]["kept"][0]
    assert [lines[0]["event"], lines[-1]["event"]] == ["plan", "done"]
    assert rows("status", fresh)[0]["enabled"] is False
    assert run(["status", fresh]) == 0
    assert "none, as it is disabled" in capsys.readouterr().out
    assert [(line["action"], line["outcome"]) for line in rows("audit-log")] == [
        ("init", "ok"),
        ("enable-bucket", "started"),
        ("enable-bucket", "ok"),
        ("disable-bucket", "started"),
        ("disable-bucket", "ok"),
    ]


def test_what_is_said_of_several_buckets_names_them_and_is_said_once(
    fresh: str, cloud: DevCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    other = f"{fresh}-too"
    boto3.client("s3", **cloud.client_arguments()).create_bucket(Bucket=other)
    for name in (fresh, other):
        assert run(["enable-bucket", name, "--yes", "--no-wait"]) == 0
    capsys.readouterr()
    assert run(["status"]) == 0
    said = capsys.readouterr().err
    assert said.count("Warning: ") == said.count(f"Warning: {fresh}, {other}: ") == 2
    assert "is not on AWS" not in said
    assert run(["status", other]) == 0
    said = capsys.readouterr().err
    assert "Warning: S3 may take 5 minutes" in said
    assert "Warning: AWS asks to wait" in said


def test_a_refused_plan_is_shown_and_fails(fresh: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["enable-bucket", f"{fresh}--x-s3", "--yes", "--json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])["refusals"]
    assert json.loads(output.err)["code"] == "refused"


def test_a_command_that_fails_before_its_first_change_leaves_its_line_and_a_dry_run_none(
    fresh: str, rows: Callable[..., Lines]
) -> None:
    for bucket in (f"{fresh}--x-s3", f"{fresh}-absent"):
        assert run(["enable-bucket", bucket, "--dry-run"]) == 1
        assert run(["enable-bucket", bucket, "--yes"]) == 1
    assert run(["disable-bucket", fresh, "--yes"]) == 1
    _, *lines = rows("audit-log")
    assert [(line["action"], line["target"], line["outcome"]) for line in lines] == [
        ("enable-bucket", f"{fresh}--x-s3", "failed: refused"),
        ("enable-bucket", f"{fresh}-absent", "failed: bucket-unknown"),
        ("disable-bucket", fresh, "failed: bucket-not-enabled"),
    ]
    assert "Check the name, AWS_PROFILE and AWS_ENDPOINT_URL." in lines[1]["detail"]


def test_a_disabled_bucket_that_is_disabled_again_is_done_at_once(
    fresh: str, rows: Callable[..., Lines], cloud: DevCloud
) -> None:
    assert run(["enable-bucket", fresh, "--yes", "--no-wait"]) == 0
    sqs: Any = boto3.client("sqs", **cloud.client_arguments())
    for url in sqs.list_queues(QueueNamePrefix=queues.queue_name(fresh))["QueueUrls"]:
        sqs.purge_queue(QueueUrl=url)
    rows("disable-bucket", fresh, "--yes", "--no-wait")
    plan, done = rows("disable-bucket", fresh, "--yes", "--no-wait")
    assert plan["steps"] == []
    assert done == {"event": "done", "bucket": fresh, "enabled": False, "kept": []}


def test_somebody_at_a_terminal_is_asked_and_may_say_no(fresh: str, rows: Callable[..., Lines]) -> None:
    code, shown = at_a_terminal("enable-bucket", fresh, "--no-wait", typed="n\n")
    assert code == 1
    assert "Go on? [y/N]" in shown
    assert "Nothing was changed." in shown
    assert rows("status") == []
    code, shown = at_a_terminal("enable-bucket", fresh, "--no-wait", typed="y\n")
    assert code == 0
    assert "is enabled." in shown
    assert rows("status")[0]["enabled"] is True


@pytest.mark.parametrize(("told", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_told_to_end_says_so_and_leaves_its_line(
    fresh: str, rows: Callable[..., Lines], told: signal.Signals, exit_code: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "snapengine", "enable-bucket", fresh, "--yes"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:  # until it waits for AWS to apply it all, which takes minutes
        if line.startswith("Waiting"):
            break
    process.send_signal(told)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == exit_code
    assert rest.splitlines()[-1].startswith("Error (interrupted): ")
    assert "Traceback" not in rest
    assert [(line["action"], line["outcome"]) for line in rows("audit-log")][-1] == (
        "enable-bucket",
        "interrupted",
    )


def test_a_command_that_is_killed_has_left_the_line_of_its_start(
    fresh: str, rows: Callable[..., Lines]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "snapengine", "enable-bucket", fresh, "--yes"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if line.startswith("Waiting"):
            break
    process.kill()
    process.communicate(timeout=30)
    assert rows("status", fresh)[0]["enabled"] is True
    last = rows("audit-log")[-1]
    assert (last["action"], last["target"], last["outcome"]) == ("enable-bucket", fresh, "started")
    assert "switch versioning on" in last["detail"]


# The cloud


def test_dev_prints_how_to_reach_it_and_ends_when_told_to() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "snapengine", "dev"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "SNAPENGINE_STORE" in line:
            break
    assert all(re.fullmatch(r"export \w+=.*\n", line) for line in lines)
    (url,) = [line.partition("=")[2].strip() for line in lines if "AWS_ENDPOINT_URL=" in line]
    port = url.rpartition(":")[2]
    second = snapengine("dev", "--port", port)
    assert second.returncode == 1
    assert second.stderr.startswith(b"Error (busy): ")
    process.terminate()
    rest = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, ("", ""))
