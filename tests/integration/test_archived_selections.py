"""Narrowed views are in the archive too: they open after the table was lost, and say how they were chosen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from snapengine import Engine, View, selections
from snapengine.archiving import paths
from snapengine.archiving.checking import check_archive
from snapengine.archiving.rebuild import Rebuilt, finish, rebuild_table
from snapengine.archiving.selected_files import read_list
from snapengine.archiving.sweeping import sweep
from snapengine.cli.main import run as command
from snapengine.errors import LogDamaged, NoSuchSelection
from snapengine.model import Snapshot
from snapengine.selections import Chosen, selection_log
from tests.archive_house import House, dynamodb_house, play, sqlite_house

HIDDEN = "PatientID = 'MARK<4711>'"


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
def house(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    made = (
        sqlite_house(tmp_path)
        if request.param == "sqlite"
        else dynamodb_house(request.getfixturevalue("moto_url"), monkeypatch)
    )
    play(made)
    return made


@pytest.fixture
def local(tmp_path: Path) -> House:
    house = sqlite_house(tmp_path)
    play(house)
    return house


def narrowed(house: House, keys: list[str], query: str | None = None, *, identifying: bool = False) -> View:
    engine = house.engine()
    view = engine.view(house.bucket)
    some = view.select(keys)
    if query is not None:
        note(engine, some, Chosen(view.reference, query, "dicom", {"matched": len(keys)}, identifying))
    return some


def note(engine: Engine, view: View, chosen: Chosen) -> None:
    async def run() -> None:
        async with engine.log() as log:
            await selections.note(log, view.ref, chosen, engine.clock)

    asyncio.run(run())


def noted(house: House, view: View) -> list[Chosen]:
    async def run() -> list[Chosen]:
        engine = house.engine()
        async with engine.log() as log:
            return await selections.noted(log, engine.store, view.ref)

    return asyncio.run(run())


def lost(house: House) -> House:
    """The same archive, and an empty table."""
    if house.store.startswith("dynamodb://"):
        other = replace(house, store=house.store + "x")
    else:
        other = replace(house, store=house.store.replace("log.db", "again.db"))
    other.engine().store.create()
    return other


def rebuilt(house: House) -> tuple[House, Rebuilt]:
    other = lost(house)

    async def run() -> Rebuilt:
        engine = other.engine()
        report = await rebuild_table(engine, other.bucket, other.archive)
        await finish(engine, other.bucket, None)
        return report

    return other, asyncio.run(run())


def test_narrowed_views_open_after_a_rebuild_with_how_they_were_chosen(house: House) -> None:
    plain = narrowed(house, ["ct/04", "é"], "Modality = 'CT'")
    hidden = narrowed(house, ["ct/05"], HIDDEN, identifying=True)
    none = narrowed(house, [])
    engine = house.engine()
    engine.store.put_snapshot(Snapshot(house.bucket, "train", plain.reference, plain.digest(), 0, "me"))
    before = {view.reference: (view.to_arrow(), noted(house, view)) for view in (plain, hidden, none)}
    assert house.round().selections == 3
    assert house.round().selections == 0

    other, report = rebuilt(house)
    assert (report.selections, report.remarks) == (3, ())
    for reference, (rows, chosen) in before.items():
        opened = other.engine().open_ref(reference)
        assert opened.to_arrow().equals(rows)
        assert noted(other, opened) == chosen
    assert noted(other, hidden)[1].query == HIDDEN
    snapshot = other.engine().store.snapshot(other.bucket, "train")
    assert snapshot is not None
    assert other.engine().open_ref(snapshot.reference).digest() == snapshot.digest
    assert other.round().selections == 0
    assert not check_archive(other.engine(), other.bucket).damaged
    assert len(read_list(other.root(), other.bucket)) == 3


def test_the_commands_tell_of_narrowed_views(
    local: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrowed(local, ["ct/04"])
    monkeypatch.setenv("SNAPENGINE_STORE", local.store)
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", local.archive)
    monkeypatch.setenv("SNAPENGINE_CACHE", "off")
    assert command(["archive", "scans"]) == 0
    assert "1 narrowed view copied" in capsys.readouterr().out
    monkeypatch.setenv("SNAPENGINE_STORE", lost(local).store)
    assert command(["rebuild", "scans", "--no-listing"]) == 0
    assert "1 narrowed views" in capsys.readouterr().out


def test_a_condition_over_identifying_columns_is_on_the_identifying_side_alone(house: House) -> None:
    narrowed(house, ["ct/05"], HIDDEN, identifying=True)
    house.round()
    root = house.root()
    held = [one.path for one in root.paths("") if HIDDEN.encode() in root.read(one.path)]
    assert len(held) == 1
    assert held[0].startswith("scans/identifying/selections/")


def test_a_selection_of_many_pieces_comes_back_to_the_letter(
    local: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapengine.selections.CHUNK_BYTES", 150)
    some = narrowed(local, ["ct/04", "ct/05", "ct/06", "ct/07", "mr/1", "é"])
    local.round()
    monkeypatch.undo()
    other, _ = rebuilt(local)
    assert other.engine().open_ref(some.reference).to_arrow().equals(some.to_arrow())
    stores = (house.engine().store for house in (local, other))
    pieces, again = (
        [piece.num_rows for piece in selections.kept_chunks(store, "scans", some.ref.selection, "it")]
        for store in stores
    )
    assert pieces == again
    assert len(pieces) > 2


def test_what_is_noted_later_of_a_selection_follows(local: House) -> None:
    some = narrowed(local, ["ct/04"], "Modality = 'CT'")
    local.round()
    local.clock.now += 10 * 3_600_000
    local.round()
    again = narrowed(local, ["ct/04"], "Modality = 'MR'")
    assert again.ref.selection == some.ref.selection
    assert local.round().selections == 0
    other, _ = rebuilt(local)
    assert [one.query for one in noted(other, some)] == [None, "Modality = 'CT'"]
    assert [one.query for one in noted(other, again)] == [None, "Modality = 'MR'"]


def test_a_selection_that_was_told_of_and_is_put_much_later_is_not_missed(
    local: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: object) -> bytes:
        raise OSError("killed")

    monkeypatch.setattr("snapengine.selections._encoded", killed)
    with pytest.raises(OSError, match="killed"):
        narrowed(local, ["ct/04"])
    monkeypatch.undo()
    assert local.round().selections == 0
    local.clock.now += 48 * 3_600_000
    assert local.round().selections == 0
    some = narrowed(local, ["ct/04"])
    assert local.round().selections == 1
    other, _ = rebuilt(local)
    assert other.engine().open_ref(some.reference) == some


def test_sweeping_leaves_narrowed_views_alone_but_not_what_a_killed_archiver_left(local: House) -> None:
    narrowed(local, ["ct/04"], HIDDEN, identifying=True)
    local.round()
    root = local.root()
    before = {one.path for one in root.paths("scans/") if "selections" in one.path}
    assert len(before) == 5
    for folder in ("selections", "identifying/selections"):
        root.put_bytes(f"scans/{folder}/.half.1234.partial", HIDDEN.encode())
    local.clock.now += 400 * 86_400_000
    asyncio.run(sweep(local.engine(), local.bucket, orphan_ms=-(10**13)))
    assert {one.path for one in root.paths("scans/") if "selections" in one.path} == before


@pytest.mark.parametrize("how", ["missing", "cut", "altered"])
def test_damage_is_named_by_a_check_and_by_a_rebuild_and_the_others_come_back(local: House, how: str) -> None:
    broken, whole = narrowed(local, ["ct/04"]), narrowed(local, ["ct/05"])
    local.round()
    assert not check_archive(local.engine(), local.bucket).damaged
    root = local.root()
    path = paths.selected_rows(local.bucket, broken.ref.selection.removeprefix("sha256:"))
    data = root.read(path)
    if how == "missing":
        root.delete(path)
    elif how == "cut":
        root.put_bytes(path, data[:-5])
    else:
        other = paths.selected_rows(local.bucket, whole.ref.selection.removeprefix("sha256:"))
        root.put_bytes(path, root.read(other))
    assert list(check_archive(local.engine(), local.bucket).damaged) == [path]
    again, report = rebuilt(local)
    assert report.selections == 1
    assert path in report.remarks[0]
    assert again.engine().open_ref(whole.reference) == whole
    with pytest.raises(NoSuchSelection):
        again.engine().open_ref(broken.reference).to_arrow()


@pytest.mark.parametrize("apart", [False, True])
def test_an_altered_condition_is_named(local: House, apart: bool) -> None:
    narrowed(local, ["ct/04"], HIDDEN, identifying=True)
    local.round()
    root = local.root()
    [(name, one)] = read_list(root, local.bucket).items()
    nonce = one.identifying[0]
    place = paths.identifying_condition if apart else paths.condition
    path = place(local.bucket, name, nonce)
    root.put_bytes(
        path, root.read(path).replace(b"4711" if apart else b"dicom", b"0815" if apart else b"nifti")
    )
    assert len(check_archive(local.engine(), local.bucket).damaged) == 1
    _, report = rebuilt(local)
    assert report.selections == 1
    assert path in report.remarks[0]


def test_a_lost_list_is_made_again_by_the_next_round_or_from_the_names(local: House) -> None:
    some = narrowed(local, ["ct/04"], HIDDEN, identifying=True)
    local.round()
    root = local.root()
    before = read_list(root, local.bucket)
    root.delete(paths.selections(local.bucket))
    assert list(check_archive(local.engine(), local.bucket).damaged) == [paths.selections(local.bucket)]
    other, report = rebuilt(replace(local, archive=copied(local)))
    assert report.selections == 1
    assert {one.query for one in noted(other, some)} == {None, HIDDEN}
    local.clock.now += 10 * 3_600_000
    local.round()
    assert read_list(root, local.bucket) == before


def copied(house: House) -> str:
    root = house.root()
    other = house.engine().root(house.archive + "-copy")
    for stored in root.paths(""):
        other.put_bytes(stored.path, root.read(stored.path))
    return other.url


def test_a_damaged_selection_is_left_out_with_a_warning_and_the_others_are_archived(
    local: House, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = narrowed(local, ["ct/04"]), narrowed(local, ["ct/05"])
    engine = local.engine()
    name = selection_log(local.bucket, broken.ref.selection)

    async def damage() -> None:
        async with engine.log() as log:
            entry = await log.get_entry(name, 0, 1)
            assert entry is not None
            await log.rewrite_entry(replace(entry, payload=b"nothing"))

    asyncio.run(damage())
    assert local.round().selections == 1
    assert broken.ref.selection in caplog.text
    with pytest.raises(LogDamaged):
        local.engine().open_ref(broken.reference).to_arrow()
    assert list(read_list(local.root(), local.bucket)) == [whole.ref.selection.removeprefix("sha256:")]
