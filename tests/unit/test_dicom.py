"""DICOM headers: whole, cut, damaged, hostile."""

from __future__ import annotations

import logging
import random
import struct
import warnings
import zlib
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pydicom
import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from metadata_extractors.base import Extraction, NeedMoreBytes, Prefix
from metadata_extractors.dicom import DicomExtractor
from metadata_extractors.dicom_columns import DEFAULT_COLUMNS, plan_columns
from metadata_extractors.dicom_header import NotRead, pydicom_quietly, read_header
from metadata_extractors.ranged import RangedReader, extract_from
from tests.dicom_files import FILES, WHEEL, cut, dicom, explicit, extract, whole, with_raw

NOT_DICOM = {"README", "README.txt", "FileInfo.txt", "crayons.icc", "test1.json", "test_PN.json", "zipMR.gz"}
DAMAGED_BEFORE_ITS_FIRST_TAG = "no_meta.dcm"
WIDE = (*DEFAULT_COLUMNS, "SmallestImagePixelValue", "ReferencedImageSequence")
"""The usual columns, one whose VR depends on another element, a sequence."""


@cache
def wide() -> DicomExtractor:
    return DicomExtractor(WIDE)


# Every file that pydicom brings


def as_pydicom_reads_it(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Keyword to value, by reading the whole file: the oracle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        dataset.update({} if "file_meta" not in dataset.__dict__ else dataset.file_meta)
        return {
            column.name: expected(dataset[column.tag])
            for column in plan_columns(list(names))
            if column.form == "value" and column.tag in dataset and not dataset[column.tag].is_empty
        }


def expected(element: Any) -> list[Any]:
    several = element.value if element.VM > 1 else [element.value]
    if element.VR == "DA":
        return [pydicom.valuerep.DA(value) for value in several]
    if element.VR == "TM":  # pydicom takes no colons (ACR-NEMA)
        return [pydicom.valuerep.TM(value.replace(":", "")) for value in several]
    if element.VR in {"DS", "IS"}:
        return [{"DS": float, "IS": int}[element.VR](value) for value in several]
    return [value if isinstance(value, int | float) else str(value).strip() or None for value in several]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_values_are_those_that_pydicom_reads_from_the_whole_file(path: Path) -> None:
    found = extract_from(
        DicomExtractor(),
        RangedReader(lambda start, end: path.read_bytes()[start:end], path.stat().st_size),
    )
    if path.name in NOT_DICOM or path.suffix == ".dump" or path.name == DAMAGED_BEFORE_ITS_FIRST_TAG:
        assert found.outcome == "not_matched"
        return
    assert found.outcome == ("partial" if path.name == "rtplan_truncated.dcm" else "ok")
    bad = {problem.partition(":")[0] for problem in found.problems}
    names = [name for name in DEFAULT_COLUMNS if name not in bad]
    oracle = as_pydicom_reads_it(path, names)
    for name in names:
        value = found.values[name]
        assert (value if isinstance(value, list) else [value]) == oracle.get(name, [None]), name


def test_only_one_file_of_pydicom_has_values_that_are_none_of_their_vr() -> None:
    found = {path.name: wide().parse(whole(path.read_bytes())).problems for path in FILES}
    assert {name: problems for name, problems in found.items() if problems} == {
        "SC_rgb_jpeg.dcm": ("Expected explicit VR, but found implicit VR",),
        "badVR.dcm": ("NumberOfFrames: no whole number (IS)",),
        "rtplan_truncated.dcm": ("the object ends within an element or at a stray delimiter",),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_header_cut_anywhere_asks_for_more_or_gives_what_the_whole_file_gives(path: Path) -> None:
    data = path.read_bytes()
    complete = wide().parse(whole(data))
    for length in cut_points(data, path.name):
        with suppress(NeedMoreBytes):
            assert wide().parse(cut(data, length)) == complete, length


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_object_that_ends_too_early_gives_true_values_or_none(path: Path) -> None:
    data = path.read_bytes()
    complete = wide().parse(whole(data))
    for length in cut_points(data, path.name):
        found = wide().parse(whole(data[:length]))
        for name, value in found.values.items():
            assert value is None or value == complete.values[name], (length, name)


def cut_points(data: bytes, seed: str) -> list[int]:
    """Lengths from 0 to the whole, most of them where headers are."""
    draw = random.Random(seed)
    header = min(len(data), 4000)
    return sorted({*(draw.randint(0, header) for _ in range(12)), draw.randint(0, len(data)), len(data)})


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "image_dfl.dcm"]
)
def test_a_header_cut_at_any_byte_at_all_gives_no_wrong_value(name: str) -> None:
    data = (WHEEL / "test_files" / name).read_bytes()
    columns = DicomExtractor(["PatientID", "Modality", "PixelSpacing", "Rows", "TransferSyntaxUID"])
    complete = columns.parse(whole(data))
    for length in range(0, min(len(data), 2600), 3):
        with suppress(NeedMoreBytes):
            assert columns.parse(cut(data, length)) == complete
        found = columns.parse(whole(data[:length]))
        assert all(
            value in {None, complete.values[key]}
            for key, value in found.values.items()
            if key != "PixelSpacing"
        )
        assert found.values.get("PixelSpacing") in (None, complete.values["PixelSpacing"])


def test_an_age_cut_by_us_is_never_a_shorter_age() -> None:
    data = dicom(PatientAge="063Y")
    at = data.index(b"063Y")
    for length in range(at, at + 4):
        with pytest.raises(NeedMoreBytes):
            DicomExtractor(["PatientAge"]).parse(cut(data, length))
        found = extract(data[:length], ["PatientAge"])
        assert (found.outcome, found.values["PatientAge"], found.values["PatientAgeYears"]) == (
            "partial",
            None,
            None,
        )


def test_nothing_behind_the_pixels_is_asked_for() -> None:
    data = dicom(PatientSex="F")
    pixels = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
    assert DicomExtractor(["PatientSex"]).parse(cut(data, pixels + 64)).values == {"PatientSex": "F"}


def test_a_deflated_file_is_inflated_no_further_than_to_its_pixels() -> None:
    data = (WHEEL / "test_files" / "image_dfl.dcm").read_bytes()
    asked: list[int] = []

    def read(start: int, end: int) -> bytes:
        asked.append(end)
        return data[start:end]

    small = extract_from(DicomExtractor(), RangedReader(read, len(data)))
    assert small.outcome == "ok"
    assert small == wide_of_default(data)
    assert DicomExtractor().parse(cut(data, len(data) // 2)) == small


def wide_of_default(data: bytes) -> Extraction:
    return DicomExtractor().parse(whole(data))


# What is no DICOM, or damaged


@given(st.binary(max_size=400))
def test_random_bytes_are_not_matched(data: bytes) -> None:
    assert extract(data, ["Modality"]).outcome == "not_matched"


@given(st.binary(max_size=400))
def test_random_bytes_after_the_magic_are_not_ok(data: bytes) -> None:
    assert extract(bytes(128) + b"DICM" + data, ["Modality"]).outcome in {"failed", "partial"}


@given(st.binary(max_size=60))
def test_random_bytes_after_a_plausible_first_element_are_not_matched(data: bytes) -> None:
    found = extract(explicit(0x00080008, "CS", b"ORIGINAL") + data, ["Modality"])
    assert found.outcome == "not_matched"


def test_a_file_without_preamble_is_read_if_it_has_a_sop_class() -> None:
    body = dicom(pixels=False, Modality="MR", syntax=ImplicitVRLittleEndian)
    start = body.index(struct.pack("<HHL", 0x0008, 0x0016, 26))
    assert extract(body[start:], ["Modality"]).values == {"Modality": "MR"}


def test_a_file_without_preamble_may_begin_with_the_length_of_its_group() -> None:
    body = dicom(pixels=False, Modality="MR", syntax=ImplicitVRLittleEndian)
    start = body.index(struct.pack("<HHL", 0x0008, 0x0016, 26))
    length = struct.pack("<HHLL", 0x0008, 0x0000, 4, 100)
    assert extract(length + body[start:], ["Modality"]).values == {"Modality": "MR"}


def test_the_character_sets_are_a_column_too() -> None:
    found = extract(dicom(SpecificCharacterSet=["", "ISO 2022 IR 87"]), ["SpecificCharacterSet"])
    assert found == Extraction("ok", {"SpecificCharacterSet": [None, "ISO 2022 IR 87"]})


@pytest.mark.parametrize("name", ["photo.jpg", "table.csv"])
def test_other_objects_are_known_as_such_by_their_first_bytes(name: str) -> None:
    first = {"photo.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF", "table.csv": b"id,age\n1,63\n"}[name]
    data = first + bytes(70_000)
    assert DicomExtractor().parse(cut(data, 65_536)).outcome == "not_matched"


def test_an_element_that_claims_4_gb_makes_the_row_partial() -> None:
    data = with_raw(struct.pack("<HH2sHL", 0x0028, 0x0010, b"OB", 0, 2**32 - 2) + bytes(100))
    found = extract(data, ["SOPInstanceUID", "Rows"])
    assert (found.outcome, found.values) == ("partial", {"SOPInstanceUID": "1.2.3.4", "Rows": None})
    assert found.problems == ("an element claims more bytes than the object has",)


def test_a_header_beyond_16_mib_gives_the_values_before_it() -> None:
    data = with_raw(explicit(0x00091010, "OB", bytes(64)) + explicit(0x00280010, "US", b"\x01\x00"))
    found = DicomExtractor(["SOPInstanceUID", "Rows"]).parse(Prefix(data[:-40], whole=False, last=True))
    assert (found.outcome, found.values) == ("partial", {"SOPInstanceUID": "1.2.3.4", "Rows": None})
    assert found.problems == ("the header is longer than 16 MiB, or cut",)


def test_a_stray_delimiter_does_not_pass_for_the_end() -> None:
    data = with_raw(struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + explicit(0x00280010, "US", b"\x01\x00"))
    found = extract(data, ["SOPInstanceUID", "Rows"])
    assert (found.outcome, found.values) == ("partial", {"SOPInstanceUID": "1.2.3.4", "Rows": None})


def test_a_sequence_without_end_keeps_the_values_before_it() -> None:
    data = with_raw(struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF))
    found = extract(data, ["SOPInstanceUID"])
    assert (found.outcome, found.values) == ("partial", {"SOPInstanceUID": "1.2.3.4"})


@pytest.mark.parametrize(
    "rest", [b"", bytes(3), bytes(8), b"abcdefgh" * 2000], ids=["none", "3", "8", "long"]
)
def test_a_value_without_end_keeps_the_values_before_it(rest: bytes) -> None:
    data = with_raw(struct.pack("<HH2sHL", 0x0028, 0x2000, b"OB", 0, 0xFFFFFFFF) + rest)
    found = extract(data, ["SOPInstanceUID"])
    assert (found.outcome, found.values) == ("partial", {"SOPInstanceUID": "1.2.3.4"})


@pytest.mark.parametrize("frames", range(8))
def test_sequences_nested_too_deep_fail_without_harm_wherever_the_stack_ends(frames: int) -> None:
    open_sequence = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    open_item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    data = with_raw((open_sequence + open_item) * 2000)

    def deeper(frames: int) -> Extraction:
        return deeper(frames - 1) if frames else extract(data, ["SOPInstanceUID"])

    found = deeper(frames)
    assert (found.outcome, found.problems) == ("failed", ("sequences are nested too deep",))


def test_a_deflate_bomb_is_left_at_64_mib() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = struct.pack("<HH2sHL", 0x0009, 0x1010, b"OB", 0, 200 * 2**20)
    packed = bomb.compress(explicit(0x00080060, "CS", b"MR") + head + bytes(80 * 2**20)) + bomb.flush()
    deflated = dicom(DeflatedExplicitVRLittleEndian, pixels=False)
    meta_end = 132 + 12 + struct.unpack("<L", deflated[140:144])[0]
    found = extract(deflated[:meta_end] + packed, ["Modality"])
    assert (found.outcome, found.values) == ("partial", {"Modality": "MR"})
    assert found.problems == ("the inflated header is longer than 64 MiB",)


@pytest.mark.parametrize("end", [-1, -8])
def test_deflated_data_that_end_too_early_are_partial(end: int) -> None:
    found = extract(dicom(DeflatedExplicitVRLittleEndian, pixels=False, Modality="MR")[:end], ["Modality"])
    assert found.outcome == "partial"


def test_reading_that_takes_too_long_is_a_timeout() -> None:
    with pydicom_quietly(), pytest.raises(NotRead) as raised:
        read_header(whole(dicom()), [], seconds=-1)
    assert raised.value.outcome == "timeout"


def test_what_pydicom_swallows_is_still_a_demand_for_more_bytes() -> None:
    """`read_sequence_item` turns every exception into OSError."""
    data = with_raw(struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF))
    with pytest.raises(NeedMoreBytes):
        DicomExtractor(["Modality"]).parse(Prefix(data, whole=False, last=False))


def test_damaged_files_never_raise_and_always_fit_the_schema() -> None:
    draw = random.Random(7)
    names = [
        "CT_small.dcm",
        "MR_small_implicit.dcm",
        "chrH31.dcm",
        "reportsi.dcm",
        "image_dfl.dcm",
        "priv_SQ.dcm",
    ]
    whole_files = [path.read_bytes() for path in FILES if path.name in names]
    for _ in range(400):
        data = bytearray(draw.choice(whole_files)[:4000])
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        values = wide().parse(whole(bytes(data))).values
        pa.RecordBatch.from_pylist([dict(values)], schema=wide().schema)


# Privacy


def test_no_value_reaches_a_problem_a_warning_or_the_log(caplog: pytest.LogCaptureFixture) -> None:
    secret = b"SECRET"
    data = dicom(pixels=False, SpecificCharacterSet="SECRET")
    for column in plan_columns([*DEFAULT_COLUMNS, "ReferencedImageSequence", "00291010"]):
        if column.form == "value" and column.tag > 0x00080018:
            vr = column.vr if len(column.vr) == 2 else "UN"
            data += explicit(column.tag, vr, secret + b"\\" + secret + b"\xff")
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        found = extract(data, [*DEFAULT_COLUMNS, "ReferencedImageSequence", "00291010"])
    assert len(found.problems) > 5
    assert "SECRET" not in "".join(found.problems)
    assert "SECRET" not in caplog.text


def test_the_log_of_pydicom_is_silent_only_while_we_read(caplog: pytest.LogCaptureFixture) -> None:
    with pydicom_quietly() as caught:
        logging.getLogger("pydicom").warning("of a value")
        warnings.warn("of a value", stacklevel=1)
    logging.getLogger("pydicom").warning("afterwards")
    assert (caplog.messages, len(caught)) == (["afterwards"], 1)
