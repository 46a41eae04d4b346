"""DICOM files with a mark in every attribute that identifies, whole and damaged; and where such a mark shows.

Marks of text are in no dictionary; those of dates, times, ages and numbers are values that nothing else has.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from metadata_extractors.dicom_columns import plan_columns
from tests.dicom_files import dicom, explicit

NAME: Final = "Zqxmark"
"""In every text."""
NUMBER: Final = "97531864209"
"""In every UID."""

_BY_VR: Final = {
    "PN": f"{NAME}^Jane",
    "LO": f"{NAME} long",
    "SH": f"{NAME} sh",
    "LT": f"{NAME} text",
    "CS": "ZQXMARK",
    "UI": f"1.2.{NUMBER}.1",
    "DA": "18731109",
    "TM": "231947.918273",
    "AS": "097Y",
    "DS": "73.918273",
}

MARKS: Final = (
    NAME, "ZQXMARK", NUMBER, "18731109", "1873-11-09", "1873, 11, 9", "231947.918273", "23:19:47.918273",
    "097Y", "73.918273",
)  # fmt: skip
"""How the values may look when they are told, in any case of letters."""

PRIVATE: Final = ("00291001", "00291010")


def identifying() -> dict[str, str]:
    """The identifying columns that there are without asking, each with its marked value."""
    columns = [c for c in plan_columns(None) if c.identifying and c.form == "value"]
    return {column.name: _BY_VR[column.vr] for column in columns}


def plain() -> dict[str, Any]:
    """Of the other columns some."""
    return {"Modality": "CT", "Rows": 512, "Columns": 512, "SliceThickness": "2.5", "Manufacturer": "ACME"}


def marked(**values: Any) -> bytes:
    """A well-formed file."""
    return dicom(**{**plain(), **identifying(), **values})


@cache
def damaged() -> dict[str, bytes]:
    """By what is wrong with it. pydicom's own log tells of the bad values, as they are written."""
    whole = marked()
    header = len(whole) - 256 * 64 - 12
    found = {
        "implicit VR": _written(ImplicitVRLittleEndian),
        "deflated": _written(DeflatedExplicitVRLittleEndian),
        "cut in the name": whole[: whole.index(NAME.encode()) + 4],
        "cut behind the names": whole[: header - 40],
        "character set that there is not": marked(SpecificCharacterSet="ISO_IR 999"),
        "text in another character set": _replaced(whole, NAME.encode() + b"^", NAME.encode() + b"\xff"),
        "patient's name as a number": _of_vr("PatientName", "US"),
        "patient's name as bytes": _of_vr("PatientName", "UN"),
        "patient's name as a VR that there is not": _of_vr("PatientName", "Zq"),
        "date that is none": marked(StudyDate=f"{NAME}"),
        "age that is none": marked(PatientAge=f"{NAME}"),
        "numbers that are none": _replaced(whole, b"73.918273 ", f"{NAME:10}".encode()),
        "many names where one is allowed": marked(PatientID=[f"{NAME}{n}" for n in range(50)]),
        "a very long name": marked(StudyDescription=NAME * 20_000),
        "private element": dicom(**plain(), pixels=False)
        + explicit(0x00291001, "LO", f"{NAME} private ".encode()),
        "private sequence that ends nowhere": dicom(**plain(), pixels=False)
        + explicit(0x00291010, "SQ", NAME.encode() * 3),
        "a stray delimiter": dicom(**plain(), pixels=False)
        + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        + NAME.encode(),
        "no DICOM": NAME.encode() * 100,
        "DICM and then a name": bytes(128) + b"DICM" + NAME.encode() * 100,
        "two kinds of VR": whole[:header] + struct.pack("<HHL", 0x0040, 0x0280, 8) + NAME.encode()[:8],
    }
    for keyword in ("Modality", "Manufacturer", "Rows", "SliceThickness", "ImageType"):
        for beyond in (30, 60, 200):
            found[f"{keyword} runs on by {beyond} bytes"] = _running_on(keyword, beyond)
    return found


def _written(syntax: Any) -> bytes:
    return dicom(syntax, **{**plain(), **identifying()})


def _replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


def _element(data: bytes, keyword: str) -> tuple[int, int, int]:
    """Where an element of a short form stands, the place of its value, and its length (bytes)."""
    tag = Tag(keyword)
    start = data.index(struct.pack("<HH", tag.group, tag.element) + dictionary_VR(tag).encode()[:2])
    (length,) = struct.unpack_from("<H", data, start + 6)
    return start, start + 8, length


def _of_vr(keyword: str, vr: str) -> bytes:
    data = marked()
    start, _, _ = _element(data, keyword)
    return data[: start + 4] + vr.encode() + data[start + 6 :]


def _running_on(keyword: str, beyond: int) -> bytes:
    """The element claims the bytes of those behind it."""
    data = marked(ImageType=["ORIGINAL", "PRIMARY"])
    start, _, length = _element(data, keyword)
    return data[: start + 6] + struct.pack("<H", length + beyond) + data[start + 8 :]


def shows(told: str | bytes) -> list[str]:
    """The marks that show in what was told, as text, as UTF-16, or in hexadecimal digits or base64."""
    data = told.encode("utf-8", "surrogatepass") if isinstance(told, str) else told
    folded = data.lower()
    return [mark for mark in MARKS if any(form.lower() in folded for form in _forms(mark))]


def _forms(mark: str) -> Iterator[bytes]:
    yield mark.encode()
    yield mark.encode("utf-16-le")
    yield mark.encode().hex().encode()


def as_text(table: Any) -> str:
    """All that an Arrow table says: names, metadata, and every value."""
    about = {
        "schema": {str(k): str(v) for k, v in (table.schema.metadata or {}).items()},
        "fields": [[field.name, str(field.type), str(field.metadata)] for field in table.schema],
        "rows": [{name: str(value) for name, value in row.items()} for row in table.to_pylist()],
    }
    return json.dumps(about, ensure_ascii=False)


def readable(data: bytes, keywords: Iterable[str]) -> dict[str, Any]:
    """What pydicom reads of a well-formed file."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    return {keyword: dataset.get(keyword) for keyword in keywords}
