"""Queries by roles with the policies of docs/privacy.md: over the log, over the archive, and over both."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc
import pytest

from snapengine.cautions import IdentifyingLeftOut, SelectionNotKept
from snapengine.errors import IdentifyingRefused, SnapEngineError, UsageError
from tests.guarded_cloud import guarded_cloud
from tests.listening import Heard, listening
from tests.marked_dicom import NAME, as_text, damaged, identifying, marked, shows
from tests.privacy_house import ADMINISTRATOR, BUCKET, READER, House

OTHER = "Zqxmark two"
PLAIN = ["Modality", "Rows", "Manufacturer", "SliceThickness"]
KEY = "5ec7e7" * 8


@pytest.fixture(scope="module", params=["log", "archive", "both"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """`both`: what came after the archive was made is in the log alone."""
    objects = {f"ct/{n:03}": marked(InstanceNumber=str(n)) for n in range(4)}
    objects |= {f"mr/{n:03}": marked(Modality="MR", PatientID=OTHER) for n in range(3)}
    objects |= {f"bad/{what}": data for what, data in damaged().items()}
    with guarded_cloud() as (cloud, guard):
        made = House(cloud, guard, tmp_path_factory.mktemp("privacy"))
        names = sorted(objects)
        late = names[-2:] if request.param == "both" else []
        made.extract(made.put({name: objects[name] for name in names if name not in late}), "dicom")
        if request.param != "log":
            made.archive(checkpoint_now=True)
        if late:
            made.extract(made.put({name: objects[name] for name in late}), "dicom")
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_let_through_unjudged(house: House) -> Iterator[None]:
    house.guard.asked.clear()
    yield
    assert house.guard.unknown == []


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Heard]:
    with listening(caplog, capfd) as hearing:
        yield hearing


def asked(house: House, role: str, **options: Any) -> Any:
    with house.acting(role) as engine:
        return engine.view(BUCKET).metadata_table(**options)


CONDITIONS: list[Any] = [
    None,
    "Modality = 'CT' AND Rows = 512",
    "SliceThickness < 3 AND key LIKE 'ct/%' AND outcome = 'ok'",
    (pc.field("Modality") == "MR") & pc.starts_with(pc.field("key"), "mr/"),
]


# Without the right


@pytest.mark.parametrize("role", ["reader", "denied"])
@pytest.mark.parametrize("where", CONDITIONS, ids=["all", "sql", "view's columns", "pyarrow"])
def test_the_other_columns_need_no_right(house: House, role: str, where: Any) -> None:
    expected = asked(house, ADMINISTRATOR, where=where, columns=PLAIN)
    found = asked(house, role, where=where, columns=PLAIN)
    assert found.num_rows > 2
    assert found.equals(expected)
    assert not house.guard.denied(role)
    assert not any("/identifying/" in one.request.resource for one in house.guard.asked)


@pytest.mark.parametrize("role", ["reader", "denied"])
@pytest.mark.parametrize(
    "options",
    [
        {"columns": ["Modality", "PatientName"]},
        {"columns": ["Modality"], "where": f"PatientName LIKE '{NAME}%'"},
        {"columns": ["Modality"], "where": "Modality = 'CT' AND PatientAgeYears > 50"},
        {"columns": ["Modality"], "where": pc.field("PatientSex") == "M"},
        {"columns": [], "where": "StudyDate IS NULL"},
    ],
    ids=["selected", "in a condition", "beside another", "in a pyarrow expression", "no columns"],
)
def test_identifying_columns_are_refused_in_a_plain_sentence(
    house: House, role: str, options: dict[str, Any]
) -> None:
    with pytest.raises(IdentifyingRefused) as refused:
        asked(house, role, **options)
    said = str(refused.value)
    assert refused.value.code == "identifying-refused"
    assert "identifying columns" in said
    assert said.endswith(".")
    assert "Leave those columns out" in said
    assert shows(said) == []
    for one in house.guard.denied(role):
        assert "/identifying/" in one.request.resource or one.partitions[0].startswith("IDENTIFYING#")


def test_without_names_a_reader_gets_what_may_be_read_and_is_told(house: House) -> None:
    with pytest.warns(IdentifyingLeftOut, match="may not be read, and are left out") as told:
        found = asked(house, "reader")
    assert set(identifying()) & set(found.column_names) == set()
    assert set(PLAIN) <= set(found.column_names)
    assert shows(as_text(found)) == []
    assert shows("".join(str(one.message) for one in told)) == []


def test_names_and_types_of_all_columns_need_no_right(house: House) -> None:
    with house.acting(ADMINISTRATOR) as engine:
        expected = engine.view(BUCKET).row_schema("dicom")
    house.guard.asked.clear()
    with house.acting("reader") as engine:
        assert engine.view(BUCKET).row_schema("dicom").equals(expected, check_metadata=True)
    assert set(identifying()) <= set(expected.names)
    assert not house.guard.denied("reader")


def test_a_reader_narrows_a_view_by_other_columns(house: House) -> None:
    condition = "Modality = 'MR' AND outcome = 'ok'"
    with house.acting(ADMINISTRATOR) as engine:
        expected = engine.view(BUCKET).where(condition).digest()
    with house.acting("reader") as engine:
        narrowed = engine.view(BUCKET).where(condition)
        reference = narrowed.reference
        assert narrowed.digest() == expected
    with house.acting("reader") as engine:
        again = engine.open_ref(reference)
        assert again.digest() == expected
        assert again.query == condition
    assert not house.guard.denied("reader")


def test_who_may_not_write_narrows_a_view_for_this_process_and_is_told(house: House) -> None:
    house.guard.policies["looker"] = [
        {**READER, "Statement": [READER["Statement"][0], *READER["Statement"][2:]]}
    ]
    with house.acting("looker") as engine:
        view = engine.view(BUCKET)
        with pytest.warns(SelectionNotKept):
            narrowed = view.where("Modality = 'CT' AND Rows = 512 AND key > 'ct/000'")
        assert len(narrowed) > 1


def test_a_condition_over_identifying_columns_is_kept_on_their_side(house: House) -> None:
    condition = f"PatientID = '{OTHER}'"
    with house.acting("researcher") as engine:
        narrowed = engine.view(BUCKET).where(condition)
        reference, digest = narrowed.reference, narrowed.digest()
        assert [key for key in narrowed if key.startswith("mr/")] == ["mr/000", "mr/001", "mr/002"]
    assert not house.guard.denied("researcher")
    with house.acting("researcher") as engine:
        assert engine.open_ref(reference).query == condition
    with house.acting("reader") as engine:
        opened = engine.open_ref(reference)
        assert opened.digest() == digest
        assert opened.query is None
    plain = [item for item in house.items() if not item["PK"]["S"].startswith("IDENTIFYING#")]
    assert shows(repr([item for item in plain if "#selection#" in item["PK"]["S"]])) == []


def test_with_the_right_everything_is_as_for_an_administrator(house: House) -> None:
    for options in (
        {},
        {"columns": ["PatientName", "Modality"]},
        {"where": "PatientAgeYears > 50 AND Modality = 'CT'", "columns": ["PatientID"]},
    ):
        expected = asked(house, ADMINISTRATOR, **options)
        found = asked(house, "researcher", **options)
        assert found.num_rows
        assert found.equals(expected)
        assert shows(as_text(found))
    assert not house.guard.denied("researcher")


# What fails, and what it says

FAILING = [
    "CAST(PatientName AS INTEGER) > 3",
    "CAST(PatientID AS DATE) IS NULL",
    "PatientName::DOUBLE > 3",
    "strptime(PatientID, '%Y-%m-%d') IS NULL",
    "regexp_matches('x', PatientName || '(')",
    "json_extract_string(PatientName, '$.a') = 'b'",
    "CAST(StudyInstanceUID AS BIGINT) > 0",
    "CAST(strftime(StudyDate, '%Y%m%d') || 'x' AS INTEGER) > 3",
    "CAST(PatientWeight * 1e300 AS INTEGER) > 3",
    "PatientWeight = 'x'",
    "PatientNme = 'x'",
    "PatientName = 3",
    "PatientName",
    "PatientName = 'x'; SELECT PatientName",
    "(SELECT min(PatientName) FROM files) = 'x'",
    "max(PatientName) = 'x'",
    "error(PatientName)",
    f"PatientName = '{NAME}",
    f"CAST('{NAME}' AS INTEGER) = Rows",
    f"PatientName = '{NAME}' AND",
]


@pytest.mark.parametrize("where", FAILING)
def test_a_condition_that_fails_tells_no_value(house: House, heard: Heard, where: str) -> None:
    with pytest.raises(UsageError) as failed:
        asked(house, "researcher", where=where, columns=["Modality"])
    heard.failure(failed.value)
    assert shows(heard.text) == []


@pytest.mark.parametrize(
    "where",
    [
        pc.field("PatientName").cast("int64") > 3,
        pc.field("PatientID").cast("date32[day]").is_valid(),
        pc.strptime(pc.field("PatientName"), format="%Y", unit="s").is_valid(),
        pc.match_substring_regex(pc.field("PatientName"), f"({NAME}"),
        pc.field("PatientWeight") == NAME,
    ],
    ids=str,
)
def test_a_pyarrow_expression_that_fails_tells_no_value(house: House, heard: Heard, where: Any) -> None:
    with pytest.raises(UsageError) as failed:
        asked(house, "researcher", where=where, columns=["Modality"])
    heard.failure(failed.value)
    assert shows(heard.text) == []


def test_too_little_memory_tells_no_value(house: House, heard: Heard) -> None:
    try:
        asked(
            house, "researcher", where=f"PatientName LIKE '%{NAME}%'", columns=["PatientName"], memory="1MiB"
        )
    except SnapEngineError as error:
        heard.failure(error)
    assert shows(heard.text) == []


@pytest.mark.parametrize("house", ["both"], indirect=True)
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize(
    ("role", "options", "code"),
    [
        ("reader", ["--where", f"PatientName = '{NAME}'"], "identifying-refused"),
        ("reader", ["--where", "PatientSex = 'M'", "--json"], "identifying-refused"),
        ("researcher", ["--where", "CAST(PatientName AS INTEGER) > 3", "--json"], "usage"),
        ("researcher", ["--where", f"CAST('{NAME}' AS INTEGER) > Rows"], "usage"),
    ],
)
def test_the_command_says_what_is_wrong_and_no_value(
    house: House, role: str, options: list[str], code: str, debug: bool
) -> None:
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "default",
        "-m",
        "snapengine",
        *(["--debug"] if debug else []),
    ]
    done = subprocess.run(
        [*command, "metadata", BUCKET, "--columns", "Modality", *options],
        env={**os.environ, **house.environment_of(role)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in {1, 2}
    assert code in done.stderr
    assert shows(done.stdout + done.stderr) == []


# De-identified


def deidentified(house: House, **options: Any) -> Any:
    with house.deidentifying(KEY):
        return asked(house, "researcher", **options)


def test_by_setting_a_result_has_pseudonyms_by_which_patients_still_group(house: House, heard: Heard) -> None:
    found = deidentified(house)
    assert shows(as_text(found)) == []
    rows = {row["key"]: row for row in found.to_pylist()}
    ct = {rows[f"ct/{n:03}"]["PatientID"] for n in range(4)}
    mr = {rows[f"mr/{n:03}"]["PatientID"] for n in range(3)}
    assert len(ct) == len(mr) == 1
    assert ct != mr
    assert None not in ct | mr
    assert rows["ct/000"]["StudyInstanceUID"].startswith("2.25.")
    assert rows["ct/000"]["PatientName"] is None
    assert rows["ct/000"]["Modality"] == "CT"
    told = heard.text + as_text(found)
    assert KEY not in told.lower()
    assert shows(heard.text) == []


def test_every_option_leaves_no_mark_that_it_does_not_name(house: House) -> None:
    found = deidentified(house, deidentify=["modified dates", "patient characteristics"])
    names = {"PatientAge", "PatientAgeYears", "PatientSex", "PatientSize", "PatientWeight"}
    assert shows(as_text(found.drop_columns([name for name in names if name in found.column_names]))) == []


def test_without_a_key_the_error_says_so(house: House, heard: Heard) -> None:
    with pytest.raises(UsageError, match="SNAPENGINE_DEIDENTIFY_KEY") as failed:
        asked(house, "researcher", deidentify=True)
    heard.failure(failed.value)
    assert shows(heard.text) == []


@pytest.mark.parametrize("key", ["5ec7e7", "no key 5ec7e7 at all" * 3])
def test_a_key_that_is_none_is_not_shown(house: House, heard: Heard, key: str) -> None:
    with house.deidentifying(key):
        with pytest.raises(UsageError) as failed:
            asked(house, "researcher")
        with house.acting("researcher") as engine:
            heard.note(engine.settings, repr(engine.settings), engine.settings.model_dump())
    heard.failure(failed.value)
    assert "5ec7e7" not in heard.text


def test_de_identifying_needs_the_right_to_what_is_de_identified(house: House) -> None:
    with house.deidentifying(KEY):
        with pytest.raises(IdentifyingRefused):
            asked(house, "reader", columns=["PatientID"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert asked(house, "reader", columns=PLAIN).num_rows
