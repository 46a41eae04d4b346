"""Forgetting: rows of metadata of given objects are nowhere any more, and all that was promised holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from snapengine.archiving.checking import check_archive
from snapengine.archiving.forget import Asked, Done, allow_again, count, forget
from snapengine.archiving.forget_files import Near
from tests.archive_house import KEYS, House, dynamodb_house, play, sqlite_house
from tests.forget_house import EXTRACTORS, Site, extract, units
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
