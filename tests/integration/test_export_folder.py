"""A view exported to a folder: files whole or not at all, exact names or none, checked, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from readers.export import Export, Exported, Options, export
from readers.export_paths import OURS
from snapengine import View
from snapengine.cli.main import run
from snapengine.devcloud import DevCloud
from snapengine.errors import Busy, CannotExpressKey, PermissionMissing, UsageError
from tests.export_house import AWKWARD, MIB, House

EXPRESSIBLE = ["a", "a::b", "a*", "[a]", "a?b", "a#b", "a%2Bb", "a+b", "~a", "é"]


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def in_cloud(cloud: DevCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def house(in_cloud: None, tmp_path: Path) -> House:
    return House(tmp_path / "log.db")


def files(folder: Path) -> dict[str, bytes]:
    """All below a folder, but for what is ours."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).as_posix().startswith(OURS)
    }


def to(folder: Path, house: House, view: View | None = None, **options: Any) -> Exported:
    return export(house.engine, view or house.view(), str(folder), Options(**options))


def manifest(done: Exported) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(done.manifest).read_text("ascii").splitlines()]


@pytest.mark.parametrize("status", ["Enabled", "Suspended", None])
def test_keys_that_look_alike_are_each_written_exactly_or_refused(
    in_cloud: None, tmp_path: Path, status: str | None
) -> None:
    house, out = House(tmp_path / "log.db", versioning=status), tmp_path / "out"
    for key in AWKWARD:
        house.put(key, b"old " + key.encode())
    old = house.view()
    for key in AWKWARD:
        house.put(key, b"newer " + key.encode())
    with pytest.raises(CannotExpressKey, match="--leave-out"):
        to(out, house, old)
    assert not out.exists()
    done = to(out, house, leave_out=True)
    assert files(out) == {key: b"newer " + key.encode() for key in EXPRESSIBLE}
    assert done.tally.counts == {"left-out": len(AWKWARD) - len(EXPRESSIBLE), "copied": len(EXPRESSIBLE)}
    left = {line["key"] for line in manifest(done) if line.get("outcome") == "left-out"}
    assert left == set(AWKWARD) - set(EXPRESSIBLE)
    done = to(tmp_path / "old", house, old, leave_out=True)
    if status == "Enabled":
        assert files(tmp_path / "old") == {key: b"old " + key.encode() for key in EXPRESSIBLE}
    else:
        assert done.tally.counts["gone"] == len(EXPRESSIBLE)
        assert files(tmp_path / "old") == {}


def test_each_file_is_compared_with_what_s3_says_also_of_one_that_came_in_parts(
    house: House, tmp_path: Path
) -> None:
    house.put("empty", b"")
    house.put("plain", b"bytes")
    house.upload("even", b"a" * 6 * MIB, b"b" * 6 * MIB, b"c")
    house.upload("uneven", b"a" * 5 * MIB, b"b" * 7 * MIB, b"c" * 6 * MIB)
    house.upload("one-part", b"only")
    done = to(tmp_path / "out", house)
    checks = {line["key"]: line["checked"] for line in manifest(done) if line["event"] == "object"}
    assert sorted(checks) == ["empty", "even", "one-part", "plain", "uneven"]
    assert all(checked == ["size", "etag"] for checked in checks.values())
    assert files(tmp_path / "out")["uneven"] == b"a" * 5 * MIB + b"b" * 7 * MIB + b"c" * 6 * MIB
    again = to(tmp_path / "out", house)
    assert again.tally.counts == {"there": 5}


def test_the_manifest_is_in_the_folder_and_names_the_view(house: House, tmp_path: Path) -> None:
    house.put("ct/a", b"abc")
    view = house.view()
    done = to(tmp_path / "out", house, view)
    head, line, end = manifest(done)
    assert Path(done.manifest).parent == tmp_path / "out" / OURS
    assert (head["reference"], head["digest"], head["objects"]) == (view.reference, view.digest(), 1)
    assert (line["key"], line["version_id"]) == ("ct/a", view["ct/a"].version_id)
    assert line["destination"] == str(tmp_path / "out" / "ct" / "a")
    assert (end["event"], end["copied"]) == ("end", 1)
    assert [p.name for p in (tmp_path / "out" / OURS).glob("partial-*")] == []


def test_a_file_that_is_another_is_left_unless_it_is_to_be_replaced(house: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    house.put("a", b"one")
    house.put("b", b"two")
    out.mkdir()
    (out / "a").write_bytes(b"eno")
    (out / "b").write_bytes(b"two")
    done = to(out, house)
    assert done.tally.counts == {"conflict": 1, "there": 1}
    assert files(out) == {"a": b"eno", "b": b"two"}
    assert to(out, house, overwrite=True).tally.counts == {"copied": 1, "there": 1}
    assert files(out) == {"a": b"one", "b": b"two"}


def test_a_file_that_comes_to_be_meanwhile_is_left(house: House, tmp_path: Path) -> None:
    house.put("a", b"one")
    view, out = house.view(), tmp_path / "out"
    read = view.read_version

    def beaten(version: Any, start: int = 0, end: int | None = None) -> bytes:
        (out / "a").write_bytes(b"theirs")
        return read(version, start, end)

    view.read_version = beaten  # type: ignore[method-assign]  # somebody is faster
    assert to(out, house, view).tally.counts == {"conflict": 1}
    assert files(out) == {"a": b"theirs"}


def test_what_is_no_file_is_never_replaced(house: House, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for key in ("folder", "link", "in/file", "linked/x", "linked/deep/y"):
        house.put(key, b"new")
    (out / "folder").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "kept").write_bytes(b"old")
    (out / "link").symlink_to(elsewhere / "kept")
    (out / "linked").symlink_to(elsewhere)
    (out / "in").write_bytes(b"a file where a folder should be")
    done = to(out, house, overwrite=True)
    assert done.tally.counts == {"conflict": 5}
    assert files(elsewhere) == {"kept": b"old"}
    assert {path.name for path in elsewhere.iterdir()} == {"kept"}, "not even a folder was made there"
    assert (out / "link").is_symlink()


def test_a_plan_says_what_is_there_and_writes_nothing(house: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for key in ("a", "b", "c"):
        house.put(key, b"xyz")
    with Export(house.engine, house.view(), str(out)) as work:
        assert work.plan().standing == {"new": 3}
    assert not out.exists()
    out.mkdir()
    (out / "a").write_bytes(b"abc")
    (out / "b").write_bytes(b"longer")
    with Export(house.engine, house.view(), str(out)) as work:
        assert work.plan().standing == {"there": 1, "other": 1, "new": 1}
    assert files(out) == {"a": b"abc", "b": b"longer"}


def test_what_another_view_left_in_the_folder_stays_and_is_told(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for key in ("a", "deep/b", "deep/c"):
        house.put(key, b"xyz")
    to(out, house)
    (out / "deep" / "link").symlink_to(out / "deep")
    house.delete("deep/b")
    with Export(house.engine, house.view(), str(out)) as work:
        assert work.plan().standing == {"there": 2, "beside": 2}
    monkeypatch.setenv("SNAPENGINE_STORE", house.store)
    assert run(["export", house.bucket, str(out)]) == 0
    assert "2 others are at" in capsys.readouterr().err
    assert files(out).keys() >= {"a", "deep/b", "deep/c"}


def test_two_exports_to_one_folder_at_once_are_refused(house: House, tmp_path: Path) -> None:
    house.put("a", b"a")
    with (
        Export(house.engine, house.view(), str(tmp_path / "out")) as first,
        first.to.held(),
        pytest.raises(Busy, match="Another export"),
    ):
        to(tmp_path / "out", house)
    assert to(tmp_path / "out", house).tally.counts == {"copied": 1}


def test_a_destination_that_is_a_file_is_refused(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="no folder"):
        to(tmp_path / "file", house)


def test_bytes_that_are_not_what_s3_says_are_told_and_not_kept(house: House, tmp_path: Path) -> None:
    house.put("a", b"right")
    house.put("b", b"other")
    view = house.view()
    read = view.read_version
    view.read_version = lambda version, start=0, end=None: (  # type: ignore[method-assign]  # a fault on the way
        b"wrong" if version.key == "a" else read(version, start, end)
    )
    done = to(tmp_path / "out", house, view)
    assert done.tally.counts == {"different": 1, "copied": 1}
    assert files(tmp_path / "out") == {"b": b"other"}


def test_denials_of_everything_end_it_and_denials_of_some_do_not(house: House, tmp_path: Path) -> None:
    for number in range(60):
        house.put(f"k{number:02}", b"x")
    view = house.view()
    read = view.read_version

    def denied(version: Any, start: int = 0, end: int | None = None) -> bytes:
        if version.key != "k03":
            raise PermissionMissing("AWS denied it.", "s3:GetObjectVersion")
        return read(version, start, end)

    view.read_version = denied  # type: ignore[method-assign]  # a role with few rights
    assert to(tmp_path / "some", house, view).tally.counts == {"denied": 59, "copied": 1}
    view.read_version = lambda *_: denied(view["k00"])  # type: ignore[method-assign]  # of one with none
    with pytest.raises(PermissionMissing, match="first 50 objects were all denied"):
        to(tmp_path / "none", house, view)


SLOW = """
import sys, time
from snapengine.engine import Engine
read = Engine.read
def slowly(self, *args):
    time.sleep(0.05)
    return read(self, *args)
Engine.read = slowly
from snapengine.cli.main import main
main()
"""


def start(arguments: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_export_leaves_whole_files_alone_and_the_next_run_goes_on(
    house: House, tmp_path: Path
) -> None:
    out, bodies = tmp_path / "out", {f"k{n:03}": bytes([n]) * 3000 for n in range(120)}
    for key, body in bodies.items():
        house.put(key, body)
    reference = house.view().reference
    process = start(["export", reference, str(out), "--workers", "2"], {"SNAPENGINE_STORE": house.store})
    try:
        wait_until(lambda: out.exists() and len(files(out)) >= 20, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
    there = files(out)
    assert 20 <= len(there) < len(bodies)
    assert there == {key: bodies[key] for key in there}, "each file is whole"
    assert list((out / OURS).glob("*.jsonl")) == [], "a manifest is of a whole run"
    done = to(out, house, house.engine.open_ref(reference))
    assert done.tally.counts == {"there": len(there), "copied": len(bodies) - len(there)}
    assert files(out) == bodies
    assert list((out / OURS).glob("partial-*")) == []


def test_the_command_shows_its_plan_and_its_end_and_says_by_its_code_if_something_is_missing(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SNAPENGINE_STORE", house.store)
    for key in ("ct/a", "ct/b", "mr/c"):
        house.put(key, b"x" * 10)
    out = str(tmp_path / "out")
    assert run(["export", house.bucket, out, "--prefix", "ct/", "--dry-run"]) == 0
    assert "2 objects, 20 B, to be copied" in capsys.readouterr().out
    assert not Path(out).exists()
    assert run(["export", house.bucket, out, "--prefix", "ct/"]) == 0
    shown = capsys.readouterr()
    assert "2 objects copied, 20 B" in shown.out
    assert "All 2 are there: sha256:" in shown.out
    gone = house.view()["mr/c"].version_id
    reference = house.view().reference
    house.s3.delete_object(Bucket=house.bucket, Key="mr/c", VersionId=gone)
    assert run(["export", reference, out, "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["plan", "problem", "done"]
    assert (lines[1]["outcome"], lines[1]["key"], lines[1]["version_id"]) == ("gone", "mr/c", gone)
    assert (lines[2]["there"], lines[2]["gone"], lines[2]["reference"]) == (2, 1, reference)
    assert Path(lines[2]["manifest"]).exists()
    assert run(["export", reference, out, "--at", "now"]) == 2


def test_a_snapshot_is_exported_by_name(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SNAPENGINE_STORE", house.store)
    house.put("a", b"then")
    house.engine.name_snapshot(house.view(), "train-7", creator="ann")
    house.put("a", b"now")
    assert run(["export", house.bucket, str(tmp_path / "out"), "--at", "snapshot:train-7"]) == 0
    assert files(tmp_path / "out") == {"a": b"then"}
