"""Forgetting beside what else goes on: killed at any step, beside sleepers, living workers and readers."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from metadata_extractors import frame, querying
from snapengine import forgotten
from snapengine import log as log_module
from snapengine.archive.roots import FileRoot
from snapengine.archiving import forget as forgetting
from snapengine.archiving import forget_places, publishing, segments
from snapengine.archiving.checking import check_archive
from snapengine.archiving.forget import Asked, forget
from snapengine.archiving.forget_files import Near
from snapengine.archiving.leasing import at_work
from snapengine.archiving.segments import make_segments
from snapengine.cautions import MetadataMissing
from snapengine.errors import Busy
from snapengine.forgotten import Forgotten, tell
from snapengine.log import EpochCutter, RowWriter
from snapengine.metadata_codec import encode
from snapengine.metadata_rows import metadata_log
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_log import SQLiteLog
from tests.archive_house import KEYS, sqlite_house
from tests.forget_house import (
    NOW,
    Site,
    extract,
    found,
    joined,
    mark,
    populated,
    rows_of,
    run,
    units,
)
from tests.seed import T0


def test_a_segment_that_a_sleeping_archiver_committed_late_is_gone_through_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path / "root",))
    house = populated(site)
    extract(house, 9000, [("ct/03", "f-ct/03")])
    engine = house.engine()
    committed = publishing.publish

    def late(*given: Any) -> bool:
        """All of a forgetting happens between the reading back of the files and the commit."""
        monkeypatch.setattr(segments, "publish", committed)
        monkeypatch.setattr(forgetting, "at_work", _no_lease)
        monkeypatch.setattr(forget_places, "_is_ours", lambda *_: False)  # its files are not found in time
        asyncio.run(forget(house.engine(), house.bucket, Asked(units("ct/03"))))
        return committed(*given)

    monkeypatch.setattr(segments, "publish", late)
    make_segments(engine, house.root(), house.bucket)
    monkeypatch.undo()
    assert site.left(("ct/03", "f-ct/03"))
    house.clock.now += 120_000
    house.round()
    assert site.left(("ct/03", "f-ct/03")) == []


@asynccontextmanager
async def _no_lease(*_: Any) -> AsyncIterator[Callable[[], None]]:
    yield lambda: None


def test_it_waits_for_an_archiver_and_says_so_where_it_lasts(tmp_path: Path) -> None:
    house = populated(Site(sqlite_house(tmp_path)))

    async def both() -> None:
        async with at_work(house.engine(), house.bucket):
            with pytest.raises(Busy):
                await forget(house.engine(), house.bucket, Asked(units("ct/03")), wait=0)
            waiting = asyncio.create_task(forget(house.engine(), house.bucket, None))
            await asyncio.sleep(0.2)
            assert not waiting.done()
        assert (await waiting).log.rows

    asyncio.run(both())
    assert found(house, (), mark("ct/03", "f-ct/03")) == []


def test_what_another_tells_at_the_same_time_is_looked_for_in_the_whole_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = populated(Site(sqlite_house(tmp_path)))
    known = forgetting._with_the_archives

    async def overtaken(tools: Any, log: Any, bucket: str, root: Any) -> Forgotten:
        before = await known(tools, log, bucket, root)
        await tell(log, bucket, "forget", units("ct/03"), house.clock)
        return before

    asyncio.run(forget(house.engine(), house.bucket, Asked(units("first"))))
    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "_with_the_archives", overtaken)
        asyncio.run(forget(house.engine(), house.bucket, Asked(units("\U0010fffd"), Near(["\U0010fffd"]))))
    asyncio.run(forget(house.engine(), house.bucket, Asked(units("ct/03"), Near(["ct/03"]))))
    assert found(house, (tmp_path,), mark("ct/03", "f-ct/03")) == []


class Killed(BaseException):
    """The process ends here."""


STEPS: list[tuple[type[Any], str]] = [
    *((SQLiteLog, name) for name in ("put_entry", "rewrite_entry", "put_identifying")),
    *((SQLiteStore, name) for name in ("put_manifest", "delete_manifest", "save_progress", "scrub")),
    *((FileRoot, name) for name in ("put", "put_bytes", "delete")),
]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_step_answers_are_right_and_the_next_run_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, saved = tmp_path / "live", tmp_path / "saved"
    live.mkdir()
    site = Site(sqlite_house(live), (live,))
    house = populated(site)
    digest = house.engine().view(house.bucket, NOW).digest()
    known = joined(house, "dicom", NOW)
    shutil.copytree(live, saved)
    step = 0
    while True:
        step += 1
        with monkeypatch.context() as patch:
            _kill_at(patch, step)
            try:
                run(house, Asked(units("ct/03", "late")))
                break
            except Killed:
                pass
        assert house.engine().view(house.bucket, NOW).digest() == digest
        now = joined(house, "dicom", NOW)
        assert {k: r for k, r in now.items() if r["outcome"]}.items() <= known.items()
        assert now.keys() == known.keys()
        assert all(now[key] == row for key, row in known.items() if key not in {"ct/03", "late"})
        if step % 3 == 0:
            house.clock.now += 600_000
            house.round()
        run(house, None if step % 2 and step > 4 else Asked(units("ct/03", "late")))
        assert site.left(("ct/03", "f-ct/03"), ("late", "f-late"), ("ct/03", "b-ct/03")) == []
        assert not check_archive(house.engine(), house.bucket).damaged
        shutil.rmtree(live)
        shutil.copytree(saved, live)
    assert step > 20


def _kill_at(patch: pytest.MonkeyPatch, wanted: int) -> None:
    """End the process before the step of that number, or after it: odd ones before, even ones after."""
    steps = itertools.count(1)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            here = next(steps) == (wanted + 1) // 2
            if here and wanted % 2:
                raise Killed
            result = function(*given, **options)
            if here:
                raise Killed
            return result

        async def call_async(*given: Any, **options: Any) -> Any:
            here = next(steps) == (wanted + 1) // 2
            if here and wanted % 2:
                raise Killed
            result = await function(*given, **options)
            if here:
                raise Killed
            return result

        return call_async if inspect.iscoroutinefunction(function) else call

    for kind, name in STEPS:
        patch.setattr(kind, name, dying(getattr(kind, name)))


async def test_rows_written_meanwhile_by_a_living_worker_are_gone_as_well(tmp_path: Path) -> None:
    house = sqlite_house(tmp_path)
    await asyncio.to_thread(populated, Site(house))
    engine = house.engine()
    async with engine.log() as log:
        writer = RowWriter(log, "living", engine.clock)
        stop = asyncio.Event()
        rounds: asyncio.Queue[int] = asyncio.Queue()

        async def work() -> None:
            written = 0
            while not stop.is_set():
                for key in ("ct/03", "ct/04"):
                    table = rows_of([(key, f"f-{key}")], extractor_version=f"9.{written}")
                    await writer.append(house.bucket, "dicom", table)
                written += 1
                await EpochCutter(log, house.bucket, engine.clock).cut()
                rounds.put_nowait(written)

        working = asyncio.create_task(work())
        for _ in range(3):
            await rounds.get()
        await forget(engine, house.bucket, Asked(units("ct/03")))
        for _ in range(rounds.qsize() + 3):
            await rounds.get()
        stop.set()
        await working
    assert found(house, (tmp_path / "root",), mark("ct/03", "f-ct/03")) == []
    assert found(house, (), mark("ct/04", "f-ct/04"))
    assert writer.left_out > 0


def test_what_a_role_without_the_right_left_in_the_log_goes_with_the_archivers_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path / "root",))
    house = populated(site)
    run(house, Asked(units("ct/03")))
    with monkeypatch.context() as patch:
        patch.setattr(log_module, "read_forgotten", _knows_nothing)
        patch.setattr(forgotten, "read_forgotten", _knows_nothing)
        extract(house, 6000, [("ct/03", "f-ct/03")])
    assert site.left(("ct/03", "f-ct/03"))
    house.clock.now += 600_000
    house.round()
    house.clock.now += 600_000
    house.round()
    assert site.left(("ct/03", "f-ct/03")) == []


async def _knows_nothing(*_: Any) -> Forgotten:
    return Forgotten()


def test_a_query_that_had_begun_is_planned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = populated(Site(sqlite_house(tmp_path)))
    view = house.engine().view(house.bucket, T0 + 4_900_000)
    assert view.joined("dicom", identifying=False).files
    ask = querying.query

    def late(*given: Any, **options: Any) -> Any:
        monkeypatch.setattr(frame, "query", ask)
        run(house, Asked(units("ct/03")))
        return ask(*given, **options)

    monkeypatch.setattr(frame, "query", late)
    with pytest.warns(MetadataMissing, match="have no row"):
        rows = view.metadata_table("dicom", columns=["Modality"], where="Modality LIKE 'CT%'", missing="warn")
    assert "ct/03" not in rows["key"].to_pylist()
    assert rows.num_rows == len(KEYS) - 1


def test_a_part_that_a_dying_writer_put_meanwhile_is_gone_through_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path,))
    house = populated(site)
    engine = house.engine()
    sweep = forget_places.sweep_now

    def late(*given: Any) -> Any:
        part = encode("dicom", rows_of([("ct/03", "f-ct/03")])).identifying or b""

        async def put() -> None:
            async with engine.log() as log:
                for stream in range(8):
                    number = await log.head(metadata_log(house.bucket), stream) + 1
                    await log.put_identifying(house.bucket, stream, number, "died", part)

        asyncio.run(put())
        return sweep(*given)

    monkeypatch.setattr(forgetting, "sweep_now", late)
    run(house, Asked(units("ct/03")))
    assert site.left(("ct/03", "f-ct/03")) == []
