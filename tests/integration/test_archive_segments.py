"""Segments: archiving changes no answer, whatever befalls the archiver."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from snapengine import Engine, Settings
from snapengine.archive.manifest import Listed, Segment, from_json, to_json
from snapengine.archive.roots import FileRoot
from snapengine.archive.schemas import ARCHIVED, EPOCHS
from snapengine.archive.sorting import Sorter
from snapengine.archiving import making
from snapengine.archiving.leasing import ARCHIVE
from snapengine.archiving.segments import archive_segments
from snapengine.archiving.sweeping import sweep
from snapengine.errors import Busy, LogDamaged, Refused
from snapengine.lease import Lease
from snapengine.model import Epoch, Watermarks
from snapengine.observation_codec import decode_table, observations_of
from snapengine.ranges import Reading
from snapengine.stores.sqlite import SQLiteStore
from tests.archive_house import (
    DAY,
    KEYS,
    Clock,
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
@pytest.mark.parametrize("at", range(1, 13))
def test_an_archiver_that_dies_at_any_step_changes_nothing_and_the_next_completes_it(
    local: House, monkeypatch: pytest.MonkeyPatch, at: int, landed: bool
) -> None:
    play(local, files=True)
    before = local.answers(some=True)
    with monkeypatch.context() as patch:
        steps = dying(patch, at, landed=landed)
        try:
            archived(local, max_rows=40)
        except Killed:
            assert steps() == at
        else:
            assert at > steps() == 11
            return
    assert local.answers(some=True) == before
    archived(local, max_rows=40)
    assert local.answers(some=True) == before
    manifests = local.manifests()
    assert manifests.last_epoch == 7
    assert manifests.listed == ()
    local.clock.now += 2 * DAY
    asyncio.run(sweep(local.engine(), "scans", orphan_ms=-(2**62)))
    named = {f.path for s in manifests.segments for f in s.files}
    left = {p.path for p in local.root().paths() if "/manifests/" not in p.path}
    assert left == named
    assert local.answers(some=True) == before


KILLED = """
import asyncio, os, signal, sys
from snapengine.archive.roots import FileRoot
from snapengine.stores.sqlite import SQLiteStore
left = int(sys.argv[1])
def wrapped(real):
    def step(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return step
for kind, name in [(FileRoot, "put"), (FileRoot, "put_bytes"), (SQLiteStore, "put_manifest")]:
    setattr(kind, name, wrapped(getattr(kind, name)))
from snapengine.engine import Engine
from snapengine.archiving.segments import archive_segments
asyncio.run(archive_segments(Engine(), "scans"))
"""


@pytest.mark.parametrize("at", [2, 5, 6])
def test_an_archiver_that_is_killed_is_not_waited_for(local: House, at: int) -> None:
    play(local, files=True)
    before = local.answers(some=True)
    environment = {
        **os.environ,
        "SNAPENGINE_STORE": local.store,
        "SNAPENGINE_ARCHIVE": local.archive,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    child = subprocess.run([sys.executable, "-c", KILLED, str(at)], env=environment, timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL
    assert local.answers(some=True) == before
    local.clock = Clock(2**41)  # the child's lease is by the real clock, and still runs
    assert local.manifests().last_epoch == (7 if at == 6 else 0)
    archived(local)
    assert local.manifests().last_epoch == 7
    assert local.answers(some=True) == before


# Several archivers


def test_two_archivers_at_once_are_one(local: House) -> None:
    play(local)
    engine = local.engine()
    with Lease(engine.store, "scans", ARCHIVE, engine.clock), pytest.raises(Busy, match="task archive"):
        archived(local)
    assert len(archived(local)) == 1


@pytest.mark.parametrize(("hours", "error"), [(0.1, "held by"), (20, "slept for 20 hours")])
def test_an_archiver_that_slept_commits_nothing_while_another_is_at_it(
    local: House, monkeypatch: pytest.MonkeyPatch, hours: float, error: str
) -> None:
    play(local)
    real, slept = making.Making.write, time.time
    engine = local.engine()
    other = Lease(engine.store, "scans", ARCHIVE, engine.clock)

    def write(self: making.Making) -> Segment:
        segment = real(self)
        local.clock.now += round(hours * 3_600_000)
        monkeypatch.setattr("snapengine.archiving.leasing.time.time", lambda: slept() + hours * 3600)
        other.renew()
        return segment

    monkeypatch.setattr(making.Making, "write", write)
    with pytest.raises(Busy, match=error):
        archived(local)
    assert local.manifests().segments == ()
    other.release()


@pytest.mark.parametrize("new_epoch", [False, True])
def test_of_two_archivers_that_both_believe_to_have_the_lease_one_commits(
    house: House, monkeypatch: pytest.MonkeyPatch, new_epoch: bool
) -> None:
    play(house)
    real = making.Making.write

    def write(self: making.Making) -> Segment:
        segment = real(self)
        monkeypatch.undo_once()  # type: ignore[attr-defined]  # set below
        if new_epoch:
            house.record(3601, [event("mr/1", "g", 1350)])
        house.clock.now += 120_000  # the lease has lapsed
        first.extend(archived(house))
        return segment

    first: list[Segment] = []
    monkeypatch.setattr(
        monkeypatch, "undo_once", lambda: setattr(making.Making, "write", real), raising=False
    )
    making.Making.write = write  # type: ignore[method-assign]  # put back by `undo_once`
    with pytest.raises(Busy, match="Another process has archived epochs from 1 on"):
        archived(house)
    assert [s.name for s in house.manifests().segments] == [s.name for s in first]
    before = house.answers()
    assert archived(house) == []
    assert house.answers() == before


def test_a_reader_whose_plan_s_files_were_swept_meanwhile_plans_again_and_answers_the_same(
    local: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(local, files=True)
    for _ in range(3):
        local.clock.now += 60_000
        local.record((local.clock.now - T0) / 1000, [event("mr/1", f"x{local.clock.now}", 1350)])
        archived(local)
    before = local.answers()
    real = Reading.__init__
    made = 0

    def made_late(self: Reading, *arguments: Any, **options: Any) -> None:
        nonlocal made
        real(self, *arguments, **options)
        made += 1
        if made == 1:  # between the plan and its first file all that it names goes away
            local.clock.now += 40 * DAY
            assert local.round(checkpoints=False).compacted == 1
            local.clock.now += 2 * DAY
            assert local.round(checkpoints=False).swept

    monkeypatch.setattr(Reading, "__init__", made_late)
    engine = local.engine()
    at, epoch = T0 + 1_300_000, 7
    assert engine.view("scans", at, epoch=epoch).digest() == before[at, epoch]
    assert made == 2


# Where it is


def test_a_bucket_without_a_place_for_an_archive_is_told_what_to_set(tmp_path: Path) -> None:
    engine = Engine(Settings(store=f"sqlite:///{tmp_path}/log.db"), clock=Clock())
    engine.store.create()
    enable(engine)
    with pytest.raises(Refused, match="Set SNAPENGINE_ARCHIVE"):
        asyncio.run(archive_segments(engine, "scans"))


def test_the_root_is_kept_in_the_registration_and_stays(local: House, tmp_path: Path) -> None:
    play(local)
    archived(local)
    config = local.engine().store.config("scans")
    assert config is not None
    assert config.archive == local.archive
    unset = Engine(Settings(store=local.store), clock=local.clock)
    assert asyncio.run(archive_segments(unset, "scans")) == []
    other = Engine(Settings(store=local.store, archive=f"file://{tmp_path}/other"), clock=local.clock)
    with pytest.raises(Refused, match="an archive cannot move"):
        asyncio.run(archive_segments(other, "scans"))
    assert not (tmp_path / "other").exists()


def test_a_root_in_a_watched_bucket_is_refused_also_when_it_came_to_be_watched(
    moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = dynamodb_house(moto_url, monkeypatch)
    play(house)
    archived(house)
    holder = house.archive.split("/")[2]
    enable(house.engine(), holder)
    house.record(4000, [event("mr/1", "h", 3900)])
    with pytest.raises(Refused, match=f"bucket {holder} is watched"):
        archived(house)


def test_what_else_the_table_knows_of_a_bucket_is_kept_in_the_root(house: House) -> None:
    play(house)
    house.round()
    engine = house.engine()
    path = f"{house.bucket}/registry.json"
    kept = json.loads(house.root().read(path))
    config = engine.store.config(house.bucket)
    assert config is not None
    last = house.manifests().last_epoch
    assert kept.pop("config").items() == {**asdict(config), "extractors": []}.items()
    assert kept == {"format": 1, "last_epoch": last, "snapshots": []}
    view = engine.view(house.bucket, T0 + 100_000)
    snapshot = engine.name_snapshot(view, "first/one", creator="ana", labels={"a": "é"})
    house.round()
    assert json.loads(house.root().read(path))["snapshots"] == [asdict(snapshot)]


def test_it_is_for_every_key_that_there_is() -> None:
    assert len(set(KEYS)) == 16
