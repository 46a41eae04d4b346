"""Further columns of a bucket, from `enable-bucket --columns` to a DataFrame: sequences and private tags."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from metadata_extractors.backfill import Report, backfill
from metadata_extractors.extract_handler import Environment
from metadata_extractors.extract_worker import ExtractWorker, Options
from snapengine.archiving.run import archive_bucket
from snapengine.buckets.enable import carry_out, plan_enable
from snapengine.buckets.steps import Wanted
from snapengine.cautions import MetadataMissing
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import NotYetComplete, UsageError
from snapengine.extraction_tasks import messages_of
from snapengine.settings import Settings
from snapengine.views import View
from tests.dicom_files import dicom
from tests.extract_house import Site

CT = Path(str(get_testdata_file("CT_small.dcm")))
COLUMNS = ("OtherPatientIDsSequence", "00091001", "TableHeight")
MINUTE = 60_000


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("snapengine.workers.consumer.LAST_POLL", 1)
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    store = f"sqlite:///{tmp_path / 'log.db'}"
    monkeypatch.setenv("SNAPENGINE_STORE", store)
    return Site(cloud.environment(), store)


def landed(site: Site, *keys: str, body: bytes | None = None) -> None:
    tasks = [site.put(key, CT.read_bytes() if body is None else body) for key in keys]
    site.observe(*tasks)
    site.send(*tasks)


def extracted(site: Site) -> Report:
    return asyncio.run(backfill(site.engine, site.bucket, "w", processes=1))


def view(site: Site) -> View:
    return site.engine.view(site.bucket)


def with_columns(site: Site, *names: str) -> None:
    site.register(extractor_columns={"dicom": names} if names else {})


def test_a_sequence_and_a_private_tag_are_extracted_as_they_land_and_queried(site: Site) -> None:
    with_columns(site, *COLUMNS)
    landed(site, "ct")
    site.run()
    (row,) = site.rows().values()
    assert row["extractor_version"].startswith("1+")
    source = pydicom.dcmread(CT, stop_before_pixels=True)
    table = view(site).metadata_table(columns=["Modality", *COLUMNS], where="\"00091001\" LIKE '%GENESIS%'")
    (found,) = table.to_pylist()
    assert (found["Modality"], found["TableHeight"]) == ("CT", source.TableHeight)
    others = json.loads(found["OtherPatientIDsSequence"])["Value"]
    written = [item.PatientID for item in source.OtherPatientIDsSequence]
    assert [item["00100020"]["Value"][0] for item in others] == written
    assert "GE_GENESIS_FF" in found["00091001"]
    told = json.loads(table.schema.metadata[b"snapengine"])
    assert told["identifying"] == ["OtherPatientIDsSequence", "00091001"]
    plain = site.rows(identifying=False)
    assert all("00091001" not in each and "TableHeight" in each for each in plain.values())


def test_columns_that_come_later_are_extracted_again_on_request_and_old_references_see_the_old(
    site: Site,
) -> None:
    landed(site, "a", "b")
    site.run()
    before = view(site)
    with_columns(site, *COLUMNS)
    report = extracted(site)
    assert (report.had_rows, report.outcomes["dicom"]) == (0, {"ok": 2})
    assert report.versions["dicom"].startswith("1+")
    assert extracted(site).had_rows == 2
    assert [row["TableHeight"] for row in view(site).metadata_table(columns=["TableHeight"]).to_pylist()] == [
        pydicom.dcmread(CT, stop_before_pixels=True).TableHeight
    ] * 2
    again = site.engine.open_ref(before.reference)
    assert "TableHeight" not in again.metadata_table().schema.names
    with pytest.raises(UsageError, match="dicom can extract this, but did not"):
        again.metadata_table(columns=["TableHeight"])
    with_columns(site)
    assert extracted(site).versions == {"dicom": "1"}
    assert {row["extractor_version"] for row in site.rows().values()} == {"1"}


def test_what_was_not_extracted_is_refused_with_the_way_out_or_read_on_request(site: Site) -> None:
    landed(site, "a")
    site.run()
    here = view(site)
    options: list[dict[str, Any]] = [{"columns": ["TableHeight"]}, {"where": "TableHeight > 0"}]
    for asked in options:
        with pytest.raises(UsageError) as refused:
            here.metadata_table(**asked)
        assert f"enable-bucket {site.bucket} --columns dicom=TableHeight" in str(refused.value)
        assert f"snapengine extract {site.bucket} --extractor dicom" in str(refused.value)
    with pytest.raises(UsageError, match="no column 'TableHeigh'"):
        here.metadata_table(columns=["TableHeigh"])
    expected = pydicom.dcmread(CT, stop_before_pixels=True).TableHeight
    read = here.metadata_table(columns=["TableHeight", "00091001"], missing="read")
    (row,) = read.to_pylist()
    assert (row["TableHeight"], "GENESIS" in row["00091001"]) == (expected, True)
    assert json.loads(read.schema.metadata[b"snapengine"])["read_now"] == 1
    chosen = here.metadata_table(where=f"TableHeight = {expected}", columns=["Modality"], missing="read")
    assert chosen["Modality"].to_pylist() == ["CT"]


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("where", [None, "TableHeight IS NULL OR TableHeight > 0"])
def test_objects_extracted_before_a_column_was_asked_for_are_counted_and_never_null_in_silence(
    site: Site, tmp_path: Path, archived: bool, where: str | None
) -> None:
    landed(site, "old")
    landed(site, "text", body=b"no image")
    site.run()
    with_columns(site, *COLUMNS)
    landed(site, "new")
    site.run()
    if archived:
        archive(site, tmp_path)
    here = view(site)
    with pytest.warns(MetadataMissing, match="1 of .* no row of dicom metadata with TableHeight"):
        found = here.metadata_table(columns=["TableHeight"], where=where)
    told = json.loads(found.schema.metadata[b"snapengine"])
    assert told["without_row"] == 1
    assert "old" not in found["key"].to_pylist()
    assert {"new"} <= set(found["key"].to_pylist()) <= {"new", "text", "last"}
    with pytest.raises(NotYetComplete, match="with TableHeight"):
        here.metadata_table(columns=["TableHeight"], where=where, missing="error")
    read = here.metadata_table(columns=["TableHeight"], where="TableHeight IS NOT NULL", missing="read")
    assert read["key"].to_pylist() == ["new", "old"]
    assert len(set(read["TableHeight"].to_pylist())) == 1
    assert here.metadata_table(columns=["Modality"], where="Modality = 'CT'").num_rows == 2


def test_an_answer_with_all_columns_warns_of_rows_that_are_older_than_one_of_them(site: Site) -> None:
    landed(site, "old")
    site.run()
    with_columns(site, *COLUMNS)
    landed(site, "new")
    site.run()
    with pytest.warns(MetadataMissing, match="1 rows of .* extracted without all of"):
        found = view(site).metadata_table().to_pylist()
    assert {row["key"]: row["extractor_version"] == "1" for row in found} == {"new": False, "old": True}
    extracted(site)
    assert {row["extractor_version"] == "1" for row in view(site).metadata_table().to_pylist()} == {False}


def archive(site: Site, folder: Path) -> None:
    site.register(baseline_started=1, baseline_ended=1)
    ahead = site.engine.clock() + 20 * MINUTE
    settings = Settings(store=site.engine.settings.store, archive=f"file://{folder / 'archive'}")
    site.engine = Engine(settings, clock=lambda: ahead)  # a checkpoint is of five minutes ago
    landed(site, "last", body=b"no image")
    site.run()
    assert asyncio.run(archive_bucket(site.engine, site.bucket, checkpoint_now=True)).checkpoint


def test_lambda_extracts_the_same_columns(site: Site) -> None:
    with_columns(site, "TableHeight")
    (body,) = messages_of([site.put("a", CT.read_bytes())])
    record = {"eventSource": "aws:sqs", "messageId": "m", "body": body, "eventSourceARN": "arn:aws:sqs:r:1:q"}
    environment = Environment(Engine(site.engine.settings))

    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 60_000

    try:
        assert environment.handle([record], Context()) == []
    finally:
        environment.close()
    (row,) = site.rows().values()
    assert row["TableHeight"] == pydicom.dcmread(CT, stop_before_pixels=True).TableHeight


async def test_a_running_worker_extracts_other_columns_without_a_restart(site: Site) -> None:
    worker = ExtractWorker(site.engine, Options("w"))
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        await asyncio.to_thread(landed, site, "a")
        await until_rows(site, 1)
        with_columns(site, "TableHeight")
        await asyncio.sleep(2.5)  # a configuration is used for two seconds
        await asyncio.to_thread(landed, site, "b")
        await until_rows(site, 2)
    finally:
        stop.set()
        await running
    versions = {key: row["extractor_version"] for (key, _), row in site.rows().items()}
    assert versions["a"] == "1"
    assert versions["b"].startswith("1+")


async def until_rows(site: Site, count: int) -> None:
    end = time.monotonic() + 60
    while (await asyncio.to_thread(site.stored)).num_rows < count:
        assert time.monotonic() < end
        await asyncio.sleep(0.2)


def test_a_sequence_that_no_row_has_room_for_is_a_failed_row_that_says_so(site: Site) -> None:
    with_columns(site, "ReferencedImageSequence")
    items, numbers = [], Random(5)
    for _ in range(20_000):
        item = Dataset()
        item.ReferencedSOPInstanceUID = f"1.2.{numbers.randrange(10**59, 10**60)}"
        items.append(item)
    landed(site, "big", body=dicom(Modality="CT", ReferencedImageSequence=items))
    landed(site, "small", body=dicom(Modality="CT", ReferencedImageSequence=items[:2]))
    site.run()
    assert site.outcomes() == {"big": "failed", "small": "ok"}
    rows = {key: row for (key, _), row in site.rows().items()}
    assert "a row may take" in rows["big"]["error"]
    assert rows["big"]["ReferencedImageSequence"] is None
    assert len(json.loads(rows["small"]["ReferencedImageSequence"])["Value"]) == 2


def test_columns_registered_by_the_plan_are_those_that_are_extracted(site: Site) -> None:
    site.register(extract_queue_url=None, extract_dead_letter_queue_url=None)
    plan = plan_enable(
        site.engine, site.bucket, Wanted(columns={"dicom": ("TableHeight", "0009100a", "Modality")})
    )
    carry_out(site.engine, plan, pause=lambda _: None)
    config = site.engine.store.config(site.bucket)
    assert config
    assert config.extractor_columns == {"dicom": ("TableHeight", "0009100A")}
    with pytest.raises(UsageError, match="did you mean 'TableHeight'"):
        plan_enable(site.engine, site.bucket, Wanted(columns={"dicom": ("TableHeigh",)}))


def test_further_columns_are_de_identified_as_others_are(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENGINE_DEIDENTIFY_KEY", "5a" * 32)
    with_columns(site, *COLUMNS)
    landed(site, "a")
    site.run()
    asked = ["PatientID", *COLUMNS]
    (row,) = Engine().view(site.bucket).metadata_table(columns=asked, deidentify=True).to_pylist()
    assert "GENESIS" not in str(row)
    assert row["OtherPatientIDsSequence"] is None
    assert row["TableHeight"] == pydicom.dcmread(CT, stop_before_pixels=True).TableHeight
