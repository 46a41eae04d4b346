"""An archive is one table's; what is damaged is noticed before anything rests on it alone."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from snapengine.archiving.letting_go import LEAVE_MS
from snapengine.archiving.rebuild import finish, rebuild_table
from snapengine.errors import ArchiveDamaged, NoSuchEpoch, Refused
from tests.archive_house import DAY, House, play
from tests.seed import T0, enable, event


def made(folder: Path, name: str) -> House:
    """A table of its own, all with one root."""
    house = House(f"sqlite:///{folder}/{name}.db", f"file://{folder}/root")
    house.engine().store.create()
    return house


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = made(tmp_path, "first")
    play(house)
    house.round()
    return house


def flip(house: House, path: str) -> None:
    data = bytearray(house.root().read(path))
    data[len(data) // 2] ^= 1
    Path(house.archive.removeprefix("file://"), path).write_bytes(data)


def rebuilt(folder: Path, name: str, now: int) -> House:
    house = made(folder, name)
    house.clock.now = now

    async def run() -> None:
        engine = house.engine()
        await rebuild_table(engine, house.bucket, house.archive)
        await finish(house.engine(), house.bucket, None)

    asyncio.run(run())
    return house


def test_another_table_that_archives_into_the_same_root_is_refused_and_sweeps_nothing(
    house: House, tmp_path: Path
) -> None:
    before = house.answers(some=True)
    other = made(tmp_path, "second")
    enable(other.engine(), other.bucket)
    other.record(10, [event("ct/00", "v1", 5)])
    other.clock.now = T0 + 400 * DAY
    with pytest.raises(Refused, match="another table's"):
        other.round()
    assert house.answers(some=True) == before
    house.round()


def test_a_table_that_is_older_than_its_archive_is_refused(house: House, tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "first.db")) as now,
        closing(sqlite3.connect(tmp_path / "backup.db")) as backup,
    ):
        now.backup(backup)
    house.record(5000, [event("ct/00", "later", 4990)])
    house.round()
    before = house.answers(some=True)
    older = House(f"sqlite:///{tmp_path}/backup.db", house.archive, house.clock)
    with pytest.raises(Refused, match="older than its archive"):
        older.round()
    assert house.answers(some=True) == before


def test_after_a_rebuild_the_old_tables_archiver_is_refused(house: House, tmp_path: Path) -> None:
    house.record(5000, [event("ct/00", "later", 4990)])
    new = rebuilt(tmp_path, "second", house.clock.now + 1000)
    with pytest.raises(Refused, match="another table's"):
        house.round()
    new.record(5100, [event("ct/01", "newer", 5090)])
    assert new.round().segments


def test_numbers_of_epochs_given_out_after_a_rebuild_are_not_given_out_again_by_the_next(
    house: House, tmp_path: Path
) -> None:
    second = rebuilt(tmp_path, "second", house.clock.now + 60_000)
    epoch = second.record(4000, [event("ct/00", "first life", 3990)])
    third = rebuilt(tmp_path, "third", house.clock.now + 600_000)
    third.record(4700, [event("ct/00", "second life", 3992)])
    with pytest.raises(NoSuchEpoch):
        third.engine().view(third.bucket, T0 + 3_995_000, epoch=epoch.number)


def test_payloads_stay_if_the_archive_was_damaged_since_it_was_read_back(house: House) -> None:
    house.clock.now += 3 * DAY
    house.round(keep_days=1)
    [segment, *_] = house.manifests().segments
    flip(house, segment.observations[0].path)
    house.clock.now += LEAVE_MS + 1
    with pytest.raises(ArchiveDamaged):
        house.round()
    engine = house.engine()
    newest = engine.store.newest_epoch(house.bucket)
    assert newest is not None
    forms = {
        entry.form
        for stream, to in newest.cover.items()
        for entry in engine.store.entries(house.bucket, stream, 0, to)
    }
    assert forms == {"rows"}


def test_a_damaged_checkpoint_is_put_aside_by_the_next_that_is_made(house: House) -> None:
    before = house.answers(some=True)
    house.round(checkpoint_now=True)
    [first] = house.manifests().checkpoints
    flip(house, first.objects[0].path)
    with pytest.raises(ArchiveDamaged):
        house.answers(some=True)
    house.record(5000, [event("ct/00", "later", 4990)])
    house.round(checkpoint_now=True)
    [again] = house.manifests().checkpoints
    assert again.epoch > first.epoch
    engine = house.engine()
    assert all(
        engine.view(house.bucket, at, epoch=number).digest() == digest
        for (at, number), digest in ((key, d) for key, d in before.items() if isinstance(key, tuple))
        if isinstance(at, int)
    )


def test_what_a_rebuild_needs_is_written_before_any_segment_and_put_back_if_it_is_lost(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = house.root()
    for stored in list(root.paths(f"{house.bucket}/manifests/")):
        root.delete(stored.path)
    root.delete(f"{house.bucket}/registry.json")
    house.clock.now += DAY
    house.round()
    assert (
        json.loads(root.read(f"{house.bucket}/registry.json"))["last_epoch"] == house.manifests().last_epoch
    )
    before = house.answers(some=True)
    new = rebuilt(tmp_path, "second", house.clock.now + 1000)
    assert {k: v for k, v in new.answers().items() if k in before} == before

    other = House(f"sqlite:///{tmp_path}/other.db", f"file://{tmp_path}/other")
    play(other)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("snapengine.archiving.run.make_segments", fail)
    with pytest.raises(KeyboardInterrupt):
        other.round()
    assert other.root().size(f"{other.bucket}/registry.json")
