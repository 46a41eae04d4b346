"""A bucket that is reconciled, and what is known of it."""

from __future__ import annotations

import random
from typing import Any

from ingest_worker.records import parse_message
from snapengine.buckets.align import histories
from snapengine.buckets.baseline import run_baseline
from snapengine.buckets.enable import carry_out
from snapengine.buckets.reconcile import ReconcileReport, run_reconcile
from snapengine.fold import live_entries, merge
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import Epoch, Observation, SnapshotRef
from snapengine.resolver import covered
from tests.integration.bucket_site import Site, no_pause, no_sleep

FOREVER = 1 << 62


async def prepare(site: Site, **wanted: Any) -> Site:
    """Enabled and baselined while it was empty. Versioning was on for long, so no version is `null`."""
    site.s3.put_bucket_versioning(Bucket=site.bucket, VersioningConfiguration={"Status": "Enabled"})
    carry_out(site.engine, site.plan(**wanted), pause=no_pause)
    await run_baseline(site.engine, site.bucket, wait=False, sleep=no_sleep)
    return site


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


def shown(site: Site) -> dict[str, str]:
    return {row.key: row.version_id for row in site.engine.view(site.bucket).versions()}


def assert_all_is_known(site: Site) -> None:
    assert survivors(site) == site.listed()
    assert shown(site) == site.current()
