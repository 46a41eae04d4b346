"""A view's metadata by a condition: what pandas would choose, with every object in one of four numbers."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import snapengine
from snapengine import Engine
from snapengine.cautions import MetadataMissing
from snapengine.errors import (
    ArchiveDamaged,
    NotYetComplete,
    PermissionMissing,
    UsageError,
    VersionGone,
)
from snapengine.model import ObjectVersion
from tests.dicom_files import dicom
from tests.rows_fake import COLUMNS, FakeRows, rows_of
from tests.seed import T0, enable, engine_at, event, record
from tests.unit.metadata_values import CHOSEN, KEYS, QUESTION, ROWS, quietly

EXPRESSION = (
    (pc.field("Modality") == "CT") & (pc.field("PatientSex") == "M") & (pc.field("PatientAgeYears") > 50)
)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(key, f"v-{key}", 10 + n, size=10_000 + n) for n, key in enumerate(KEYS)])
    return engine


@pytest.fixture(params=["log", "files", "both"])
def stored(request: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRows:
    fake = FakeRows(rows_of(ROWS), None if request.param == "log" else tmp_path)
    if request.param == "both":
        fake.changed = ["ct/000", "ct/011", "ct/020", "ct/999"]
    return fake.into(monkeypatch)


# The answer


@pytest.mark.parametrize("where", [QUESTION, EXPRESSION], ids=["sql", "pyarrow"])
def test_the_question_is_answered_as_pandas_answers_it(engine: Engine, stored: FakeRows, where: Any) -> None:
    view = engine.view("scans")
    found = quietly(view, where=where, columns=["PatientAgeYears", "Modality"], numbers=True)
    assert found["key"].tolist() == CHOSEN
    assert list(found.columns) == ["key", "version_id", "size", "event_time", "PatientAgeYears", "Modality"]
    assert found["version_id"].tolist() == [f"v-{key}" for key in CHOSEN]
    assert found["size"].tolist() == [10_000 + KEYS.index(key) for key in CHOSEN]
    numbers = [found.attrs[name] for name in ("matched", "not_matched", "unknown", "without_row")]
    judged = [_verdict(ROWS[key]) for key in KEYS if key in ROWS]
    assert numbers == [judged.count(True), judged.count(False), judged.count(None), 2]
    assert found.attrs["outcomes"] == {"failed": 1, "ok": 27}
    assert found.attrs["reference"] == engine.view("scans").reference


def _verdict(row: dict[str, Any]) -> bool | None:
    modality, sex, age = (row.get(name) for name in ("Modality", "PatientSex", "PatientAgeYears"))
    parts = [modality and modality == "CT", sex and sex == "M", age and age > 50]
    return False if False in parts else None if None in parts else True


def test_the_table_has_the_same_rows_with_what_is_known_of_each_column(
    engine: Engine, stored: FakeRows
) -> None:
    view = engine.view("scans")
    with pytest.warns(MetadataMissing):
        table = view.metadata_table(where=QUESTION, columns=["PatientAgeYears"])
    frame = quietly(view, where=QUESTION, columns=["PatientAgeYears"])
    assert table.to_pandas(types_mapper=pd.ArrowDtype).equals(frame)
    assert table.schema.field("PatientAgeYears").metadata[b"unit"] == b"a"
    assert json.loads(table.schema.metadata[b"snapengine"]) == frame.attrs


def test_without_a_condition_every_object_with_a_row_comes_with_all_columns(
    engine: Engine, stored: FakeRows
) -> None:
    found = quietly(engine.view("scans"))
    assert found["key"].tolist() == sorted(ROWS)
    assert list(found.columns)[:6] == ["key", "version_id", "size", "event_time", "outcome", "error"]
    assert set(COLUMNS) < set(found.columns)
    assert found.set_index("key").loc["ct/005", "outcome"] == "failed"


def test_a_condition_may_use_the_views_columns_and_the_outcome(engine: Engine, stored: FakeRows) -> None:
    view = engine.view("scans")
    found = quietly(
        view, where="size >= 10020 AND event_time < TIMESTAMPTZ '2023-11-14 22:13:55Z'", columns=["size"]
    )
    assert found["key"].tolist() == KEYS[20:25]
    assert quietly(view, where="outcome = 'failed'", columns=["error"])["error"].tolist() == [
        "cannot be read"
    ]
    assert quietly(view, where="Modality IS NULL")["key"].tolist() == ["ct/005"]


def test_types_are_the_same_for_no_row_one_and_many(engine: Engine, stored: FakeRows) -> None:
    view = engine.view("scans")
    none, one, many = (
        quietly(view, where=where) for where in ("key = 'none'", "key = 'ct/001'", "key LIKE 'ct/%'")
    )
    assert [len(none), len(one)] == [0, 1]
    assert none.dtypes.to_dict() == one.dtypes.to_dict() == many.dtypes.to_dict()
    assert one.dtypes["StudyDate"] == pd.ArrowDtype(pa.date32())
    assert one.dtypes["PixelSpacing"] == pd.ArrowDtype(pa.list_(pa.float64()))
    assert one.dtypes["event_time"] == pd.ArrowDtype(pa.timestamp("ms", "UTC"))


def test_a_prefix_and_a_slice_are_of_their_own_objects(engine: Engine, stored: FakeRows) -> None:
    view = engine.view("scans", prefix="ct/00")
    found = quietly(view, columns=["Modality"])
    assert found["key"].tolist() == [key for key in sorted(ROWS) if key.startswith("ct/00")]
    assert found.attrs["without_row"] == 1
    assert view.metadata(prefix="ct/000")["key"].tolist() == ["ct/000"]
    assert len(view.metadata(prefix="mr/")) == 0
    part = engine.slice("scans", T0 + 12_000, T0 + 15_000)
    found = quietly(part, columns=["Modality"])
    assert (found["key"].tolist(), found.attrs["without_row"]) == (["ct/002", "ct/003"], 1)


def test_the_function_and_the_method_say_the_same(
    engine: Engine, stored: FakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapengine._engine", lambda: engine)
    at = T0 + 3_600_000
    with pytest.warns(MetadataMissing):
        found = snapengine.metadata("scans", at=at, where=QUESTION, columns=["Modality"])
    with pytest.warns(MetadataMissing):
        table = snapengine.metadata_table("scans", at=at, where=QUESTION, columns=["Modality"])
    assert found["key"].tolist() == table["key"].to_pylist() == CHOSEN


# What is wrong with the question


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"where": "Modalty = 'CT'"}, 'did you mean "Modality"'),
        ({"where": "true; DROP TABLE x"}, "second statement"),
        ({"where": "key IN (SELECT key FROM read_csv('x'))"}, "holds a query"),
        ({"where": pc.field("Modalty") == "CT"}, "there is no column 'Modalty'"),
        ({"columns": ["Modalit"]}, "did you mean 'Modality'?"),
        ({"columns": "Modality"}, "list of names"),
        ({"missing": "ignore"}, "'warn', 'read' or 'error'"),
        ({"workers": 0}, "at least 1"),
        ({"memory": "lots", "where": "true"}, "memory must be"),
        ({"where": pc.field("Rows") + 1}, "yes or no"),
    ],
)
def test_a_wrong_question_is_refused_with_the_reason(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: Any, why: str
) -> None:
    FakeRows(rows_of(ROWS), tmp_path).into(monkeypatch)
    with pytest.raises(UsageError, match=re.escape(why)):
        engine.view("scans").metadata(**options)


def test_a_slice_of_all_versions_has_no_one_row_a_key(engine: Engine, stored: FakeRows) -> None:
    with pytest.raises(UsageError, match="of one version a key"):
        engine.slice("scans", T0, T0 + 60_000, versions="all").metadata()


def test_a_value_that_breaks_the_condition_is_in_no_error(engine: Engine, stored: FakeRows) -> None:
    for where in ("CAST(PatientID AS INTEGER) > 1", pc.field("PatientID").cast(pa.int64()) > 1):
        with pytest.raises(UsageError, match="TRY_CAST") as caught:
            engine.view("scans").metadata(where=where, columns=["Modality"])
        assert "MARK" not in str(caught.value)


def test_a_damaged_file_is_what_is_reported_whatever_it_seems_to_say(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeRows(rows_of(ROWS), tmp_path)
    fake.damaged = ArchiveDamaged("live-1.parquet is not what was written.")
    fake.into(monkeypatch)
    for where in ("true", "CAST(PatientID AS INTEGER) > 1"):
        with pytest.raises(ArchiveDamaged, match="not what was written"):
            engine.view("scans").metadata(where=where, columns=["Modality"])


# Objects without a row


def test_objects_without_a_row_are_warned_about_once_where_they_were_asked_for(
    engine: Engine, stored: FakeRows
) -> None:
    with pytest.warns(
        MetadataMissing, match="2 of the objects of snap://scans.*snapengine extract"
    ) as caught:
        engine.view("scans").metadata(where=QUESTION)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(MetadataMissing, match="2 of 30 objects of snap://scans"):
        engine.view("scans").metadata(where=QUESTION, numbers=True)


def test_they_can_be_an_error(engine: Engine, stored: FakeRows) -> None:
    with pytest.raises(NotYetComplete, match="2 of 30 objects"):
        engine.view("scans").metadata(where=QUESTION, missing="error", numbers=True)
    assert len(engine.view("scans", prefix="ct/002").metadata(missing="error")) == 1


def test_they_can_be_read_now_and_are_then_judged_as_all_others(
    engine: Engine, stored: FakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(
        monkeypatch,
        {"v-ct/004": dicom(Modality="CT", PatientSex="M", PatientAge="070Y"), "v-ct/011": b"text"},
    )
    view = engine.view("scans")
    found = view.metadata(
        where=QUESTION, columns=["PatientAgeYears", "outcome"], missing="read", numbers=True
    )
    assert found["key"].tolist() == sorted([*CHOSEN, "ct/004"])
    assert found.set_index("key").loc["ct/004", "PatientAgeYears"] == 70
    assert (found.attrs["without_row"], found.attrs["read_now"]) == (0, 2)
    assert found.attrs["outcomes"] == {"failed": 1, "not_matched": 1, "ok": 28}
    assert sum(found.attrs[n] for n in ("matched", "not_matched", "unknown", "without_row")) == 30


@pytest.fixture
def never_extracted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    FakeRows(None).into(monkeypatch)
    return engine


def serve(monkeypatch: pytest.MonkeyPatch, versions: dict[str, bytes | Exception]) -> list[str]:
    """Have engines read these bytes where they would ask S3; returns the versions that are read."""
    read_of: list[str] = []

    def read(_self: Engine, _bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        read_of.append(version.version_id)
        found = versions.get(version.version_id, b"")
        if isinstance(found, Exception):
            raise found
        return found[start:end]

    monkeypatch.setattr(Engine, "read", read)
    return read_of


def test_where_nothing_extracts_them_a_few_objects_are_read_without_being_asked_to(
    never_extracted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = dicom(Modality="CT", PatientSex="M", PatientAge="070Y", PatientWeight="71.5")
    serve(
        monkeypatch,
        {"v-ct/004": image, "v-ct/005": VersionGone("gone"), "v-ct/006": PermissionMissing("allow it")},
    )
    view = never_extracted.view("scans", prefix="ct/00")
    found = view.metadata(where=QUESTION, columns=["PatientWeight", "PatientAgeYears"], numbers=True)
    assert found[["key", "PatientWeight", "PatientAgeYears"]].values.tolist() == [["ct/004", 71.5, 70.0]]
    assert found.attrs["read_now"] == 10
    assert found.attrs["outcomes"] == {"failed": 1, "gone": 1, "not_matched": 7, "ok": 1}
    everything = view.metadata()
    assert everything["key"].tolist() == KEYS[:10]
    assert everything.set_index("key").loc["ct/006", "error"] == "permission-missing: allow it"


def test_many_are_not(never_extracted: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metadata_extractors.frame.READ_UNASKED", 20)
    read_of = serve(monkeypatch, {})
    with pytest.raises(UsageError, match=r"None of the 30 objects.*missing='read'"):
        never_extracted.view("scans").metadata(columns=["Modality"])
    assert read_of == []
    found = never_extracted.view("scans").metadata(columns=["Modality"], missing="read")
    assert found.attrs["read_now"] == 30


def test_where_extraction_is_on_nothing_is_read_unasked(
    never_extracted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_of = serve(monkeypatch, {})
    monkeypatch.setattr(Engine, "extracting", lambda *_: True)
    found = quietly(never_extracted.view("scans"), where=QUESTION)
    assert (len(found), found.attrs["without_row"], read_of) == (0, 30, [])


def test_names_that_the_extractor_does_not_know_are_refused_before_anything_is_read(
    never_extracted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_of = serve(monkeypatch, {})
    view = never_extracted.view("scans")
    with pytest.raises(UsageError, match="did you mean 'PatientSex'"):
        view.metadata(columns=["PatientSx"])
    with pytest.raises(UsageError, match="there is no column 'PatientSx'"):
        view.metadata(where="PatientSx = 'M'")
    with pytest.raises(UsageError, match="no extractor 'jpeg'"):
        view.metadata("jpeg")
    assert read_of == []


def test_without_duckdb_what_is_in_the_log_can_still_be_had(
    never_extracted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    serve(monkeypatch, {"v-ct/004": dicom(Modality="CT")})
    view = never_extracted.view("scans", prefix="ct/00")
    assert view.metadata(where=pc.field("Modality") == "CT")["key"].tolist() == ["ct/004"]
    with pytest.raises(UsageError, match=r"snapengine\[sql\]"):
        view.metadata(where="Modality = 'CT'")
