"""Baselines that go straight into Parquet files: the same history, whatever stops them on the way."""

from __future__ import annotations

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
from snapengine.buckets.baseline import BaselineProgress
from snapengine.buckets.enable import carry_out
from snapengine.buckets.listed_files import ListedFiles
from snapengine.buckets.reconcile import run_reconcile
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BASELINE, Epoch, Observation
from snapengine.observation_codec import decode, observations_of
from snapengine.resolver import key_history
from snapengine.settings import Settings
from tests.integration.bucket_site import Site, no_pause, open_site
from tests.integration.filed_baseline import (
    KEYS,
    assert_all_is_known,
    baseline,
    change,
    filed,
    files,
    forms,
    known,
    listed,
    newest,
)


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
