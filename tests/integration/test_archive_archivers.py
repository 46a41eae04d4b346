"""Archivers that die or meet each other, readers meanwhile, and where an archive is."""

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
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from snapengine import Engine, Settings
from snapengine.archive.manifest import Segment
from snapengine.archive.roots import FileRoot
from snapengine.archiving import making
from snapengine.archiving.leasing import ARCHIVE
from snapengine.archiving.segments import archive_segments
from snapengine.archiving.sweeping import sweep
from snapengine.errors import Busy, Refused
from snapengine.lease import Lease
from snapengine.ranges import Reading
from snapengine.stores.sqlite import SQLiteStore
from tests.archive_house import (
    DAY,
    KEYS,
    Clock,
    House,
    dynamodb_house,
    play,
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
