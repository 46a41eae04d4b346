"""What MLflow's runs noted is in the archive too: a table that was lost knows of it again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from snapengine.archiving import paths
from snapengine.archiving.checking import check_archive
from snapengine.archiving.rebuild import Rebuilt, finish, rebuild_table
from snapengine.archiving.runs import read_runs
from snapengine.cli.main import run as command
from snapengine.errors import ArchiveDamaged, SchemaTooNew
from snapengine.model import RunNote
from tests.archive_house import House, dynamodb_house, play, sqlite_house

PATH = paths.runs("scans")
ONE, TWO = "a" * 32, "b" * 32


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


def noted(house: House, run_id: str, digest: str | None = None) -> RunNote:
    view = house.engine().view(house.bucket)
    note = RunNote(
        run_id=run_id,
        bucket=house.bucket,
        name="é\u2028\nx",
        reference=view.reference,
        started_at=house.clock.now,
        noted_at=house.clock.now,
        digest=view.digest() if digest is None else digest,
        objects=len(view),
        bytes=7,
        query="Modality = 'CT'",
        experiment="0",
        tracking="http://mlflow",
    )
    assert house.engine().store.put_note(note)
    return note


def notes(house: House) -> list[RunNote]:
    return sorted(house.engine().store.notes(house.bucket), key=lambda note: note.run_id)


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


def test_what_runs_noted_is_there_after_a_rebuild_and_opens(house: House) -> None:
    made = [noted(house, ONE), noted(house, TWO, digest="")]
    house.round()
    other, report = rebuilt(house)
    assert (report.runs, report.remarks) == (2, ())
    assert notes(other) == made
    assert other.engine().store.notes_of_run(ONE) == made[:1]
    view = other.engine().view(other.bucket, f"run:/{ONE}")
    assert (view.reference, view.digest()) == (made[0].reference, made[0].digest)


def test_a_round_copies_what_was_noted_since_and_writes_nothing_where_nothing_was(local: House) -> None:
    root, file = local.root(), Path(local.archive.removeprefix("file://"), PATH)
    local.round()
    assert root.size(PATH) is None
    first = noted(local, ONE, digest="")
    local.round()
    assert read_runs(root, "scans") == [first]
    before = file.stat()
    local.round()
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    made = [noted(local, ONE), noted(local, TWO)]
    local.round()
    assert read_runs(root, "scans") == made
    root.delete(PATH)
    local.round()
    assert read_runs(root, "scans") == made


def test_after_a_rebuild_rounds_go_on_with_all_notes(local: House) -> None:
    first = noted(local, ONE)
    local.round()
    other, _ = rebuilt(local)
    second = noted(other, TWO)
    other.round()
    assert read_runs(other.root(), "scans") == [first, second]


@pytest.mark.parametrize("how", ["missing", "cut", "altered", "nothing"])
def test_a_damaged_copy_is_named_and_all_else_comes_back(local: House, how: str) -> None:
    noted(local, ONE)
    local.round()
    root = local.root()
    data = root.read(PATH)
    assert not check_archive(local.engine(), local.bucket).damaged
    if how == "missing":
        root.delete(PATH)
    else:
        changed = {"cut": data[:-30], "altered": data.replace(b"CT", b"MR"), "nothing": b""}[how]
        root.put_bytes(PATH, changed)
    assert list(check_archive(local.engine(), local.bucket).damaged) == [PATH]
    other, report = rebuilt(local)
    assert report.runs == 0
    assert notes(other) == []
    assert [PATH in remark for remark in report.remarks] == ([] if how == "missing" else [True])
    if how != "missing":  # nothing is written over it
        with pytest.raises(ArchiveDamaged, match="Restore it"):
            other.round()
        root.put_bytes(PATH, data)
        other.round()
        assert len(notes(other)) == 1


def test_a_copy_of_a_newer_snapengine_is_read_as_far_as_its_format_allows(local: House) -> None:
    note = noted(local, ONE)
    root = local.root()

    def write(form: int) -> None:
        lines = [{"format": form}, {**asdict(note), "more": 1}]
        body = "".join(json.dumps(line) + "\n" for line in lines).encode()
        end = {"notes": 1, "sha256": sha256(body).hexdigest()}
        root.put_bytes(PATH, body + json.dumps(end).encode() + b"\n")

    write(1)
    assert read_runs(root, "scans") == [note]
    write(2)
    with pytest.raises(SchemaTooNew, match="Upgrade"):
        read_runs(root, "scans")


def test_the_command_tells_of_them(
    local: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noted(local, ONE)
    local.round()
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", local.archive)
    monkeypatch.setenv("SNAPENGINE_STORE", lost(local).store)
    assert command(["rebuild", "scans", "--no-listing"]) == 0
    assert "1 notes of runs" in capsys.readouterr().out
    assert command(["runs", "scans", "--json"]) == 0
    assert ONE in capsys.readouterr().out
