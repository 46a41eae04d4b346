"""A rebuild from an archive that is not whole, one that is stopped, and its command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapengine.archiving.compaction import compact
from snapengine.archiving.rebuild import JUMP, rebuild_table
from snapengine.archiving.run import archive_bucket
from snapengine.archiving.segments import archive_segments
from snapengine.buckets.baseline import run_baseline
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import ArchiveDamaged, Refused
from snapengine.reference import parse_reference
from snapengine.settings import load_settings
from tests.integration.bucket_site import Site, no_sleep
from tests.integration.rebuilt_site import (
    Past,
    another_table,
    change,
    lived,
    opened,
    rebuilt,
    received,
    record,
    shown,
)


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Site:
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", f"file://{root}")
    monkeypatch.setenv("SNAPENGINE_CACHE", "off")
    return opened(cloud, tmp_path, monkeypatch)


# What is not whole


def files_of(root: Path, site: Site, pattern: str) -> list[Path]:
    return sorted((root / site.bucket).glob(pattern))


async def in_pieces(site: Site) -> Past:
    """Three segments that are not put together."""
    past = Past()
    change(site, 1)
    await run_baseline(site.engine, site.bucket, wait=False, sleep=no_sleep)
    for turn in range(3):
        change(site, 2 + turn)
        await record(site.engine, site.bucket, received(site))
        past.note(site.engine, site.bucket)
        await archive_bucket(site.engine, site.bucket, compaction=False, checkpoints=False)
    return past


@pytest.mark.parametrize(
    ("pattern", "how"),
    [
        ("observations/*/*", "missing"),
        ("observations/*/*", "short"),
        ("observations/*/*", "altered"),
        ("epochs/*/*", "missing"),
        ("epochs/*/*", "altered"),
        ("manifests/segment*", "short"),
        ("manifests/segment*", "altered"),
    ],
)
async def test_what_is_damaged_is_named_and_nothing_is_written(
    site: Site, tmp_path: Path, root: Path, pattern: str, how: str
) -> None:
    await in_pieces(site)
    victim = files_of(root, site, pattern)[-1]
    data = victim.read_bytes()
    if how == "missing":
        victim.unlink()
    else:
        victim.write_bytes(data[:-5] if how == "short" else data[:30] + b"\xff" + data[31:])
    engine = another_table(site, tmp_path)
    with pytest.raises(ArchiveDamaged, match="whole up to epoch") as caught:
        await rebuilt(engine, site.bucket, check=True)
    assert victim.name in str(caught.value)
    assert "--up-to-gap" in str(caught.value)
    assert engine.store.config(site.bucket) is None
    assert engine.store.newest_epoch(site.bucket) is None


async def test_up_to_the_gap_all_is_as_it_was_and_later_numbers_are_never_used(
    site: Site, tmp_path: Path, root: Path
) -> None:
    past = await in_pieces(site)
    last = site.engine.archive(site.bucket).segments[-1]
    middle = site.engine.archive(site.bucket).segments[1]
    (root / next(f.path for f in middle.observations)).unlink()
    engine = another_table(site, tmp_path)
    report = await rebuilt(engine, site.bucket, up_to_gap=True)
    assert report.epoch == middle.first - 1
    assert report.next_epoch >= last.last + JUMP
    assert str(middle.first) in report.lost
    kept = {r for r in past.digests if (parse_reference(r).epoch or 0) <= report.epoch}
    known = {r: d for r, d in past.digests.items() if r in kept}
    assert known
    past.lost = [r for r in past.digests if r not in known]
    past.digests = known
    past.check(engine)
    assert shown(engine, site.bucket) == site.current()


async def test_what_was_given_up_once_comes_back_in_no_later_rebuild(
    site: Site, tmp_path: Path, root: Path
) -> None:
    await in_pieces(site)
    bucket = site.bucket
    await archive_bucket(site.engine, bucket, compaction=False, checkpoint_now=True)
    [stale] = site.engine.archive(bucket).checkpoints
    (root / site.engine.archive(bucket).segments[1].files[0].path).unlink()
    first = another_table(site, tmp_path)
    assert (await rebuilt(first, bucket, up_to_gap=True)).epoch < stale.epoch
    change(site, 30)
    await record(first, bucket, received(site))
    past = Past()
    past.note(first, bucket)
    await archive_bucket(first, bucket)
    second = another_table(site, tmp_path)
    report = await rebuilt(second, bucket)
    assert (report.checkpoints, report.lost, report.remarks) == (0, "", ())
    past.check(second)


async def test_an_archive_without_its_first_epochs_is_refused_in_any_case(
    site: Site, tmp_path: Path, root: Path
) -> None:
    await in_pieces(site)
    (root / site.engine.archive(site.bucket).segments[0].files[0].path).unlink()
    engine = another_table(site, tmp_path)
    with pytest.raises(ArchiveDamaged, match="not whole from its first epoch on"):
        await rebuilt(engine, site.bucket, up_to_gap=True)


@pytest.mark.parametrize("broken", ["longer", "shorter"])
async def test_segments_of_which_others_hold_the_same_may_be_damaged(
    site: Site, tmp_path: Path, root: Path, broken: str
) -> None:
    past = await in_pieces(site)
    bucket = site.bucket
    shorter = site.engine.archive(bucket).segments
    later = Engine(site.engine.settings, clock=lambda: site.engine.clock() + 40 * 86_400_000)
    [longer] = await compact(later, later.root(f"file://{root}"), bucket)
    assert longer.last - longer.first > shorter[0].last - shorter[0].first
    victim = longer if broken == "longer" else next(s for s in shorter if s.first >= longer.first)
    (root / victim.files[0].path).unlink()
    engine = another_table(site, tmp_path)
    report = await rebuilt(engine, bucket)
    assert report.segments == (len(shorter) if broken == "longer" else 1)
    assert bool(report.remarks) == (broken == "longer")
    past.check(engine)


async def test_a_checkpoint_that_is_not_whole_costs_time_alone(
    site: Site, tmp_path: Path, root: Path
) -> None:
    past = await lived(site)
    checkpoint = site.engine.archive(site.bucket).checkpoints[-1]
    (root / checkpoint.files[0].path).unlink()
    engine = another_table(site, tmp_path)
    report = await rebuilt(engine, site.bucket)
    assert "left out" in report.remarks[0]
    past.check(engine)


async def test_files_of_an_archiving_that_had_not_ended_are_told_of(
    site: Site, tmp_path: Path, root: Path
) -> None:
    past = await lived(site)
    await archive_segments(site.engine, site.bucket)
    for copy in files_of(root, site, "manifests/segment*")[-1:]:
        copy.unlink()
    engine = another_table(site, tmp_path)
    report = await rebuilt(engine, site.bucket)
    assert "no manifest names" in report.remarks[0]
    past.check(engine)


async def test_no_archive_is_no_rebuild(site: Site, tmp_path: Path, root: Path) -> None:
    engine = another_table(site, tmp_path)
    with pytest.raises(Refused, match="holds no archive"):
        await rebuilt(engine, site.bucket)
    await lived(site)
    (root / site.bucket / "registry.json").write_text("{}")
    with pytest.raises(ArchiveDamaged, match=r"registry\.json"):
        await rebuilt(engine, site.bucket)


# Where it may not go, and where it goes on


async def test_a_table_that_knows_the_bucket_is_left_alone(site: Site, tmp_path: Path) -> None:
    await lived(site)
    with pytest.raises(Refused, match="knows bucket"):
        await rebuilt(site.engine, site.bucket)
    engine = another_table(site, tmp_path)
    await rebuilt(engine, site.bucket)
    with pytest.raises(Refused, match="knows bucket"):
        await rebuilt(engine, site.bucket)


async def test_a_root_in_a_watched_bucket_is_refused(site: Site, tmp_path: Path) -> None:
    engine = another_table(site, tmp_path)
    with pytest.raises(Refused, match="is watched"):
        await rebuild_table(engine, site.bucket, f"s3://{site.bucket}/x")


SCRIPT = """
import asyncio, os, signal, sys
from snapengine.archiving.compaction import compact
from snapengine.archiving.rebuild import finish, rebuild_table
from snapengine.buckets.reconcile import run_reconcile
from snapengine.engine import Engine
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_log import SQLiteLog

bucket, place, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0

def wrap(owner, method):
    real = getattr(owner, method)
    def at(name):
        global calls
        if name == place:
            calls += 1
            if calls == nth:
                os.kill(os.getpid(), signal.SIGKILL)
    def plain(*args, **options):
        at("before-" + method)
        result = real(*args, **options)
        at("after-" + method)
        return result
    async def waited(*args, **options):
        at("before-" + method)
        result = await real(*args, **options)
        at("after-" + method)
        return result
    setattr(owner, method, waited if asyncio.iscoroutinefunction(real) else plain)

for method in ("save_progress", "put_manifest", "put_snapshot", "put_config", "clear_progress"):
    wrap(SQLiteStore, method)
for method in ("put_entry", "mark_done", "put_epoch", "note_verified"):
    wrap(SQLiteLog, method)

async def main():
    engine = Engine()
    await rebuild_table(engine, bucket, engine.settings.archive)
    report = await run_reconcile(engine, bucket)
    await finish(engine, bucket, report.begun)

asyncio.run(main())
"""


def killed_at(site: Site, place: str, nth: int) -> int:
    arguments = [sys.executable, "-c", SCRIPT, site.bucket, place, str(nth)]
    return subprocess.run(arguments, check=False, timeout=60).returncode


@pytest.mark.parametrize(
    ("place", "nth"),
    [
        ("after-save_progress", 1),
        ("after-put_entry", 1),
        ("after-mark_done", 1),
        ("after-put_epoch", 1),
        ("after-put_epoch", 3),
        ("after-save_progress", 2),
        ("after-put_manifest", 1),
        ("after-put_snapshot", 1),
        ("before-put_config", 1),
        ("after-put_config", 1),
        ("before-note_verified", 1),
        ("after-note_verified", 1),
        ("before-clear_progress", 2),
    ],
)
async def test_killed_at_any_moment_the_next_run_completes_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, nth: int
) -> None:
    past = await lived(site)
    store = f"sqlite:///{tmp_path / 'new.db'}"
    monkeypatch.setenv("SNAPENGINE_STORE", store)
    engine = Engine(load_settings())
    engine.store.create()
    assert killed_at(site, place, nth) == -signal.SIGKILL
    report = await rebuilt(engine, site.bucket)
    assert report.resumed
    past.check(engine)
    assert list(engine.store.epochs(site.bucket, 1, report.epoch)) == past.epochs
    snapshot = engine.snapshot(site.bucket, "trained")
    assert engine.open_ref(snapshot.reference).digest() == snapshot.digest
    assert shown(engine, site.bucket) == site.current()
    with pytest.raises(Refused, match="knows bucket"):
        await rebuilt(engine, site.bucket)


async def test_another_rebuild_is_not_gone_on_with(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lived(site)
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path / 'new.db'}")
    engine = Engine(load_settings())
    engine.store.create()
    assert killed_at(site, "after-put_epoch", 2) == -signal.SIGKILL
    await archive_bucket(site.engine, site.bucket)
    with pytest.raises(Refused, match="has not ended"):
        await rebuilt(engine, site.bucket)


# The command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "snapengine", "rebuild", *arguments]
    return subprocess.run(words, check=False, timeout=60, capture_output=True, text=True)


async def test_the_command_says_what_it_did_and_leaves_an_audit_line(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    past = await lived(site)
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path / 'new.db'}")
    monkeypatch.delenv("SNAPENGINE_ARCHIVE")
    engine = Engine(load_settings())
    engine.store.create()
    done = run(site.bucket, "--root", f"file://{root}")
    assert done.returncode == 0, done.stderr
    assert "is as it was at epoch" in done.stdout
    assert "The bucket was listed" in done.stdout
    past.check(engine)
    lines = [line for line in engine.store.audit_log() if line.action == "rebuild"]
    assert [line.outcome for line in lines] == ["started", "ok"]
    assert "up to epoch" in lines[-1].detail
    again = run(site.bucket, "--root", f"file://{root}", "--json")
    assert again.returncode == 1
    assert json.loads(again.stderr)["code"] == "refused"


async def test_as_json_it_is_one_line(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await lived(site)
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path / 'new.db'}")
    Engine(load_settings()).store.create()
    done = run(site.bucket, "--check", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["listing"]["stored"] > 0
    assert told["snapshots"] == 1
    assert told["next_epoch"] >= told["epoch"] + JUMP
