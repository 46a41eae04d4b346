"""`enable-bucket`, `disable-bucket` and `dev`, as people meet them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from snapengine.buckets import queues
from snapengine.cli.main import run
from snapengine.devcloud import DevCloud
from tests.integration.cli_calls import Bucket, Lines, at_a_terminal, snapengine
from tests.seed import engine_at


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
