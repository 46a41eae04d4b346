"""Snapshots, levels, what is gone, and reconciling, as people and programs meet them on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from snapengine import Engine
from snapengine.buckets.compare import Difference
from snapengine.buckets.reconcile import ReconcileReport
from snapengine.buckets.status import bucket_status
from snapengine.cli import reconcile
from snapengine.cli.main import run
from snapengine.cli.status import levels_in_words
from snapengine.devcloud import DevCloud
from snapengine.errors import Busy, Refused, Unreachable
from snapengine.instants import render
from snapengine.log import EpochCutter
from tests.seed import T0, enable, engine_at, event, marker, record, removal

Lines = list[dict[str, Any]]
EARLY, LATE = render(T0 + 10_000), render(T0 + 200_000)


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> Callable[..., Lines]:
    """Run a command with `--json`; its lines. It succeeds unless another exit code is expected."""

    def call(*arguments: str, exits: int = 0) -> Lines:
        capsys.readouterr()
        code = run([*arguments, "--json"])
        output = capsys.readouterr()
        assert (code, output.err) == (exits, "")
        return [json.loads(line) for line in output.out.splitlines()]

    return call


Failing = Callable[..., dict[str, str]]


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Failing:
    """Run a command with `--json` that fails; its error."""

    def call(*arguments: str, exits: int = 1) -> dict[str, str]:
        capsys.readouterr()
        assert run([*arguments, "--json"]) == exits
        found: dict[str, str] = json.loads(capsys.readouterr().err.splitlines()[-1])
        return found

    return call


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A log with two epochs. By EARLY three objects; by LATE one overwritten, one deleted, one new."""
    engine = engine_at(tmp_path / "log.db")
    monkeypatch.setenv("SNAPENGINE_STORE", engine.settings.store)
    monkeypatch.setenv("SNAPENGINE_ACTOR", "ana")
    enable(engine)
    record(engine, [event("ct/1", "v1", 1), event("ct/2", "v2", 2), event("mr/3", "v3", 3)])
    record(engine, [event("ct/1", "v4", 100, size=99), marker("mr/3", "m1", 101), event("new", "v5", 102)])
    return engine


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snapengine", *arguments]


def snapengine(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def keys(lines: Lines) -> list[str]:
    return [line["key"] for line in lines]


# Snapshots


def test_a_snapshot_is_named_listed_shown_and_used_as_a_time(
    engine: Engine, rows: Callable[..., Lines]
) -> None:
    (made,) = rows(
        *("snapshot", "create", "scans", "base", "--at", EARLY, "--prefix", "ct/", "--note", "for paper 7"),
        *("--label", "project=heart", "--label", "a=b=c"),
    )
    (summary,) = rows("ls", "scans", "--at", EARLY, "--prefix", "ct/", "--summary")
    assert (made["bucket"], made["name"], made["creator"]) == ("scans", "base", "ana")
    assert (made["reference"], made["digest"]) == (summary["reference"], summary["digest"])
    assert (made["note"], made["labels"]) == ("for paper 7", {"project": "heart", "a": "b=c"})
    assert made["created_at"].endswith("Z")
    assert rows("snapshot", "list", "scans") == rows("snapshot", "show", "scans", "base") == [made]

    record(engine, [event("ct/0", "late", 5)])  # its time is before EARLY, and no event told of it until now
    assert keys(rows("ls", "scans", "--at", "snapshot:base")) == ["ct/1", "ct/2"]
    assert keys(rows("ls", "scans", "--at", EARLY, "--prefix", "ct/")) == ["ct/0", "ct/1", "ct/2"]
    assert keys(rows("ls", "scans", "--at", "snapshot:base", "--prefix", "ct/2")) == ["ct/2"]


def test_a_snapshot_shown_to_people_has_its_level_on_stderr(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["snapshot", "create", "scans", "base", "--label", "b=2", "--label", "a=1"]) == 0
    output = capsys.readouterr()
    assert re.search(r"^reference +snap://scans@\S+~2/$", output.out, re.MULTILINE)
    assert re.search(r"^labels +a=1 b=2$", output.out, re.MULTILINE)
    assert output.err.startswith("provisional: ")
    assert run(["snapshot", "list", "scans"]) == 0
    assert re.match(r"base  \S+Z  ana  snap://scans@", capsys.readouterr().out)


def test_a_reference_can_be_named_if_it_is_of_that_bucket(
    engine: Engine, rows: Callable[..., Lines], error: Failing
) -> None:
    reference = f"snap://scans@{EARLY}~1/ct/"
    (made,) = rows("snapshot", "create", "scans", "base", "--at", reference)
    assert made["reference"] == reference
    enable(engine, "other")
    assert error("snapshot", "create", "other", "base", "--at", reference, exits=2)["code"] == "usage"
    assert error("snapshot", "create", "scans", "b", "--at", reference, "--epoch", "2", exits=2)
    assert keys(rows("snapshot", "list", "other")) == []


@pytest.mark.parametrize(
    ("arguments", "exits", "code"),
    [
        (["base"], 1, "refused"),
        (["no spaces"], 2, "usage"),
        (["x", "--label", "nothing"], 2, "usage"),
        (["x", "--label", "a=1", "--label", "a=2"], 2, "usage"),
        (["x", "--at", "2026-11-20T09:00:00"], 2, "bad-time"),
    ],
)
def test_a_name_that_is_taken_and_a_call_that_is_wrong_change_nothing(
    engine: Engine, rows: Callable[..., Lines], error: Failing, arguments: list[str], exits: int, code: str
) -> None:
    before = rows("snapshot", "create", "scans", "base", "--at", EARLY)
    assert error("snapshot", "create", "scans", *arguments, exits=exits)["code"] == code
    assert rows("snapshot", "list", "scans") == before


def test_deleting_a_name_needs_it_twice_and_touches_no_data(
    engine: Engine, rows: Callable[..., Lines], error: Failing
) -> None:
    (made,) = rows("snapshot", "create", "scans", "base", "--at", EARLY)
    for confirmed in ([], ["--confirm", "bas"]):
        refused = error("snapshot", "delete", "scans", "base", *confirmed, exits=2)
        assert "--confirm base" in refused["message"]
    assert rows("snapshot", "list", "scans") == [made]
    (deleted,) = rows("snapshot", "delete", "scans", "base", "--confirm", "base")
    assert deleted == made | {"deleted": True}
    assert rows("snapshot", "list", "scans") == []
    for again in (["delete", "scans", "base", "--confirm", "base"], ["show", "scans", "base"]):
        assert error("snapshot", *again)["code"] == "no-such-snapshot"
    assert error("ls", "scans", "--at", "snapshot:base")["code"] == "no-such-snapshot"
    (summary,) = rows("ls", made["reference"], "--summary")
    assert summary["digest"] == made["digest"]
    lines = [(line["action"], line["target"], line["outcome"]) for line in rows("audit-log")]
    assert lines == [
        ("snapshot create", "scans snapshot:base", "started"),
        ("snapshot create", "scans snapshot:base", "ok"),
        ("snapshot delete", "scans snapshot:base", "started"),
        ("snapshot delete", "scans snapshot:base", "ok"),
        ("snapshot delete", "scans snapshot:base", "failed: no-such-snapshot"),
    ]
    assert made["reference"] in rows("audit-log")[3]["detail"]


def test_snapshots_of_a_bucket_nobody_enabled_are_not_simply_none(engine: Engine, error: Failing) -> None:
    for arguments in (["list", "other"], ["show", "other", "x"], ["delete", "other", "x", "--confirm", "x"]):
        assert error("snapshot", *arguments)["code"] == "bucket-not-enabled"


def test_the_group_alone_shows_its_commands_and_a_wrong_one_is_bad_usage() -> None:
    alone, wrong = snapengine("snapshot"), snapengine("snapshot", "creat", "scans", "x")
    assert alone.returncode == 0
    assert "delete" in alone.stdout
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("Error (usage): No such command 'creat'")
    assert wrong.stderr.count("\n") == 1


# Snapshots as times


def test_get_takes_the_version_that_a_snapshot_names(engine: Engine, error: Failing) -> None:
    assert run(["snapshot", "create", "scans", "base", "--at", EARLY, "--prefix", "ct/"]) == 0
    assert error("get", "scans", "mr/3", "--at", "snapshot:base", "-o", "-")["code"] == "no-such-key"


def test_a_slice_may_begin_and_end_at_the_instant_of_a_snapshot(
    engine: Engine, rows: Callable[..., Lines]
) -> None:
    assert run(["snapshot", "create", "scans", "base", "--at", EARLY]) == 0
    assert run(["snapshot", "create", "scans", "later", "--at", LATE]) == 0
    assert keys(rows("slice", "scans", "--start", "snapshot:base", "--end", "snapshot:later")) == [
        "ct/1",
        "new",
    ]
    assert keys(rows("slice", "scans", "--start", "1970-01-02", "--end", "snapshot:base")) == [
        "ct/1",
        "ct/2",
        "mr/3",
    ]


def changes(lines: Lines) -> list[tuple[str, str]]:
    return [(line["change"], line["key"]) for line in lines]


def test_two_snapshots_are_compared_each_at_its_own_epoch(engine: Engine, rows: Callable[..., Lines]) -> None:
    assert run(["snapshot", "create", "scans", "then", "--at", LATE, "--epoch", "1"]) == 0
    assert run(["snapshot", "create", "scans", "now", "--at", LATE]) == 0
    between = ("diff", "scans", "--from", "snapshot:then", "--to", "snapshot:now")
    assert changes(rows(*between)) == [("changed", "ct/1"), ("removed", "mr/3"), ("added", "new")]
    assert changes(rows("diff", "scans", "--from", "snapshot:then", "--to", EARLY)) == []
    assert changes(rows(*between, "--prefix", "ct/")) == [("changed", "ct/1")]


def test_what_a_snapshot_does_not_cover_is_not_said_to_be_added_or_removed(
    engine: Engine, rows: Callable[..., Lines]
) -> None:
    assert run(["snapshot", "create", "scans", "ct", "--at", EARLY, "--prefix", "ct/"]) == 0
    assert run(["snapshot", "create", "scans", "all", "--at", LATE]) == 0
    for there in ("snapshot:all", "now", LATE):
        assert changes(rows("diff", "scans", "--from", "snapshot:ct", "--to", there)) == [("changed", "ct/1")]
    assert changes(rows("diff", "scans", "--from", "snapshot:all", "--to", "snapshot:ct")) == [
        ("changed", "ct/1")
    ]


def test_two_instants_are_compared_either_way_round(engine: Engine, rows: Callable[..., Lines]) -> None:
    there = changes(rows("diff", "scans", "--from", EARLY, "--to", LATE))
    back = changes(rows("diff", "scans", "--from", LATE, "--to", EARLY))
    assert there == [("changed", "ct/1"), ("removed", "mr/3"), ("added", "new")]
    assert back == [("changed", "ct/1"), ("added", "mr/3"), ("removed", "new")]


# What is gone


def test_audit_lists_what_of_a_view_is_gone_since_when_and_why(
    engine: Engine, rows: Callable[..., Lines], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["snapshot", "create", "scans", "base", "--at", EARLY]) == 0
    assert rows("audit", "scans", "--at", "snapshot:base") == []
    record(engine, [removal("ct/2", "v2", 300)])
    gone = {
        "key": "ct/2",
        "version_id": "v2",
        "since": render(T0 + 300_000),
        "why": "ObjectRemoved:Delete",
    }
    assert rows("audit", "scans", "--at", "snapshot:base") == [gone]
    assert rows("audit", f"snap://scans@{EARLY}~1/ct/") == [gone]
    assert rows("audit", "scans", "--at", EARLY, "--prefix", "mr/") == []
    assert run(["audit", "scans", "--at", EARLY]) == 0
    output = capsys.readouterr()
    assert output.out == f"{render(T0 + 300_000)}  v2  ObjectRemoved:Delete  ct/2\n"
    assert "1 of 3 objects of snap://" in output.err


class Bucket:
    """A versioned bucket in the cloud, and a log that is told of what a test chooses to tell it."""

    def __init__(self, cloud: DevCloud, engine: Engine) -> None:
        self.s3: Any = boto3.client("s3", **cloud.client_arguments())
        self.engine = engine
        self.name = f"b-{uuid4().hex}"
        self.s3.create_bucket(Bucket=self.name)
        self.s3.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})
        enable(engine, self.name)

    def put(self, key: str, *, told: bool = True, etag: str | None = None, **options: Any) -> str:
        """The version's id."""
        reply = self.s3.put_object(Bucket=self.name, Key=key, Body=b"body of " + key.encode(), **options)
        version = str(reply["VersionId"])
        if told:
            seen = event(key, version, 1, size=8 + len(key), etag=etag or reply["ETag"].strip('"'))
            record(self.engine, [seen], self.name)
        return version

    def remove(self, key: str, version: str, *, told: bool = True) -> None:
        self.s3.delete_object(Bucket=self.name, Key=key, VersionId=version)
        if told:
            record(self.engine, [removal(key, version, 500)], self.name)


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def bucket(cloud: DevCloud, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    store = os.environ["SNAPENGINE_STORE"]
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SNAPENGINE_STORE", store)
    return Bucket(cloud, engine)


# Verifying


def test_a_snapshot_whose_versions_s3_still_has_verifies(bucket: Bucket, rows: Callable[..., Lines]) -> None:
    for key in ("a", "b"):
        bucket.put(key)
    (made,) = rows("snapshot", "create", bucket.name, "base")
    bucket.put("a")
    (done,) = rows("verify", bucket.name, "--snapshot", "base", "--bytes")
    assert done == {
        "event": "done",
        "reference": made["reference"],
        "objects": 2,
        "digest": made["digest"],
        "expected": made["digest"],
        "digest_matches": True,
        "asked": 2,
        "differences": 0,
    }
    (unasked,) = rows("verify", bucket.name, "--snapshot", "base")
    assert (unasked["asked"], unasked["differences"]) == (0, None)
    done_as_text = snapengine("verify", bucket.name, "--snapshot", "base", "--bytes")
    assert done_as_text.returncode == 0
    assert "The digest is the same." in done_as_text.stdout
    assert "S3 has all of it: 2 objects" in done_as_text.stdout


def test_verify_tells_what_cannot_be_had_from_s3_any_more_and_exits_with_1(
    bucket: Bucket, rows: Callable[..., Lines]
) -> None:
    told, untold = bucket.put("told"), bucket.put("untold")
    bucket.put("kept")
    bucket.put("other", etag="of-other-bytes")
    bucket.put("cold", StorageClass="DEEP_ARCHIVE")
    assert run(["snapshot", "create", bucket.name, "base"]) == 0
    bucket.remove("told", told)
    bucket.remove("untold", untold, told=False)
    *found, done = rows("verify", bucket.name, "--snapshot", "base", "--bytes", exits=1)
    assert [(line["event"], line["key"], line["kind"], line["since"]) for line in found] == [
        ("difference", "cold", "archived", None),
        ("difference", "other", "different", None),
        ("difference", "told", "gone", render(T0 + 500_000)),
        ("difference", "untold", "gone", None),
    ]
    assert (found[2]["version_id"], done["digest_matches"], done["differences"]) == (told, True, 4)
    shown = snapengine("verify", bucket.name, "--snapshot", "base", "--bytes")
    assert shown.returncode == 1
    line = rf"^gone        {re.escape(told)} +told  \(since .*ObjectRemoved:Delete\)$"
    assert re.search(line, shown.stdout, re.MULTILINE)
    assert "4 of 5 objects cannot be had as they were: 1 archived, 1 different, 2 gone." in shown.stderr


def test_verify_shows_its_progress_at_a_terminal_and_nothing_of_it_in_a_file(
    bucket: Bucket, tmp_path: Path
) -> None:
    version = bucket.put("a")
    assert run(["snapshot", "create", bucket.name, "base"]) == 0
    bucket.remove("a", version)
    ours, theirs = pty.openpty()
    with (tmp_path / "out").open("wb") as file:
        process = subprocess.Popen(
            command("verify", bucket.name, "--snapshot", "base", "--bytes"),
            env={**os.environ, "TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65_536)
            except OSError:  # how Linux says that the other side has closed
                break
        os.close(ours)
        assert process.wait(30) == 1
    assert b"Asking S3" in shown
    lines = (tmp_path / "out").read_text().splitlines()
    assert [line.partition(" ")[0] for line in lines[-1:]] == ["gone"]
    assert not any("\x1b" in line for line in lines)


def test_a_reference_is_verified_by_a_digest_or_by_s3(
    bucket: Bucket, rows: Callable[..., Lines], error: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.put("a")
    (summary,) = rows("ls", bucket.name, "--summary")
    reference, digest = summary["reference"], summary["digest"]
    for given in (digest, digest[: 7 + 32]):
        assert rows("verify", reference, "--digest", given)[0]["digest_matches"] is True
    (done,) = rows("verify", reference, "--digest", "sha256:" + "0" * 64, exits=1)
    assert (done["digest_matches"], done["digest"]) == (False, digest)
    assert run(["verify", reference, "--digest", "sha256:" + "0" * 64]) == 1
    assert "The digest is another: it was sha256:0" in capsys.readouterr().out
    assert rows("verify", reference, "--bytes")[0]["digest_matches"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([f"snap://scans@{EARLY}~1/"], "give --digest sha256:... as it was printed"),
        ([f"snap://scans@{EARLY}~1/", "--snapshot", "x"], "verify BUCKET --snapshot NAME"),
        ([f"snap://scans@{EARLY}~1/", "--digest", "sha256:12"], "is no digest"),
        (["scans"], "--snapshot NAME"),
        (["scans", "--bytes"], "--snapshot NAME"),
        (["scans", "--snapshot", "x", "--digest", "0" * 64], "whose digest is known"),
    ],
)
def test_verify_says_what_to_give(engine: Engine, error: Failing, arguments: list[str], said: str) -> None:
    failure = error("verify", *arguments, exits=2)
    assert failure["code"] == "usage"
    assert said in failure["message"]


def test_an_s3_that_does_not_answer_is_an_error_and_no_difference(
    bucket: Bucket, error: Failing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.put("a", etag="of-other-bytes")
    bucket.put("b")
    assert run(["snapshot", "create", bucket.name, "base"]) == 0
    ask = Engine.head

    def away(self: Engine, name: str, version: Any) -> Any:
        if version.key == "b":
            raise Unreachable("S3 is away.")
        return ask(self, name, version)

    monkeypatch.setattr(Engine, "head", away)
    assert run(["verify", bucket.name, "--snapshot", "base", "--bytes"]) == 1
    output = capsys.readouterr()
    assert "different  " in output.out  # what was found before is told all the same
    assert output.err.splitlines()[-1] == "Error (unreachable): S3 is away."


# Reconciling


def test_reconcile_stores_what_the_log_lacks_and_makes_views_verified(
    bucket: Bucket, rows: Callable[..., Lines], capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.put("known")
    lost = bucket.put("lost")
    bucket.put("missed", told=False)
    bucket.remove("lost", lost, told=False)
    assert keys(rows("ls", bucket.name)) == ["known", "lost"]
    (report,) = rows("reconcile", bucket.name)
    assert (report["bucket"], report["prefix"], report["entries"], report["pages"]) == (bucket.name, "", 2, 1)
    assert (report["found"], report["stored"], report["resumed"]) == ({"created": 1, "removed": 1}, 2, False)
    assert keys(rows("ls", bucket.name)) == ["known", "missed"]
    (summary,) = rows("ls", bucket.name, "--at", EARLY, "--summary")
    assert (summary["level"], summary["epoch"]) == ("verified", report["epoch"])
    assert keys(rows("audit", bucket.name, "--at", EARLY)) == ["lost"]

    assert run(["reconcile", bucket.name]) == 0
    output = capsys.readouterr()
    assert f"Bucket {bucket.name} is compared with the log: 2 versions and markers, 1 page." in output.out
    assert "The log knew all of it." in output.out
    assert "are verified from epoch" in output.err
    lines = rows("audit-log")
    assert [(line["action"], line["target"], line["actor"]) for line in lines] == [
        ("reconcile", bucket.name, "ana")
    ] * 4
    assert lines[1]["detail"] == (
        "2 listed; 1 version that no event had told of; 1 version or delete marker that is gone from S3"
    )


def test_reconcile_of_a_prefix_says_what_it_found_in_words(
    bucket: Bucket, rows: Callable[..., Lines], capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("ct/1", "ct/2", "mr/3"):
        bucket.put(key, told=False)
    assert run(["reconcile", bucket.name, "--prefix", "ct/", "--pages-per-second", "50"]) == 0
    output = capsys.readouterr()
    assert f"Bucket {bucket.name} below ct/ is compared with the log: 2 versions" in output.out
    assert "  2 versions that no event had told of\n" in output.out
    assert keys(rows("ls", bucket.name)) == ["ct/1", "ct/2"]
    assert rows("audit-log")[-1]["target"] == f"{bucket.name}/ct/"


def test_every_kind_that_a_run_can_find_has_its_words() -> None:
    documented = set(re.findall(r"`(\w+)`", _field_docstring()))
    assert documented == set(reconcile._FOUND)
    for kind in documented:
        (one,) = reconcile.found_in_words({kind: 1})
        (many,) = reconcile.found_in_words({kind: 2000})
        assert one.startswith("1 ")
        assert many.startswith("2,000 ")
        assert one.split(" ", 1)[1] != many.split(" ", 1)[1]
    assert list(reconcile.found_in_words({"created": 0})) == []


def _field_docstring() -> str:
    """What `Difference.found` may hold, by its own words."""
    import inspect

    source = inspect.getsource(Difference)
    return source[source.rindex("found: Counter") :]


def test_reconcile_every_so_often_runs_at_once_and_until_it_is_interrupted(
    bucket: Bucket, rows: Callable[..., Lines]
) -> None:
    bucket.put("a", told=False)
    with subprocess.Popen(
        command("reconcile", bucket.name, "--every", "1s", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(2)]
        process.terminate()
        _, rest = process.communicate(timeout=30)
    assert process.returncode == 143, rest
    runs = [json.loads(line) for line in lines]
    assert json.loads(rest.splitlines()[-1])["code"] == "interrupted"
    assert [report["stored"] for report in runs] == [1, 0]
    outcomes = [line["outcome"] for line in rows("audit-log")]
    assert outcomes[:4] == ["started", "ok"] * 2


class Stop(BaseException):
    """Ends a command that goes on for ever."""


def test_a_run_that_fails_for_now_is_told_of_and_the_next_one_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = ReconcileReport("scans", "", T0, T0, 7, 1, 2, 0, {}, resumed=True)
    outcomes: list[Any] = [Unreachable("S3 is away."), Busy("Another is at it."), report, Refused("No.")]
    rests: list[float] = []

    async def fake(*_: Any, **__: Any) -> ReconcileReport:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]  # the report

    monkeypatch.setattr("snapengine.buckets.reconcile.run_reconcile", fake)
    monkeypatch.setattr(reconcile, "sleep", rests.append)
    assert run(["reconcile", "scans", "--every", "1h"]) == 1
    output = capsys.readouterr()
    assert "Warning: This run ended early (unreachable): S3 is away. The next goes on." in output.err
    assert "Warning: This run ended early (busy)" in output.err
    assert "went on with an earlier run" in output.err
    assert output.out.count("compared with the log") == 1
    assert output.err.splitlines()[-1] == "Error (refused): No."
    assert [round(seconds / 60) for seconds in rests] == [60, 120, 180]  # from start to start
    outcomes_noted = [line.outcome for line in engine.store.audit_log()]
    assert outcomes_noted.count("started") == 4
    assert [outcome for outcome in outcomes_noted if outcome != "started"] == [
        "failed: unreachable",
        "failed: busy",
        "ok",
        "failed: refused",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--every", text] for text in ("", "h", "0s", "1", "-1h", "1.5h", "999999999d")),
        *(["--pages-per-second", text] for text in ("0", "-1", "nan", "inf")),
    ],
)
def test_a_pace_that_is_none_is_bad_usage(engine: Engine, error: Failing, arguments: list[str]) -> None:
    assert error("reconcile", "scans", *arguments, exits=2)["code"] == "usage"
    assert list(engine.store.audit_log()) == []


def test_reconciling_once_fails_like_any_command(engine: Engine, error: Failing) -> None:
    enable(engine, "young", baseline_ended=None)
    assert error("reconcile", "young")["code"] == "refused"
    assert error("reconcile", "other")["code"] == "bucket-not-enabled"


# Levels


def test_a_level_that_is_not_reached_in_time_fails_with_the_watermark(engine: Engine, error: Failing) -> None:
    for arguments in (
        ["ls", "scans"],
        ["slice", "scans", "--start", EARLY, "--end", LATE],
        ["diff", "scans", "--from", EARLY],
        ["get", "scans", "ct/1", "-o", "-"],
        ["snapshot", "create", "scans", "x"],
    ):
        failure = error(*arguments, "--require", "settled", "--timeout", "0")
        assert failure["code"] == "not-yet-complete"
        assert "no worker has said yet that it had caught up" in failure["message"]
    assert list(engine.store.snapshots("scans")) == []


def test_verified_is_had_by_listing_the_bucket_now(bucket: Bucket, rows: Callable[..., Lines]) -> None:
    bucket.put("a")
    bucket.put("b", told=False)
    assert keys(rows("ls", bucket.name, "--require", "provisional")) == ["a"]
    assert keys(rows("ls", bucket.name, "--require", "verified")) == ["a", "b"]
    (made,) = rows("snapshot", "create", bucket.name, "base", "--at", "-1s", "--require", "verified")
    (summary,) = rows("ls", bucket.name, "--at", "snapshot:base", "--summary", "--require", "verified")
    assert (summary["level"], summary["reference"]) == ("verified", made["reference"])


def test_a_listing_that_a_verified_view_needed_has_its_audit_lines_and_no_other_view_has(
    bucket: Bucket, rows: Callable[..., Lines], error: Failing
) -> None:
    bucket.put("a")
    bucket.put("ct/b", told=False)
    of_ct = ("ls", bucket.name, "--prefix", "ct/", "--require", "verified")
    assert keys(rows(*of_ct)) == ["ct/b"]
    lines = rows("audit-log")
    assert [line["outcome"] for line in lines] == ["started", "ok"]
    assert {(line["action"], line["target"]) for line in lines} == {("reconcile", f"{bucket.name}/ct/")}
    assert "for a verified view of 20" in lines[1]["detail"]
    rows(*of_ct, "--at", "-1m")  # the same listing began after it
    assert error(*of_ct, "--epoch", "1")["code"] == "not-yet-complete"  # and nothing is listed for it
    assert rows("audit-log") == lines
    rows("slice", bucket.name, "--start", "-1h", "--require", "verified")
    assert [line["target"] for line in rows("audit-log")[2:]] == [bucket.name] * 2


def settle(engine: Engine, bucket: str, caught_up: int, verified: int) -> None:
    async def note() -> None:
        async with engine.log() as log:
            await log.raise_caught_up(bucket, caught_up)
            await log.note_verified(bucket, "", verified)
            await EpochCutter(log, bucket, engine.clock).cut()

    asyncio.run(note())


def test_settled_and_verified_instants_are_had_at_once_and_status_says_which_they_are(
    bucket: Bucket, rows: Callable[..., Lines], error: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = bucket.engine
    assert "provisional, until a first `snapengine reconcile scans`" in levels_in_words(
        bucket_status(engine, "scans")
    )
    settle(engine, "scans", T0 + 320_000, T0 + 50_000)
    wanting = ("--require", "settled", "--timeout", "0")
    (settled,) = rows("ls", "scans", "--at", LATE, "--summary", *wanting)
    (verified,) = rows("ls", "scans", "--at", EARLY, "--summary", *wanting)
    assert (settled["level"], verified["level"]) == ("settled", "verified")
    assert len(rows("diff", "scans", "--from", EARLY, "--to", LATE, *wanting)) == 3
    assert len(rows("diff", "scans", "--from", LATE, "--to", EARLY, *wanting)) == 3
    assert keys(rows("slice", "scans", "--start", EARLY, "--end", LATE, *wanting)) == ["ct/1", "new"]
    later = error("ls", "scans", "--at", render(T0 + 201_000), *wanting)
    assert f"it is settled up to {LATE}" in later["message"]

    status = bucket_status(engine, "scans")
    assert (status.caught_up, status.settled_until) == (T0 + 320_000, T0 + 200_000)
    assert levels_in_words(status) == (
        f"verified before {render(T0 + 50_000)}, settled up to {LATE}, provisional after that"
    )
    run(["ls", "scans", "--at", LATE])
    assert "settled: Workers had read all events sent before" in capsys.readouterr().err


def test_a_level_of_what_is_fixed_is_not_waited_for(engine: Engine, error: Failing) -> None:
    assert run(["snapshot", "create", "scans", "base"]) == 0
    for target in (
        ["scans", "--epoch", "1"],
        [f"snap://scans@{EARLY}~1/"],
        ["scans", "--at", "snapshot:base"],
    ):
        failure = error("ls", *target, "--require", "settled", "--timeout", "3600")
        assert failure["code"] == "not-yet-complete"
        assert "Ask without an epoch." in failure["message"]


@pytest.mark.parametrize(
    "wrong", [["--require", "sure"], ["--require", ""], ["--timeout", "-1"], ["--timeout", "nan"]]
)
def test_a_level_or_a_patience_that_does_not_exist_is_bad_usage(
    engine: Engine, error: Failing, wrong: list[str]
) -> None:
    for arguments in (["ls", "scans"], ["get", "scans", "ct/1"], ["diff", "scans", "--from", EARLY]):
        assert error(*arguments, *wrong, exits=2)["code"] == "usage"
