"""Forgetting: rows of metadata of given objects are nowhere any more, and all that was promised holds."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from metadata_extractors import frame, querying
from snapengine import Engine, Settings
from snapengine import log as log_module
from snapengine.archive.manifest import Segment, from_json
from snapengine.archive.roots import FileRoot
from snapengine.archiving import forget as forgetting
from snapengine.archiving import forget_places, publishing, segments
from snapengine.archiving.checking import check_archive
from snapengine.archiving.forget import Asked, Done, allow_again, count, forget
from snapengine.archiving.forget_files import Near
from snapengine.archiving.forget_where import matching
from snapengine.archiving.leasing import at_work
from snapengine.archiving.rebuild import finish, rebuild_table
from snapengine.archiving.segments import make_segments
from snapengine.cautions import MetadataMissing
from snapengine.errors import Busy, UsageError
from snapengine.forgotten import Forgotten, prefix_unit, version_unit
from snapengine.log import EpochCutter, RowWriter
from snapengine.metadata_codec import decode, encode
from snapengine.metadata_rows import metadata_log
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_log import SQLiteLog
from tests.archive_house import KEYS, House, dynamodb_house, play, sqlite_house
from tests.forget_house import EXTRACTORS, Site, extract, found, mark, rows_of, units
from tests.seed import T0

LAST = [(key, f"f-{key}") for key in KEYS]
"""The versions of the newest epoch."""
NOW = T0 + 2_000_000
EARLIER = [(key, f"e-{key}") for key in KEYS[4:14]] + [(key, f"b-{key}") for key in KEYS[:-1]]


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
        return Site(sqlite_house(tmp_path), (tmp_path,))
    house = dynamodb_house(request.getfixturevalue("moto_url"), monkeypatch)
    boto3.client("s3").put_bucket_versioning(
        Bucket=house.archive[5:].partition("/")[0], VersioningConfiguration={"Status": "Enabled"}
    )
    return Site(house)


def populated(site: Site) -> House:
    """Rows of past and present versions; some in the archive alone with a checkpoint, some in the log too."""
    house = site.house
    play(house)
    extract(house, 3700, EARLIER)
    house.round(checkpoint_now=True)
    extract(house, 3800, LAST)
    extract(house, 3900, LAST[:3], extractor_version="2")
    house.clock.now += 600_000
    house.round(checkpoint_now=True)
    extract(house, 5000, [("ct/03", "f-ct/03"), ("late", "f-late")])
    return house


def run(house: House, asked: Asked | None) -> Done:
    return asyncio.run(forget(house.engine(), house.bucket, asked))


def joined(house: House, extractor: str, at: int, epoch: int | None = None) -> dict[str, dict[str, Any]]:
    """By key what a view shows with its rows, all columns."""
    engine = house.engine()
    view = engine.view(house.bucket, at, epoch=epoch)
    told = view.joined(extractor, identifying=True)
    tables = [pa.Table.from_batches([batch]) for batch in told.batches()]
    for path in told.files:
        table = pq.read_table(path)
        tables.append(
            table.filter(pc.invert(pc.is_in(table["key"], value_set=pa.array(told.changed, pa.string()))))
        )
    told.verify()
    return {row["key"]: row for table in tables for row in table.to_pylist()}


def test_what_is_forgotten_is_nowhere_and_every_promise_holds(site: Site) -> None:
    house = populated(site)
    before = house.answers(some=True)
    known = {e: joined(house, e, NOW) for e in EXTRACTORS}
    gone = [version for version in {*LAST, *EARLIER} if version[0] in {"ct/03", "late"}]
    assert len({place.partition(" ")[0] for place in site.left(*gone)}) > 2

    would = asyncio.run(count(house.engine(), house.bucket, Asked(units("ct/03", "late"))))
    done = run(house, Asked(units("ct/03", "late"), Near(["ct/03", "late"])))

    assert site.left(*gone) == []
    assert house.answers(some=True) == before
    for extractor in EXTRACTORS:
        now = joined(house, extractor, NOW)
        assert now.keys() == known[extractor].keys()
        for key, row in now.items():
            if key in {"ct/03", "late"}:
                assert row["outcome"] is None
                assert row["Modality"] is None
                assert row["version_id"] == f"f-{key}"
            else:
                assert row == known[extractor][key]
                assert row["outcome"] == "ok"
    assert not check_archive(house.engine(), house.bucket).damaged
    assert (would.log.rows, would.archive.segment_rows) == (done.log.rows, done.archive.segment_rows)
    assert done.log.rows >= 4
    assert done.archive.segment_rows >= 4
    assert done.archive.checkpoint_rows > 0


def test_nothing_brings_back_what_is_forgotten_until_it_is_allowed_again(site: Site) -> None:
    house = populated(site)
    run(house, Asked(units("ct/03")))
    extract(house, 6000, [("ct/03", "f-ct/03"), ("ct/04", "f-ct/04")])
    house.clock.now += 3_600_000
    house.round(checkpoint_now=True)
    assert site.left(("ct/03", "f-ct/03")) == []
    assert joined(house, "dicom", NOW)["ct/03"]["outcome"] is None

    asyncio.run(allow_again(house.engine(), house.bucket, units("ct/03")))
    assert joined(house, "dicom", NOW)["ct/03"]["outcome"] is None
    extract(house, 13_000, [("ct/03", "f-ct/03")])
    assert joined(house, "dicom", NOW)["ct/03"]["outcome"] == "ok"
    run(house, Asked(units("ct/03")))
    assert site.left(("ct/03", "f-ct/03")) == []


def test_a_prefix_a_version_and_a_null_version_are_forgotten_and_nothing_beside_them(tmp_path: Path) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path,))
    house = populated(site)
    extract(house, 6000, [("mr/1", "null")], etag="one")
    extract(house, 6000, [("mr/1", "null")], etag="two")
    asked = [prefix_unit("日"), version_unit("ct/04", "e-ct/04", "e"), version_unit("mr/1", "null", "one")]
    kept = joined(house, "dicom", NOW)
    run(house, Asked(asked))
    assert site.left(("日本/😀", "f-日本/😀"), ("日本/😀", "b-日本/😀"), ("ct/04", "e-ct/04")) == []
    assert site.left(("ct/04", "f-ct/04"))
    assert site.left(("ct/04", "b-ct/04"))
    assert site.left(("mr/1", "null"))
    now = joined(house, "dicom", NOW)
    assert [key for key in now if now[key] != kept[key]] == ["日本/😀"]
    left = asyncio.run(_rows_in_log(house))
    assert [(row["version_id"], row["etag"]) for row in left if row["key"] == "mr/1"][-1] == ("null", "two")


async def _rows_in_log(house: House) -> list[dict[str, Any]]:
    engine = house.engine()
    found: list[dict[str, Any]] = []
    async with engine.log() as log:
        name = metadata_log(house.bucket)
        for stream in range(8):
            for number in range(1, await log.head(name, stream) + 1):
                entry = await log.get_entry(name, stream, number)
                if entry is not None and entry.form == "metadata":
                    found += decode(entry.payload).table.to_pylist()
    return found


def test_all_rows_can_be_forgotten_and_the_archive_goes_on(tmp_path: Path) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path,))
    house = populated(site)
    before = house.answers(some=True)
    run(house, Asked([prefix_unit("")]))
    assert site.left(*LAST, *EARLIER) == []
    assert {row["outcome"] for e in EXTRACTORS for row in joined(house, e, NOW).values()} == {None}
    house.clock.now += 7_200_000
    house.round(checkpoint_now=True)
    asyncio.run(allow_again(house.engine(), house.bucket, [prefix_unit("")]))
    extract(house, 20_000, LAST)
    house.clock.now += 7_200_000
    house.round(checkpoint_now=True)
    assert {row["outcome"] for row in joined(house, "dicom", NOW).values()} == {"ok"}
    after = house.answers()
    assert {asked: after[asked] for asked in before} == before
    assert not check_archive(house.engine(), house.bucket).damaged


def test_orphans_old_copies_and_caches_are_gone_too(tmp_path: Path) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path,))
    house = populated(site)
    gone = ("ct/03", "f-ct/03")
    cache = tmp_path / "cache"
    engine = Engine(Settings(store=house.store, archive=house.archive, cache=str(cache)), clock=house.clock)
    for segment in engine.archive(house.bucket).segments:
        for file in segment.files:
            engine.files(house.bucket).read(file)
    row_files = [f for s in engine.archive(house.bucket).segments for f in s.files if f.extractor]
    sample = next(f for f in row_files if f.role == "identifying")
    data = engine.root(house.archive).read(sample.path)
    orphan = sample.path.replace("rows-", "rows-0000")
    engine.root(house.archive).put_bytes(orphan, data)
    asyncio.run(_lose_a_race(engine, house.bucket))
    assert any("cache" in place for place in site.left(gone))

    asyncio.run(forget(engine, house.bucket, Asked(units("ct/03"))))

    assert site.left(gone) == []
    assert engine.root(house.archive).size(orphan) is None
    names = {file.path for s in house.manifests().segments for file in s.files}
    for stored in house.root().paths(f"{house.bucket}/manifests/"):
        manifest = from_json(house.root().read(stored.path).decode())
        if isinstance(manifest, Segment):
            assert {file.path for file in manifest.files} <= names


async def _lose_a_race(engine: Engine, bucket: str) -> None:
    """Identifying parts of an entry that lost its number, and of one that never came to be put."""
    part = encode("dicom", rows_of([("ct/03", "f-ct/03")])).identifying
    assert part is not None
    async with engine.log() as log:
        await log.put_identifying(bucket, 0, 1, "lost", part)
        await log.put_identifying(bucket, 3, 77, "never", part)


def test_a_rebuilt_table_knows_what_is_forgotten_and_has_no_row_of_it(tmp_path: Path) -> None:
    site = Site(sqlite_house(tmp_path), (tmp_path / "root",))
    house = populated(site)
    house.clock.now += 7_200_000
    house.round(checkpoint_now=True)
    run(house, Asked(units("ct/03")))
    run(house, Asked(units("late")))
    expected = joined(house, "dicom", NOW)

    again = replace(house, store=f"sqlite:///{tmp_path}/again.db")
    engine = again.engine()
    engine.store.create()
    asyncio.run(rebuild_table(engine, house.bucket, house.archive, check=True))
    asyncio.run(finish(engine, house.bucket, None))

    assert joined(again, "dicom", NOW) == expected
    extract(again, 30_000, [("ct/03", "f-ct/03"), ("late", "f-late"), ("ct/02", "f-ct/02")])
    again.clock.now += 7_200_000
    again.round(checkpoint_now=True)
    assert joined(again, "dicom", NOW)["ct/03"]["outcome"] is None
    gone = found(again, (tmp_path / "root",), mark("ct/03", "f-ct/03"), mark("late", "f-late"))
    assert gone == []
    run(again, Asked(units("ct/02")))
    assert found(again, (tmp_path / "root",), mark("ct/02", "f-ct/02")) == []


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


def test_a_condition_finds_versions_of_the_past_too(site: Site) -> None:
    house = populated(site)
    engine = house.engine()
    epoch = engine.store.newest_epoch(house.bucket)
    assert epoch is not None
    where = "PatientName LIKE '%|f-ct/03>' OR Modality LIKE '%|b-late%' OR Modality LIKE '%<ct/05|%'"
    asked, keys = matching(engine, house.bucket, epoch, "dicom", where)
    assert keys == ["ct/03", "ct/05"]
    versions = [("ct/03", "f-ct/03"), ("ct/05", "f-ct/05"), ("ct/05", "e-ct/05"), ("ct/05", "b-ct/05")]
    assert asked.units == {version_unit(*version, None) for version in versions}
    assert matching(engine, house.bucket, epoch, "plain", "Modality = 'MR'")[1] == []
    with pytest.raises(UsageError):
        matching(engine, house.bucket, epoch, "dicom", "key; DROP TABLE x")
    run(house, asked)
    assert site.left(*versions) == []
    assert site.left(("ct/03", "b-ct/03"))


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
        extract(house, 6000, [("ct/03", "f-ct/03")])
    assert site.left(("ct/03", "f-ct/03"))
    house.clock.now += 600_000
    house.round()
    house.clock.now += 600_000
    house.round()
    assert site.left(("ct/03", "f-ct/03")) == []


async def _knows_nothing(*_: Any) -> Forgotten:
    return Forgotten()


def test_an_upload_that_did_not_end_is_ended_and_versions_out_of_reach_are_told(
    moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = dynamodb_house(moto_url, monkeypatch)
    play(house)
    extract(house, 3700, EARLIER)
    house.round(checkpoint_now=True)
    s3 = boto3.client("s3")
    name, _, prefix = house.archive[5:].partition("/")
    key = f"{prefix}/scans/identifying/extractor=dicom/epochs=1_9/rows-1234-00000.parquet"
    upload = s3.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
    s3.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=1, Body=b"MARK")
    done = run(house, Asked(units("ct/04")))
    assert s3.list_multipart_uploads(Bucket=name).get("Uploads", []) == []
    assert not any("versions" in place for place in done.places.remains)

    def denied(*_: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectVersions")

    monkeypatch.setattr(forget_places._Versions, "_found", denied)
    done = run(house, Asked(units("ct/05")))
    assert any("may not list or delete them (AccessDenied)" in place for place in done.places.remains)
    assert any("point-in-time" in place for place in done.places.remains)


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
    with pytest.warns(MetadataMissing, match="1 of 16 objects"):
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
