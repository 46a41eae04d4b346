"""Segments: archiving changes no answer, whatever befalls the archiver."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from snapengine.archive.manifest import Listed, Segment, from_json, to_json
from snapengine.archive.roots import FileRoot
from snapengine.archive.schemas import ARCHIVED, EPOCHS
from snapengine.archive.sorting import Sorter
from snapengine.archiving import making
from snapengine.archiving.segments import archive_segments
from snapengine.archiving.sweeping import sweep
from snapengine.errors import LogDamaged
from snapengine.model import Epoch, Watermarks
from snapengine.observation_codec import decode_table, observations_of
from tests.archive_house import (
    DAY,
    House,
    baseline,
    dynamodb_house,
    play,
    put_listed,
    sqlite_house,
)
from tests.seed import T0, enable, event


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


@pytest.fixture
def local(tmp_path: Path) -> House:
    return sqlite_house(tmp_path)


def archived(house: House, **options: Any) -> list[Segment]:
    return asyncio.run(archive_segments(house.engine(), house.bucket, **options))


def rows_of(house: House, segment: Segment, role: str | None = None) -> pa.Table:
    reader = house.engine().reader(house.archive)
    files = [f for f in segment.observations if role in {f.role, None}]
    return pa.concat_tables([ARCHIVED.empty_table(), *(reader.read(f) for f in files)])


# What a segment is


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("max_rows", [1, 25, 10**6])
def test_views_slices_and_histories_are_the_same_before_and_after(
    house: House, files: bool, max_rows: int
) -> None:
    play(house, files=files)
    before = house.answers()
    segments = archived(house, max_rows=max_rows)
    assert len(segments) == {1: 7, 25: 3, 10**6: 1}[max_rows]
    assert house.answers() == before
    assert house.manifests().segments == tuple(segments)
    assert archived(house) == []


def test_every_observation_is_in_it_once_with_the_first_epoch_that_covers_it(local: House) -> None:
    play(local)
    engine = local.engine()
    newest = engine.store.newest_epoch(local.bucket)
    assert newest is not None
    told = {
        (o, epoch.number)
        for before, epoch in zip(
            [Epoch(0, 0, {}), *engine.store.epochs("scans", 1, 7)],
            engine.store.epochs("scans", 1, 8),
            strict=False,
        )
        for stream, to in epoch.cover.items()
        for entry in engine.store.entries("scans", stream, before.cover.get(stream, 0), to)
        for o in observations_of(decode_table(entry.payload))
    }
    (segment,) = archived(local)
    rows = rows_of(local, segment)
    held = list(zip(observations_of(rows.drop_columns("epoch")), rows["epoch"].to_pylist(), strict=True))
    assert len(held) == segment.rows == len(told)
    assert set(held) == told
    assert (segment.first, segment.last) == (1, newest.number)
    assert (segment.cover, segment.last_time) == (newest.cover, newest.time)


def test_its_files_are_sorted_by_key_time_and_epoch_and_keep_the_irregular_apart(local: House) -> None:
    play(local)
    (segment,) = archived(local)
    for role in ("regular", "irregular"):
        rows = rows_of(local, segment, role)
        order = [(r["key"].encode(), r["event_time"], r["epoch"]) for r in rows.to_pylist()]
        assert order == sorted(order)
    last = T0 + 1000_000
    assert segment.listed_until == last
    regular = rows_of(local, segment, "regular")
    assert set(regular["origin"].to_pylist()) == {"event"}
    assert min(regular["event_time"].cast(pa.int64()).to_pylist()) > last + 60_000
    irregular = set(rows_of(local, segment, "irregular")["version_id"].to_pylist())
    assert {"v-late", "never-told", "b-ct/00"} <= irregular


def test_a_late_event_is_irregular_though_no_listing_has_told_of_its_time(local: House) -> None:
    engine = local.engine()
    engine.store.create()
    enable(engine)
    local.record(10, [event("a", "v1", 1)])
    local.record(500, [event("b", "v2", 490)])
    local.record(600, [event("c", "v3", 379), event("d", "v4", 381)])
    (segment,) = archived(local)
    assert rows_of(local, segment, "irregular")["key"].to_pylist() == ["c"]
    later = local.record(2000, [event("e", "v5", 300)])
    (second,) = archived(local)
    assert (second.first, second.last) == (later.number, later.number)
    assert rows_of(local, second, "irregular")["key"].to_pylist() == ["e"]


def test_what_listings_told_of_is_carried_from_segment_to_segment(local: House) -> None:
    play(local)
    archived(local)
    local.record(1500, [event("new", "v", 1059), event("newer", "w", 1490)])
    (segment,) = archived(local)
    assert segment.listed_until == T0 + 1000_000
    assert rows_of(local, segment, "irregular")["key"].to_pylist() == ["new"]
    assert rows_of(local, segment, "regular")["key"].to_pylist() == ["newer"]


def test_the_epochs_can_be_had_back_to_the_letter(house: House) -> None:
    play(house)
    engine = house.engine()

    async def verify() -> None:
        async with engine.log() as log:
            await log.note_verified(house.bucket, 'a "quoted"/é', T0 + 5)

    asyncio.run(verify())
    house.cut(T0 + 7)
    (segment,) = archived(house)
    (file,) = [f for f in segment.files if f.role == "epochs"]
    table = house.engine().reader(house.archive).read(file)
    assert table.schema.equals(EPOCHS)
    times = table["time"].cast(pa.int64()).to_pylist()
    restored = [
        Epoch(
            number,
            time,
            {int(stream): to for stream, to in json.loads(cover).items()},
            Watermarks(**json.loads(marks)),
        )
        for number, time, cover, marks in zip(
            table["number"].to_pylist(),
            times,
            table["cover"].to_pylist(),
            table["watermarks"].to_pylist(),
            strict=True,
        )
    ]
    assert restored == list(house.engine().store.epochs(house.bucket, 1, 99))
    assert restored[-1].watermarks.verified == {'a "quoted"/é': T0 + 5}


def test_a_copy_of_the_manifest_lies_in_the_root(house: House) -> None:
    play(house)
    (segment,) = archived(house)
    (copy,) = house.root().paths(f"{house.bucket}/manifests/")
    assert from_json(house.root().read(copy.path).decode()) == segment


def test_rows_beyond_a_file_s_and_a_run_s_measure_go_to_several_disjoint_files(
    local: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(local, files=True)
    before = local.answers()
    monkeypatch.setattr(making, "OBSERVATION_ROWS", 9)
    monkeypatch.setattr(making, "RANGE_ROWS", 5)
    monkeypatch.setattr(Sorter.__init__, "__kwdefaults__", {"run_bytes": 1})
    (segment,) = archived(local)
    files = [f for f in segment.observations if f.role == "irregular"]
    assert len(files) > 4
    assert max(f.rows for f in files) == 9
    for one, after in pairwise(files):
        assert one.max_key <= after.min_key
    assert local.answers() == before


def test_an_idle_bucket_s_epochs_are_archived_too_but_not_one_by_one(local: House) -> None:
    play(local)
    archived(local)
    local.cut(T0 + 77)
    before = local.answers()
    (segment,) = archived(local)
    assert (segment.observations, segment.rows, len(segment.files)) == ((), 0, 1)
    assert local.answers() == before
    local.clock.now += 1000
    local.cut(T0 + 78)
    assert local.round(every=300).segments == 0
    local.clock.now += 2 * 3_600_000
    local.cut(T0 + 79)
    assert local.round(every=300).segments == 1


# Listings that went straight to Parquet


def test_a_listing_in_files_is_taken_over_and_its_manifest_retired(house: House) -> None:
    play(house, files=True)
    (listing,) = house.manifests().listed
    (segment,) = archived(house)
    assert house.manifests().listed == ()
    assert [m.name for m in house.manifests().retired] == [listing.name]
    assert segment.leaving_since == segment.created_at
    shown = house.answers()
    house.clock.now += 2 * DAY
    swept = asyncio.run(sweep(house.engine(), house.bucket, orphan_ms=-(2**62)))
    assert swept.files >= len(listing.files)
    assert list(house.root().paths(f"{house.bucket}/listed/")) == []
    assert house.answers() == shown


def test_the_manifest_of_a_listing_that_a_writer_puts_late_is_retired_again(local: House) -> None:
    play(local, files=True)
    (listing,) = local.manifests().listed
    archived(local)
    local.clock.now += 2 * DAY
    asyncio.run(sweep(local.engine(), "scans"))
    before = local.answers()
    local.engine().store.put_manifest("scans", listing.name, to_json(listing))
    assert local.answers() == before
    archived(local)
    bodies = [from_json(body) for body in local.engine().store.manifests("scans")]
    (late,) = [m for m in bodies if isinstance(m, Listed)]
    assert late.retired_at is not None


def test_an_entry_whose_files_hold_other_than_it_says_is_an_error(local: House) -> None:
    engine = local.engine()
    engine.store.create()
    enable(engine)
    file = put_listed(local.root(), "scans", baseline())

    async def commit() -> None:
        from snapengine.log import EpochCutter, StreamWriter

        async with engine.log() as log:
            await StreamWriter(log, "w", engine.clock).append_files("scans", [file], 3)
            await EpochCutter(log, "scans", engine.clock).cut()

    asyncio.run(commit())
    with pytest.raises(LogDamaged, match="has 30 observations where it should have 3"):
        archived(local)


# Damage


def test_a_stub_that_no_segment_holds_is_an_error(house: House) -> None:
    play(house)
    engine = house.engine()

    async def stub() -> None:
        newest = engine.store.newest_epoch(house.bucket)
        assert newest is not None
        (stream,) = (stream for stream, to in newest.cover.items() if to)
        async with engine.log() as log:
            await log.stub_entry(house.bucket, stream, 2)

    asyncio.run(stub())
    with pytest.raises(
        LogDamaged, match=r"Entry 2 of stream \d of bucket scans has no observations any more"
    ):
        archived(house)
    assert house.manifests().segments == ()


def test_a_file_that_does_not_come_back_as_it_was_is_not_committed(
    local: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(local)
    real = FileRoot.put

    def put(self: FileRoot, path: str, source: Path) -> None:
        real(self, path, source)
        target = Path(local.archive.removeprefix("file://")) / path
        data = target.read_bytes()
        target.write_bytes(data[:-9] + b"x" + data[-8:])

    monkeypatch.setattr(FileRoot, "put", put)
    with pytest.raises(Exception, match="observations/epochs=1_7/") as raised:
        archived(local)
    assert getattr(raised.value, "code", "") == "archive-damaged"
    monkeypatch.undo()
    assert local.manifests().segments == ()
    before = local.answers()
    assert len(archived(local)) == 1
    assert local.answers() == before
