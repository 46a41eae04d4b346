"""Reconciling on the embedded cloud: events are lost, listings find out, and nothing stops it for good."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from snapengine.buckets.enable import carry_out
from snapengine.buckets.reconcile import ReconcileProgress
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import BucketNotEnabled, Busy, PermissionMissing, Refused, UsageError
from snapengine.lease import Lease
from snapengine.model import RECONCILE, SnapshotRef
from snapengine.resolver import covered
from snapengine.testing.strategies import absent
from tests.integration.bucket_site import Site, no_pause, no_sleep, open_site
from tests.integration.reconciled_site import (
    FOREVER,
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


def in_log(site: Site) -> int:
    epoch = newest(site)
    return len(covered(site.engine, SnapshotRef(site.bucket, "", FOREVER, epoch.number), epoch))


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
