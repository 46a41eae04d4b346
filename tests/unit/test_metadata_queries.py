"""A view's metadata by a condition: what pandas would choose, with every object in one of four numbers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import SecretStr

import snapengine
from snapengine import Engine, View
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.cautions import IdentifyingLeftOut, MetadataMissing
from snapengine.errors import (
    ArchiveDamaged,
    IdentifyingRefused,
    NotYetComplete,
    PermissionMissing,
    UsageError,
    VersionGone,
)
from snapengine.model import ObjectVersion
from snapengine.settings import Settings
from tests.dicom_files import dicom
from tests.rows_fake import COLUMNS, FakeRows, rows_of
from tests.seed import T0, enable, engine_at, event, record

QUESTION = "Modality = 'CT' AND PatientSex = 'M' AND PatientAgeYears > 50"
EXPRESSION = (
    (pc.field("Modality") == "CT") & (pc.field("PatientSex") == "M") & (pc.field("PatientAgeYears") > 50)
)
KEYS = [f"ct/{n:03}" for n in range(30)]
KEY = "00112233445566778899aabbccddeeff"


def values(n: int) -> dict[str, Any]:
    age = None if n % 7 == 0 else float(n * 3)
    return {
        "Modality": ["CT", "MR", "CT"][n % 3],
        "PatientID": f"MARK-{n // 4}",
        "PatientSex": "MF"[n % 2],
        "PatientAge": None if age is None else f"{round(age):03}Y",
        "PatientAgeYears": age,
        "StudyDate": 19_000 + n,
        "PixelSpacing": [1.0, 2.0],
        "Rows": 512,
    }


ROWS = {key: values(n) for n, key in enumerate(KEYS) if n not in {4, 11}}
ROWS["ct/005"] = {"outcome": "failed", "error": "cannot be read"}
CHOSEN = [
    key
    for key, row in ROWS.items()
    if row.get("Modality") == "CT" and row["PatientSex"] == "M" and (row["PatientAgeYears"] or 0) > 50
]


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


def quietly(view: View, **options: Any) -> pd.DataFrame:
    with pytest.warns(MetadataMissing):
        return view.metadata(**options)


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


# Narrowed views


def test_a_view_is_narrowed_by_a_condition_to_what_metadata_finds(engine: Engine, stored: FakeRows) -> None:
    view = engine.view("scans")
    with pytest.warns(MetadataMissing):
        some = view.where(QUESTION)
    assert list(some) == CHOSEN
    assert some == view.select(quietly(view, where=QUESTION, columns=[]))
    assert some.query == QUESTION
    assert some.to_arrow().schema == VIEW_SCHEMA
    assert some["ct/018"] == view["ct/018"] if "ct/018" in CHOSEN else True
    again = Engine(engine.settings, clock=engine.clock).open_ref(some.reference)
    assert (again, again.query) == (some, QUESTION)


def test_a_narrowed_view_can_be_asked_and_narrowed_again(engine: Engine, stored: FakeRows) -> None:
    some = engine.view("scans").select(KEYS[:9])
    found = quietly(some, columns=["Modality"])
    assert found["key"].tolist() == [key for key in KEYS[:9] if key in ROWS]
    assert found.attrs["without_row"] == 1
    assert found.attrs["reference"] == some.reference
    with pytest.warns(MetadataMissing):
        fewer = some.where("Modality = 'MR'")
    assert list(fewer) == [k for k in KEYS[:9] if ROWS.get(k, {}).get("Modality") == "MR"]
    assert fewer.query == "Modality = 'MR'"
    with pytest.warns(MetadataMissing):
        assert list(some.where(pc.field("Modality") == "MR")) == list(fewer)


def test_two_conditions_that_choose_the_same_objects_make_one_view(engine: Engine, stored: FakeRows) -> None:
    view = engine.view("scans", prefix="ct/00")
    with pytest.warns(MetadataMissing):
        first, second = view.where("key = 'ct/001'"), view.where("Modality = 'MR' AND key < 'ct/002'")
    assert first == second
    assert (first.query, second.query) == ("key = 'ct/001'", "Modality = 'MR' AND key < 'ct/002'")
    assert engine.open_ref(second.reference).query == first.query


def test_a_condition_that_may_name_a_patient_is_kept_with_the_identifying_rows(
    engine: Engine, stored: FakeRows
) -> None:
    with pytest.warns(MetadataMissing):
        some = engine.view("scans").where("PatientID = 'MARK-0'")
    entries = engine._database.run("SELECT payload FROM log WHERE bucket LIKE '%#selection#%'")
    assert entries
    assert not any(b"MARK" in payload for (payload,) in entries)
    again = Engine(engine.settings, clock=engine.clock)
    assert again.open_ref(some.reference).query == "PatientID = 'MARK-0'"


# Who may be identified


def test_identifying_columns_without_the_right_are_an_error_and_all_else_works(
    engine: Engine, stored: FakeRows
) -> None:
    stored.denied = True
    view = engine.view("scans")
    for options in (
        {"columns": ["PatientID"]},
        {"where": QUESTION, "columns": ["Modality"]},
        {"where": QUESTION},
    ):
        with pytest.raises(IdentifyingRefused):
            view.metadata(**options)
    found = quietly(view, where="Modality = 'CT'", columns=["Rows"])
    assert len(found) == sum(row.get("Modality") == "CT" for row in ROWS.values())
    with pytest.warns(MetadataMissing), pytest.warns(IdentifyingLeftOut, match="5 identifying columns"):
        everything = view.metadata()
    assert set(everything.columns) & set(COLUMNS) == {"Modality", "PixelSpacing", "Rows"}
    assert "PatientID" in everything.attrs["left_out"]


def test_identifying_rows_are_read_only_where_they_are_needed(engine: Engine, stored: FakeRows) -> None:
    quietly(engine.view("scans"), where="Modality = 'CT'", columns=["Rows", "size"])
    assert stored.asked == [False]
    quietly(engine.view("scans"), where="PatientSex = 'M'", columns=["Rows"])
    assert stored.asked[-1] is True


@pytest.fixture
def with_key(engine: Engine) -> Engine:
    settings = Settings(store=engine.settings.store, deidentify_key=SecretStr(KEY))
    return Engine(settings, clock=engine.clock)


def test_deidentified_answers_have_pseudonyms_by_which_patients_still_group(
    with_key: Engine, stored: FakeRows
) -> None:
    view = with_key.view("scans")
    found = quietly(view, where="Modality = 'CT'", deidentify=True)
    plain = quietly(view, where="Modality = 'CT'")
    assert found["key"].tolist() == plain["key"].tolist()
    assert found.groupby("PatientID").size().tolist() != []
    assert found["PatientID"].nunique() == plain["PatientID"].nunique()
    assert not found["PatientID"].str.contains("MARK").any()
    assert found["PatientAgeYears"].isna().all()
    assert found["StudyDate"].isna().all()
    assert found.attrs["deidentified"].startswith("PS3.15")
    assert found.attrs["identifying"] == []
    assert plain.attrs["deidentified"] is None


def test_a_condition_over_what_is_removed_is_refused_with_the_option_that_keeps_it(
    with_key: Engine, stored: FakeRows
) -> None:
    view = with_key.view("scans")
    with pytest.raises(UsageError, match=r"uses PatientSex.*deidentify=\['patient characteristics'\]"):
        view.metadata(where=QUESTION, columns=["Modality"], deidentify=True)
    with pytest.raises(UsageError, match="uses PatientSex"):
        view.where(QUESTION, deidentify=True)
    found = quietly(view, where=QUESTION, columns=["PatientAgeYears"], deidentify=["patient characteristics"])
    assert found["key"].tolist() == CHOSEN
    with pytest.warns(MetadataMissing):
        assert list(view.where(QUESTION, deidentify="patient characteristics")) == CHOSEN


def test_a_condition_sees_what_de_identification_leaves_and_nothing_else(
    engine: Engine, with_key: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = {key: {**values(1), "PatientAgeYears": 91.0 + n} for n, key in enumerate(KEYS)}
    for folder in (None, tmp_path):
        FakeRows(rows_of(old), folder).into(monkeypatch)
        view = with_key.view("scans")
        rules = ["patient characteristics", "modified dates"]
        assert len(view.metadata(where="PatientAgeYears > 90", deidentify=rules)) == 0
        everyone = view.metadata(where="PatientAgeYears = 90", columns=["PatientAgeYears"], deidentify=rules)
        assert (len(everyone), set(everyone["PatientAgeYears"])) == (30, {90.0})
        assert len(view.metadata(where="PatientID = 'MARK-0'", deidentify=rules)) == 0
        shown = view.metadata(columns=["PatientID", "StudyDate"], deidentify=rules)
        alias, day = shown["PatientID"][0], shown["StudyDate"][0]
        same = view.metadata(where=f"PatientID = '{alias}'", columns=["Rows"], deidentify=rules)
        assert same["key"].tolist() == KEYS
        dated = view.metadata(where=f"StudyDate = DATE '{day}'", columns=["Rows"], deidentify=rules)
        assert dated["key"].tolist() == KEYS


def test_de_identified_a_role_without_the_right_gets_what_is_left_of_plain_columns(
    with_key: Engine, stored: FakeRows
) -> None:
    stored.denied = True
    found = quietly(
        with_key.view("scans"), columns=["Modality", "PatientSex", "PatientAgeYears"], deidentify=True
    )
    assert found["PatientSex"].isna().all()
    assert found["Modality"].notna().any()
    with pytest.raises(IdentifyingRefused):
        with_key.view("scans").metadata(columns=["PatientID"], deidentify=True)


@pytest.mark.parametrize(
    ("setting", "asked", "left"),
    [
        ("off", None, True),
        ("on", None, False),
        ("on", False, True),
        ("patient characteristics", None, True),
        ("patient characteristics, modified dates", None, True),
        ("on", ["patient characteristics"], True),
        ("off", True, False),
    ],
)
def test_the_default_is_a_setting(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, setting: str, asked: Any, left: bool
) -> None:
    FakeRows(rows_of(ROWS)).into(monkeypatch)
    settings = Settings(store=engine.settings.store, deidentify=setting, deidentify_key=SecretStr(KEY))
    found = quietly(
        Engine(settings, clock=engine.clock).view("scans"), columns=["PatientSex"], deidentify=asked
    )
    assert found["PatientSex"].notna().any() == left


def test_wrong_options_and_a_missing_key_are_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeRows(rows_of(ROWS)).into(monkeypatch)
    monkeypatch.delenv("SNAPENGINE_DEIDENTIFY_KEY", raising=False)
    with pytest.raises(UsageError, match="no option 'everything'"):
        engine.view("scans").metadata(deidentify=["everything"])
    with pytest.raises(UsageError, match="SNAPENGINE_DEIDENTIFY_KEY has none"):
        engine.view("scans").metadata(deidentify=True)
    bad = Settings(store=engine.settings.store, deidentify_key=SecretStr("xyz"))
    with pytest.raises(UsageError, match="hexadecimal") as caught:
        Engine(bad).view("scans").metadata(deidentify=True)
    assert "xyz" not in str(caught.value)
    assert "xyz" not in repr(bad)


def test_a_query_does_not_hang_on_what_its_options_are_called(engine: Engine, stored: FakeRows) -> None:
    options: dict[str, Callable[[], Any]] = {
        "where": lambda: engine.view("scans").where(None),
        "unknown": lambda: engine.view("scans").metadata(colums=["Modality"]),  # type: ignore[call-arg]  # the test
    }
    with pytest.raises(UsageError, match="needs a condition"):
        options["where"]()
    with pytest.raises(TypeError, match="colums"):
        options["unknown"]()
