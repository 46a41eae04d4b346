"""The quick way through a DICOM header: it says what pydicom says, or leaves the word to it."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
from pydicom.uid import ImplicitVRLittleEndian

from metadata_extractors.base import NeedMoreBytes, Prefix
from metadata_extractors.dicom import DicomExtractor
from metadata_extractors.dicom_columns import plan_columns
from metadata_extractors.dicom_header import Header, NotRead, pydicom_quietly, read_header
from metadata_extractors.dicom_scan import TooSlow, scan
from tests.dicom_files import FILES, WHEEL, cut, dicom, explicit, whole, with_raw

TAGS = frozenset(column.tag for column in plan_columns(None)) | {0x00280103}


def by_pydicom(prefix: Prefix) -> Header | None:
    try:
        with pydicom_quietly():
            return read_header(prefix, TAGS)
    except NotRead:
        return None


@cache
def data_files() -> list[Path]:
    """Those of the package pydicom-data, which is installed for development."""
    folder = Path(str(files("data_store"))) / "data"
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_says_what_pydicom_says(prefix: Prefix) -> bool:
    """Whether it said anything."""
    with pydicom_quietly():
        scanned = scan(prefix, TAGS, 10)
    if scanned is None:
        return False
    header = by_pydicom(prefix)
    assert header is not None
    assert header.problems == ()
    assert scanned.encodings == header.encodings
    wanted = {tag for tag in header.elements if tag in TAGS or tag >> 16 == 2 or tag == 0x00080005}
    assert wanted == set(scanned.elements)
    for tag in wanted:
        ours, theirs = scanned.elements[tag], header.elements[tag]
        assert (ours.VR, ours.value or None) == (theirs.VR, theirs.value or None)
        assert getattr(ours, "is_little_endian", True) == getattr(theirs, "is_little_endian", True)
    return True


def test_it_reads_nearly_every_file_at_hand_and_as_pydicom_does() -> None:
    paths = [*FILES, *data_files()]
    left = [path.name for path in paths if not assert_says_what_pydicom_says(whole(path.read_bytes()))]
    assert len(paths) - len(left) > 220
    assert {"CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "chrH31.dcm"}.isdisjoint(left)
    odd = {"no_meta.dcm", "image_dfl.dcm", "SC_rgb_jpeg.dcm", "rtplan_truncated.dcm", "UN_sequence.dcm"}
    assert odd <= set(left)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_header_cut_anywhere_asks_for_more_or_is_left_to_pydicom(path: Path) -> None:
    data = path.read_bytes()
    draw = random.Random(path.name)
    for length in {draw.randint(0, min(len(data), 4000)) for _ in range(25)}:
        with suppress(NeedMoreBytes):
            assert_says_what_pydicom_says(cut(data, length))
        assert_says_what_pydicom_says(whole(data[:length]))
        assert_says_what_pydicom_says(Prefix(data[:length], whole=False, last=True))


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_a_damaged_header_is_read_as_pydicom_reads_it_or_left_to_it(syntax: str | None) -> None:
    draw = random.Random(11)
    sound = [path.read_bytes()[:5000] for path in FILES if path.stat().st_size > 600]
    sound = [data for data in sound if (b"1.2.840.10008.1.2\0" in data[:400]) == (syntax is not None)]
    said = 0
    for _ in range(1500):
        data = bytearray(draw.choice(sound))
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(132, min(len(data), 3000))] = draw.choice(
                [0, 1, 8, 0xFE, 0xFF, draw.randrange(256)]
            )
        with suppress(NeedMoreBytes):
            said += assert_says_what_pydicom_says(Prefix(bytes(data), whole=draw.random() < 0.5, last=True))
    assert said > 100


def sequence(*items: bytes, ends: bool = True) -> bytes:
    """ReferencedImageSequence of undefined length, its items too."""
    head = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    body = b"".join(
        struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + item + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
        for item in items
    )
    return head + body + (struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) if ends else b"")


ROWS = explicit(0x00280010, "US", b"\x07\x00")


def test_what_stands_in_a_sequence_is_not_taken_for_the_object_s_own() -> None:
    data = with_raw(sequence(ROWS, sequence(ROWS), b"") + explicit(0x00280011, "US", b"\x09\x00"))
    assert assert_says_what_pydicom_says(whole(data))
    assert DicomExtractor(["Rows", "Columns"]).parse(whole(data)).values == {"Rows": None, "Columns": 9}


@pytest.mark.parametrize(
    "odd",
    [
        sequence(ROWS, ends=False),
        sequence(ROWS)[:-8] + ROWS + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0),
        sequence(struct.pack("<HH2sHL", 0x0028, 0x2000, b"OB", 0, 0xFFFFFFFF)),
        struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + ROWS,
        struct.pack("<HH2sHL", 0x0028, 0x2000, b"OB", 0, 0xFFFFFFFF) + bytes(16),
        struct.pack("<HH2sH", 0x0028, 0x0010, b"ZZ", 2) + b"\x01\0",
        struct.pack("<HH2sH", 0x0028, 0x0010, b"US", 200) + b"\x01\0",
        sequence(*[sequence(sequence(sequence(ROWS)))] * 2)[:-12],
    ],
    ids=["no end", "no item", "undefined", "delimiter", "bytes", "unknown VR", "too long", "cut"],
)
def test_the_slightest_oddity_is_left_to_pydicom(odd: bytes) -> None:
    assert not assert_says_what_pydicom_says(whole(with_raw(odd)))


def test_sequences_nested_beyond_reason_are_left_to_pydicom() -> None:
    nested = ROWS
    for _ in range(60):
        nested = sequence(nested)
    assert not assert_says_what_pydicom_says(whole(with_raw(nested)))


def test_a_character_set_that_no_standard_names_is_left_to_pydicom() -> None:
    assert not assert_says_what_pydicom_says(whole(dicom(SpecificCharacterSet="ISO-IR 9999", Modality="MR")))
    assert assert_says_what_pydicom_says(whole(dicom(SpecificCharacterSet="ISO_IR 192", Modality="MR")))


def test_time_is_limited() -> None:
    with pytest.raises(TooSlow):
        scan(whole(dicom()), TAGS, -1)
    with pytest.raises(NotRead) as raised:
        read_header(whole(dicom()), TAGS, seconds=-1, nested=False)
    assert raised.value.outcome == "timeout"


def test_columns_that_are_nested_or_private_are_pydicom_s() -> None:
    data = (WHEEL / "test_files" / "CT_small.dcm").read_bytes()
    found = DicomExtractor(["00091001", "Rows"]).parse(whole(data))
    assert found.values["Rows"] == 128
    assert found.values["00091001"] is not None
