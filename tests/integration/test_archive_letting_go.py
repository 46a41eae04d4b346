"""Letting go: what leaves the table is in the archive for certain, and no answer changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from snapengine.archive.manifest import Segment, retired, to_json
from snapengine.archiving.letting_go import TASK, begin_after
from snapengine.archiving.segments import archive_segments
from snapengine.archiving.sweeping import sweep
from snapengine.buckets.align import histories
from snapengine.errors import ArchiveDamaged, Unreachable, UsageError
from snapengine.model import BASELINE, SnapshotRef
from snapengine.resolver import observed_ranges
from snapengine.stores.sqlite_log import SQLiteLog
from tests.archive_house import DAY, House, baseline, dynamodb_house, play, put_listed, sqlite_house
from tests.seed import T0, event, removal

Items = dict[tuple[str, int], int | None]
"""Of each entry's by-key items, by stream and number: when the last of them leaves; None: it stays."""


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["sqlite", "dynamodb"])
def house(
    request: pytest.FixtureRequest, moto_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> House:
    if request.param == "sqlite":
        found = sqlite_house(tmp_path)
        # By the test's clock, not the machine's.
        monkeypatch.setattr(SQLiteLog.__init__, "__defaults__", (found.clock,))
        return found
    return dynamodb_house(moto_url, monkeypatch)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    found = sqlite_house(tmp_path)
    monkeypatch.setattr(SQLiteLog.__init__, "__defaults__", (found.clock,))
    return found


def rounds(house: House, days: float, **options: Any) -> Any:
    """A round so many days later, after the table has removed what was due."""
    house.clock.now += round(days * DAY)
    remove_due(house)
    return house.round(checkpoints=False, **options)


def remove_due(house: House) -> int:
    """What DynamoDB does by itself sooner or later: remove items whose time is over; how many those are."""
    engine = house.engine()
    if house.store.startswith("sqlite"):
        gone = engine._database.run("SELECT count(*) FROM by_key WHERE expires <= ?", house.clock.now)[0][0]
        engine._database.run("DELETE FROM by_key WHERE expires <= ?", house.clock.now)
        return int(gone)
    client: Any = boto3.client("dynamodb")
    table = house.store.removeprefix("dynamodb://")
    due = [
        item
        for item in scan(client, table)
        if int(item.get("expires", {}).get("N", 2**60)) * 1000 <= house.clock.now
    ]
    for item in due:
        client.delete_item(TableName=table, Key={"PK": item["PK"], "SK": item["SK"]})
    return len(due)


def scan(client: Any, table: str) -> list[dict[str, Any]]:
    pages = client.get_paginator("scan").paginate(TableName=table)
    return [item for page in pages for item in page["Items"] if item["PK"]["S"].startswith("KEY#")]


def items(house: House) -> int:
    """By-key items in the table."""
    if house.store.startswith("sqlite"):
        return int(house.engine()._database.run("SELECT count(*) FROM by_key")[0][0])
    return len(scan(boto3.client("dynamodb"), house.store.removeprefix("dynamodb://")))


def leaving(house: House) -> int:
    """Of these, the ones that have a time to leave."""
    if house.store.startswith("sqlite"):
        found = house.engine()._database.run("SELECT count(*) FROM by_key WHERE expires IS NOT NULL")
        return int(found[0][0])
    table = house.store.removeprefix("dynamodb://")
    return sum("expires" in item for item in scan(boto3.client("dynamodb"), table))


def forms(house: House) -> set[str]:
    engine = house.engine()
    newest = engine.store.newest_epoch(house.bucket)
    assert newest is not None
    return {
        entry.form
        for stream, to in newest.cover.items()
        for entry in engine.store.entries(house.bucket, stream, 0, to)
    }


def known(house: House) -> dict[str, set[Any]]:
    """What reconciling compares with."""
    engine = house.engine()
    epoch = engine.store.newest_epoch(house.bucket)
    assert epoch is not None
    ref = SnapshotRef(house.bucket, "", epoch.time, epoch.number)
    return {key: set(rows) for t in observed_ranges(engine, ref, epoch) for key, rows in histories(t)}


@pytest.mark.parametrize("files", [False, True])
def test_no_answer_changes_at_any_stage_and_in_the_end_the_table_is_empty(house: House, files: bool) -> None:
    play(house, files=files)
    before, facts = house.answers(some=True), known(house)
    everything = items(house)

    report = rounds(house, 0, keep_days=2)
    assert (report.let_go, report.stubs, leaving(house)) == (0, 0, 0)

    report = rounds(house, 2.1)
    assert report.let_go == everything == leaving(house)
    assert items(house) == everything
    assert all(s.leaving_since == house.clock.now for s in house.manifests().segments) or files
    assert house.answers(some=True) == before

    report = rounds(house, 0.5)
    assert (report.let_go, report.stubs, items(house)) == (0, 0, everything)

    report = rounds(house, 0.6)
    assert items(house) == 0
    assert report.stubs == 7
    assert forms(house) == {"stub"}
    assert house.answers(some=True) == before
    assert known(house) == facts

    house.record((house.clock.now - T0) / 1000, [event("mr/1", "new", 1350), removal("late", "f-late", 1351)])
    assert items(house) == 2
    after = house.answers(some=True)
    for days in (0, 0.1, 2.1, 1.1):
        rounds(house, days)
        assert house.answers(some=True) == after
    assert items(house) == 0


def test_what_is_gone_from_the_view_is_told_the_same(local: House) -> None:
    play(local)

    def gone() -> list[Any]:
        view = local.engine().view("scans", T0 + 300_000)
        return list(view.audit())

    before = gone()
    assert {g.version_id for g in before} >= {"c-ct/01"}
    rounds(local, 0, keep_days=1)
    rounds(local, 1.1)
    rounds(local, 1.1)
    assert items(local) == 0
    assert gone() == before


def test_nothing_leaves_that_no_segment_holds_however_long_the_archiver_is_out(house: House) -> None:
    play(house)
    rounds(house, 0, keep_days=1)
    house.record((house.clock.now - T0) / 1000, [event("mr/1", "late-one", 1350)])
    house.clock.now += 60 * DAY
    assert remove_due(house) == 0
    before = house.answers(some=True)
    report = house.round(checkpoints=False)
    assert (report.segments, report.observations) == (1, 1)
    assert leaving(house) == items(house)
    house.clock.now += round(0.9 * DAY)
    assert remove_due(house) == 0
    house.clock.now += round(0.2 * DAY)
    assert remove_due(house) > 30
    assert house.answers(some=True) == before


def test_nothing_is_let_go_from_an_archive_that_is_damaged(local: House) -> None:
    play(local)
    rounds(local, 0, keep_days=1)
    (segment,) = local.manifests().segments
    path = Path(local.archive.removeprefix("file://")) / segment.files[0].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    with pytest.raises(ArchiveDamaged, match=segment.files[0].path):
        rounds(local, 2)
    assert leaving(local) == 0
    assert local.manifests().segments == (segment,)
    path.write_bytes(whole)
    assert rounds(local, 0).let_go


def test_no_payload_becomes_a_stub_while_a_file_that_should_have_it_is_damaged(local: House) -> None:
    play(local)
    rounds(local, 0, keep_days=1)
    assert rounds(local, 1.1).let_go
    (segment,) = local.manifests().segments
    assert segment.leaving_since is not None
    # Files that were not read back yet: of a segment that took the place of others.
    other = replace(segment, last=segment.last, first=1, files=segment.files[:-1])
    store = local.engine().store
    assert store.put_manifest("scans", segment.name, to_json(other), replacing=to_json(segment))
    path = Path(local.archive.removeprefix("file://")) / segment.files[0].path
    path.unlink()
    with pytest.raises(ArchiveDamaged, match=r"is missing"):
        rounds(local, 1.1)
    assert forms(local) == {"rows"}


@pytest.mark.parametrize("step", ["let_go", "stub_entry"])
@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_round_that_is_stopped_is_gone_on_with(
    local: House, monkeypatch: pytest.MonkeyPatch, step: str, at: int
) -> None:
    play(local)
    before = local.answers(some=True)
    rounds(local, 0, keep_days=1)
    if step == "stub_entry":
        rounds(local, 1.1)
    real = getattr(SQLiteLog, step)
    calls = 0

    async def failing(*arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Unreachable("the store is not there")
        await real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteLog, step, failing)
        with pytest.raises(Unreachable):
            rounds(local, 1.1)
    assert local.answers(some=True) == before
    for days in (0, 1.1, 0):
        rounds(local, days)
        assert local.answers(some=True) == before
    assert (items(local), forms(local)) == (0, {"stub"})


def test_how_long_is_kept_in_the_registration_until_it_is_all_again(local: House) -> None:
    play(local)
    rounds(local, 0, keep_days=3)
    config = local.engine().store.config("scans")
    assert config is not None
    assert config.keep_days == 3
    rounds(local, 10, keep_days=0)
    config = local.engine().store.config("scans")
    assert config is not None
    assert config.keep_days is None
    assert leaving(local) == 0
    with pytest.raises(UsageError, match="keep_days=-1"):
        local.round(keep_days=-1)


def test_segments_that_are_put_together_go_on_leaving(local: House) -> None:
    play(local)
    rounds(local, 0, keep_days=1)
    for n in range(3):
        local.record((local.clock.now - T0) / 1000 + 60, [event("mr/1", f"n{n}", 1350 + n)])
        rounds(local, 0)
    before = local.answers(some=True)
    report = rounds(local, 40)
    assert report.compacted
    assert all(s.leaving_since is not None for s in local.manifests().segments)
    for days in (1.1, 1.1):
        rounds(local, days)
    assert (items(local), forms(local)) == (0, {"stub"})
    assert local.answers(some=True) == before


def test_a_segment_that_was_put_together_without_the_lease_is_made_to_say_what_left(local: House) -> None:
    play(local)
    rounds(local, 0, keep_days=1)
    rounds(local, 1.1)
    (segment,) = local.manifests().segments
    late = replace(segment, leaving_since=None)
    store = local.engine().store
    assert store.put_manifest("scans", segment.name, to_json(late), replacing=to_json(segment))
    before = local.answers(some=True)
    rounds(local, 0.1, keep_days=0)
    (segment,) = local.manifests().segments
    assert segment.leaving_since == local.clock.now
    local.clock.now += 2 * DAY
    assert remove_due(local)
    assert local.answers(some=True) == before


def test_a_table_that_was_built_anew_has_nothing_to_let_go(local: House) -> None:
    play(local)
    rounds(local, 0)
    begin_after(local.engine().store, "scans", 7)
    assert rounds(local, 9, keep_days=1).let_go == 0
    assert rounds(local, 9).stubs == 0
    assert local.engine().store.progress("scans", TASK) is not None


# Sweeping


def paths(house: House) -> set[str]:
    return {stored.path for stored in house.root().paths()}


def swept(house: House, **options: Any) -> Any:
    return asyncio.run(sweep(house.engine(), house.bucket, **options))


def test_what_was_retired_stays_for_an_hour_and_goes_then(house: House) -> None:
    play(house)
    first, *_ = asyncio.run(archive_segments(house.engine(), house.bucket, max_rows=1))
    gone = retired(first, house.clock.now)
    assert house.engine().store.put_manifest(
        house.bucket, first.name, to_json(gone), replacing=to_json(first)
    )
    house.clock.now += 3_599_000
    assert swept(house).files == 0
    house.clock.now += 2_000
    assert swept(house).manifests == 1
    left = paths(house)
    assert not {f.path for f in first.files} & left
    assert not [p for p in left if "segment-000000000001" in p]
    assert house.manifests().retired == ()


def test_a_file_that_a_standing_manifest_names_too_is_never_swept(local: House) -> None:
    play(local)
    (segment,) = asyncio.run(archive_segments(local.engine(), "scans"))
    twin = retired(replace(segment, first=2), 0)
    assert isinstance(twin, Segment)
    assert local.engine().store.put_manifest("scans", twin.name, to_json(twin))
    before = local.answers(some=True)
    assert swept(local, orphan_ms=-(2**62)).manifests == 1
    assert {f.path for f in segment.files} <= paths(local)
    assert local.answers(some=True) == before


def test_only_the_archive_s_own_files_are_swept_and_only_old_ones(house: House) -> None:
    play(house)
    asyncio.run(archive_segments(house.engine(), house.bucket))
    named = paths(house)
    root = house.root()
    orphans = {
        f"{house.bucket}/observations/epochs=9_9/regular-00-00000.parquet",
        f"{house.bucket}/objects/checkpoint=9_9/part-00-00000.parquet",
        f"{house.bucket}/manifests/segment-000000000009_000000000009-00.json",
    }
    others = {
        f"{house.bucket}/notes.txt",
        f"{house.bucket}/observations/mine.parquet",
        "another/observations/epochs=9_9/regular-00-00000.parquet",
        f"{house.bucket}-2/observations/epochs=9_9/regular-00-00000.parquet",
    }
    for path in orphans | others:
        root.put_bytes(path, b"x")
    house.clock.now = max(s.modified for s in root.paths()) + DAY - 1000
    assert swept(house).files == 0
    house.clock.now += 3_000
    assert swept(house).files == 3
    assert paths(house) == named | others


def test_the_files_of_a_listing_under_way_are_nobody_s_orphans(local: House) -> None:
    play(local)
    store = local.engine().store
    file = put_listed(local.root(), "scans", baseline())
    store.save_progress("scans", BASELINE, {"complete": "ct/03"})
    assert swept(local, orphan_ms=-(2**62)).files == 0
    store.clear_progress("scans", BASELINE)
    config = store.config("scans")
    assert config is not None
    store.put_config(replace(config, baseline_ended=None))
    assert swept(local, orphan_ms=-(2**62)).files == 0
    store.put_config(config)
    assert swept(local, orphan_ms=-(2**62)).files == 1
    assert file.path not in paths(local)


def test_files_that_an_entry_names_whose_writer_died_are_no_orphans(
    local: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(local)

    async def died(*_: Any) -> None:
        raise Unreachable("the writer dies before its manifest")

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteLog, "put_listed", died)
        with pytest.raises(Unreachable):
            local.record_files(3700, baseline())
    assert swept(local, orphan_ms=-(2**62)).files == 0
    before = local.answers(some=True)
    asyncio.run(archive_segments(local.engine(), "scans"))
    assert local.answers(some=True) == before
