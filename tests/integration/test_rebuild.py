"""Rebuilding a lost table from the archive: what was archived is as it was, and nothing else is made up."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from snapengine.archiving.rebuild import JUMP
from snapengine.archiving.run import archive_bucket
from snapengine.buckets.baseline import run_baseline
from snapengine.buckets.enable import carry_out
from snapengine.buckets.reconcile import run_reconcile
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.settings import Settings
from tests.integration.bucket_site import Site, no_pause, no_sleep, open_site
from tests.integration.rebuilt_site import (
    KEYS,
    another_table,
    change,
    listed,
    lived,
    opened,
    rebuilt,
    received,
    record,
    shown,
)


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
