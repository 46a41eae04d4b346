"""A reconcile beside workers and writers, and one that is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snapengine.buckets.reconcile import STALE_MS, ReconcileProgress
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.fold import merge
from snapengine.lease import LASTS_MS
from snapengine.model import CREATED, RECONCILE
from tests.integration.bucket_site import Site, open_site
from tests.integration.reconciled_site import (
    assert_all_is_known,
    change,
    newest,
    prepare,
    put,
    received,
    reconcile,
    record,
    shown,
    survivors,
)


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return open_site(cloud, tmp_path, monkeypatch)


@pytest.fixture
async def ready(site: Site) -> Site:
    return await prepare(site)


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
