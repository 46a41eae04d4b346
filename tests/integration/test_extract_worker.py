"""The extract worker on the embedded cloud: every outcome a row, nothing lost, nobody stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapengine.devcloud import DevCloud
from snapengine.extraction_tasks import messages_of
from tests.dicom_files import dicom
from tests.extract_house import Site


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("snapengine.workers.consumer.LAST_POLL", 1)
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return Site(cloud.environment(), f"sqlite:///{tmp_path / 'log.db'}")


def test_each_version_that_landed_has_a_row_of_each_extractor(site: Site) -> None:
    site.register(extractors=("dicom", "object", "images"))
    first = site.put("a", dicom(Modality="CT", PatientName="Doe^Jane"), Tagging="study=7")
    second = site.put("a", dicom(Modality="MR"))
    text = site.put("b", b"plain text", ContentType="text/plain")
    site.send(first, second, text)
    site.run()
    rows = site.rows()
    assert {key: row["outcome"] for key, row in rows.items()} == {
        ("a", first.version_id): "ok",
        ("a", second.version_id): "ok",
        ("b", text.version_id): "not_matched",
    }
    assert rows["a", first.version_id]["Modality"] == "CT"
    assert rows["a", second.version_id]["Modality"] == "MR"
    assert rows["a", first.version_id]["PatientName"] == "Doe^Jane"
    assert "PatientName" not in site.rows(identifying=False)["a", first.version_id]
    assert {row["outcome"] for row in site.rows("images").values()} == {"not_matched"}
    objects = site.rows("object")
    assert json.loads(objects["a", first.version_id]["TagsJson"]) == {"study": "7"}
    assert objects["b", text.version_id]["ContentType"] == "text/plain"
    assert site.in_queue() == 0


def test_what_can_not_be_parsed_goes_to_the_dead_letter_queue_untouched(site: Site) -> None:
    bad = '{"extraction": 1, "bucket": "scans", "objects": [{"key": "Doe^Jane"}]}'
    site.send_raw(bad)
    site.send(site.put("a", dicom()))
    site.run()
    assert site.outcomes() == {"a": "ok"}
    (dead,) = site.dead()
    assert dead["Body"] == bad
    assert site.in_queue() == 0


def test_duplicates_give_one_row(site: Site) -> None:
    task = site.put("a", dicom(Modality="CT"))
    for body in messages_of([task]) * 3:
        site.send_raw(body)
    site.run()
    assert site.stored().num_rows == 3
    assert [row["Modality"] for row in site.rows().values()] == ["CT"]
