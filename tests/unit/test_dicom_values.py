"""DICOM columns, their types, and the values in them."""

from __future__ import annotations

import json
import pickle
from datetime import date, datetime, time

import pyarrow as pa
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ImplicitVRLittleEndian,
)

from metadata_extractors.dicom import DicomExtractor
from metadata_extractors.dicom_columns import DEFAULT_COLUMNS, plan_columns
from metadata_extractors.dicom_values import BadValue, check_ends
from snapengine.errors import UsageError
from tests.dicom_files import FILES, dicom, explicit, extract, whole, with_raw

# Columns and their types


def test_a_column_has_the_type_that_the_dictionary_gives_it() -> None:
    asked = [
        "PatientName", "PatientAge", "StudyDate", "StudyTime", "AcquisitionDateTime", "SliceThickness",
        "PixelSpacing", "ImageType", "InstanceNumber", "Rows", "SmallestImagePixelValue",
        "FrameIncrementPointer", "ReferencedImageSequence", "00291010", "ICCProfile", "SliceThicknessText",
    ]  # fmt: skip
    assert {column.name: column.type for column in DicomExtractor(asked).schema} == {
        "PatientName": pa.string(),
        "PatientAge": pa.string(),
        "PatientAgeYears": pa.float64(),
        "StudyDate": pa.date32(),
        "StudyTime": pa.time64("us"),
        "AcquisitionDateTime": pa.timestamp("us"),
        "SliceThickness": pa.float64(),
        "PixelSpacing": pa.list_(pa.float64()),
        "ImageType": pa.list_(pa.string()),
        "InstanceNumber": pa.int64(),
        "Rows": pa.int64(),
        "SmallestImagePixelValue": pa.int64(),
        "FrameIncrementPointer": pa.list_(pa.string()),
        "ReferencedImageSequence": pa.string(),
        "00291010": pa.string(),
        "ICCProfile": pa.binary(),
        "SliceThicknessText": pa.string(),
    }


def test_the_usual_columns_are_there_without_asking() -> None:
    names = DicomExtractor().schema.names
    assert names[:6] == [
        "PatientID",
        "PatientName",
        "PatientSex",
        "PatientBirthDate",
        "PatientAge",
        "PatientAgeYears",
    ]
    assert {"Modality", "StudyInstanceUID", "PixelSpacing", "TransferSyntaxUID"} < set(names)


def test_a_column_asked_for_twice_is_there_once() -> None:
    assert DicomExtractor(["PatientAge", "PatientAgeYears", "PatientAge"]).schema.names == [
        "PatientAge",
        "PatientAgeYears",
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("PatientSx", "did you mean 'PatientSex'"),
        ("patientid", "did you mean 'PatientID'"),
        ("", "no DICOM keyword"),
        ("Years", "no DICOM keyword"),
        ("ModalityText", "no DICOM keyword"),
        ("00100010", "no DICOM keyword"),
        ("PixelData", "group 7FE0"),
    ],
)
def test_an_unknown_column_is_refused_with_the_nearest_one(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        DicomExtractor([name])


def test_one_name_instead_of_a_list_of_names_is_refused() -> None:
    with pytest.raises(UsageError, match=r"columns=\['Modality'\]"):
        DicomExtractor("Modality")


def test_every_keyword_of_the_dictionary_is_a_column_or_pixels() -> None:
    for keyword, tag in pydicom.datadict.keyword_dict.items():
        if keyword and tag >> 16 != 0x7FE0:
            assert plan_columns([keyword])[0].field.name == keyword


def test_columns_say_whether_they_identify_someone() -> None:
    asked = [
        *DEFAULT_COLUMNS,
        "00291010",
        "PatientWeight",
        "StudyTime",
        "OperatorsName",
        "ReferencedImageSequence",
    ]
    schema = DicomExtractor(asked).schema
    harmless = {field.name for field in schema if field.metadata[b"identifying"] == b"false"}
    assert harmless == {
        "SeriesNumber", "Modality", "BodyPartExamined", "Laterality", "PatientPosition", "Manufacturer",
        "ManufacturerModelName", "SoftwareVersions", "SOPClassUID", "InstanceNumber", "AcquisitionNumber",
        "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
        "BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleIntercept", "RescaleSlope",
        "WindowCenter", "WindowWidth", "TransferSyntaxUID", "ImagePositionPatient",
        "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
        "SliceLocation", "KVP", "XRayTubeCurrent", "Exposure", "ExposureTime", "ConvolutionKernel",
        "ReconstructionDiameter", "GantryDetectorTilt", "SpiralPitchFactor", "CTDIvol",
        "MagneticFieldStrength", "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle",
        "EchoTrainLength", "ScanningSequence", "SequenceVariant", "SequenceName", "MRAcquisitionType",
        "ImagingFrequency", "DiffusionBValue",
    }  # fmt: skip
    assert schema.field("PatientSex").metadata == {b"tag": b"00100040", b"vr": b"CS", b"identifying": b"true"}


def test_columns_name_their_unit_where_the_standard_gives_one() -> None:
    schema = DicomExtractor(["PatientAge", "SliceThickness", "KVP", "Rows"]).schema
    assert {field.name: field.metadata.get(b"unit") for field in schema} == {
        "PatientAge": None, "PatientAgeYears": b"a", "SliceThickness": b"mm", "KVP": b"kV", "Rows": None,
    }  # fmt: skip


def test_an_extractor_pickles() -> None:
    again = pickle.loads(pickle.dumps(DicomExtractor(["Modality"])))  # noqa: S301  # our own bytes
    assert again.parse(whole(dicom(Modality="MR"))).values == {"Modality": "MR"}


# Values

MORNING = datetime.fromisoformat("2026-11-20T09:08:07.250000")
MIDNIGHT = datetime.fromisoformat("2026-11-20")


@pytest.mark.parametrize(
    ("text", "years"),
    [("063Y", 63.0), ("018M", 1.5), ("010D", 10 / 365.25), ("004W", 28 / 365.25), ("000Y", 0.0),
     ("125Y", 125.0), ("0Y", 0.0)],
)  # fmt: skip
def test_an_age_is_given_as_written_and_in_years(text: str, years: float) -> None:
    found = extract(dicom(PatientAge=text), ["PatientAge"])
    assert found.values == {"PatientAge": text, "PatientAgeYears": pytest.approx(years)}
    assert found.problems == ()


@pytest.mark.parametrize("text", ["***", "9.0", "063", "Y", "63 Y"])
def test_an_age_that_is_none_stays_as_text_and_is_a_problem(text: str) -> None:
    found = extract(dicom(PatientAge=text), ["PatientAge"])
    assert found.values == {"PatientAge": text, "PatientAgeYears": None}
    assert found.outcome == "ok"
    assert found.problems == ("PatientAgeYears: no age (AS)",)


@pytest.mark.parametrize(
    ("keyword", "tag", "vr", "raw", "value"),
    [
        ("StudyDate", 0x00080020, "DA", b"20261120", date(2026, 11, 20)),
        ("StudyDate", 0x00080020, "DA", b"2026.11.20", date(2026, 11, 20)),
        ("StudyTime", 0x00080030, "TM", b"090807.5 ", time(9, 8, 7, 500_000)),
        ("StudyTime", 0x00080030, "TM", b"09", time(9)),
        ("AcquisitionDateTime", 0x0008002A, "DT", b"20261120090807.25+0100", MORNING),
        ("AcquisitionDateTime", 0x0008002A, "DT", b"20261120", MIDNIGHT),
        ("SliceThickness", 0x00180050, "DS", b" 1.50e0 ", 1.5),
        ("InstanceNumber", 0x00200013, "IS", b"-7", -7),
        ("InstanceNumber", 0x00200013, "IS", b"7.0 ", 7),
        ("PixelSpacing", 0x00280030, "DS", b"0.5\\.25", [0.5, 0.25]),
        ("ImageType", 0x00080008, "CS", b"ORIGINAL\\\\AXIAL ", ["ORIGINAL", None, "AXIAL"]),
        ("ImageType", 0x00080008, "CS", b"ORIGINAL", ["ORIGINAL"]),
        ("Modality", 0x00080060, "CS", b"", None),
        ("Modality", 0x00080060, "CS", b"  ", None),
        ("FrameIncrementPointer", 0x00280009, "AT", b"\x18\x00\x63\x10", ["00181063"]),
        ("PatientName", 0x00100010, "PN", b"Doe^Jane", "Doe^Jane"),
        ("StudyDescription", 0x00081030, "LO", b"CT\0", "CT"),
        ("PatientComments", 0x00104000, "LT", b"  two\\one", "  two\\one"),
        ("Rows", 0x00280010, "UN", b"\x00\x02", 512),
        ("PatientAge", 0x00101010, "UN", b"063Y", "063Y"),
    ],
)  # fmt: skip
def test_a_value_has_the_type_of_its_vr(keyword: str, tag: int, vr: str, raw: bytes, value: object) -> None:
    found = extract(with_raw(explicit(tag, vr, raw)), [keyword])
    assert (found.values[keyword], found.problems) == (value, ())


@pytest.mark.parametrize(
    ("keyword", "tag", "vr", "raw", "problem"),
    [
        ("PatientBirthDate", 0x00100030, "DA", b"19700231", "PatientBirthDate: no date (DA)"),
        ("PatientBirthDate", 0x00100030, "DA", b"1970", "PatientBirthDate: no date (DA)"),
        ("StudyTime", 0x00080030, "TM", b"250000", "StudyTime: no time of day (TM)"),
        ("AcquisitionDateTime", 0x0008002A, "DT", b"2026", "AcquisitionDateTime: no date and time (DT)"),
        ("SliceThickness", 0x00180050, "DS", b"nan ", "SliceThickness: no decimal number (DS)"),
        ("SliceThickness", 0x00180050, "DS", b"1e999 ", "SliceThickness: no decimal number (DS)"),
        ("InstanceNumber", 0x00200013, "IS", b"1_0 ", "InstanceNumber: no whole number (IS)"),
        ("InstanceNumber", 0x00200013, "IS", b"9" * 19, "InstanceNumber: no whole number (IS)"),
        ("Rows", 0x00280010, "US", b"\x01\x02\x03", "Rows: its length is no multiple of 2 bytes (US)"),
        ("Rows", 0x00280010, "LO", b"51", "Rows: written as LO, where the dictionary has US"),
        ("InstanceNumber", 0x00200013, "IS", b"1\\2 ", "InstanceNumber: 2 values, where the dictionary allows one"),  # noqa: E501  # one row
    ],
)  # fmt: skip
def test_a_bad_value_becomes_null_and_a_problem(
    keyword: str, tag: int, vr: str, raw: bytes, problem: str
) -> None:
    found = extract(with_raw(explicit(tag, vr, raw)), [keyword])
    assert (found.outcome, found.values[keyword], found.problems) == ("ok", None, (problem,))


def test_a_list_of_millions_is_not_taken_in() -> None:
    found = extract(with_raw(explicit(0x00280030, "UN", b"1\\" * 600_000)), ["PixelSpacing"])
    assert found.values["PixelSpacing"] is None
    assert found.problems == ("PixelSpacing: longer than 1 MiB",)


def test_a_bad_value_among_several_is_null_in_its_place() -> None:
    found = extract(with_raw(explicit(0x00280030, "DS", b"0.5\\wide ")), ["PixelSpacing"])
    assert found.values["PixelSpacing"] == [0.5, None]
    assert found.problems == ("PixelSpacing: no decimal number (DS)",)


def test_text_with_a_backslash_where_one_value_is_allowed_is_kept_as_it_stands() -> None:
    found = extract(with_raw(explicit(0x00081030, "LO", b"CT\\HEAD ")), ["StudyDescription"])
    assert found.values["StudyDescription"] == "CT\\HEAD"
    assert found.problems == ("StudyDescription: 2 values, where the dictionary allows one",)


def test_the_text_of_a_typed_value_is_there_for_the_asking() -> None:
    found = extract(with_raw(explicit(0x00180050, "DS", b"1.50")), ["SliceThickness", "SliceThicknessText"])
    assert found.values == {"SliceThickness": 1.5, "SliceThicknessText": "1.50"}


@pytest.mark.parametrize(("representation", "value"), [(0, 65_535), (1, -1)])
def test_pixel_values_are_signed_as_the_pixels_are(representation: int, value: int) -> None:
    data = dicom(ImplicitVRLittleEndian, PixelRepresentation=representation, SmallestImagePixelValue=value)
    assert extract(data, ["SmallestImagePixelValue"]).values == {"SmallestImagePixelValue": value}


def test_names_are_read_in_their_character_sets() -> None:
    names = {
        path.name: extract(path.read_bytes()).values["PatientName"]
        for path in FILES
        if path.parent.name == "charset_files" and path.suffix == ".dcm"
    }
    assert names["chrGerm.dcm"] == "Äneas^Rüdiger"
    assert names["chrH31.dcm"] == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert names["chrX2.dcm"] == "Wang^XiaoDong=王^小东"
    assert names["chrKoreanMulti.dcm"] == "김희중"


def test_text_outside_of_its_character_set_is_a_problem_without_the_text() -> None:
    data = dicom(SpecificCharacterSet="ISO_IR 192", pixels=False) + explicit(0x00100010, "PN", b"Doe\xff")
    found = extract(data, ["PatientName"])
    assert found.values["PatientName"] == "Doe\ufffd"
    assert found.problems == ("PatientName: text is not in the character set it declares",)


def test_a_character_set_that_is_none_is_a_problem() -> None:
    found = extract(dicom(pixels=False, SpecificCharacterSet="JANE DOE", PatientID="7"), ["PatientID"])
    assert found.values == {"PatientID": "7"}
    assert found.problems == ("SpecificCharacterSet: not as the standard writes it",)


def test_a_codec_that_yields_lone_surrogates_yields_text_that_arrow_takes() -> None:
    data = dicom(pixels=False, SpecificCharacterSet="unicode_escape") + explicit(0x00100010, "PN", b"\\ud800")
    found = extract(data, ["PatientName"])
    assert pa.array([found.values["PatientName"]], pa.string()).to_pylist() == ["?"]


def test_a_sequence_asked_for_is_json_text() -> None:
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    found = extract(dicom(ReferencedImageSequence=Sequence([item])), ["ReferencedImageSequence"])
    assert json.loads(str(found.values["ReferencedImageSequence"])) == {
        "vr": "SQ",
        "Value": [{"00081155": {"vr": "UI", "Value": ["1.2.3"]}}],
    }


def test_a_private_element_asked_for_by_its_tag_is_json_text() -> None:
    data = with_raw(explicit(0x00290010, "LO", b"ACME") + explicit(0x00291010, "DS", b"1.5 "))
    found = extract(data, ["00291010"])
    assert json.loads(str(found.values["00291010"])) == {"vr": "DS", "Value": [1.5]}


@pytest.mark.parametrize(
    "raw", [b"CT", b"CT ", b"CT\0", b"A\\B\0", b"1.2\0\\1.3\0", b"", b"\x1b$BA", b"a\tb\r\n", b"\0"]
)
def test_padding_and_white_space_are_no_sign_of_another_element(raw: bytes) -> None:
    check_ends(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"CT\x10\0\x10\0PN\x04\0Doe^",
        b"A\\B\x08\0\x16\0UI",
        b"CT\0\x10\0",
        b"CT\x01\x20",
        b"A\0B\\C",
        b"CT\x10\0",
    ],
)
def test_text_that_takes_in_the_next_element_is_no_value(raw: bytes) -> None:
    with pytest.raises(BadValue, match=r"^control characters, as where a wrong length"):
        check_ends(raw)
