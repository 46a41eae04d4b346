"""A bucket, its baseline into Parquet files, and what is known after it."""

from __future__ import annotations

import random
from typing import Any

from snapengine.archive.manifest import ArchiveFile, files_from_payload
from snapengine.buckets.baseline import BaselineReport, run_baseline
from snapengine.engine import Engine
from snapengine.model import BASELINE, Epoch, Observation, SnapshotRef
from snapengine.resolver import covered, key_history
from tests.integration.bucket_site import Site, no_sleep

KEYS = ["a", "a b+c", "b/\x01", "b/é", "deep/key", "deep/～", "z", "🦴"]

FOREVER = 1 << 52


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


def listed(key: str, position: int) -> Observation:
    return Observation("Created", key, "v", 1000, None, 1, "e", None, BASELINE, None, "l", 2000, position)
