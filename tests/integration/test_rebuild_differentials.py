"""Rebuilding a table from an archive with differentials: they are there again, or views are right without."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from snapengine.archive.planning import keys_below, make_plan
from snapengine.archiving.rebuild import JUMP, Rebuilt, rebuild_table
from tests.archive_house import House, play, sqlite_house
from tests.differential_house import answers, eager, instants, live_on, newest_differential, without_archive
from tests.seed import T0


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A checkpoint and three differentials from it; all is archived."""
    eager(monkeypatch, share=1000)
    found = sqlite_house(tmp_path)
    play(found)
    found.cut(T0 + 3_500_000)
    found.round(compaction=False)
    for step in range(4):
        live_on(found, step)
        found.round(compaction=False)
    archive = found.manifests()
    assert (len(archive.checkpoints), len(archive.differentials)) == (1, 3)
    return found


def rebuilt(house: House) -> tuple[House, Rebuilt]:
    """In another table."""
    other = House(house.store.replace("log.db", "new.db"), house.archive, house.clock)
    engine = other.engine()
    engine.store.create()
    return other, asyncio.run(rebuild_table(engine, "scans", house.archive))


def root(house: House) -> Path:
    return Path(house.archive.removeprefix("file://"))


def start_of(house: House) -> str | None:
    engine = house.engine()
    epoch = engine.store.newest_epoch("scans")
    assert epoch is not None
    start = make_plan(house.manifests(), epoch, house.clock(), keys_below("")).start
    return start.last.name if start else None


def test_a_rebuilt_table_has_the_differentials_and_views_begin_there(house: House) -> None:
    expected = answers(without_archive(house), instants(3)[::3], [12])
    other, report = rebuilt(house)
    assert (report.checkpoints, report.remarks) == (1, ())
    assert other.manifests().differentials == house.manifests().differentials
    assert start_of(other) == newest_differential(house).name
    assert answers(other.engine(), instants(3)[::3], [12]) == expected
    other.clock.now += 1_000_000
    for step in (5, 6, 7, 8):
        live_on(other, step)
        other.round(compaction=False)
    assert len(other.manifests().differentials) == 4
    assert answers(other.engine(), instants(3)[::3], [12]) == expected


@pytest.mark.parametrize("role", ["objects", "gone", "side"])
def test_a_differential_that_is_not_whole_is_left_out(house: House, role: str) -> None:
    expected = answers(without_archive(house), instants(3)[::6], [12])
    one = newest_differential(house)
    (path,) = [f.path for f in one.files if f.role == role]
    (root(house) / path).unlink()
    other, report = rebuilt(house)
    assert report.checkpoints == 1
    assert len(other.manifests().differentials) == 2
    assert path in report.remarks[0]
    assert one.name not in {m.name for m in other.manifests().standing}
    assert start_of(other) == house.manifests().differentials[-2].name
    assert answers(other.engine(), instants(3)[::6], [12]) == expected


@pytest.mark.parametrize("lost", ["file", "manifest"])
def test_without_their_checkpoint_they_are_left_out_and_a_round_makes_another(
    house: House, lost: str
) -> None:
    expected = answers(without_archive(house), instants(3)[::6], [12])
    (base,) = house.manifests().checkpoints
    (copy,) = (root(house) / "scans/manifests").glob("checkpoint-*.json")
    (copy if lost == "manifest" else root(house) / base.objects[0].path).unlink()
    other, report = rebuilt(house)
    assert report.checkpoints == 0
    assert other.manifests().differentials == ()
    assert start_of(other) is None
    assert answers(other.engine(), instants(3)[::6], [12]) == expected
    other.round(compaction=False)
    archive = other.manifests()
    assert archive.differentials == ()
    assert len(archive.checkpoints) == 1
    assert answers(other.engine(), instants(3)[::6], [12]) == expected


@pytest.mark.parametrize(
    "path",
    [
        "objects/differential=1700000000000_400/part-00-00000.parquet",
        "objects/differential=-5_400/gone-00-00000.parquet",
        "histories/differential=1700000000000_400/side-00-00000.parquet",
        "metadata/extractor=dicom/differential=1700000000000_400/live-00-00000.parquet",
        "identifying/extractor=dicom/differential=1700000000000_400/pending-00-00000.parquet",
        "manifests/differential-001700000000000_000000000400-00.json",
    ],
)
def test_no_number_of_an_epoch_that_a_differential_is_named_for_is_given_again(
    house: House, path: str
) -> None:
    if path.endswith(".json"):
        one = newest_differential(house)
        (copy,) = (root(house) / "scans/manifests").glob(f"{one.name.replace('#', '-').lower()}-*.json")
        text = copy.read_text().replace(f'"epoch":{one.epoch}', '"epoch":400')
        text = text.replace(f'"at":{one.at}', '"at":1700000000000')
        house.root().put_bytes(f"scans/{path}", text.encode())
    else:
        house.root().put_bytes(f"scans/{path}", b"x")
    _, report = rebuilt(house)
    assert report.next_epoch >= 400 + JUMP
    assert report.epoch == 12
    assert "epochs up to 400 that no manifest names" in " ".join(report.remarks)
