"""How commands fail and what they load, the table, and who changed what."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from uuid import uuid4

import pytest

from snapengine import Engine, Settings
from snapengine.cli import plugins
from snapengine.cli.audit import attempted, audited
from snapengine.cli.main import run
from snapengine.cli.output import Output
from snapengine.devcloud import DevCloud
from snapengine.errors import Busy, Refused, SnapEngineError, Unreachable, UsageError
from snapengine.model import AuditRecord
from tests.integration.cli_calls import EARLY, NASTY, Bucket, Lines, snapengine
from tests.seed import enable, engine_at, event, marker, record


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


@pytest.fixture
def bucket(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_cloud: str) -> Bucket:
    engine = engine_at(tmp_path / "log.db")
    monkeypatch.setenv("SNAPENGINE_STORE", engine.settings.store)
    monkeypatch.chdir(tmp_path)
    return Bucket(cloud, engine)


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
