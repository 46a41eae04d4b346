"""A baseline into Parquet that is stopped, is asked for by the command, or has no place."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from snapengine.archive.manifest import files_from_payload
from snapengine.archiving.segments import archive_segments
from snapengine.buckets.baseline import BaselineProgress
from snapengine.buckets.enable import carry_out
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import ArchiveFileMissing, Refused
from snapengine.lease import ENABLE, Lease
from snapengine.model import BASELINE
from snapengine.settings import load_settings
from tests.integration.bucket_site import Site, no_pause, open_site
from tests.integration.filed_baseline import (
    assert_all_is_known,
    baseline,
    change,
    filed,
    files,
    forms,
)


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


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
