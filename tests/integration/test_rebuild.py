"""Rebuilding a lost table from the archive: what was archived is as it was, and nothing else is made up."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ingest_worker.records import parse_message
from snapengine.archiving.compaction import compact
from snapengine.archiving.rebuild import JUMP, Rebuilt, finish, rebuild_table
from snapengine.archiving.run import archive_bucket
from snapengine.archiving.segments import archive_segments
from snapengine.buckets.baseline import run_baseline
from snapengine.buckets.enable import carry_out
from snapengine.buckets.reconcile import run_reconcile
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import ArchiveDamaged, NoSuchEpoch, Refused
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import Epoch, Observation
from snapengine.reference import parse_reference
from snapengine.resolver import key_history
from snapengine.settings import Settings, load_settings
from tests.integration.bucket_site import Site, no_pause, no_sleep, open_site

KEYS = ["a", "b/1", "b/é", "deep/key", "z"]


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


def opened(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Site:
    site = open_site(cloud, tmp_path, monkeypatch, **options)
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
    carry_out(site.engine, site.plan(), pause=no_pause)
    return site


def change(site: Site, seed: int, times: int = 12) -> None:
    rng = random.Random(seed)
    for _ in range(times):
        key = rng.choice(KEYS)
        if rng.random() < 0.3:
            site.s3.delete_object(Bucket=site.bucket, Key=key)
        else:
            site.s3.put_object(Bucket=site.bucket, Key=key, Body=b"x" * rng.randrange(9))


def received(site: Site) -> list[Observation]:
    """What S3 has told of since the last time."""
    found: list[Observation] = []
    url = site.config().queue_url
    while messages := site.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get(
        "Messages"
    ):
        for message in messages:
            found += [p.observation for p in parse_message(message["Body"]) if p.observation is not None]
            site.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found


async def record(engine: Engine, bucket: str, observations: list[Observation]) -> Epoch:
    """As a worker does."""
    async with engine.log() as log:
        await StreamWriter(log, "worker", engine.clock).append(bucket, observations)
        await log.raise_caught_up(bucket, engine.clock())
        return await EpochCutter(log, bucket, engine.clock).cut()


@dataclass
class Past:
    """What was true before the table was lost."""

    digests: dict[str, str] = field(default_factory=dict)
    """By reference, of what was archived."""
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By reference and key, the version shown."""
    levels: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    """References to what was not archived."""
    epochs: list[Epoch] = field(default_factory=list)

    def note(self, engine: Engine, bucket: str) -> None:
        for prefix in ("", "b/"):
            view = engine.view(bucket, prefix=prefix)
            self.digests[view.reference] = view.digest()
            self.levels[view.reference] = view.completeness.reason
            self.keys[view.reference] = {key: view.get(key) for key in KEYS}

    def check(self, engine: Engine) -> None:
        for reference, digest in self.digests.items():
            view = engine.open_ref(reference)
            assert view.digest() == digest
            assert view.completeness.reason == self.levels[reference]
            for key, version in self.keys[reference].items():
                if key.startswith(view.prefix):
                    assert view.get(key) == version
        for reference in self.lost:
            with pytest.raises(NoSuchEpoch):
                engine.open_ref(reference)


async def lived(site: Site, *, into: Any = "log", tail: bool = True) -> Past:
    """A bucket with a history: a baseline, events, listings, archived in three rounds, and a tail after."""
    engine, bucket = site.engine, site.bucket
    past = Past()
    change(site, 1)
    await run_baseline(engine, bucket, wait=False, into=into, page_size=3, part_rows=6, sleep=no_sleep)
    past.note(engine, bucket)
    for turn in range(3):
        change(site, 2 + turn)
        await record(engine, bucket, received(site))
        past.note(engine, bucket)
        if turn == 1:
            await run_reconcile(engine, bucket)
            engine.name_snapshot(engine.view(bucket), "trained", creator="me", note="n", labels={"a": "b"})
            past.note(engine, bucket)
        await archive_bucket(engine, bucket, checkpoint_now=turn == 1)
    newest = engine.store.newest_epoch(bucket)
    assert newest is not None
    past.epochs = list(engine.store.epochs(bucket, 1, newest.number))
    if tail:
        change(site, 9)
        await record(engine, bucket, received(site))
        past.lost.append(engine.view(bucket).reference)
    return past


def another_table(site: Site, tmp_path: Path) -> Engine:
    """Empty, as `snapengine init` makes it."""
    store = f"sqlite:///{tmp_path / uuid4().hex}.db"
    engine = Engine(site.engine.settings.model_copy(update={"store": store}))
    engine.store.create()
    return engine


async def rebuilt(engine: Engine, bucket: str, *, listing: bool = True, **options: Any) -> Rebuilt:
    """All that the command does."""
    assert engine.settings.archive is not None
    report = await rebuild_table(engine, bucket, engine.settings.archive, **options)
    begun = (await run_reconcile(engine, bucket)).begun if listing and not report.listing else None
    await finish(engine, bucket, begun)
    return report


def shown(engine: Engine, bucket: str) -> dict[str, str]:
    return {row.key: row.version_id for row in engine.view(bucket).versions()}


def listed(engine: Engine, bucket: str, keys: list[str]) -> set[tuple[str, str, str]]:
    """Every version and marker that key look-ups know of."""
    epoch = engine.store.newest_epoch(bucket)
    assert epoch is not None
    return {
        (o.kind, o.key, o.version_id)
        for key in keys
        for o in key_history(engine, bucket, key, epoch)
        if o.kind != "VersionDeleted"
    }


# What is as it was


@pytest.mark.parametrize("into", ["log", "parquet"])
async def test_all_that_was_archived_is_as_it_was_and_recording_goes_on(
    site: Site, tmp_path: Path, into: str
) -> None:
    past = await lived(site, into=into)
    bucket = site.bucket
    engine = another_table(site, tmp_path)
    report = await rebuilt(engine, bucket)
    past.check(engine)
    assert list(engine.store.epochs(bucket, 1, report.epoch)) == past.epochs
    assert (report.epoch, report.epochs) == (past.epochs[-1].number, len(past.epochs))
    assert report.remarks == ()
    [snapshot] = engine.store.snapshots(bucket)
    assert snapshot == site.engine.store.snapshot(bucket, "trained")
    assert engine.open_ref(snapshot.reference).digest() == snapshot.digest
    assert shown(engine, bucket) == site.current()
    assert site.listed() <= listed(engine, bucket, KEYS)

    change(site, 20)
    epoch = await record(engine, bucket, received(site))
    assert epoch.number > report.epoch + JUMP
    assert shown(engine, bucket) == site.current()
    past.note(engine, bucket)
    await archive_bucket(engine, bucket, checkpoint_now=True)
    past.check(engine)
    assert shown(engine, bucket) == site.current()
    assert site.listed() <= listed(engine, bucket, KEYS)


async def test_a_rebuilt_table_can_be_lost_too(site: Site, tmp_path: Path) -> None:
    past = await lived(site)
    bucket = site.bucket
    first = another_table(site, tmp_path)
    one = await rebuilt(first, bucket)
    change(site, 21)
    await record(first, bucket, received(site))
    past.note(first, bucket)
    await archive_bucket(first, bucket)
    second = another_table(site, tmp_path)
    two = await rebuilt(second, bucket)
    assert two.next_epoch > one.next_epoch + JUMP
    past.check(second)
    assert shown(second, bucket) == site.current()


async def test_dynamodb_and_an_s3_root_do_as_well(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = f"archives-{uuid4().hex[:8]}"
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", f"s3://{holder}/all")
    monkeypatch.setenv("SNAPENGINE_CACHE", "off")
    site = open_site(cloud, tmp_path, monkeypatch, store="dynamodb://snapengine-before")
    site.s3.create_bucket(Bucket=holder)
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
    carry_out(site.engine, site.plan(), pause=no_pause)
    past = await lived(site)
    engine = Engine(site.engine.settings.model_copy(update={"store": "dynamodb://snapengine-after"}))
    engine.store.create()
    report = await rebuilt(engine, site.bucket, check=True)
    past.check(engine)
    assert list(engine.store.epochs(site.bucket, 1, report.epoch)) == past.epochs
    assert shown(engine, site.bucket) == site.current()
    change(site, 22)
    await record(engine, site.bucket, received(site))
    assert shown(engine, site.bucket) == site.current()


async def test_nothing_of_the_log_is_needed_and_items_let_go_stay_gone(site: Site, tmp_path: Path) -> None:
    await lived(site)
    engine = another_table(site, tmp_path)
    report = await rebuilt(engine, site.bucket, listing=False)
    epoch = engine.store.epoch(site.bucket, report.next_epoch)
    assert epoch is not None
    assert epoch.cover == engine.archive(site.bucket).segments[-1].cover
    for stream, number in epoch.cover.items():
        if number:
            [stub] = engine.store.entries(site.bucket, stream, number - 1, number)
            assert stub.form == "stub"
    assert not any(engine.store.key_history(site.bucket, key, epoch.cover) for key in KEYS)
    assert all(s.leaving_since is not None for s in engine.archive(site.bucket).segments)
    after = await archive_bucket(engine, site.bucket, keep_days=1)
    assert after.let_go == after.stubs == 0


async def test_it_says_what_may_be_missing_since_and_claims_nothing_more(site: Site, tmp_path: Path) -> None:
    past = await lived(site)
    engine = another_table(site, tmp_path)
    await rebuilt(engine, site.bucket, listing=False)
    view = engine.view(site.bucket, past.epochs[-1].time)
    assert (view.completeness.history, view.completeness.level) == ("surviving", "provisional")
    await asyncio.sleep(1.1)  # S3 tells the time by seconds: now its clock is past the epoch for certain
    await run_reconcile(engine, site.bucket)
    assert engine.view(site.bucket, past.epochs[0].time).completeness.level == "verified"
    assert engine.view(site.bucket).completeness.history == "recorded"


async def test_a_listing_makes_it_settle_again(site: Site, tmp_path: Path) -> None:
    await lived(site)
    engine = another_table(site, tmp_path)
    await rebuilt(engine, site.bucket)
    config = engine.store.config(site.bucket)
    assert config is not None
    verified = (await record(engine, site.bucket, [])).watermarks.verified
    assert config.enabled_at is not None
    assert verified[""] >= config.enabled_at


async def test_an_archive_that_was_copied_elsewhere_will_do(site: Site, tmp_path: Path, root: Path) -> None:
    past = await lived(site)
    moved = shutil.copytree(root, tmp_path / "moved")
    settings: Settings = site.engine.settings.model_copy(
        update={"store": f"sqlite:///{tmp_path / 'new.db'}", "archive": f"file://{moved}"}
    )
    engine = Engine(settings)
    engine.store.create()
    await rebuilt(engine, site.bucket)
    past.check(engine)
    config = engine.store.config(site.bucket)
    assert config is not None
    assert config.archive == f"file://{moved}"


async def test_a_baseline_that_had_not_ended_is_taken_anew(site: Site, tmp_path: Path) -> None:
    change(site, 1)
    await record(site.engine, site.bucket, received(site))
    await archive_bucket(site.engine, site.bucket)
    engine = another_table(site, tmp_path)
    report = await rebuilt(engine, site.bucket)
    assert "enable-bucket" in report.listing
    await run_baseline(engine, site.bucket, wait=False, sleep=no_sleep)
    assert shown(engine, site.bucket) == site.current()


async def test_a_disabled_bucket_stays_disabled(site: Site, tmp_path: Path) -> None:
    past = await lived(site, tail=False)
    site.engine.store.put_config(replace(site.config(), enabled=False, disabled_at=site.engine.clock()))
    await archive_bucket(site.engine, site.bucket)
    engine = another_table(site, tmp_path)
    report = await rebuilt(engine, site.bucket)
    assert "disabled" in report.listing
    config = engine.store.config(site.bucket)
    assert config is not None
    assert (config.enabled, config.disabled_at) == (False, site.config().disabled_at)
    past.check(engine)


async def test_a_snapshot_of_what_was_not_archived_is_named(site: Site, tmp_path: Path) -> None:
    await lived(site)
    late = site.engine.name_snapshot(site.engine.view(site.bucket), "late", creator="me")
    registry = Path(str(site.config().archive).removeprefix("file://")) / site.bucket / "registry.json"
    body = json.loads(registry.read_text())
    body["snapshots"].append({**body["snapshots"][0], "name": "late", "reference": late.reference})
    registry.write_text(json.dumps(body))
    engine = another_table(site, tmp_path)
    report = await rebuilt(engine, site.bucket)
    assert "Snapshot late is of epoch" in report.remarks[0]
    assert engine.store.snapshot(site.bucket, "late") is not None


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
