"""The extract worker on the embedded cloud: every outcome a row, nothing lost, nobody stopped."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from metadata_extractors.dicom import DicomExtractor
from metadata_extractors.limits import ExtractorSpec, Limits
from metadata_extractors.ranged import RangedReader, extract_from
from snapengine.devcloud import DevCloud
from snapengine.extraction_tasks import messages_of
from snapengine.forgotten import key_unit, tell
from snapengine.model import ObjectVersion
from tests.dicom_files import FILES, dicom
from tests.extract_house import Site
from tests.hostile_dicom import (
    claims_4_gb,
    deflate_bomb,
    empty_items,
    nested,
    private_elements,
    random_after_magic,
)
from tests.hostile_extractors import SECRET
from tests.worker_fakes import Lines


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


# Exactly that version


def test_a_null_version_never_inherits_from_its_successor(site: Site) -> None:
    site.register(extractors=("dicom", "object"))
    site.versioning("Suspended")
    old = site.put("a", dicom(Modality="CT"), Tagging="study=7")
    new = site.put("a", dicom(Modality="MR"), Tagging="study=8")
    assert old.version_id == new.version_id == "null"
    site.send(old, new)
    site.run()
    for extractor in ("dicom", "object"):
        told = {row["etag"]: row for row in site.stored(extractor).to_pylist()}
        assert told[old.etag]["outcome"] == "gone"
        assert told[old.etag]["sequencer"] == old.sequencer
        assert told[new.etag]["outcome"] == "ok"
    assert told[old.etag]["TagsJson"] is None
    assert json.loads(told[new.etag]["TagsJson"]) == {"study": "8"}


def test_a_null_version_without_an_etag_is_not_read(site: Site) -> None:
    site.versioning("Suspended")
    site.send(site.put("a", dicom(Modality="CT"))._replace(etag=None))
    site.run()
    (row,) = site.rows().values()
    assert (row["outcome"], row["Modality"]) == ("failed", None)
    assert "cannot be told from its successors" in row["error"]


def test_a_version_that_was_removed_for_good_is_gone(site: Site) -> None:
    task = site.put("a", dicom())
    site.s3.delete_object(Bucket=site.bucket, Key="a", VersionId=task.version_id)
    site.send(task)
    site.run()
    assert site.outcomes() == {"a": "gone"}


def test_an_archived_version_has_its_headers_all_the_same(site: Site) -> None:
    site.register(extractors=("dicom", "object"))
    site.send(site.put("a", dicom(), StorageClass="GLACIER", Metadata={"site": "a"}))
    site.run()
    assert site.outcomes() == {"a": "archived"}
    (row,) = site.rows("object").values()
    assert (row["outcome"], row["StorageClass"]) == ("ok", "GLACIER")
    assert json.loads(row["UserMetadataJson"]) == {"site": "a"}


def test_an_object_of_another_size_than_was_told_is_not_it(site: Site) -> None:
    task = site.put("a", dicom())
    site.send(task._replace(size=10**6))
    site.run()
    assert site.outcomes() == {"a": "failed"}


def test_what_is_forgotten_is_not_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget() -> None:
        async with site.engine.log() as log:
            await tell(log, site.bucket, "forget", [key_unit("b")], site.engine.clock)

    asyncio.run(forget())
    keys: list[str] = []
    read = site.engine.read

    def watched(bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        keys.append(version.key)
        return read(bucket, version, start, end)

    monkeypatch.setattr(site.engine, "read", watched)
    site.send(site.put("a", dicom()), site.put("b", dicom()))
    site.send(site.put("b", dicom()))
    site.run()
    assert site.outcomes() == {"a": "ok"}
    assert site.in_queue() == 0
    assert set(keys) == {"a"}


# Hostile objects


def test_hostile_objects_have_their_outcomes_and_the_others_theirs(site: Site) -> None:
    hostile: dict[str, tuple[Callable[[], bytes], set[str]]] = {
        "deflate bomb": (deflate_bomb, {"partial", "timeout"}),
        "empty items": (empty_items, {"timeout", "ok", "partial"}),
        "private elements": (private_elements, {"ok", "timeout", "failed"}),
        "nested": (nested, {"failed"}),
        "claims 4 GB": (claims_4_gb, {"partial"}),
        "random after DICM": (random_after_magic, {"failed", "partial"}),
        "cut": (lambda: dicom(pixels=False)[:-3], {"partial"}),
        "empty": (lambda: b"", {"not_matched"}),
        "no DICOM": (lambda: bytes(range(256)) * 400, {"not_matched"}),
    }
    good = [site.put(f"good {number}", dicom(Modality="CT")) for number in range(4)]
    bad = [site.put(name, make()) for name, (make, _) in hostile.items()]
    site.send(*good[:2], *bad, *good[2:])
    begun = time.monotonic()
    worker = site.run(limits=Limits(cpu_seconds=2, wall_seconds=6))
    assert time.monotonic() - begun < 90
    found = site.outcomes()
    assert {name: found.pop(name) in outcomes for name, (_, outcomes) in hostile.items()} == dict.fromkeys(
        hostile, True
    )
    assert found == dict.fromkeys((f"good {number}" for number in range(4)), "ok")
    assert site.in_queue() == 0
    assert worker.metrics.registry.get_sample_value("snapengine_extract_messages_left_total") == 0


DEEDS = {
    "segfault": "failed",
    "leave": "failed",
    "spin": "timeout",
    "hold_out": "timeout",
    "eat": "failed",
    "raise": "failed",
    "flood": "failed",
    "lie": "failed",
    "read_all": "failed",
}


def test_what_kills_hangs_or_fills_a_child_is_a_row_and_no_value_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(caplog)
    monkeypatch.setattr(
        "metadata_extractors.slots.spec_of",
        lambda name, _columns: ExtractorSpec(name, "tests.hostile_extractors:Hostile"),
    )
    site.register(extractors=("hostile",))
    tasks = [site.put(f"{SECRET}/{deed}", deed.encode().ljust(100_000, b"\0")) for deed in (*DEEDS, "well")]
    site.send(*tasks)
    limits = Limits(cpu_seconds=1, wall_seconds=3, header_bytes=70_000)
    worker = site.run(limits=limits, processes=2)
    found = {key.removeprefix(f"{SECRET}/"): outcome for key, outcome in site.outcomes("hostile").items()}
    assert found == {**DEEDS, "well": "ok"}
    errors = [row["error"] or "" for row in site.rows("hostile").values()]
    said = [lines.text, worker.metrics.text().decode(), *errors]
    assert SECRET not in "".join(said)
    told = {line["version_id"]: line["outcome"] for line in lines.of("not-extracted")}
    assert told == {task.version_id: DEEDS[task.key.removeprefix(f"{SECRET}/")] for task in tasks[:-1]}
    assert 'outcome="timeout"} 2.0' in said[1]


def test_rows_are_those_of_pydicoms_files_read_directly(site: Site) -> None:
    schema = DicomExtractor().schema
    files = {path.name: path.read_bytes() for path in FILES}
    site.send(*(site.put(name, data) for name, data in files.items()))
    site.run(processes=2)
    rows = {key: row for (key, _), row in site.rows().items()}
    assert rows.keys() == files.keys()
    for name, data in files.items():
        reader = RangedReader(lambda start, end, of=data: of[start:end], len(data), name)  # type: ignore[misc]  # a default binds it
        found = extract_from(DicomExtractor(), reader)
        row = rows[name]
        assert (row["outcome"], row["error"]) == (found.outcome, "; ".join(found.problems) or None), name
        expected = pa.RecordBatch.from_pylist([dict(found.values)], schema=schema).to_pylist()[0]
        # Through Arrow on either side, and as text, in which NaN is itself.
        assert repr({field: row[field] for field in schema.names}) == repr(expected), name
