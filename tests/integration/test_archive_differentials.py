"""Differentials: rounds make them when they are due, no answer changes, and they go with their checkpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa
import pytest

from snapengine.archive.manifest import Checkpoint, Differential
from snapengine.archive.planning import keys_below, make_plan
from snapengine.archiving.checking import check_archive
from snapengine.archiving.publishing import retire
from snapengine.archiving.sweeping import sweep
from snapengine.buckets.status import bucket_status
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing
from snapengine.resolver import resolve_ranges
from tests.archive_house import DAY, House, play, sqlite_house
from tests.differential_house import (
    ROWS,
    answers,
    eager,
    instants,
    live_on,
    newest_differential,
    second,
    without_archive,
)
from tests.seed import T0


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """With a checkpoint of all that happened; rounds that follow make differentials."""
    eager(monkeypatch)
    found = sqlite_house(tmp_path)
    play(found)
    found.cut(T0 + 3_500_000)
    report = found.round(compaction=False)
    assert report.checkpoint is not None
    assert len(found.manifests().checkpoints) == 1
    return found


def lived(house: House, steps: int) -> list[str]:
    """A round after each step: what each of them made."""
    made: list[str] = []
    for step in range(steps):
        live_on(house, step)
        before = {one.name for one in house.manifests().standing}
        house.round(compaction=False)
        new = [one for one in house.manifests().standing if one.name not in before]
        kinds = [type(one).__name__ for one in new if isinstance(one, Checkpoint)]
        assert len(kinds) <= 1
        made.append(*(kinds or ["nothing"]))
    return made


def test_rounds_make_a_differential_each_time_that_twice_as_much_has_come_and_then_a_checkpoint(
    house: House,
) -> None:
    rows = house.manifests().checkpoints[0].rows
    assert 4 * ROWS < 3.5 * rows < 5 * ROWS
    d, c = "Differential", "Checkpoint"
    assert lived(house, 7) == [d, d, "nothing", d, c, d, d]
    archive = house.manifests()
    first, later = archive.checkpoints
    assert [one.base for one in archive.differentials] == [first.name] * 3 + [later.name] * 2
    assert [one.epoch for one in archive.differentials] == [9, 10, 12, 14, 15]


def test_every_answer_is_that_of_a_table_without_an_archive(house: House) -> None:
    made = lived(house, 7)
    assert made.count("Differential") == 5
    live_on(house, 7)
    house.clock.now += 3_600_000
    begins: set[str | None] = set()
    archive = house.manifests()
    engine = house.engine()
    epoch = engine.store.newest_epoch("scans")
    assert epoch is not None
    for at in instants(7):
        start = make_plan(archive, epoch, at, keys_below("")).start
        begins.add(start.last.name if start else None)
    standing = (*archive.checkpoints, *archive.differentials)
    assert begins == {None, *(one.name for one in standing)}
    for epochs in ([epoch.number], [15], [13], [11]):
        expected = answers(without_archive(house), instants(7), epochs)
        assert answers(engine, instants(7), epochs) == expected
        assert len({value for key, value in expected.items() if len(key) == 2}) > 10


def small_ranges(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("snapengine.archive.writing.ROW_GROUP_ROWS", 2)
    patch.setattr("snapengine.ranges.ROWS_AT_ONCE", 5)
    patch.setattr("snapengine.ranges.GROUP_ROWS", 2)
    patch.setattr("snapengine.changed_objects.RANGE_ROWS", 3)


def test_many_ranges_of_keys_give_the_same(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapengine.archive.writing.ROW_GROUP_ROWS", 2)
    for name, rows in (
        ("ranges.ROWS_AT_ONCE", 5),
        ("ranges.GROUP_ROWS", 2),
        ("changed_objects.RANGE_ROWS", 3),
    ):
        monkeypatch.setattr(f"snapengine.{name}", rows)
    monkeypatch.setattr("snapengine.archiving.checkpoints.OBJECT_ROWS", 7)
    monkeypatch.setattr("snapengine.archiving.checkpoints.OBSERVATION_ROWS", 5)
    lived(house, 4)
    one = newest_differential(house)
    assert len(one.objects) > 1
    live_on(house, 4)
    asked = instants(4)[-20:]
    assert answers(house.engine(), asked, [13]) == answers(without_archive(house), asked, [13])


def test_a_differential_holds_what_has_changed_and_nothing_else(house: House) -> None:
    lived(house, 2)
    archive = house.manifests()
    (base,), one = archive.checkpoints, archive.differentials[0]
    engine = without_archive(house)
    before, after = (
        {v.key: v for v in engine.view("scans", point.at, epoch=point.epoch).versions()}
        for point in (base, one)
    )
    reader = house.engine().reader(house.archive)
    told = [row for f in one.objects for row in reader.read(f).to_pylist()]
    gone = [row["key"] for f in one.gone for row in reader.read(f).to_pylist()]
    changed = {key for key, version in after.items() if before.get(key) != version}
    assert changed <= {row["key"] for row in told}
    assert {row["key"]: row["version_id"] for row in told} == {
        row["key"]: after[row["key"]].version_id for row in told
    }
    assert before.keys() - after.keys() <= {*gone}
    assert not {*gone} & after.keys()
    assert "é" in gone
    assert len(told) < len(after)
    assert [row["key"] for row in told] == sorted(row["key"] for row in told)
    assert gone == sorted(gone)
    view = house.engine().view("scans", one.at, epoch=one.epoch)
    assert f"at most {len(told) + len(gone)} keys that had changed" in view.explain()


# How long they stay


def standing_files(house: House) -> set[str]:
    return {file.path for one in house.manifests().standing for file in one.files}


def parquet(house: House) -> set[str]:
    return {p.path for p in house.root().paths() if p.path.endswith(".parquet")}


def test_differentials_go_with_their_checkpoint_and_nothing_else_does(house: House) -> None:
    lived(house, 7)
    archive = house.manifests()
    first, later = archive.checkpoints
    engine = house.engine()
    assert retire(engine.store, "scans", first, house.clock())
    stale = {f.path for one in archive.differentials if one.base == first.name for f in one.files}
    assert len(stale) >= 6
    expected = answers(without_archive(house), instants(6)[::5], [15])
    assert answers(house.engine(), instants(6)[::5], [15]) == expected

    live_on(house, 7)
    house.round(compaction=False)
    now = house.manifests()
    assert {one.base for one in now.differentials} == {later.name}
    assert {one.name for one in now.retired} == {
        first.name,
        *(one.name for one in archive.differentials if one.base == first.name),
    }
    assert stale <= parquet(house)
    house.clock.now += 2_500_000
    assert house.round(compaction=False).swept == 0
    assert stale <= parquet(house)
    house.clock.now += 1_200_000
    swept = house.round(compaction=False).swept
    assert swept == len(stale | {f.path for f in first.files}) + 4  # and a copy of each manifest
    assert parquet(house) == standing_files(house)
    assert house.manifests().retired == ()
    assert answers(house.engine(), instants(6)[::5], [15]) == expected
    house.clock.now += 3 * DAY
    asyncio.run(sweep(house.engine(), "scans", orphan_ms=-(2**62)))
    assert parquet(house) == standing_files(house)


def test_a_checkpoint_that_is_thinned_out_takes_its_differentials_with_it(house: House) -> None:
    lived(house, 7)
    expected = answers(without_archive(house), instants(6)[::9], [15])
    house.clock.now += 95 * DAY  # of one week only the newest checkpoint is kept
    house.cut(house.clock.now - 1000)
    house.round(compaction=False, checkpoint_now=True)
    archive = house.manifests()
    left, _ = archive.checkpoints
    assert [one.base for one in archive.differentials] == [left.name] * 2
    assert len(archive.retired) == 4
    assert answers(house.engine(), instants(6)[::9], [15]) == expected


def test_a_reader_who_began_before_a_differential_was_retired_comes_to_its_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_ranges(monkeypatch)
    monkeypatch.setattr("snapengine.ranges.AHEAD", 0)
    lived(house, 2)
    at = T0 + 1000 * second(1)
    expected = without_archive(house).view("scans", at).to_arrow()
    for grace in (3_600_000, 0):  # with its files there, and without them
        one = newest_differential(house)
        engine = house.engine()
        view = engine.view("scans", at)
        rows = resolve_ranges(engine, view.ref, view._epoch)
        found = [next(rows)]
        assert found[0].num_rows < expected.num_rows
        assert retire(house.engine().store, "scans", one, house.clock())
        asyncio.run(sweep(house.engine(), "scans", grace_ms=grace, orphan_ms=2**62))
        assert ({f.path for f in one.files} <= parquet(house)) == bool(grace)
        found += rows
        assert pa.concat_tables(found).to_pylist() == expected.to_pylist()


# Whether they are whole


def test_its_files_are_checked_and_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    lived(house, 2)
    named = standing_files(house)
    report = check_archive(house.engine(), "scans")
    assert report.files == len(named)
    assert not report.damaged
    status = bucket_status(house.engine(), "scans").archive
    assert status is not None
    assert (status.files, status.checkpoints) == (len(named), 1)
    assert status.bytes == sum(p.size for p in house.root().paths() if p.path in named)
    paths = [f.path for f in newest_differential(house).files]
    for path in paths:
        damage(house, path)
    assert {*check_archive(house.engine(), "scans").damaged} == {*paths}


def damage(house: House, path: str, how: str = "altered") -> None:
    file = Path(house.archive.removeprefix("file://")) / path
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    if how == "altered":
        file.write_bytes(data)
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["altered", "missing"])
@pytest.mark.parametrize("role", ["objects", "gone", "side"])
def test_a_damaged_differential_is_named_by_who_reads_it_and_made_anew_by_a_later_round(
    house: House, role: str, how: str
) -> None:
    lived(house, 2)
    one = newest_differential(house)
    (path,) = [f.path for f in one.files if f.role == role]
    expected = without_archive(house).view("scans").digest()
    earlier = answers(without_archive(house), [one.at - 1], [10])
    damage(house, path, how)
    with pytest.raises(ArchiveDamaged, match=path) as raised:
        house.engine().view("scans").digest()
    assert isinstance(raised.value, ArchiveFileMissing) == (how == "missing")
    assert answers(house.engine(), [one.at - 1], [10]) == earlier  # who does not read it has an answer

    for step in (2, 3):
        live_on(house, step)
        house.round(compaction=False)
    archive = house.manifests()
    assert [m.name for m in archive.retired if isinstance(m, Differential)] == [one.name]
    assert newest_differential(house).epoch == 12
    assert len(archive.checkpoints) == 1
    view = house.engine().view("scans")
    assert view.digest() == without_archive(house).view("scans").digest()
    at_that_time = house.engine().view("scans", T0 + 1000 * second(1), epoch=10)
    assert at_that_time.digest() == expected
    assert not check_archive(house.engine(), "scans").damaged


def test_a_damaged_checkpoint_of_an_idle_bucket_is_made_anew_in_its_own_place(house: House) -> None:
    lived(house, 1)
    assert house.round(compaction=False, checkpoint_now=True).checkpoint is not None
    newest = house.manifests().checkpoints[-1]
    expected = without_archive(house).view("scans").digest()
    damage(house, newest.objects[0].path)
    with pytest.raises(ArchiveDamaged, match=newest.objects[0].path):
        house.engine().view("scans").digest()
    report = house.round(compaction=False, checkpoint_now=True)
    again = house.manifests().checkpoints[-1]
    assert (again.name, again.at) == (newest.name, report.checkpoint)
    assert again.objects[0].path != newest.objects[0].path
    assert house.engine().view("scans").digest() == expected
    assert not check_archive(house.engine(), "scans").damaged


def test_a_damaged_checkpoint_is_dropped_with_its_differentials(house: House) -> None:
    lived(house, 2)
    (base,) = house.manifests().checkpoints
    damage(house, base.objects[0].path)
    with pytest.raises(ArchiveDamaged, match=base.objects[0].path):
        house.engine().view("scans").digest()
    for step in (2, 3):
        live_on(house, step)
        house.round(compaction=False)
    house.round(compaction=False)
    archive = house.manifests()
    assert base.name in {one.name for one in archive.retired}
    assert archive.differentials == ()
    assert house.engine().view("scans").digest() == without_archive(house).view("scans").digest()
