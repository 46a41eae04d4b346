"""A bucket's past that is archived, its table lost, and another made of the archive."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ingest_worker.records import parse_message
from snapengine.archiving.rebuild import Rebuilt, finish, rebuild_table
from snapengine.archiving.run import archive_bucket
from snapengine.buckets.baseline import run_baseline
from snapengine.buckets.enable import carry_out
from snapengine.buckets.reconcile import run_reconcile
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import NoSuchEpoch
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import Epoch, Observation
from snapengine.resolver import key_history
from tests.integration.bucket_site import Site, no_pause, no_sleep, open_site

KEYS = ["a", "b/1", "b/é", "deep/key", "z"]


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
