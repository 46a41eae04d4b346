"""Narrowed views by metadata, identifying columns, and de-identified answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from pydantic import SecretStr

from snapengine import Engine
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.cautions import IdentifyingLeftOut, MetadataMissing
from snapengine.errors import (
    IdentifyingRefused,
    UsageError,
)
from snapengine.settings import Settings
from tests.rows_fake import COLUMNS, FakeRows, rows_of
from tests.seed import enable, engine_at, event, record
from tests.unit.metadata_values import CHOSEN, KEYS, QUESTION, ROWS, quietly, values

KEY = "00112233445566778899aabbccddeeff"


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
