"""A de-identified table has nothing that identifies, and its patients still belong together."""

import datetime as dt
import io
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pytest

from metadata_extractors.base import column
from metadata_extractors.deidentify import KEY_VARIABLE, column_action, deidentify
from metadata_extractors.dicom_columns import plan_columns
from metadata_extractors.profile import BASIC, OPTIONS
from snapengine.errors import UsageError

KEY, OTHER = b"k" * 32, b"o" * 32

ACTIONS = {
    **dict.fromkeys(("PatientID", "PatientName", "PatientSex", "PatientBirthDate"), "Z"),
    **dict.fromkeys(("StudyID", "StudyDate", "StudyTime", "AccessionNumber"), "Z"),
    **dict.fromkeys(("ReferringPhysicianName", "ContrastBolusAgent"), "Z"),
    **dict.fromkeys(("PatientAge", "PatientAgeYears", "PatientSize", "PatientWeight"), "X"),
    **dict.fromkeys(("StudyDescription", "SeriesDescription", "ProtocolName"), "X"),
    **dict.fromkeys(("SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime"), "X"),
    **dict.fromkeys(("DeviceSerialNumber", "StationName", "InstitutionName"), "X"),
    **dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"), "U"),
}
"""PS3.15 (2024b), Table E.1-1, basic profile, of default columns; the strictest where there is a choice."""


def dicom(rows: Sequence[Mapping[str, object]], *names: str) -> pa.Table:
    fields = [planned.field for planned in plan_columns(names)]
    return pa.Table.from_pylist([*rows], pa.schema([("key", pa.string()), *fields]))


def as_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_each_default_column_has_the_action_of_the_table() -> None:
    planned = plan_columns(None)
    found = {one.name: column_action(one.field) for one in planned}
    assert {name: found[name] for name in ACTIONS} == ACTIONS
    others = {one.name: "X" if one.identifying else "K" for one in planned if one.name not in ACTIONS}
    assert {name: found[name] for name in others} == others


def test_every_identifying_column_of_the_dictionary_is_replaced_or_removed() -> None:
    from pydicom.datadict import keyword_dict

    for keyword, tag in keyword_dict.items():
        if keyword and tag >> 16 != 0x7FE0:
            for planned in plan_columns([keyword]):
                assert not planned.identifying or column_action(planned.field) != "K", planned.name


def test_no_identifying_value_is_anywhere_in_the_result() -> None:
    names = [
        p.name for p in plan_columns(None) if p.identifying and not p.many and p.field.type == pa.string()
    ]
    row: dict[str, object] = {name: f"MARKED-{number}" for number, name in enumerate(names)}
    row |= {
        "00091001": "MARKED private",
        "ReferencedImageSequence": '["MARKED"]',
        "OtherPatientIDs": "MARKED",
    }
    row |= {"OtherPatientNames": ["MARKED"], "IrradiationEventUID": ["MARKED.1", None]}
    names += ["00091001", "ReferencedImageSequence", "OtherPatientNames", "IrradiationEventUID"]
    table = dicom([{"key": "a", **row}, {"key": "b"}], *dict.fromkeys(names))
    assert b"MARKED" in as_bytes(table)
    for options in ((), ("patient characteristics", "modified dates")):
        assert b"MARKED" not in as_bytes(deidentify(table, KEY, options))


def test_a_patients_rows_stay_together_under_one_key_and_only_under_it() -> None:
    table = dicom([{"PatientID": p} for p in ("A", "B", "A", None, "A ", "")], "PatientID")
    mine = deidentify(table, KEY)["PatientID"].to_pylist()
    assert mine[0] == mine[2] == mine[4] != mine[1]
    assert mine[3] is mine[5] is None
    assert deidentify(table, KEY)["PatientID"].to_pylist() == mine
    theirs = deidentify(table, OTHER)["PatientID"].to_pylist()
    assert not set(filter(None, mine)) & set(filter(None, theirs))


def test_one_uid_has_one_valid_successor_in_every_column_and_list() -> None:
    rows: list[dict[str, object]] = [{"SOPInstanceUID": "1.2.3", "IrradiationEventUID": ["1.2.3", "1.2.4"]}]
    rows += [{"SOPInstanceUID": None}]
    result = deidentify(dicom(rows, "SOPInstanceUID", "IrradiationEventUID"), KEY)
    new = result["SOPInstanceUID"].to_pylist()
    assert new[0].startswith("2.25.")
    assert len(new[0]) <= 64
    assert new[1] is None
    assert result["IrradiationEventUID"].to_pylist()[0][0] == new[0]
    assert result["IrradiationEventUID"].to_pylist()[1] is None


def test_names_types_and_order_stay_and_the_schema_says_what_was_done() -> None:
    table = dicom([{"key": "a"}], *[planned.name for planned in plan_columns(None)])
    result = deidentify(table, KEY)
    assert result.schema.equals(table.schema)
    assert b"basic profile" in result.schema.metadata[b"deidentified"]
    assert result.schema.field("StudyInstanceUID").metadata[b"deidentified"] == b"U"
    assert result.schema.field("PatientName").metadata[b"identifying"] == b"false"
    assert all(result[name].null_count == 1 for name in result.column_names if name != "key")


def test_of_other_extractors_only_what_is_said_not_to_identify_is_kept() -> None:
    fields = [
        column("Camera", pa.string(), "EXIF"),
        column("Owner", pa.string(), "EXIF", identifying=True),
        pa.field("Unsaid", pa.string()),
    ]
    table = pa.Table.from_pylist([{"Camera": "c", "Owner": "o", "Unsaid": "u"}], pa.schema(fields))
    assert deidentify(table, KEY).to_pylist() == [{"Camera": "c", "Owner": None, "Unsaid": None}]


def test_ages_that_are_kept_end_at_ninety() -> None:
    ages = [("063Y", 63.0), ("089Y", 89.0), ("090Y", 90.0), ("101Y", 101.0), ("DOE", None), (None, None)]
    rows: list[dict[str, object]] = [
        {"PatientAge": text, "PatientAgeYears": years, "PatientSex": "M"} for text, years in ages
    ]
    rows[0]["PatientSex"] = "male, Mr Doe"
    table = dicom(rows, "PatientAge", "PatientSex")
    kept = deidentify(table, KEY, ["patient characteristics"])
    assert kept["PatientAge"].to_pylist() == ["063Y", "089Y", "090Y", "090Y", None, None]
    assert kept["PatientAgeYears"].to_pylist() == [63.0, 89.0, 90.0, 90.0, None, None]
    assert kept["PatientSex"].to_pylist() == [None, "M", "M", "M", "M", "M"]
    assert deidentify(table, KEY)["PatientAgeYears"].null_count == len(rows)


def test_dates_are_removed_or_moved_by_the_same_days_for_one_patient() -> None:
    first, second = dt.date(2020, 1, 1), dt.date(2020, 3, 1)
    rows = [
        {"PatientID": "A", "StudyDate": day, "StudyDateText": "20200101"} for day in (first, second, None)
    ]
    rows += [{"PatientID": None, "StudyDate": first}, {"PatientID": "B", "StudyDate": first}]
    table = dicom(rows, "PatientID", "StudyDate", "StudyDateText")
    assert deidentify(table, KEY)["StudyDate"].null_count == 5
    moved = deidentify(table, KEY, ["modified dates"])
    days = moved["StudyDate"].to_pylist()
    assert days[1] - days[0] == second - first
    assert days[2] is days[3] is None
    assert dt.timedelta(0) < first - days[0] <= dt.timedelta(3650)
    assert days[4] != days[0]
    assert moved["StudyDateText"].null_count == 5


def test_a_missing_short_or_unreadable_key_is_refused_and_said_how_to_make(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = dicom([{"PatientID": "A"}], "PatientID")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(UsageError, match="token_hex"):
        deidentify(table)
    with pytest.raises(UsageError, match="at least 16"):
        deidentify(table, b"short")
    monkeypatch.setenv("OUR_KEY", "not hex")
    with pytest.raises(UsageError, match="hexadecimal") as refused:
        deidentify(table, "OUR_KEY")
    assert "not hex" not in str(refused.value)
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    assert deidentify(table).equals(deidentify(table, KEY))
    with pytest.raises(UsageError, match="no option"):
        deidentify(table, KEY, ["everything"])


def test_an_option_speaks_only_of_attributes_that_the_profile_lists() -> None:
    assert all(keyword in BASIC for option in OPTIONS.values() for keyword in option)
