"""Forgetting and narrowed views: conditions that may name somebody go, the views stay as they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from snapengine import selections
from snapengine.archiving.checking import check_archive
from snapengine.archiving.forget import Asked, count
from snapengine.archiving.forget_receipt import receipt
from snapengine.archiving.selected_files import read_list
from snapengine.cli.main import run as command
from snapengine.forgotten import prefix_unit
from snapengine.selections import QUERIES, selection_log
from snapengine.views import View
from tests.archive_house import House, dynamodb_house, play, sqlite_house
from tests.forget_house import Site, found, narrow, run, units

THEIRS = "PatientName = 'MARK<Doe>'"
OTHERS = "PatientName <> 'MARK<Doe>'"
PLAIN = "Modality = 'MARK<CT>'"


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(params=["sqlite", "dynamodb"])
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    if request.param == "sqlite":
        made = Site(sqlite_house(tmp_path), (tmp_path,))
    else:
        house = dynamodb_house(request.getfixturevalue("moto_url"), monkeypatch)
        boto3.client("s3").put_bucket_versioning(
            Bucket=house.archive[5:].partition("/")[0], VersioningConfiguration={"Status": "Enabled"}
        )
        made = Site(house)
    play(made.house)
    return made


def queries(house: House, view: View) -> list[str | None]:
    async def ask() -> list[str | None]:
        engine = house.engine()
        async with engine.log() as log:
            return [one.query for one in await selections.noted(log, engine.store, view.ref) if one.extractor]

    return asyncio.run(ask())


def standing(site: Site, text: str) -> list[str]:
    return found(site.house, site.folders, text)


def test_conditions_of_views_that_hold_what_is_forgotten_are_nowhere_and_the_views_are_as_they_were(
    site: Site,
) -> None:
    house = site.house
    theirs, others = narrow(house, ["ct/03"], THEIRS), narrow(house, ["ct/04", "ct/05"], OTHERS)
    late = narrow(house, ["ct/03", "ct/06"], "PatientName = 'MARK<Roe>'")
    house.round()
    assert len(standing(site, THEIRS)) > 1
    before = [house.engine().open_ref(view.reference).to_arrow() for view in (theirs, others, late)]

    would = asyncio.run(count(house.engine(), house.bucket, Asked(units("ct/03"))))
    assert standing(site, THEIRS)
    done = run(house, Asked(units("ct/03")))
    assert (done.conditions.selections, done.conditions.conditions) == (2, 2)
    assert would.conditions == done.conditions
    assert standing(site, THEIRS) == standing(site, "MARK<Roe>") == []
    assert standing(site, OTHERS)
    assert queries(house, theirs) == [None]
    assert queries(house, others) == [OTHERS]
    now = [house.engine().open_ref(view.reference).to_arrow() for view in (theirs, others, late)]
    assert all(a.equals(b) for a, b in zip(before, now, strict=True))
    assert not check_archive(house.engine(), house.bucket).damaged

    house.clock.now += 3_600_000
    house.round()
    assert standing(site, THEIRS) == []
    assert run(house, Asked([], conditions=True)).conditions.conditions == 1
    assert standing(site, "MARK<Doe>") == []
    assert queries(house, others) == [None]
    assert not check_archive(house.engine(), house.bucket).damaged
    assert len(read_list(house.root(), house.bucket)) == 3


def test_a_condition_over_other_columns_and_a_view_of_other_objects_are_left(tmp_path: Path) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path,))
    house = site.house
    play(house)
    narrow(house, ["mr/1"], OTHERS)
    plain = narrow(house, ["ct/03"], PLAIN, identifying=False)
    done = run(house, Asked([prefix_unit("ct/")]))
    assert done.conditions.conditions == 0
    assert queries(house, plain) == [PLAIN]
    assert standing(site, OTHERS)
    assert run(house, Asked([], conditions=True)).conditions.conditions == 1
    assert queries(house, plain) == [PLAIN]
    assert standing(site, OTHERS) == []


def test_what_a_killed_writer_and_a_killed_archiver_left_of_a_condition_goes_too(tmp_path: Path) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path,))
    house = site.house
    play(house)
    view = narrow(house, ["ct/03"], "PatientName IS NULL")
    house.round()
    name = selection_log(house.bucket, view.ref.selection)

    async def orphan() -> None:
        async with house.engine().log() as log:
            await log.put_identifying(name, QUERIES, 77, "n" * 24, THEIRS.encode())

    asyncio.run(orphan())
    for file in (".half.12.partial", "abc-condition-def.txt"):
        house.root().put_bytes(f"scans/identifying/selections/{file}", THEIRS.encode())
    assert len(standing(site, THEIRS)) > 2
    run(house, Asked(units("ct/03")))
    assert standing(site, THEIRS) == []


def test_a_view_that_cannot_be_read_is_taken_for_one_that_holds_it(tmp_path: Path) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path,))
    house = site.house
    play(house)
    view = narrow(house, ["mr/1"], THEIRS)
    name = selection_log(house.bucket, view.ref.selection)

    async def damage() -> None:
        async with house.engine().log() as log:
            await log.stub_entry(name, 0, 1)

    asyncio.run(damage())
    run(house, Asked(units("ct/03")))
    assert standing(site, THEIRS) == []


def test_the_command_forgets_conditions_alone_and_says_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path,))
    house = site.house
    play(house)
    narrow(house, ["ct/04"], OTHERS)
    monkeypatch.setenv("SNAPENGINE_STORE", house.store)
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", house.archive)
    monkeypatch.setenv("SNAPENGINE_ACTOR", "ana")

    def told(*options: str) -> dict[str, object]:
        capsys.readouterr()
        assert command(["forget", "scans", "--yes", "--json", *options]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    left = told("--key", "ct/03")
    assert left["conditions"] == {"every": False, "narrowed_views": 0, "removed": 0}
    assert any("--conditions" in place for place in left["remains"])  # type: ignore[attr-defined]  # a list
    gone = told("--conditions")
    assert gone["conditions"] == {"every": True, "narrowed_views": 1, "removed": 1}
    assert not any("--conditions" in place for place in gone["remains"])  # type: ignore[attr-defined]  # a list
    assert standing(site, OTHERS) == []
    assert command(["forget", "scans", "--conditions", "--finish"]) == 2
    assert command(["forget", "scans", "--conditions", "--key", "a", "--allow-again"]) == 2


def test_a_receipt_of_a_dry_run_counts_conditions(tmp_path: Path) -> None:
    house = sqlite_house(tmp_path)
    play(house)
    narrow(house, ["ct/04"], THEIRS)
    done = asyncio.run(count(house.engine(), house.bucket, Asked(units("ct/04"))))
    assert receipt(done, time=0, by="ana", asked={}, units=())["conditions"]["removed"] == 1
