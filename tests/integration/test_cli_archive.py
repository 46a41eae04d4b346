"""`snapengine archive`, the worker's `--archive` and the Lambda function, as people meet them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest_worker import archive_handler
from ingest_worker.archiving import archive_rounds
from ingest_worker.metrics import Metrics
from snapengine.archiving.leasing import ARCHIVE
from snapengine.buckets.status import bucket_status
from snapengine.cli import archive
from snapengine.cli.main import run
from snapengine.errors import TryAgain, Unreachable, UsageError
from snapengine.instants import render
from snapengine.lease import Lease
from snapengine.model import AuditRecord
from snapengine.stores.sqlite import SQLiteStore
from tests.archive_house import House, play, sqlite_house
from tests.seed import T0, enable, event
from tests.worker_fakes import Lines


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    found = sqlite_house(tmp_path)
    play(found)
    monkeypatch.setenv("SNAPENGINE_STORE", found.store)
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", found.archive)
    monkeypatch.setenv("SNAPENGINE_CACHE", "off")
    monkeypatch.setenv("SNAPENGINE_ACTOR", "ana")
    return found


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command; what it wrote to stdout. It succeeds unless another exit code is expected."""

    def call(*arguments: str, exits: int = 0) -> str:
        capsys.readouterr()
        assert run(arguments) == exits
        return capsys.readouterr().out

    return call


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, str]]:
    def call(*arguments: str, exits: int = 1) -> dict[str, str]:
        capsys.readouterr()
        assert run([*arguments, "--json"]) == exits
        found: dict[str, str] = json.loads(capsys.readouterr().err.splitlines()[-1])
        return found

    return call


def audit(house: House) -> list[AuditRecord]:
    return [line for line in house.engine().store.audit_log() if line.action == "archive"]


def second_bucket(house: House, name: str = "labels") -> None:
    enable(house.engine(), name)
    other = replace(house, bucket=name)
    other.record(5000, [event("a", "v", 4000)])
    house.clock.now = T0 + 9_000_000


def test_a_round_says_what_it_did_and_the_next_that_nothing_was_new(
    house: House, said: Callable[..., str]
) -> None:
    lines = said("archive", "scans", "--checkpoint", "now").splitlines()
    assert (
        lines[0] == f"Bucket scans is archived up to epoch 7 of {render(T0 + 1_400_000)}, at {house.archive}."
    )
    assert lines[1] == "  71 observations in 1 new segment"
    assert lines[2] == f"  a checkpoint of {render(T0 + 1_100_000)}"
    assert lines[3].endswith("KiB written")
    assert said("archive", "scans") == f"{lines[0]}\n"
    assert [(line.target, line.outcome, line.detail) for line in audit(house)] == [
        ("scans", "started", ""),
        ("scans", "ok", "scans: 71 observations"),
        ("scans", "started", ""),
        ("scans", "ok", "scans: 0 observations"),
    ]


def test_without_a_bucket_all_that_are_enabled_have_their_turn(
    house: House, said: Callable[..., str]
) -> None:
    second_bucket(house)
    engine = house.engine()
    enable(engine, "gone")
    config = engine.store.config("gone")
    assert config is not None
    engine.store.put_config(replace(config, enabled=False))
    found = [json.loads(line) for line in said("archive", "--json").splitlines()]
    assert [(one["bucket"], one["observations"]) for one in found] == [("labels", 1), ("scans", 71)]
    assert found[1]["epoch_time"] == render(T0 + 1_400_000)
    assert said("archive", "gone").startswith("Bucket gone has no epoch yet")


def test_one_bucket_s_failure_is_not_the_next_one_s(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    second_bucket(house, "another")
    engine = house.engine()
    with Lease(engine.store, "another", ARCHIVE, lambda: round(time.time() * 1000)):
        assert run(["archive"]) == 1
    output = capsys.readouterr()
    assert output.out.startswith("Bucket scans is archived")
    assert "Error (busy)" in output.err
    assert audit(house)[-1].outcome == "failed: busy"


def test_without_a_place_it_says_what_to_set_and_a_root_may_be_given(
    house: House,
    error: Callable[..., dict[str, str]],
    said: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SNAPENGINE_ARCHIVE")
    assert "Set SNAPENGINE_ARCHIVE" in error("archive", "scans")["message"]
    assert error("archive", "scans", "--root", "ftp://x", exits=2)["code"] == "usage"
    said("archive", "scans", "--root", house.archive)
    assert said("archive", "scans")
    assert error("archive", "scans", "--root", f"{house.archive}-2")["code"] == "refused"


@pytest.mark.parametrize(
    "wrong",
    [
        ("--keep-days", "0"),
        ("--keep-days", "-1"),
        ("--keep-days", "1.5"),
        ("--keep-days", "forever"),
        ("--every", "5"),
        ("--checkpoint", "soon"),
        ("--check", "--every", "5m"),
        ("--check", "--keep-days", "3"),
        ("--check", "--checkpoint", "now"),
    ],
)
def test_what_it_cannot_mean_is_bad_usage_and_nothing_is_tried(
    house: House, error: Callable[..., dict[str, str]], wrong: tuple[str, ...]
) -> None:
    assert error("archive", "scans", *wrong, exits=2)["code"] == "usage"
    assert audit(house) == []


def test_a_bucket_that_is_not_enabled_is_told_the_way(
    house: House, error: Callable[..., dict[str, str]]
) -> None:
    assert "snapengine enable-bucket nope" in error("archive", "nope")["message"]
    assert "snapengine archive scans" in error("archive", "scans", "--check")["message"]


def test_days_to_keep_are_kept_and_given_up(house: House, said: Callable[..., str]) -> None:
    out = said("archive", "scans", "--keep-days", "30")
    assert "71 observations leave the table in a day" in out
    config = house.engine().store.config("scans")
    assert config is not None
    assert config.keep_days == 30
    assert audit(house)[0].detail == "keep 30 days"
    said("archive", "scans", "--keep-days", "all")
    config = house.engine().store.config("scans")
    assert config is not None
    assert config.keep_days is None


def test_check_finds_all_whole_or_names_each_file_that_is_not(
    house: House, said: Callable[..., str], error: Callable[..., dict[str, str]]
) -> None:
    said("archive", "scans")
    assert said("archive", "--check").startswith("Bucket scans: 3 files, ")
    files = sorted(Path(house.archive.removeprefix("file://")).rglob("*.parquet"))
    altered, cut, _ = files
    data = altered.read_bytes()
    altered.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    cut.write_bytes(cut.read_bytes()[:-1])
    out = said("archive", "scans", "--check", exits=1)
    assert "2 NOT as written" in out
    message = error("archive", "--check")["message"]
    assert message.startswith("2 of 3 files not as written: ")
    assert altered.name in message
    assert cut.name in message
    (line,) = said("archive", "--check", "--json", exits=1).splitlines()
    found = json.loads(line)
    assert {Path(path).name for path in found["damaged"]} == {altered.name, cut.name}
    assert (found["bucket"], found["files"]) == ("scans", 3)


def test_status_says_how_far_it_is(
    house: House, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert bucket_status(house.engine(), "scans").archive is None
    said("archive", "scans", "--checkpoint", "now", "--keep-days", "9000")
    found = bucket_status(house.engine(), "scans").archive
    assert found is not None
    assert (found.root, found.epoch, found.archived_until) == (house.archive, 7, T0 + 1_400_000)
    assert (found.segments, found.checkpoints, found.newest_checkpoint) == (1, 1, T0 + 1_100_000)
    assert (found.observations, found.files, found.keep_days) == (71, 5, 9000)
    assert found.bytes > 1000
    out = said("status", "scans", exits=1)  # AWS cannot be reached
    assert "up to epoch 7 of" in out
    assert "9,000 days of what is archived" in out


def test_rounds_go_on_until_it_is_told_to_stop_whatever_fails(
    house: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    real = SQLiteStore.manifests

    def stop(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    def unreachable(*_: Any) -> list[str]:
        if len(slept) == 1:
            raise Unreachable("The table does not answer.")
        return real(*_)

    monkeypatch.setattr(archive, "sleep", stop)
    monkeypatch.setattr(SQLiteStore, "manifests", unreachable)
    assert run(["archive", "scans", "--every", "5m", "--json"]) == 130
    output = capsys.readouterr()
    assert [json.loads(line)["segments"] for line in output.out.splitlines()] == [1, 0]
    assert "The table does not answer" in json.loads(output.err.splitlines()[0])["warning"]
    assert slept[0] <= 300 < slept[1] <= 600  # from start to start, and no time has passed
    assert [line.outcome for line in audit(house)] == ["started", "interrupted"]
    assert audit(house)[0].detail == "every 5m"


def test_a_process_that_is_told_to_stop_ends_and_leaves_no_lease(house: House) -> None:
    command = [sys.executable, "-m", "snapengine", "archive", "--every", "1s", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ), text=True) as child:
        try:
            assert child.stdout is not None
            assert json.loads(child.stdout.readline())["segments"] == 1
            child.send_signal(signal.SIGTERM)
            assert child.wait(30) == 143
        finally:
            child.kill()
    house.round()


# The worker


async def test_a_worker_s_rounds_are_logged_and_no_failure_ends_them(house: House, lines: Lines) -> None:
    stop, metrics = asyncio.Event(), Metrics()
    asked = 0

    def buckets() -> list[str]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Unreachable("the registry is away")
        if asked == 4:
            stop.set()
        return ["nope", "scans"]

    await asyncio.wait_for(archive_rounds(house.engine(), buckets, 0.01, stop, metrics), 30)
    (done,) = lines.of("archived")
    assert (done["bucket"], done["observations"], done["epoch"]) == ("scans", 71, 7)
    failures = [(line["bucket"], line["code"]) for line in lines.of("archive-failed")]
    assert failures[:2] == [("", "unreachable"), ("nope", "bucket-not-enabled")]
    assert b'failures_total{step="archive"}' in metrics.text()


async def test_a_worker_beside_another_archiver_says_so_once(house: House, lines: Lines) -> None:
    stop = asyncio.Event()
    asked = 0

    def buckets() -> list[str]:
        nonlocal asked
        asked += 1
        if asked == 4:
            stop.set()
        return ["scans"]

    engine = house.engine()
    with Lease(engine.store, "scans", ARCHIVE, engine.clock):
        await asyncio.wait_for(archive_rounds(house.engine(), buckets, 0.01, stop, Metrics()), 30)
    assert [line["bucket"] for line in lines.of("archived-elsewhere")] == ["scans"]
    assert lines.of("archive-failed") == []


# Lambda


class Context:
    def __init__(self, seconds: float = 900) -> None:
        self._seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self._seconds * 1000)


@pytest.fixture
def environment(house: House) -> Iterator[archive_handler.Environment]:
    made = archive_handler.Environment(house.engine())
    yield made
    end(made)


def end(environment: archive_handler.Environment) -> None:
    """What Lambda never does: it ends the process."""
    environment._loop.run_until_complete(environment._loop.shutdown_default_executor())
    environment._loop.close()


def test_a_scheduled_function_archives_all_or_those_it_is_told(
    house: House, lines: Lines, environment: archive_handler.Environment
) -> None:
    second_bucket(house)
    assert environment.handle(["labels"], Context()).keys() == {"labels"}
    done = environment.handle(None, Context())
    assert done["labels"]["segments"] == 0
    assert done["scans"]["observations"] == 71
    json.dumps(done)


def test_a_scheduled_function_fails_after_the_others_turns(
    house: House, lines: Lines, environment: archive_handler.Environment
) -> None:
    with pytest.raises(TryAgain, match="nope: Bucket nope is not enabled"):
        environment.handle(["nope", "scans"], Context())
    assert house.manifests().last_epoch == 7


def test_a_scheduled_function_without_time_leaves_it_to_the_next(
    house: House, lines: Lines, environment: archive_handler.Environment
) -> None:
    with pytest.raises(TryAgain, match="the next invocation goes on"):
        environment.handle(None, Context(archive_handler.RESERVE))
    before = house.answers(some=True)
    assert environment.handle(None, Context())["scans"]
    assert house.answers(some=True) == before


@pytest.mark.parametrize(
    "event", [{"buckets": []}, {"buckets": "scans"}, {"buckets": [1]}, {"buckets": [""]}]
)
def test_an_event_that_names_no_buckets_is_refused(event: Any) -> None:
    with pytest.raises(UsageError, match="names no buckets"):
        archive_handler.handler(event, Context())


def test_the_handler_makes_its_engine_from_the_environment(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_handler, "_environment", None)
    monkeypatch.setattr("snapengine.workers.logs.configure", lambda: None)
    done = archive_handler.handler({"source": "aws.scheduler"}, Context())
    assert done["scans"]["observations"] == 71
    assert archive_handler._environment is not None
    end(archive_handler._environment)
