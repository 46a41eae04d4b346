"""Objects of which several go to a child at once have the rows and errors that each has alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import ANY

import pytest

from metadata_extractors import extracting
from metadata_extractors.extracting import Extractors, Row
from metadata_extractors.lines import Done, Lines
from metadata_extractors.packs import PACK_OBJECTS
from metadata_extractors.sandbox import Sandbox
from snapengine.errors import (
    BytesUnavailable,
    PermissionMissing,
    TryAgain,
    Unreachable,
    UsageError,
    VersionArchived,
    VersionGone,
)
from snapengine.extraction_tasks import Task
from tests.dicom_files import dicom

NAMES = ("dicom", "images", "nifti")
CT = dicom(Modality="CT", Rows=512)


class Source:
    """Objects by key; an error is raised."""

    def __init__(self, **objects: bytes | Exception) -> None:
        self.objects = objects
        self.reads: list[str] = []

    def read(self, bucket: str, version: Any, start: int, end: int | None) -> bytes:
        self.reads.append(version.key)
        found = self.objects[version.key]
        if isinstance(found, Exception):
            raise found
        return found[start:end]

    def facts(self, bucket: str, version: Any) -> Any:
        raise Unreachable("no answer")


def task(key: str, version_id: str = "v", etag: str | None = "etag") -> Task:
    return Task("scans", key, version_id, None, etag, "01", 0)


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(
        ct=CT,
        mr=dicom(Modality="MR"),
        text=b"plain text",
        empty=b"",
        cut=CT[:200],
        gone=VersionGone("removed", "gone", "v"),
        archived=VersionArchived("in Glacier", "archived", "v"),
        denied=PermissionMissing("denied"),
        other=BytesUnavailable("another object", "other", "v"),
    )


@pytest.fixture(scope="module")
def extractors(source: Source) -> Iterator[Extractors]:
    with Extractors(source, lambda: 7, 1) as made:
        yield made


def alone(extractors: Extractors, one: Task, names: Sequence[str]) -> list[Row] | type[Exception]:
    try:
        return extractors.rows(one, names)
    except PermissionMissing as error:
        return type(error)


def test_rows_and_errors_are_those_of_each_object_by_itself(extractors: Extractors, source: Source) -> None:
    tasks = [task(key) for key in source.objects] + [task("ct", "null", None), task("ct", "null")]
    found = extractors.pack(tasks, NAMES)
    for one, rows in zip(tasks, found, strict=True):
        expected = alone(extractors, one, NAMES)
        if isinstance(rows, Exception):
            assert type(rows) is expected
            continue
        assert rows is not None
        assert isinstance(expected, list)
        assert [row[:2] for row in rows] == [row[:2] for row in expected]
        for row, other in zip(rows, expected, strict=True):
            assert row.batch.schema.equals(other.batch.schema, check_metadata=True)
            assert row.batch.to_pylist() == other.batch.to_pylist()
    assert [type(rows) for rows in found].count(PermissionMissing) == 1


def test_of_an_object_nothing_is_read_twice(extractors: Extractors, source: Source) -> None:
    source.reads.clear()
    extractors.pack([task("ct"), task("mr"), task("gone")], NAMES)
    assert source.reads == ["ct", "mr", "gone"]


def test_when_s3_is_away_the_rest_are_not_tried_in_company(extractors: Extractors, source: Source) -> None:
    source.objects["away"] = Unreachable("no answer")
    source.reads.clear()
    found = extractors.pack([task("ct"), task("away"), task("mr"), task("text")], NAMES)
    assert source.reads == ["ct", "away"]
    assert isinstance(found[1], Unreachable)
    assert found[2:] == [None, None]


def test_when_it_is_ending_no_further_object_is_read(extractors: Extractors, source: Source) -> None:
    source.reads.clear()
    found = extractors.pack([task("ct"), task("mr")], NAMES, lambda: bool(source.reads))
    assert source.reads == ["ct"]
    assert found[1] is None


def test_a_row_that_is_too_long_fails_and_no_other(
    extractors: Extractors, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = extractors.rows(task("mr"), ["dicom"])[0].batch.nbytes
    source: Any = extractors._source
    source.objects["long"] = dicom(Modality="CT", StudyDescription="x" * 5000)
    monkeypatch.setattr(extracting, "MAX_ROW_BYTES", small + 1000)
    first, second = extractors.pack([task("long"), task("mr")], ["dicom"])
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert (first[0].outcome, second[0].outcome) == ("failed", "ok")
    assert "a row may take" in first[0].batch.to_pylist()[0]["error"]
    assert second[0].batch.to_pylist()[0]["Modality"] == "MR"


def test_what_no_child_can_be_started_for_is_an_outage(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    with Extractors(source, lambda: 7, 1) as extractors:
        extractors.faces(["dicom"])
        monkeypatch.setattr("metadata_extractors.sandbox.spawned", refused)
        monkeypatch.setattr(Sandbox, "together", lambda self, *_: self.close())
        (found,) = extractors.pack([task("ct")], ["dicom"])
        assert isinstance(found, TryAgain)
        with pytest.raises(UsageError):
            extractors.pack([task("ct")], ["none-such"])


# Who goes together


class Packs:
    """Extractors that note which objects came together, and take as long as they are told."""

    def __init__(self) -> None:
        self.packs: list[list[str]] = []
        self.held = threading.Event()

    def pack(self, tasks: Sequence[Task], names: Sequence[str], _ending: Any) -> list[Any]:
        self.packs.append([each.key for each in tasks])
        self.held.wait(10)
        return [[(name, each.key) for name in names] for each in tasks]


def test_those_that_wait_go_together_and_each_thread_has_its_share() -> None:
    packs: Any = Packs()
    with ThreadPoolExecutor(2) as pool:
        lines = Lines(packs, 2)
        waiting = [lines.join(task(str(key)), ["a"], pool, lambda: False) for key in range(2)]
        while len(packs.packs) < 2:
            time.sleep(0.01)
        waiting += [lines.join(task(str(key)), ["a"], pool, lambda: False) for key in range(2, 52)]
        another = lines.join(task("other"), ["b"], pool, lambda: False)
        waiting[30].cancel()
        packs.held.set()
        found = [each.result(10) for each in waiting if not each.cancelled()]
        rows: Any = [("b", "other")]
        assert another.result(10) == Done(rows, ANY)
    assert [done.rows[0][1] for done in found if done] == [str(key) for key in range(52) if key != 30]
    assert max(map(len, packs.packs)) == PACK_OBJECTS
    assert sum(map(len, packs.packs)) == 52
    assert ["other"] in packs.packs


def test_what_is_ending_takes_no_more() -> None:
    packs: Any = Packs()
    with ThreadPoolExecutor(1) as pool:
        done = Lines(packs, 1).join(task("a"), ["a"], pool, lambda: True)
        with pytest.raises(TryAgain):
            done.result(10)
    assert packs.packs == []
