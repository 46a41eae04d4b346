"""Rows of metadata in the archive: no answer changes, whatever befalls the archiver, and none is given
twice."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from snapengine.archive.manifest import Archive, ArchiveFile, Segment
from snapengine.archive.roots import FileRoot
from snapengine.archiving.checking import check_archive
from snapengine.archiving.compaction import put_together
from snapengine.archiving.publishing import publish, retire
from snapengine.archiving.rebuild import rebuild_table
from snapengine.archiving.segments import archive_segments
from snapengine.archiving.sweeping import sweep
from snapengine.errors import BadData, LogDamaged
from snapengine.metadata_rows import metadata_log, row_schema
from snapengine.model import SnapshotRef
from snapengine.row_reading import joined
from snapengine.stores.sqlite import SQLiteStore
from tests.archive_house import DAY, INSTANTS, House, dynamodb_house, play, sqlite_house
from tests.row_house import DICOM, SECRET, SIZES, append, field, play_with_rows, row_answers, rows_of
from tests.seed import T0


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
    return sqlite_house(tmp_path) if request.param == "sqlite" else dynamodb_house(moto_url, monkeypatch)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history with rows, of which nothing is archived."""
    folder = tmp_path_factory.mktemp("played")
    play_with_rows(sqlite_house(folder))
    return folder


@pytest.fixture
def local(played: Path, tmp_path: Path) -> House:
    """A copy of it."""
    folder = tmp_path / "copy"
    shutil.copytree(played, folder)
    house = sqlite_house(folder)
    house.clock.now = T0 + 3_600_000
    return house


def archived(house: House, **options: Any) -> list[Segment]:
    return asyncio.run(archive_segments(house.engine(), house.bucket, **options))


def named_by(archive: Archive) -> list[ArchiveFile]:
    return [
        *(file for segment in archive.segments for file in segment.files),
        *(file for checkpoint in archive.checkpoints for file in checkpoint.files),
    ]


def in_files(house: House) -> int:
    """Answers that came from a checkpoint's files."""
    engine = house.engine()
    epoch = engine.store.newest_epoch(house.bucket)
    assert epoch is not None
    ref = SnapshotRef(house.bucket, "", epoch.time, epoch.number)
    return sum(bool(joined(engine, ref, epoch, name, True).files) for name in ("dicom", "sizes"))


# No answer changes


def test_answers_are_the_same_before_and_after_each_step(house: House) -> None:
    play_with_rows(house)
    before = row_answers(house)
    for max_rows in (1, 20, 10**6):
        if archived(house, max_rows=max_rows):
            assert row_answers(house, some=True).items() <= before.items()
    house.round(checkpoint_now=True)
    assert in_files(house) == 2
    assert row_answers(house) == before
    house.clock.now += 40 * DAY
    assert house.round(checkpoints=False).compacted
    assert row_answers(house) == before
    house.clock.now += DAY
    assert house.round().swept
    assert row_answers(house) == before


@pytest.mark.parametrize("max_rows", [1, 30])
def test_segments_hold_each_row_once_under_both_prefixes(local: House, max_rows: int) -> None:
    made = archived(local, max_rows=max_rows)
    reader = local.engine().reader(local.archive)
    for role, count in (("rows", 16 + 15 + 3 + 18), ("identifying", 16 + 15 + 3)):
        files = [f for s in made for f in s.files if f.role == role]
        assert sum(f.rows for f in files) == count
        for file in files:
            place = "identifying" if role == "identifying" else "metadata"
            assert file.path.startswith(f"scans/{place}/extractor={file.extractor}/epochs=")
            table = reader.read(file)
            order = [(r["key"].encode(), r["version_id"], r["extracted_at"]) for r in table.to_pylist()]
            assert order == sorted(order)
            assert ("PatientName" in table.schema.names) == (role == "identifying")
    epochs = [s.rows_cover for s in made]
    newest = local.engine().store.newest_epoch("scans")
    assert newest is not None
    assert epochs[-1] == newest.rows


def test_nothing_identifying_is_anywhere_but_under_its_own_prefix(local: House) -> None:
    local.round(checkpoint_now=True)
    root = local.root()
    for stored in root.paths("scans/"):
        if stored.path.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(root.read(stored.path)))
            told = SECRET in str(table.to_pylist())
            assert told == stored.path.startswith("scans/identifying/"), stored.path


def test_a_segment_of_rows_alone_is_a_segment(local: House) -> None:
    local.round()
    shown = list(local.engine().view("scans", INSTANTS[-1]).versions())[:2]
    local.clock.now += 1000
    append(local, "dicom", rows_of(shown, DICOM, 7000, Modality="US"))
    before = row_answers(local, some=True)
    (made,) = archived(local)
    assert (made.rows, made.metadata_rows) == (0, 2)
    assert row_answers(local, some=True) == before


def test_an_extractor_that_changes_a_type_is_archived_and_costs_only_itself(
    local: House, caplog: pytest.LogCaptureFixture
) -> None:
    shown = list(local.engine().view("scans", INSTANTS[-1]).versions())[:4]
    older = local.engine().store.newest_epoch("scans")
    assert older is not None
    before = row_answers(local)
    as_text = row_schema(pa.schema([field("Modality", pa.int64())]))
    append(local, "dicom", rows_of(shown, as_text, 7000, Modality=7))
    with caplog.at_level(logging.WARNING):
        local.round(checkpoint_now=True)
    assert "no metadata of extractor dicom" in caplog.text
    assert "Modality" in caplog.text
    local.clock.now += 40 * DAY
    local.round()
    engine = local.engine()
    epoch = engine.store.newest_epoch("scans")
    assert epoch is not None
    ref = SnapshotRef("scans", "", epoch.time, epoch.number)
    with pytest.raises(BadData, match="Column Modality of extractor dicom has type int64"):
        joined(engine, ref, epoch, "dicom", False)
    assert joined(engine, ref, epoch, "sizes", False).files
    after = row_answers_up_to(local, older.number)
    assert after == {key: value for key, value in before.items() if key in after}
    assert len(after) == len(before)


def row_answers_up_to(house: House, epoch: int) -> dict[Any, Any]:
    """As the epochs before a contradiction know them."""
    real = SQLiteStore.newest_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SQLiteStore, "newest_epoch", lambda store, bucket: store.epoch(bucket, epoch))
        found = row_answers(house)
    assert SQLiteStore.newest_epoch is real
    return found


def test_an_entry_without_its_identifying_part_is_not_archived_as_if_it_had_none(local: House) -> None:
    engine = local.engine()

    async def lose() -> None:
        async with engine.log() as log:
            (part, *_) = [
                (stream, *found[:2])
                for stream in range(8)
                for found in engine.store.identifying("scans", stream, 0, 100)
            ]
            await log.delete_identifying("scans", *part)

    asyncio.run(lose())
    with pytest.raises(LogDamaged, match="has no identifying part"):
        archived(local)
    assert local.manifests().segments == ()


# Crashes


class Killed(BaseException):
    """The process ends here; nothing of ours catches it."""


STEPS: list[tuple[type, str]] = [(FileRoot, "put"), (FileRoot, "put_bytes"), (SQLiteStore, "put_manifest")]


def dying(monkeypatch: pytest.MonkeyPatch, at: int, *, landed: bool) -> Callable[[], int]:
    """The process ends at the n-th step that changes something; how many there were, is given."""
    steps = 0

    def wrapped(real: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == at and not landed:
                raise Killed
            answer = real(*arguments, **options)
            if steps == at:
                raise Killed
            return answer

        return step

    for kind, name in STEPS:
        monkeypatch.setattr(kind, name, wrapped(getattr(kind, name)))
    return lambda: steps


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("at", range(1, 18))
def test_an_archiver_that_dies_at_any_step_changes_nothing_and_the_next_completes_it(
    local: House, monkeypatch: pytest.MonkeyPatch, at: int, landed: bool
) -> None:
    before = row_answers(local, some=True)
    with monkeypatch.context() as patch:
        steps = dying(patch, at, landed=landed)
        try:
            local.round(checkpoint_now=True)
        except Killed:
            assert steps() == at
        else:
            assert at > steps() == 16
            return
    assert row_answers(local, some=True) == before
    local.clock.now += DAY
    local.round(checkpoint_now=True)
    assert in_files(local) == 2
    assert row_answers(local, some=True) == before
    local.clock.now += 2 * DAY
    asyncio.run(sweep(local.engine(), "scans", orphan_ms=-(2**62)))
    named = {file.path for file in named_by(local.manifests())}
    left = {p.path for p in local.root().paths() if p.path.endswith(".parquet")}
    assert left == named
    assert row_answers(local, some=True) == before


def test_a_reader_whose_files_were_swept_meanwhile_reads_on_and_answers_the_same(
    local: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(local, max_rows=1)
    before = row_answers(local, some=True)
    engine = local.engine()
    old = engine.archive("scans")
    run = list(old.segments)
    longer = put_together(engine, local.root(), "scans", run, lambda: None)
    assert publish(local.root(), engine.store, "scans", longer)
    for shorter in run:
        assert retire(engine.store, "scans", shorter, engine.clock())
    local.clock.now += DAY
    asyncio.run(sweep(local.engine(), "scans", orphan_ms=2**62))
    real, stale = type(engine).archive, [old, old]

    def archive(self: Any, bucket: str, **options: Any) -> Any:
        return stale.pop() if stale else real(self, bucket, **options)

    monkeypatch.setattr(type(engine), "archive", archive)
    assert row_answers(local, some=True) == before
    assert not stale


# Letting go, checking, rebuilding


def test_what_is_let_go_is_in_the_archive_alone_and_no_identifying_part_stays(house: House) -> None:
    play_with_rows(house)
    before = row_answers(house)
    house.round()
    for days in (40, 2, 2):
        house.clock.now += days * DAY
        house.round(keep_days=30)
        assert row_answers(house, some=True).items() <= before.items()
    engine = house.engine()
    newest = engine.store.newest_epoch(house.bucket)
    assert newest is not None
    entries = [
        entry
        for stream, to in newest.rows.items()
        for entry in engine.store.entries(metadata_log(house.bucket), stream, 0, to)
    ]
    assert len(entries) == 5
    assert {entry.form for entry in entries} == {"stub"}
    assert not [part for s, to in newest.rows.items() for part in engine.store.identifying("scans", s, 0, to)]
    assert row_answers(house) == before


def test_no_row_leaves_the_table_while_a_file_that_should_have_it_is_damaged(local: House) -> None:
    local.round()
    (path,) = [f.path for s in local.manifests().segments for f in s.files if f.role == "identifying"]
    file = Path(local.archive.removeprefix("file://")) / path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    report = check_archive(local.engine(), "scans")
    assert list(report.damaged) == [path]
    for days in (40, 2, 2):
        local.clock.now += days * DAY
        with pytest.raises(BadData, match="identifying/extractor=dicom"):
            local.round(keep_days=30, compaction=False)
    engine = local.engine()
    newest = engine.store.newest_epoch("scans")
    assert newest is not None
    forms = {
        entry.form
        for stream, to in newest.rows.items()
        for entry in engine.store.entries(metadata_log("scans"), stream, 0, to)
    }
    assert forms == {"metadata"}


def test_a_table_that_is_built_anew_has_the_rows_and_goes_on_behind_them(local: House) -> None:
    local.round(checkpoint_now=True)
    before = row_answers(local)
    archive = local.archive
    new = House(local.store.replace("log.db", "new.db"), archive, local.clock)
    new.clock.now += DAY
    engine = new.engine()
    engine.store.create()
    asyncio.run(rebuild_table(engine, "scans", archive))
    known = row_answers_up_to(new, 12)
    assert known == before
    shown = list(new.engine().view("scans", INSTANTS[-1]).versions())[:2]
    new.clock.now += 1000
    epoch = append(new, "sizes", rows_of(shown, SIZES, 100_000))
    ref = SnapshotRef("scans", "", INSTANTS[-1], epoch.number)
    table = pa.Table.from_batches(joined(new.engine(), ref, epoch, "sizes", False).batches())
    assert {v.key for v in shown} <= set(table["key"].to_pylist())
    assert row_answers_up_to(new, 12) == before


def test_a_bucket_without_rows_has_none_in_its_archive(tmp_path: Path) -> None:
    house = sqlite_house(tmp_path)
    play(house)
    house.round(checkpoint_now=True)
    roles = {file.role for file in named_by(house.manifests())}
    assert roles == {"regular", "irregular", "epochs", "objects", "side"} & roles
    assert not [p for p in house.root().paths() if "extractor=" in p.path]
