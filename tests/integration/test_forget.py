"""Forgetting: rows of metadata of given objects are nowhere any more, and all that was promised holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from snapengine import Engine, Settings
from snapengine.archive.manifest import Segment, from_json
from snapengine.archiving import forget_places
from snapengine.archiving.checking import check_archive
from snapengine.archiving.forget import Asked, allow_again, count, forget
from snapengine.archiving.forget_files import Near
from snapengine.archiving.forget_where import matching
from snapengine.archiving.rebuild import finish, rebuild_table
from snapengine.errors import UsageError
from snapengine.forgotten import prefix_unit, version_unit
from snapengine.metadata_codec import decode, encode
from snapengine.metadata_rows import metadata_log
from tests.archive_house import House, dynamodb_house, play, sqlite_house
from tests.forget_house import (
    EARLIER,
    EXTRACTORS,
    LAST,
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
