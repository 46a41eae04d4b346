"""DCMTK's dcmdump as the oracle: what it reads of a file, and what the extractor reads of its first bytes.

All files of pydicom's wheel and of pydicom-data. What differs is listed, file by file, with the reason.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import date, time
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from metadata_extractors.base import Extraction
from metadata_extractors.dicom import DicomExtractor
from metadata_extractors.dicom_columns import plan_columns
from metadata_extractors.ranged import RangedReader, extract_from
from tests.dicom_files import FILES

CHARSET_VRS: Final = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}

ATTRIBUTES: Final = [
    "TransferSyntaxUID", "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate",
    "StudyTime", "AccessionNumber", "Modality", "Manufacturer", "ManufacturerModelName", "SeriesDescription",
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight",
    "SliceThickness", "KVP", "RepetitionTime", "EchoTime", "MagneticFieldStrength", "StudyInstanceUID",
    "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "ImagePositionPatient",
    "ImageOrientationPatient", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "BitsAllocated", "BitsStored", "PixelRepresentation", "SmallestImagePixelValue",
    "WindowCenter", "RescaleIntercept", "RescaleSlope",
]  # fmt: skip


def data_files() -> list[Path]:
    """Those of the package pydicom-data."""
    spec = importlib.util.find_spec("data_store")
    assert spec is not None
    assert spec.origin is not None
    return sorted(path for path in (Path(spec.origin).parent / "data").rglob("*") if path.is_file())


DATA_FILES: Final = data_files()

MORE_OPTIONS: Final = {
    "SC_rgb_jpeg.dcm": ["-vr"],
    "rtplan_truncated.dcm": ["+sb", "300a,00b0"],
}
"""Where dcmdump must be told how to read: of the first file the VRs are implicit, though its transfer
syntax says explicit; the second ends within the sequence of its beams, and dcmdump prints nothing then."""

DIFFERENCES: Final = {
    (
        "chrX1.dcm",
        "PatientName",
    ): "an empty third component group may be left out (PS3.5, 6.2.1): pydicom does",
    ("chrX2.dcm", "PatientName"): "the same",
}

READ_BY_NEITHER: Final = {
    "FileInfo.txt", "README", "README.txt", "crayons.icc", "rtplan.dump", "rtstruct.dump", "test1.json",
    "test_PN.json", "zipMR.gz", "no_meta.dcm",
}  # fmt: skip
"""No DICOM; the last is DICOM damaged in its first tag."""


@pytest.fixture(scope="module", autouse=True)
def _dcmdump() -> None:
    """In CI a missing dcmdump is a failure: there, a skip would go unseen."""
    if shutil.which("dcmdump") is None:
        missing = "dcmdump is not installed: `apt-get install dcmtk`"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have it: {missing}", pytrace=False)
        pytest.skip(missing)


@cache
def dumped(path: Path) -> dict[str, tuple[str, str]]:
    """Tag to what dcmdump prints of it, of the top level.

    Text is as dcmdump makes UTF-8 of it; the rest is as it stands, for making UTF-8 changes
    SpecificCharacterSet too.
    """
    plain = dump(path).decode("latin-1")
    unicode = dump(path, "+U8").decode("utf-8") or by_python(plain)
    found = elements(plain)
    return found | {tag: text for tag, text in elements(unicode).items() if text[0] in CHARSET_VRS}


def dump(path: Path, *more: str) -> bytes:
    arguments = [
        "dcmdump",
        "-q",
        "+L",
        "-Un",
        "-M",
        "+uc",
        "+Ep",
        *MORE_OPTIONS.get(path.name, []),
        *more,
        str(path),
    ]
    return subprocess.run(arguments, capture_output=True, timeout=60, check=False).stdout


def by_python(plain: str) -> str:
    """Of the Japanese files: the iconv that DCMTK is built with lacks their character sets."""
    lines = (line.encode("latin-1").split(b"=") for line in plain.split("\n"))
    return "\n".join(
        "=".join(part.decode("iso2022_jp" if b"\x1b" in part else "shift_jis", "replace") for part in line)
        for line in lines
    )


def elements(text: str) -> dict[str, tuple[str, str]]:
    """Tag to VR and value."""
    line = re.compile(
        r"^\(([0-9a-f]{4}),([0-9a-f]{4})\) (\w\w) (.*?) +# +[\w-]+, *[\w-]+ [^\n]+$", re.MULTILINE | re.DOTALL
    )
    return {match[1] + match[2]: (match[3], match[4]) for match in line.finditer(text)}


def value(element: tuple[str, str] | None) -> str:
    """Without brackets, and without padding; "" for none."""
    printed = element[1] if element else "(no value available)"
    if printed.startswith("(no value available)"):
        return ""
    return (printed[1:-1] if printed.startswith("[") else printed).strip(" \0")


def day(text: str) -> date:
    digits = text.replace(".", "")
    return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))


def clock(text: str) -> time:
    digits, _, fraction = text.replace(":", "").partition(".")
    digits = digits.ljust(6, "0")
    return time(int(digits[:2]), int(digits[2:4]), int(digits[4:6]), int((fraction or "0").ljust(6, "0")))


CONVERT: Final[dict[str, Callable[[str], object]]] = {
    "DA": day, "TM": clock, "DS": float, "IS": lambda text: int(float(text)), "US": int, "US or SS": int,
}  # fmt: skip


def as_dcmtk(path: Path) -> dict[str, object]:
    """Name to value in the columns' types, made by other code than the extractor's."""
    printed = dumped(path)
    found: dict[str, object] = {}
    for column in plan_columns(ATTRIBUTES):
        text = value(printed.get(f"{column.tag:08x}"))
        if column.form != "value":
            continue
        convert = CONVERT.get(column.vr, str)
        try:
            whole = None if not text else convert(text) if not column.many else text
        except ValueError:
            whole = None  # the extractor says so in the row
        parts = [part.strip(" \0") for part in text.split("\\")] if column.many else [text]
        values = [convert(part) if part else None for part in parts] if column.many else []
        found[column.name] = (
            (values if any(item is not None for item in values) else None) if column.many else whole
        )
    return found


@cache
def ranged(path: Path) -> tuple[Extraction, int]:
    """What the extractor finds, and the bytes it read."""
    data = path.read_bytes()
    reader = RangedReader(lambda start, end: data[start:end], len(data))
    return extract_from(DicomExtractor(ATTRIBUTES), reader), reader.fetched


@pytest.mark.parametrize("path", [*FILES, *DATA_FILES], ids=lambda path: path.name)
def test_values_are_those_of_dcmtk(path: Path) -> None:
    found, _ = ranged(path)
    oracle = as_dcmtk(path)
    differs = {
        name: (found.values.get(name), other)
        for name, other in oracle.items()
        if found.values.get(name) != other
    }
    assert set(differs) == {name for file, name in DIFFERENCES if file == path.name}
    assert (found.outcome == "not_matched") == (path.name in READ_BY_NEITHER)
    assert not (found.outcome == "not_matched" and any(oracle.values()))


def test_many_values_of_many_attributes_were_compared() -> None:
    compared = [
        name for path in [*FILES, *DATA_FILES] for name, found in as_dcmtk(path).items() if found is not None
    ]
    assert len(set(compared)) == len(ATTRIBUTES) >= 13
    assert len(compared) > 4000


def test_at_most_a_third_of_the_bytes_is_read() -> None:
    size = sum(path.stat().st_size for path in DATA_FILES)
    read = sum(ranged(path)[1] for path in DATA_FILES)
    assert len(DATA_FILES) > 60
    assert read / size <= 0.35
