"""Snapshots, levels, what is gone, and reconciling, as people and programs meet them on the command line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapengine import Engine
from snapengine.cli.main import run
from snapengine.devcloud import DevCloud
from snapengine.instants import render
from tests.integration.cli_history_house import EARLY, LATE, Bucket, Failing, Lines, keys, snapengine
from tests.seed import T0, enable, engine_at, event, marker, record, removal


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


class Stop(BaseException):
    """Ends a command that goes on for ever."""
