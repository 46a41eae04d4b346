"""Reconciling on the embedded cloud: events are lost, listings find out, and nothing stops it for good."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingest_worker.records import parse_message
from snapengine.buckets.align import histories
from snapengine.buckets.baseline import run_baseline
from snapengine.buckets.enable import carry_out
from snapengine.buckets.reconcile import STALE_MS, ReconcileProgress, ReconcileReport, run_reconcile
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import BucketNotEnabled, Busy, PermissionMissing, Refused, UsageError
from snapengine.fold import live_entries, merge
from snapengine.lease import LASTS_MS, Lease
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import CREATED, RECONCILE, Epoch, Observation, SnapshotRef
from snapengine.resolver import covered
from snapengine.testing.strategies import absent
from tests.integration.bucket_site import Site, no_pause, no_sleep, open_site

FOREVER = 1 << 62


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return open_site(cloud, tmp_path, monkeypatch)


async def prepare(site: Site, **wanted: Any) -> Site:
    """Enabled and baselined while it was empty. Versioning was on for long, so no version is `null`."""
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
    carry_out(site.engine, site.plan(**wanted), pause=no_pause)
    await run_baseline(site.engine, site.bucket, wait=False, sleep=no_sleep)
    return site


@pytest.fixture
async def ready(site: Site) -> Site:
    return await prepare(site)


async def reconcile(site: Site, **options: Any) -> ReconcileReport:
    return await run_reconcile(site.engine, site.bucket, **({"page_size": 3} | options))


KEYS = ["a", "a b+c", "b/\x01", "b/é", "deep/key", "～", "🦴"]


def change(site: Site, seed: int, times: int = 30, keys: list[str] = KEYS) -> None:
    """Puts, deletes, and removals for good; more than a page of 3 to one key."""
    rng = random.Random(seed)
    for _ in range(times):
        key = rng.choice([*keys, keys[-1], keys[-1]])
        did = rng.random()
        page = site.s3.list_object_versions(Bucket=site.bucket, Prefix=key)
        entries = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        versions = [entry["VersionId"] for entry in entries if entry["Key"] == key]
        if did < 0.2 and versions:
            site.s3.delete_object(Bucket=site.bucket, Key=key, VersionId=rng.choice(versions))
        elif did < 0.4:
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


async def record(site: Site, observations: list[Observation]) -> Epoch:
    """As a worker does."""
    async with site.engine.log() as log:
        await StreamWriter(log, "worker", site.engine.clock).append(site.bucket, observations)
        return await EpochCutter(log, site.bucket, site.engine.clock).cut()


def put(site: Site, key: str, body: bytes = b"1") -> str:
    return str(site.s3.put_object(Bucket=site.bucket, Key=key, Body=body).get("VersionId", "null"))


def newest(site: Site) -> Epoch:
    epoch = site.engine.store.newest_epoch(site.bucket)
    assert epoch is not None
    return epoch


def survivors(site: Site) -> set[tuple[str, str, str]]:
    """Every version and marker that the log takes to be there, at the newest epoch."""
    epoch = newest(site)
    table = covered(site.engine, SnapshotRef(site.bucket, "", FOREVER, epoch.number), epoch)
    return {
        (entry.kind, key, entry.version_id)
        for key, history in histories(table)
        for entry in live_entries(merge(history), FOREVER)
    }


def in_log(site: Site) -> int:
    epoch = newest(site)
    return len(covered(site.engine, SnapshotRef(site.bucket, "", FOREVER, epoch.number), epoch))


def shown(site: Site) -> dict[str, str]:
    return {row.key: row.version_id for row in site.engine.view(site.bucket).versions()}


def assert_all_is_known(site: Site) -> None:
    assert survivors(site) == site.listed()
    assert shown(site) == site.current()


# What is lost is found


async def test_a_bucket_whose_events_were_all_lost_is_known_exactly_after_one_run(ready: Site) -> None:
    change(ready, seed=1)
    report = await reconcile(ready)
    assert_all_is_known(ready)
    markers = sum(kind == "MarkerCreated" for kind, _, _ in ready.listed())
    assert report.found == {"created": len(ready.listed()) - markers, "markers": markers}
    assert report.stored == report.entries == len(ready.listed())
    assert report.pages == -(-report.entries // 3)
    assert report.begun <= report.ended
    assert report.epoch == newest(ready).number


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
async def test_whichever_events_were_lost_every_survivor_is_known_and_what_is_gone_is_gone(
    ready: Site, seed: int, status: str
) -> None:
    rng = random.Random(seed)
    change(ready, seed, times=15)
    ready.s3.put_bucket_versioning(Bucket=ready.bucket, VersioningConfiguration={"Status": status})
    change(ready, seed + 100, times=25)
    await record(ready, [o for o in received(ready) if rng.random() < 0.5])
    _, key, version = min(survivors(ready) & ready.listed())
    ready.s3.delete_object(Bucket=ready.bucket, Key=key, VersionId=version)
    assert len(survivors(ready) ^ ready.listed()) > 3
    report = await reconcile(ready)
    assert_all_is_known(ready)
    assert {"created", "removed"} <= report.found.keys()
    assert (await reconcile(ready)).stored == 0


async def test_a_bucket_without_versioning_is_known_exactly_too(ready: Site) -> None:
    # Nobody would enable one so; but who switches versioning off cannot: this one never had it.
    bucket = f"{ready.bucket}-plain"
    ready.s3.create_bucket(Bucket=bucket)
    ready.engine.store.put_config(replace(ready.config(), bucket=bucket))
    plain = Site(ready.engine, bucket)
    for key in ("a", "b", "c", "d"):
        put(plain, key)
    await record(plain, [])
    assert (await reconcile(plain)).found == {"null": 4}
    assert_all_is_known(plain)
    put(plain, "b", b"other")
    plain.s3.delete_object(Bucket=bucket, Key="c")
    assert (await reconcile(plain)).found == {"null": 1, "removed": 1}
    assert_all_is_known(plain)


async def test_dynamodb_holds_what_is_found_as_well(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await prepare(open_site(cloud, tmp_path, monkeypatch, store="dynamodb://snapengine-reconcile"))
    change(site, seed=4)
    await record(site, received(site)[::2])
    await reconcile(site)
    assert_all_is_known(site)
    assert (await reconcile(site)).stored == 0


async def test_a_second_run_stores_nothing_and_verifies_a_later_instant(ready: Site) -> None:
    change(ready, seed=5)
    first = await reconcile(ready)
    before = in_log(ready)
    second = first
    while second.begun <= first.begun:  # S3's clock is known to the second, when a listing begins
        await asyncio.sleep(0.2)
        second = await reconcile(ready)
        assert (second.stored, dict(second.found)) == (0, {})
    assert in_log(ready) == before
    assert second.epoch > first.epoch
    assert newest(ready).watermarks.verified == {"": second.begun}


async def test_what_the_events_told_in_full_is_not_stored_again(ready: Site) -> None:
    change(ready, seed=6)
    await record(ready, received(ready))
    before = in_log(ready)
    assert (await reconcile(ready)).stored == 0
    assert in_log(ready) == before
    assert_all_is_known(ready)


async def test_views_of_instants_before_the_listing_began_are_verified(ready: Site) -> None:
    put(ready, "a")
    report = await reconcile(ready)
    assert ready.engine.view(ready.bucket, report.begun - 1).completeness.level == "verified"
    assert ready.engine.view(ready.bucket, report.begun).completeness.level == "provisional"
    earlier = ready.engine.view(ready.bucket, report.begun - 1, epoch=report.epoch - 1)
    assert earlier.completeness.level == "provisional"


async def test_progress_counts_up_and_ends_at_what_is_reported(ready: Site) -> None:
    change(ready, seed=7)
    told: list[ReconcileProgress] = []
    report = await reconcile(ready, progress=told.append)
    assert [p.pages for p in told] == list(range(1, report.pages + 1))
    assert [p.key for p in told] == sorted(p.key for p in told)
    last = told[-1]
    assert (last.entries, last.stored, last.found) == (report.entries, report.stored, report.found)
    assert not report.resumed


async def test_two_versions_of_one_second_keep_their_order_though_one_event_was_lost(ready: Site) -> None:
    versions = [put(ready, "k") for _ in range(4)]
    kept = [o for o in received(ready) if o.version_id in versions[1:3]]
    await record(ready, kept)
    assert (await reconcile(ready)).stored == 4
    assert shown(ready) == {"k": versions[3]}
    ready.s3.delete_object(Bucket=ready.bucket, Key="k", VersionId=versions[3])
    await record(ready, received(ready))
    assert shown(ready) == {"k": versions[2]}


async def test_a_version_thought_gone_by_mistake_is_back(ready: Site) -> None:
    version = put(ready, "k")
    (told,) = received(ready)
    mistaken = absent(version, told.event_time / 1000 + 0.001)._replace(key="k")
    before = await record(ready, [told, mistaken])
    assert shown(ready) == {}
    assert (await reconcile(ready)).found == {"back": 1}
    assert shown(ready) == {"k": version}
    assert list(ready.engine.view(ready.bucket, epoch=before.number).versions()) == []


# Which part of a bucket


async def test_a_prefix_is_all_that_is_listed_compared_and_verified(ready: Site) -> None:
    for key in ("ct/1", "ct/2", "mr/1"):
        put(ready, key)
    report = await reconcile(ready, prefix="ct/")
    assert (report.prefix, report.stored) == ("ct/", 2)
    assert {key for _, key, _ in survivors(ready)} == {"ct/1", "ct/2"}
    assert newest(ready).watermarks.verified == {"ct/": report.begun}
    put(ready, "mr/2")
    await reconcile(ready)
    assert_all_is_known(ready)


async def test_of_a_bucket_watched_in_part_that_part_is_listed(site: Site) -> None:
    ready = await prepare(site, prefix="ct/")
    put(ready, "ct/1")
    put(ready, "mr/1")
    report = await reconcile(ready, prefix="c")
    assert (report.prefix, report.entries) == ("ct/", 1)
    assert newest(ready).watermarks.verified == {"ct/": report.begun}
    with pytest.raises(UsageError, match="'mr/'"):
        await reconcile(ready, prefix="mr/")


# Manners


@pytest.mark.parametrize("rate", [0.05, 0.4])
async def test_it_asks_for_no_more_pages_a_second_than_it_was_allowed(ready: Site, rate: float) -> None:
    for number in range(10):
        put(ready, f"k{number}")
    slept: list[float] = []

    async def remember(seconds: float) -> None:
        slept.append(seconds)

    report = await reconcile(ready, pages_per_second=rate, page_size=2, sleep=remember)
    assert report.pages == 5
    # Next to no time passes here: the first two pages are asked for at once, each later one waits its turn.
    assert sum(slept) == pytest.approx(sum(range(1, 5)) / rate, rel=0.2)


async def test_a_rate_of_nothing_is_refused(ready: Site) -> None:
    with pytest.raises(UsageError, match="greater than 0"):
        await reconcile(ready, pages_per_second=0)


async def test_its_lease_is_kept_while_it_waits_for_its_turn(ready: Site) -> None:
    for number in range(3):
        put(ready, f"k{number}")
    renewed: list[str] = []
    acquire = ready.engine.store.acquire

    def remember(bucket: str, task: str, holder: str, until: int, now: int) -> str | None:
        renewed.append(task)
        return acquire(bucket, task, holder, until, now)

    ready.engine.store.acquire = remember  # type: ignore[method-assign]  # to count its calls
    await reconcile(ready, pages_per_second=0.01, page_size=1, sleep=no_sleep)
    assert renewed.count(RECONCILE) >= 10


async def test_one_at_a_time(ready: Site) -> None:
    with (
        Lease(ready.engine.store, ready.bucket, RECONCILE, ready.engine.clock),
        pytest.raises(Busy, match="task reconcile"),
    ):
        await reconcile(ready)


async def test_before_the_baseline_has_ended_there_is_nothing_to_compare_with(site: Site) -> None:
    with pytest.raises(BucketNotEnabled, match="enable-bucket"):
        await reconcile(site)
    carry_out(site.engine, site.plan(), pause=no_pause)
    with pytest.raises(Refused, match="no complete baseline yet"):
        await reconcile(site)


async def test_a_denial_names_the_permission_and_gives_up_the_lease(ready: Site) -> None:
    ready.deny("ListObjectVersions")
    with pytest.raises(PermissionMissing, match="s3:ListBucketVersions"):
        await reconcile(ready)
    assert (await reconcile(Site(Engine(ready.engine.settings), ready.bucket))).stored == 0


async def test_a_null_that_is_too_young_is_listed_again_and_compared_then(ready: Site) -> None:
    put(ready, "a")
    ready.s3.put_bucket_versioning(Bucket=ready.bucket, VersioningConfiguration={"Status": "Suspended"})
    put(ready, "b")
    slept: list[float] = []

    async def remember(seconds: float) -> None:
        slept.append(seconds)
        put(ready, "b", b"overwritten")  # as may have happened within the second
        await asyncio.sleep(seconds)

    report = await reconcile(ready, sleep=remember)
    assert 0 < slept[0] <= 4
    assert report.stored == 2, "what is listed again is compared once"
    assert_all_is_known(ready)


async def test_nulls_overwritten_without_end_do_not_keep_it_from_ending(ready: Site) -> None:
    ready.s3.put_bucket_versioning(Bucket=ready.bucket, VersioningConfiguration={"Status": "Suspended"})
    put(ready, "b")

    async def overwrite(_: float) -> None:
        put(ready, "b", b"again")

    report = await reconcile(ready, sleep=overwrite)
    assert report.stored == 1
    assert shown(ready) == {"b": "null"}


# Beside workers and writers


async def test_what_is_made_and_removed_while_it_runs_is_told_by_events_and_listing_together(
    ready: Site,
) -> None:
    change(ready, seed=8)
    await record(ready, received(ready)[::2])
    received(ready)

    def interfere(progress: ReconcileProgress) -> None:
        change(ready, seed=progress.pages, times=4)

    report = await reconcile(ready, page_size=2, progress=interfere)
    assert report.pages > 5
    await record(ready, received(ready))
    assert_all_is_known(ready)


async def test_a_version_made_after_the_run_began_is_stored_as_listed_and_its_event_dates_it(
    ready: Site,
) -> None:
    put(ready, "a")

    def after_the_first_page(progress: ReconcileProgress) -> None:
        if progress.pages == 1:
            put(ready, "z")

    for key in "bcde":
        put(ready, key)
    await record(ready, received(ready))
    report = await reconcile(ready, page_size=1, progress=after_the_first_page)
    assert report.found == {"created": 1}
    (told,) = received(ready)
    await record(ready, [told])
    version = ready.engine.view(ready.bucket)["z"]
    assert (version.event_time, version.time) == (told.event_time, "event")
    assert_all_is_known(ready)


async def test_of_a_version_removed_while_it_runs_the_event_dates_the_removal(ready: Site) -> None:
    versions = {key: put(ready, key) for key in "abcde"}
    await record(ready, received(ready))

    def after_the_first_page(progress: ReconcileProgress) -> None:
        if progress.pages == 1:
            ready.s3.delete_object(Bucket=ready.bucket, Key="e", VersionId=versions["e"])

    report = await reconcile(ready, page_size=1, progress=after_the_first_page)
    assert report.found == {"removed": 1}
    (told,) = received(ready)
    await record(ready, [told])
    facts = merge(ready.engine.store.key_history(ready.bucket, "e", newest(ready).cover))
    assert facts.removals[versions["e"]].time == told.event_time
    assert_all_is_known(ready)


async def test_a_version_put_on_a_key_while_its_pages_are_listed_is_not_taken_for_gone(ready: Site) -> None:
    for _ in range(5):
        put(ready, "k")
    made: list[str] = []

    def on_top(progress: ReconcileProgress) -> None:
        made.append(put(ready, "k"))

    await record(ready, received(ready))
    await reconcile(ready, page_size=2, progress=on_top)
    await record(ready, received(ready))
    assert shown(ready) == {"k": made[-1]}
    assert_all_is_known(ready)


async def test_beside_a_writer_and_a_worker_that_never_rest_nothing_is_lost_or_made_up(ready: Site) -> None:
    change(ready, seed=9)
    received(ready)
    stop = threading.Event()

    def write() -> None:
        writer = Site(Engine(ready.engine.settings), ready.bucket)
        seed = 100
        while not stop.is_set():
            seed += 1
            change(writer, seed, times=3)

    async def work() -> None:
        while not stop.is_set():
            await record(ready, await asyncio.to_thread(received, ready))

    thread = threading.Thread(target=write)
    thread.start()
    worker = asyncio.create_task(work())
    try:
        for _ in range(3):
            await reconcile(ready)
    finally:
        stop.set()
        thread.join()
        await worker
    await record(ready, received(ready))
    assert_all_is_known(ready)
    assert (await reconcile(ready)).stored == 0


# Stopped


SCRIPT = """
import asyncio, os, signal, sys
from snapengine.buckets.reconcile import run_reconcile
from snapengine.engine import Engine
from snapengine.log import EpochCutter, StreamWriter
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_log import SQLiteLog
import snapengine.buckets.reconcile as room

bucket, place, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0
room._PAGES_UNSAVED = 2

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
wrap(SQLiteLog, "note_verified", "verified")
wrap(SQLiteStore, "clear_progress", "tidying")
wrap(EpochCutter, "cut", "epoch")
asyncio.run(run_reconcile(Engine(), bucket, page_size=2))
"""


@pytest.mark.parametrize(
    ("place", "nth"),
    [
        ("after-epoch", 1),
        ("before-append", 1),
        ("after-append", 1),
        ("after-append", 4),
        ("after-progress", 1),
        ("before-progress", 4),
        ("before-verified", 1),
        ("after-verified", 1),
        ("after-tidying", 1),
        ("after-epoch", 2),
    ],
)
async def test_killed_at_any_moment_it_claims_nothing_untrue_and_the_next_run_completes_it(
    ready: Site, place: str, nth: int
) -> None:
    change(ready, seed=10)
    await record(ready, received(ready)[::3])
    if nth > 2:  # keys changed a moment ago would be listed again, and stored together in the end
        await asyncio.sleep(3)
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SCRIPT, ready.bucket, place, str(nth)],
        env=os.environ,
        check=False,
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL
    if (await record(ready, [])).watermarks.verified:
        assert_all_is_known(ready)
    report = await reconcile(ready)
    assert_all_is_known(ready)
    assert newest(ready).watermarks.verified[""] >= report.begun
    again = await reconcile(ready)
    assert (again.stored, again.resumed) == (0, False)


async def stopped_after(site: Site, pages: int) -> ReconcileProgress:
    told: list[ReconcileProgress] = []

    def stop(progress: ReconcileProgress) -> None:
        told.append(progress)
        if progress.pages == pages:
            task.cancel()

    task = asyncio.create_task(reconcile(site, progress=stop, page_size=1))
    with pytest.raises(asyncio.CancelledError):
        await task
    return told[-1]


async def test_a_stopped_run_is_gone_on_with_and_vouches_for_what_was_before_it_began(
    ready: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapengine.buckets.reconcile._BATCH", 1)
    saved: list[Any] = []
    save = ready.engine.store.save_progress

    def remember(bucket: str, task: str, progress: Any) -> None:
        saved.append(progress)
        save(bucket, task, progress)

    monkeypatch.setattr(ready.engine.store, "save_progress", remember)
    for number in range(8):
        put(ready, f"k{number}")
    left = await stopped_after(ready, pages=4)
    put(ready, "k0")  # on a page that has been listed
    await asyncio.sleep(1.0)  # the first page of this run cannot have the time of that one
    report = await reconcile(ready, page_size=1)
    assert (report.resumed, left.key) == (True, "k2")
    assert report.pages == 4 + 5
    assert (report.entries, report.stored, report.found) == (8, 8, {"created": 8})
    assert {each["begun"] for each in saved} == {report.begun}
    assert report.begun < report.ended - 1000
    assert newest(ready).watermarks.verified == {"": report.begun}
    assert len(survivors(ready)) == 8
    assert (await reconcile(ready)).found == {"created": 1}
    assert_all_is_known(ready)


async def test_a_run_stopped_before_any_key_was_whole_has_nothing_to_be_gone_on_with(ready: Site) -> None:
    for _ in range(3):
        put(ready, "k")
    assert (await stopped_after(ready, pages=2)).key == ""
    report = await reconcile(ready, page_size=1)
    assert (report.resumed, report.pages, report.entries) == (False, 3, 3)


async def test_a_run_stopped_a_day_ago_or_before_the_bucket_was_enabled_anew_is_not_gone_on_with(
    ready: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapengine.buckets.reconcile._BATCH", 1)
    for number in range(4):
        put(ready, f"k{number}")
    await stopped_after(ready, pages=2)
    later = ready.engine.clock() + STALE_MS + LASTS_MS
    old = Site(Engine(ready.engine.settings, clock=lambda: later), ready.bucket)
    report = await reconcile(old)
    assert (report.resumed, report.entries) == (False, 4)
    await stopped_after(ready, pages=2)
    ready.engine.store.put_config(replace(ready.config(), enabled_at=(ready.config().enabled_at or 0) + 1))
    report = await reconcile(ready)
    assert (report.resumed, report.entries) == (False, 4)


async def test_a_run_of_a_prefix_leaves_a_stopped_run_of_the_bucket_to_be_gone_on_with(
    ready: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapengine.buckets.reconcile._BATCH", 1)
    for number in range(4):
        put(ready, f"k{number}")
    await stopped_after(ready, pages=2)
    assert not (await reconcile(ready, prefix="k3")).resumed
    assert (await reconcile(ready)).resumed
    assert_all_is_known(ready)


async def test_keys_that_waited_to_be_listed_again_when_it_was_stopped_are_listed_by_the_next_run(
    ready: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapengine.buckets.reconcile._BATCH", 1)
    put(ready, "a")
    ready.s3.put_bucket_versioning(Bucket=ready.bucket, VersioningConfiguration={"Status": "Suspended"})
    for key in ("b", "c", "d"):
        put(ready, key)
    await stopped_after(ready, pages=3)
    report = await reconcile(ready)
    assert report.entries == 4
    assert report.found == {"created": 1, "null": 3}
    assert_all_is_known(ready)


async def test_an_observation_says_which_listing_told_it(ready: Site) -> None:
    version = put(ready, "k")
    report = await reconcile(ready)
    (told,) = ready.history("k")
    assert (told.kind, told.version_id, told.origin) == (CREATED, version, RECONCILE)
    assert (told.page_time, told.position) == (report.begun, 0)
    assert told.listing
