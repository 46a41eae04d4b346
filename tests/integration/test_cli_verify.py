"""`verify`, `reconcile` and levels of completeness, as people meet them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from tests.integration.cli_history_house import EARLY, LATE, Bucket, Failing, Lines, command, keys, snapengine
from tests.seed import T0, enable, engine_at, event, marker, record


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
