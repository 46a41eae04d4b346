"""The baseline: every version and marker into the log, whatever stops it on the way."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from snapengine.buckets.baseline import BaselineProgress, run_baseline
from snapengine.buckets.enable import carry_out
from snapengine.buckets.listing import list_versions
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import BucketNotEnabled, Busy, PermissionMissing, Refused
from snapengine.lease import LASTS_MS, Lease
from snapengine.model import BASELINE, BucketConfig, Observation
from snapengine.ordering import places
from snapengine.settings import load_settings
from tests.integration.bucket_site import Site, no_pause, no_sleep, open_site
from tests.servers import Endpoint

MINUTE = 60_000


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return open_site(cloud, tmp_path, monkeypatch)


@pytest.fixture
def ready(site: Site) -> Site:
    """Enabled, and not baselined yet. Versioning was on for long, so no version is `null`."""
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
    carry_out(site.engine, site.plan(), pause=no_pause)
    return site


async def baseline(site: Site, **options: Any) -> Any:
    given: dict[str, Any] = {"wait": False, "page_size": 3, "sleep": no_sleep} | options
    return await run_baseline(site.engine, site.bucket, **given)


def fill(site: Site, seed: int = 1) -> None:
    """A few keys with puts, markers and removed versions, more than a page of 3 to one of them."""
    rng = random.Random(seed)
    keys = ["a", "a b+c", "b/\x01", "b/é", "deep/key", "z"]
    for _ in range(30):
        key = rng.choice([*keys, "deep/key", "deep/key"])
        if rng.random() < 0.3:
            site.s3.delete_object(Bucket=site.bucket, Key=key)
        else:
            site.s3.put_object(Bucket=site.bucket, Key=key, Body=b"x" * rng.randrange(9))
    _, key, version = min(site.listed())
    site.s3.delete_object(Bucket=site.bucket, Key=key, VersionId=version)


def whole_in_one_listing(site: Site) -> bool:
    """Whether some listing shows every key's entries completely, in S3's order."""
    for key in site.listed_keys():
        pages = list_versions(site.s3, site.bucket, prefix=key)
        wanted = [entry.version_id for page in pages for entry in page.entries if entry.key == key]
        by_listing: dict[str | None, list[Observation]] = {}
        for o in site.history(key):
            by_listing.setdefault(o.listing, []).append(o)
        orders = [
            [o.version_id for o in sorted(seen, key=lambda o: o.position or 0)]
            for seen in by_listing.values()
        ]
        if wanted not in orders:
            return False
    return True


# What it finds


async def test_every_version_and_marker_is_in_the_log_and_the_view_is_what_s3_shows(ready: Site) -> None:
    fill(ready)
    report = await baseline(ready)
    assert ready.entries() == ready.listed()
    assert ready.view() == ready.current()
    assert report.versions + report.markers == len(ready.listed())
    assert report.markers == sum(kind == "MarkerCreated" for kind, _, _ in ready.listed())


async def test_an_observation_says_where_and_when_it_was_listed(ready: Site) -> None:
    ready.s3.put_object(Bucket=ready.bucket, Key="k", Body=b"12345")
    ready.s3.delete_object(Bucket=ready.bucket, Key="k")
    report = await baseline(ready)
    version, marker = sorted(ready.history("k"), key=lambda o: o.kind)
    assert (version.kind, version.size, version.origin) == ("Created", 5, "baseline")
    assert version.etag is not None
    assert '"' not in version.etag
    assert (marker.kind, marker.size, marker.etag) == ("MarkerCreated", None, None)
    assert (marker.position, version.position) == (0, 1)
    assert marker.listing == version.listing
    assert marker.page_time == report.started
    assert version.sequencer is None
    assert places([marker])[marker.listing].position == 0


async def test_a_key_with_more_versions_than_a_page_keeps_its_order(ready: Site) -> None:
    for _ in range(4):
        ready.s3.put_object(Bucket=ready.bucket, Key="k", Body=b"1")
        ready.s3.delete_object(Bucket=ready.bucket, Key="k")
    await baseline(ready, page_size=1)
    assert whole_in_one_listing(ready)
    assert ready.view() == {}


async def test_an_empty_bucket_has_a_baseline_too(ready: Site) -> None:
    report = await baseline(ready)
    assert (report.versions, report.pages, report.epoch) == (0, 1, 1)
    assert ready.config().baseline_ended == report.ended


async def test_the_registration_and_the_epoch_say_when_it_was(ready: Site) -> None:
    fill(ready)
    report = await baseline(ready)
    config = ready.config()
    assert (config.baseline_started, config.baseline_ended) == (report.started, report.ended)
    assert report.started < report.ended
    epoch = ready.engine.store.newest_epoch(ready.bucket)
    assert epoch is not None
    assert epoch.number == report.epoch
    assert epoch.watermarks.baseline_ended == report.ended
    assert ready.engine.store.progress(ready.bucket, BASELINE) is None


async def test_progress_counts_up_and_ends_at_what_is_reported(ready: Site) -> None:
    fill(ready)
    told: list[BaselineProgress] = []
    report = await baseline(ready, progress=told.append)
    assert [p.pages for p in told] == list(range(1, report.pages + 1))
    assert all(p.phase == "listing" for p in told)
    assert (told[-1].versions, told[-1].markers) == (report.versions, report.markers)


async def test_a_second_run_lists_nothing(ready: Site) -> None:
    fill(ready)
    first = await baseline(ready)
    second = await baseline(ready)
    assert (second.already, second.started, second.ended) == (True, first.started, first.ended)


async def test_dynamodb_holds_a_baseline_as_well(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_site(cloud, tmp_path, monkeypatch, store="dynamodb://snapengine-baseline")
    fill_unversioned(site)
    done, report = await site.enable()
    assert (done.config.bucket, report.versions) == (site.bucket, 3)
    assert site.view() == site.current()
    site.writes.clear()
    assert site.plan().steps == ()


@pytest.mark.services
async def test_a_real_server_is_baselined_exactly(
    seaweedfs_server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweedfs_server.endpoint_url)
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path / 'log.db'}")
    site = Site(Engine(load_settings()), f"baseline-{uuid4().hex}")
    site.engine.store.create()
    site.s3.create_bucket(Bucket=site.bucket)
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
    for n in range(12):
        site.s3.put_object(Bucket=site.bucket, Key=f"ct/{n % 5} ü+", Body=b"x" * n)
        if n % 3 == 0:
            site.s3.delete_object(Bucket=site.bucket, Key=f"ct/{n % 5} ü+")
    site.engine.store.put_config(BucketConfig(site.bucket, "us-east-1", "000000000000", enabled_at=1))
    await baseline(site)
    assert site.entries() == site.listed()
    assert site.view() == site.current()


# Null versions, which S3 may overwrite within the second that it shows


def fill_unversioned(site: Site) -> None:
    for key in ("a", "b", "c"):
        site.s3.put_object(Bucket=site.bucket, Key=key, Body=b"1")


async def test_a_null_version_that_is_too_young_is_listed_again_with_all_of_its_key(site: Site) -> None:
    fill_unversioned(site)
    carry_out(site.engine, site.plan(), pause=no_pause)
    site.s3.put_object(Bucket=site.bucket, Key="b", Body=b"2")
    slept: list[float] = []

    async def remember(seconds: float) -> None:
        slept.append(seconds)

    report = await baseline(site, sleep=remember)
    assert 0 < max(slept) <= 4
    assert report.versions == 4, "what is listed again is not counted again"
    history = site.history("b")
    assert len({o.listing for o in history}) == 2
    assert len(history) == 4
    assert site.view() == site.current()
    assert whole_in_one_listing(site)


async def test_a_version_with_an_id_of_its_own_is_listed_once(ready: Site) -> None:
    ready.s3.put_object(Bucket=ready.bucket, Key="k", Body=b"1")
    await baseline(ready)
    assert len(ready.history("k")) == 1


# Waiting


async def test_it_begins_five_minutes_after_the_rule_was_read_back(ready: Site) -> None:
    told: list[BaselineProgress] = []
    slept: list[float] = []

    async def remember(seconds: float) -> None:
        slept.append(seconds)

    await baseline(ready, wait=True, progress=told.append, sleep=remember)
    assert told[0].phase == "waiting"
    assert 290 <= told[0].seconds_left <= 302
    assert 290 <= sum(slept) <= 302
    assert told[-1].phase == "listing"


async def test_it_begins_fifteen_minutes_after_versioning_was_switched_on(site: Site) -> None:
    carry_out(site.engine, site.plan(), pause=no_pause)
    told: list[BaselineProgress] = []
    await baseline(site, wait=True, progress=told.append)
    assert 890 <= told[0].seconds_left <= 902


async def test_what_was_waited_for_before_a_stop_is_not_waited_for_again(ready: Site) -> None:
    long_ago = replace(ready.config(), enabled_at=(ready.config().enabled_at or 0) - 6 * MINUTE)
    ready.engine.store.put_config(long_ago)
    told: list[BaselineProgress] = []
    report = await baseline(ready, wait=True, progress=told.append)
    assert {p.phase for p in told} == {"listing"}
    assert report.not_assured == ()
    assert ready.config().assured


async def test_without_the_wait_it_says_what_is_not_assured(ready: Site) -> None:
    report = await baseline(ready)
    assert "5 minutes" in report.not_assured[0]
    assert not ready.config().assured


async def test_without_the_wait_nothing_is_amiss_if_the_time_had_passed_anyway(ready: Site) -> None:
    ready.engine.store.put_config(
        replace(ready.config(), enabled_at=(ready.config().enabled_at or 0) - 6 * MINUTE)
    )
    assert (await baseline(ready)).not_assured == ()
    assert ready.config().assured


async def test_a_hasty_baseline_is_repeated_by_a_run_that_waits(ready: Site) -> None:
    fill(ready)
    first = await baseline(ready)
    _, second = await ready.enable(wait=True)
    assert not second.already
    assert second.started >= first.started
    assert ready.view() == ready.current()


# Two at once, and changes of mind


async def test_a_second_baseline_at_the_same_time_is_turned_away(ready: Site) -> None:
    with (
        Lease(ready.engine.store, ready.bucket, BASELINE, ready.engine.clock),
        pytest.raises(Busy, match="task baseline"),
    ):
        await baseline(ready)


async def test_the_lease_is_given_up_whatever_happens(ready: Site) -> None:
    ready.deny("ListObjectVersions")
    with pytest.raises(PermissionMissing, match="s3:ListBucketVersions"):
        await baseline(ready)
    fresh = Site(Engine(ready.engine.settings), ready.bucket)
    assert (await baseline(fresh)).epoch == 1


async def test_a_holder_on_another_machine_is_waited_for_until_its_lease_ends(ready: Site) -> None:
    now = ready.engine.clock()
    ready.engine.store.acquire(ready.bucket, BASELINE, "elsewhere/-/1/aa", now + LASTS_MS, now)
    with pytest.raises(Busy, match="process 1 on elsewhere"):
        await baseline(ready)
    later = Site(Engine(ready.engine.settings, clock=lambda: now + LASTS_MS + 1), ready.bucket)
    await baseline(later)


async def test_a_bucket_disabled_meanwhile_is_not_said_to_have_a_baseline(ready: Site) -> None:
    fill(ready)

    def disable(_: BaselineProgress) -> None:
        ready.engine.store.put_config(replace(ready.config(), enabled=False))

    with pytest.raises(Refused, match="was disabled or enabled anew"):
        await baseline(ready, progress=disable)
    assert ready.config().baseline_ended is None
    assert not ready.config().enabled


async def test_a_change_of_the_registration_under_way_is_waited_for(ready: Site) -> None:
    lease = Lease(ready.engine.store, ready.bucket, "enable", ready.engine.clock)
    lease.renew()
    slept: list[float] = []

    async def until_released(seconds: float) -> None:
        slept.append(seconds)
        lease.release()

    report = await baseline(ready, sleep=until_released)
    assert slept == [1.0]
    assert ready.config().baseline_ended == report.ended


async def test_a_bucket_that_is_not_enabled_has_no_baseline(site: Site) -> None:
    with pytest.raises(BucketNotEnabled, match="enable-bucket"):
        await baseline(site)


# Stopped


async def test_cancelled_it_goes_on_where_it_was(ready: Site) -> None:
    fill(ready)
    told: list[BaselineProgress] = []

    def stop(progress: BaselineProgress) -> None:
        told.append(progress)
        if progress.pages == 3:
            task.cancel()

    task = asyncio.create_task(baseline(ready, progress=stop))
    with pytest.raises(asyncio.CancelledError):
        await task
    report = await baseline(ready, progress=told.append)
    assert report.versions + report.markers == len(ready.listed())
    assert ready.entries() == ready.listed()
    assert ready.view() == ready.current()
    assert whole_in_one_listing(ready)
    assert report.pages > told[2].pages


SCRIPT = """
import asyncio, os, signal, sys
from snapengine.buckets.baseline import run_baseline
from snapengine.engine import Engine
from snapengine.log import EpochCutter, StreamWriter
from snapengine.stores.sqlite import SQLiteStore

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

wrap(StreamWriter, "append", "append")
wrap(SQLiteStore, "save_progress", "progress")
wrap(SQLiteStore, "put_config", "registration")
wrap(EpochCutter, "cut", "epoch")
wrap(SQLiteStore, "clear_progress", "tidying")
asyncio.run(run_baseline(Engine(), bucket, wait=False, page_size=3))
"""


def killed_at(site: Site, place: str, nth: int) -> int:
    """Runs a baseline in a process that ends itself there by SIGKILL; its exit code."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, site.bucket, place, str(nth)], check=False, timeout=60
    ).returncode


@pytest.mark.parametrize(
    ("place", "nth"),
    [
        ("before-append", 1),
        ("after-append", 1),
        ("after-append", 4),
        ("before-progress", 3),
        ("after-progress", 1),
        ("after-progress", 5),
        ("before-registration", 1),
        ("after-registration", 1),
        ("after-epoch", 1),
        ("after-tidying", 1),
    ],
)
async def test_killed_at_any_moment_the_next_run_completes_it_at_once(
    ready: Site, place: str, nth: int
) -> None:
    fill(ready)
    assert killed_at(ready, place, nth) == -signal.SIGKILL
    report = await baseline(ready)
    assert ready.entries() == ready.listed()
    assert ready.view() == ready.current()
    assert whole_in_one_listing(ready)
    config = ready.config()
    assert config.baseline_ended is not None
    assert ready.engine.store.progress(ready.bucket, BASELINE) is None
    epoch = ready.engine.store.newest_epoch(ready.bucket)
    assert epoch is not None
    assert epoch.watermarks.baseline_ended == config.baseline_ended
    if not report.already:
        assert report.versions + report.markers == len(ready.listed())


async def test_after_a_kill_the_first_runs_start_stands(ready: Site) -> None:
    fill(ready)
    assert killed_at(ready, "after-progress", 2) == -signal.SIGKILL
    saved = ready.engine.store.progress(ready.bucket, BASELINE)
    assert saved is not None
    report = await baseline(ready)
    assert report.started == saved["started"]


async def test_what_a_baseline_of_an_earlier_enabling_left_is_not_gone_on_with(
    ready: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ready)
    assert killed_at(ready, "after-progress", 4) == -signal.SIGKILL
    ready.engine.store.put_config(replace(ready.config(), enabled_at=(ready.config().enabled_at or 0) + 1))
    await baseline(Site(Engine(load_settings()), ready.bucket))
    listings = [o.listing for o in ready.history("a")]
    assert len(set(listings)) == 2
