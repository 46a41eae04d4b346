"""Baselines that go straight into Parquet files: the same history, whatever stops them on the way."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest_worker.records import parse_message
from snapengine.archive.manifest import ArchiveFile, files_from_payload
from snapengine.archive.roots import open_root
from snapengine.archiving.segments import archive_segments
from snapengine.buckets.baseline import BaselineProgress, BaselineReport, run_baseline
from snapengine.buckets.enable import carry_out
from snapengine.buckets.listed_files import ListedFiles
from snapengine.buckets.reconcile import run_reconcile
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import ArchiveFileMissing, Refused
from snapengine.lease import ENABLE, Lease
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BASELINE, Epoch, Observation, SnapshotRef
from snapengine.observation_codec import decode, observations_of
from snapengine.resolver import covered, key_history
from snapengine.settings import Settings, load_settings
from tests.integration.bucket_site import Site, no_pause, no_sleep, open_site

KEYS = ["a", "a b+c", "b/\x01", "b/é", "deep/key", "deep/～", "z", "🦴"]
FOREVER = 1 << 52


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@dataclass
class Pair:
    """One history in two logs: in files where a listing told it, and in entries of the log alone."""

    site: Site
    plain: Engine
    told: set[Observation] = field(default_factory=set)

    @property
    def filed(self) -> Engine:
        return self.site.engine

    @property
    def bucket(self) -> str:
        return self.site.bucket

    async def level(self) -> None:
        """Put into the plain log what the other one holds and it lacks, and nothing else."""
        self.plain.store.put_config(replace(self.site.config(), archive=None))
        store, cover = self.filed.store, newest(self.filed, self.bucket).cover
        for entry in (e for s, to in cover.items() for e in store.entries(self.bucket, s, 0, to)):
            rows = decode(entry.payload) if entry.form == "rows" else self._rows(entry.payload)
            await record(self.plain, self.bucket, [o for o in rows if o not in self.told])
            self.told |= set(rows)

    def _rows(self, payload: bytes) -> list[Observation]:
        folder = Path(str(self.site.config().archive).removeprefix("file://"))
        tables = [pq.read_table(folder / file.path) for file in files_from_payload(payload)]
        return observations_of(pa.concat_tables(tables))


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
    async with engine.log() as log:
        await StreamWriter(log, "worker", engine.clock).append(bucket, observations)
        return await EpochCutter(log, bucket, engine.clock).cut()


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"file://{tmp_path / 'archive'}"


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> Site:
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", root)
    monkeypatch.setenv("SNAPENGINE_CACHE", "off")
    site = open_site(cloud, tmp_path, monkeypatch)
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
    carry_out(site.engine, site.plan(), pause=no_pause)
    return site


@pytest.fixture
def pair(site: Site, tmp_path: Path) -> Pair:
    plain = Engine(Settings(store=f"sqlite:///{tmp_path / 'plain.db'}", cache="off"))
    plain.store.create()
    return Pair(site, plain)


def change(site: Site, seed: int = 1, times: int = 40) -> None:
    """Puts, delete markers, and removals for good."""
    rng = random.Random(seed)
    for _ in range(times):
        key = rng.choice([*KEYS, "deep/key", "deep/key"])
        did = rng.random()
        if did < 0.15:
            page = site.s3.list_object_versions(Bucket=site.bucket, Prefix=key)
            listed = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            if versions := [one["VersionId"] for one in listed if one["Key"] == key]:
                site.s3.delete_object(Bucket=site.bucket, Key=key, VersionId=rng.choice(versions))
        elif did < 0.4:
            site.s3.delete_object(Bucket=site.bucket, Key=key)
        else:
            site.s3.put_object(Bucket=site.bucket, Key=key, Body=b"x" * rng.randrange(9))


async def baseline(engine: Engine, bucket: str, **options: Any) -> BaselineReport:
    given: dict[str, Any] = {"wait": False, "page_size": 3, "part_rows": 10, "sleep": no_sleep} | options
    return await run_baseline(engine, bucket, **given)


async def filed(site: Site, **options: Any) -> BaselineReport:
    return await baseline(site.engine, site.bucket, **({"into": "parquet"} | options))


def newest(engine: Engine, bucket: str) -> Epoch:
    epoch = engine.store.newest_epoch(bucket)
    assert epoch is not None
    return epoch


def known(engine: Engine, bucket: str) -> set[tuple[str, str, str]]:
    """Every version and marker that the log knows, at the newest epoch."""
    epoch = newest(engine, bucket)
    table = covered(engine, SnapshotRef(bucket, "", FOREVER, epoch.number), epoch)
    return set(zip(*(table[n].to_pylist() for n in ("kind", "key", "version_id")), strict=True))


def shown(engine: Engine, bucket: str) -> dict[str, str]:
    return {row.key: row.version_id for row in engine.view(bucket).versions()}


def forms(engine: Engine, bucket: str) -> list[str]:
    """Of the entries that the newest epoch covers."""
    cover = newest(engine, bucket).cover
    return [e.form for s, to in cover.items() for e in engine.store.entries(bucket, s, 0, to)]


def files(engine: Engine, bucket: str) -> list[ArchiveFile]:
    cover = newest(engine, bucket).cover
    entries = [e for s, to in cover.items() for e in engine.store.entries(bucket, s, 0, to)]
    return [file for e in entries if e.form == "files" for file in files_from_payload(e.payload)]


def assert_all_is_known(site: Site) -> None:
    assert known(site.engine, site.bucket) == site.listed()
    assert shown(site.engine, site.bucket) == site.current()
    assert {
        (o.kind, o.key, o.version_id)
        for key in site.listed_keys()
        for o in key_history(site.engine, site.bucket, key, newest(site.engine, site.bucket))
    } == site.listed()


# The same history


def answers(engine: Engine, bucket: str, instants: list[int]) -> list[Any]:
    """Everything that is asked of a bucket's history."""
    found: list[Any] = []
    for at in instants:
        for prefix in ("", "deep/", "b", "nothing"):
            view = engine.view(bucket, at, prefix=prefix)
            found += [view.to_arrow(), view.digest(), len(view)]
        whole = engine.view(bucket, at)
        found.append({key: whole.get(key) for key in [*KEYS, "none"]})
    for start, end in pairwise(instants):
        for versions in ("last", "all"):
            table = engine.slice(bucket, start, end, versions=versions).to_arrow()
            found.append(table.sort_by([("key", "ascending"), ("version_id", "ascending")]))
        found.append(list(engine.view(bucket, start).diff(engine.view(bucket, end))))
    before = engine.view(bucket, instants[0])
    found.append({gone.version_id: gone.why for gone in before.audit()})
    return found


async def test_every_answer_is_that_of_an_ordinary_baseline_and_stays_so_in_segments(pair: Pair) -> None:
    site, bucket = pair.site, pair.bucket
    change(site, 1)
    told = received(site)
    instants = [min(o.event_time for o in told) - 1, told[20].event_time]
    await filed(site)
    await record(pair.filed, bucket, told[::2])
    instants.append(site.engine.clock())
    change(site, 2)
    await record(pair.filed, bucket, received(site))
    change(site, 3)
    report = await run_reconcile(pair.filed, bucket, page_size=3)
    assert report.stored > 0
    instants.append(site.engine.clock())
    await pair.level()
    assert files(pair.plain, bucket) == []
    expected = answers(pair.plain, bucket, instants)
    assert answers(pair.filed, bucket, instants) == expected
    assert known(pair.filed, bucket) == known(pair.plain, bucket)
    references = [pair.filed.view(bucket, at).reference for at in instants]
    tables = [pair.filed.open_ref(reference).to_arrow() for reference in references]

    segments = await archive_segments(pair.filed, bucket)
    assert sum(s.rows for s in segments) > sum(f.rows for f in files(pair.filed, bucket)) > 0
    assert pair.filed.archive(bucket).listed == ()
    assert answers(pair.filed, bucket, instants) == expected
    assert [pair.filed.open_ref(reference).to_arrow() for reference in references] == tables
    for engine in (pair.filed, pair.plain):
        assert (await run_reconcile(engine, bucket, page_size=3)).stored == 0
    change(site, 4)
    await record(pair.filed, bucket, received(site))
    await pair.level()
    instants.append(site.engine.clock())
    assert answers(pair.filed, bucket, instants) == answers(pair.plain, bucket, instants)


async def test_dynamodb_and_an_s3_root_do_as_well(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = f"archives-{uuid4().hex[:8]}"
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", f"s3://{holder}/all/")
    site = open_site(cloud, tmp_path, monkeypatch, store="dynamodb://snapengine-filed")
    site.s3.create_bucket(Bucket=holder)
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
    carry_out(site.engine, site.plan(), pause=no_pause)
    change(site)
    report = await filed(site)
    assert report.archived == len(site.listed())
    assert site.config().archive == f"s3://{holder}/all"
    assert_all_is_known(site)
    await archive_segments(site.engine, site.bucket)
    assert_all_is_known(site)


async def test_a_reference_taken_while_it_runs_stays_as_it_was(site: Site) -> None:
    change(site)
    taken: list[tuple[str, str]] = []

    def look(_: BaselineProgress) -> None:
        view = site.engine.view(site.bucket)
        taken.append((view.reference, view.digest()))

    await record(site.engine, site.bucket, received(site)[:10])
    await filed(site, progress=look)
    assert len({reference.partition("~")[2] for reference, _ in taken}) == 1, "visible before its end"
    for _ in range(2):
        for reference, digest in taken:
            assert site.engine.open_ref(reference).digest() == digest
        await archive_segments(site.engine, site.bucket)


# How it is written


async def test_one_entry_makes_all_visible_and_no_key_has_items_of_its_own(site: Site) -> None:
    change(site)
    report = await filed(site)
    assert forms(site.engine, site.bucket) == ["files"]
    assert report.archived == report.versions + report.markers == len(site.listed())
    epoch = newest(site.engine, site.bucket)
    assert not any(site.engine.store.key_history(site.bucket, key, epoch.cover) for key in site.listed_keys())
    assert_all_is_known(site)


async def test_parts_are_sorted_and_no_larger_than_was_said(site: Site, root: str) -> None:
    change(site, times=60)
    await filed(site)
    parts = files(site.engine, site.bucket)
    assert len(parts) > 2
    assert all(0 < part.rows <= 10 for part in parts)
    assert [(p.min_key, p.max_key) for p in parts] == sorted((p.min_key, p.max_key) for p in parts)
    for part in parts:
        rows = site.engine.reader(root).read(part)
        assert rows == rows.sort_by([("key", "ascending"), ("position", "ascending")])
        assert set(rows["origin"].to_pylist()) == {BASELINE}


async def test_a_server_that_lists_in_another_order_makes_more_parts(tmp_path: Path) -> None:
    root = open_root(f"file://{tmp_path}", lambda: pytest.fail("no S3"))
    files = ListedFiles(root, "b", "l", rows=100)
    made: list[ArchiveFile] = []
    for start, keys in enumerate(["a/2 a.txt", "b c", "b/1 b", "d"]):
        made += files.add([listed(key, 10 * start + n) for n, key in enumerate(keys.split())])
    made += files.close()
    assert sum(part.rows for part in made) == 7
    assert [part.min_key for part in made] == ["a.txt", "b"]


def listed(key: str, position: int) -> Observation:
    return Observation("Created", key, "v", 1000, None, 1, "e", None, BASELINE, None, "l", 2000, position)


async def test_auto_leaves_small_buckets_to_the_log(site: Site) -> None:
    change(site)
    report = await filed(site, into="auto")
    assert report.archived == 0
    assert site.config().archive is None
    assert set(forms(site.engine, site.bucket)) == {"rows"}
    assert_all_is_known(site)


async def test_auto_goes_over_to_files_when_the_bucket_turns_out_large(site: Site) -> None:
    change(site)
    told: list[BaselineProgress] = []
    report = await filed(site, into="auto", held_pages=2, progress=told.append)
    assert report.archived == len(site.listed())
    assert [p.pages for p in told] == list(range(1, report.pages + 1))
    assert_all_is_known(site)


async def test_auto_without_a_place_for_archives_is_the_log(site: Site) -> None:
    change(site)
    engine = Engine(site.engine.settings.model_copy(update={"archive": None}))
    report = await baseline(engine, site.bucket, held_pages=1)
    assert report.archived == 0
    assert_all_is_known(site)


async def test_an_empty_bucket_has_no_files(site: Site) -> None:
    report = await filed(site)
    assert (report.archived, report.versions, report.epoch) == (0, 0, 1)
    assert site.config().baseline_ended == report.ended


async def test_a_null_version_that_is_too_young_comes_into_the_log_besides(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", root)
    site = open_site(cloud, tmp_path, monkeypatch)
    for key in ("a", "b", "c"):
        site.s3.put_object(Bucket=site.bucket, Key=key, Body=b"1")
    carry_out(site.engine, site.plan(), pause=no_pause)
    await filed(site)
    assert sorted(forms(site.engine, site.bucket)) == ["files", "rows"]
    history = key_history(site.engine, site.bucket, "b", newest(site.engine, site.bucket))
    assert len({o.listing for o in history}) == 2
    assert_all_is_known(site)


def test_memory_stays_bounded_however_many_there_are(tmp_path: Path) -> None:
    root = open_root(f"file://{tmp_path}", lambda: pytest.fail("no S3"))
    files = ListedFiles(root, "b", "l")
    before = pa.total_allocated_bytes()
    most = 0
    for page in range(200):
        keys = (f"study-{page:05d}/{n:04d}.dcm" for n in range(1000))
        files.add([listed(key, page * 1000 + n) for n, key in enumerate(keys)])
        most = max(most, pa.total_allocated_bytes() - before)
    [part] = files.close()
    assert part.rows == 200_000
    assert most < 64 * 2**20


# Stopped


SCRIPT = """
import asyncio, os, signal, sys
from snapengine.archive.writing import FileWriter
from snapengine.buckets.baseline import run_baseline
from snapengine.engine import Engine
from snapengine.log import EpochCutter, StreamWriter
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_log import SQLiteLog

bucket, place, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0

def at(name):
    global calls
    if name == place:
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)

def wrap(owner, method, name):
    real = getattr(owner, method)
    def plain(*args, **options):
        at("before-" + name)
        result = real(*args, **options)
        at("after-" + name)
        return result
    async def waited(*args, **options):
        at("before-" + name)
        result = await real(*args, **options)
        at("after-" + name)
        return result
    setattr(owner, method, waited if asyncio.iscoroutinefunction(real) else plain)

wrap(FileWriter, "close", "part")
wrap(StreamWriter, "append_files", "append")
wrap(SQLiteLog, "put_entry", "entry")
wrap(SQLiteLog, "put_listed", "listed")
wrap(SQLiteStore, "save_progress", "progress")
wrap(SQLiteStore, "put_config", "registration")
wrap(EpochCutter, "cut", "epoch")
wrap(SQLiteStore, "clear_progress", "tidying")
asyncio.run(run_baseline(Engine(), bucket, wait=False, page_size=3, into="parquet", part_rows=10))
"""


def killed_at(site: Site, place: str, nth: int) -> int:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, site.bucket, place, str(nth)], check=False, timeout=60
    ).returncode


@pytest.mark.parametrize(
    ("place", "nth", "then"),
    [
        ("before-part", 1, "log"),
        ("after-part", 1, "auto"),
        ("after-progress", 2, "parquet"),
        ("after-part", 3, "log"),
        ("after-part", 4, "auto"),
        ("before-append", 1, "parquet"),
        ("after-entry", 1, "log"),
        ("after-listed", 1, "auto"),
        ("after-append", 1, "parquet"),
        ("after-append", 1, "log"),
        ("before-registration", 2, "auto"),
        ("after-registration", 2, "parquet"),
        ("after-epoch", 1, "log"),
        ("after-tidying", 1, "auto"),
    ],
)
async def test_killed_at_any_moment_the_next_run_completes_it(
    site: Site, place: str, nth: int, then: str
) -> None:
    change(site, times=60)
    assert killed_at(site, place, nth) == -signal.SIGKILL
    report = await filed(site, into=then)
    assert_all_is_known(site)
    paths = [file.path for file in files(site.engine, site.bucket)]
    assert len(set(paths)) == len(paths), "no file is named twice"
    assert site.config().baseline_ended is not None
    assert site.engine.store.progress(site.bucket, BASELINE) is None
    if not report.already:
        assert report.versions + report.markers == len(site.listed())
    await archive_segments(site.engine, site.bucket)
    assert_all_is_known(site)


async def test_what_was_finished_before_a_stop_is_not_listed_again(site: Site) -> None:
    change(site, times=60)
    assert killed_at(site, "after-part", 3) == -signal.SIGKILL
    saved = site.engine.store.progress(site.bucket, BASELINE)
    assert saved is not None
    first = files_from_payload(str(saved["files"]).encode())
    assert len(first) == 2
    await filed(site)
    assert files(site.engine, site.bucket)[:2] == first
    later = [file for file in files(site.engine, site.bucket) if file not in first]
    assert all(file.max_key > str(saved["complete"]) for file in later)
    assert min(file.min_key for file in later) > str(saved["complete"])


async def test_cancelled_it_leaves_no_local_file_and_goes_on(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(site, times=60)
    local = tmp_path / "local"
    local.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(local))

    def stop(progress: BaselineProgress) -> None:
        if progress.pages == 5:
            task.cancel()

    task = asyncio.create_task(filed(site, progress=stop))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(local.iterdir()) == []
    await filed(site)
    assert_all_is_known(site)


async def test_files_that_were_swept_before_the_next_run_are_listed_again(site: Site, tmp_path: Path) -> None:
    change(site, times=60)
    assert killed_at(site, "after-part", 3) == -signal.SIGKILL
    part = next((tmp_path / "archive" / site.bucket / "listed").rglob("*.parquet"))
    part.unlink()
    await filed(site)
    assert_all_is_known(site)


async def test_files_that_vanish_before_they_are_named_are_never_named(site: Site, tmp_path: Path) -> None:
    change(site, times=60)

    def lose(progress: BaselineProgress) -> None:
        for part in (tmp_path / "archive").rglob("*.parquet"):
            part.unlink()

    with pytest.raises(ArchiveFileMissing, match="begins anew"):
        await filed(site, progress=lose)
    assert site.config().baseline_ended is None
    await filed(site)
    assert_all_is_known(site)


async def test_a_description_that_grows_too_long_is_named_early(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapengine.buckets.listed_files.FILES_BYTES", 1000)
    change(site, times=60)
    await filed(site)
    assert forms(site.engine, site.bucket).count("files") > 1
    assert_all_is_known(site)


async def test_files_of_an_earlier_enabling_are_left_alone(site: Site) -> None:
    change(site, times=60)
    assert killed_at(site, "after-part", 3) == -signal.SIGKILL
    site.engine.store.put_config(replace(site.config(), enabled_at=(site.config().enabled_at or 0) + 1))
    report = await filed(site)
    assert report.archived == len(site.listed())


# The command


def enabled_by_command(bucket: str, *options: str) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "snapengine", "enable-bucket", bucket, "--yes", "--no-wait", "--json"]
    done = subprocess.run([*words, *options], check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode in {0, 1}, done.stderr
    return [json.loads(line) for line in (done.stdout or done.stderr).splitlines()]


async def test_the_command_takes_it_and_says_so(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", root)
    site = open_site(cloud, tmp_path, monkeypatch)
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
    change(site)
    told = enabled_by_command(site.bucket, "--baseline", "parquet")
    assert told[-1]["baseline"]["archived"] == len(site.listed())
    assert_all_is_known(site)


async def test_the_command_refuses_files_without_a_place_before_it_changes_anything(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SNAPENGINE_ARCHIVE", raising=False)
    site = open_site(cloud, tmp_path, monkeypatch)
    told = enabled_by_command(site.bucket, "--baseline", "parquet")
    assert "SNAPENGINE_ARCHIVE" in told[0]["refusals"][0]
    assert site.engine.store.config(site.bucket) is None
    assert site.queue_names() == []


# Where it may not go


async def test_files_need_a_place(site: Site) -> None:
    nowhere = Engine(site.engine.settings.model_copy(update={"archive": None}))
    with pytest.raises(Refused, match="SNAPENGINE_ARCHIVE"):
        await baseline(nowhere, site.bucket, into="parquet")
    refusals = Site(nowhere, site.bucket).plan(baseline="parquet").refusals
    assert "SNAPENGINE_ARCHIVE" in refusals[0]


async def test_a_root_in_a_watched_bucket_is_refused(site: Site) -> None:
    inside = Engine(site.engine.settings.model_copy(update={"archive": f"s3://{site.bucket}/archive"}))
    with pytest.raises(Refused, match="is watched"):
        await baseline(inside, site.bucket)
    assert "is watched" in Site(inside, site.bucket).plan().refusals[0]
    assert Site(inside, site.bucket).plan(baseline="log").refusals == ()
    other = f"other-{uuid4().hex[:8]}"
    site.s3.create_bucket(Bucket=other)
    assert "is watched" in Site(inside, other).plan().refusals[0]


async def test_a_bucket_that_holds_an_archive_cannot_be_watched(site: Site) -> None:
    holder = f"holder-{uuid4().hex[:8]}"
    site.s3.create_bucket(Bucket=holder)
    site.engine.store.put_config(replace(site.config(), archive=f"s3://{holder}/x"))
    engine = Engine(site.engine.settings.model_copy(update={"archive": None}))
    [refusal] = Site(engine, holder).plan().refusals
    assert f"holds the archive of {site.bucket}" in refusal


async def test_an_archive_cannot_move(site: Site) -> None:
    site.engine.store.put_config(replace(site.config(), archive="file:///elsewhere"))
    with pytest.raises(Refused, match="cannot move"):
        await filed(site)


async def test_a_change_of_the_registration_under_way_is_waited_for(site: Site) -> None:
    change(site)
    lease = Lease(site.engine.store, site.bucket, ENABLE, site.engine.clock)
    lease.renew()

    async def until_released(seconds: float) -> None:
        lease.release()

    await filed(site, sleep=until_released)
    assert site.config().archive == site.engine.settings.archive


def test_settings_name_the_root_in_any_spelling(site: Site, root: str) -> None:
    engine = Engine(load_settings(archive=f"{root}/"))
    site.engine.store.put_config(replace(site.config(), archive=root))
    assert Site(engine, site.bucket).plan().refusals == ()
