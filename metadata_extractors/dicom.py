"""The extractor of DICOM headers: one row's values by DICOM keyword."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final, cast
from warnings import WarningMessage

import pyarrow as pa
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.valuerep import STANDARD_VR

from metadata_extractors.base import Extraction, Prefix, Reader
from metadata_extractors.dicom_columns import Column, plan_columns
from metadata_extractors.dicom_header import (
    Element,
    Header,
    NotRead,
    may_be_dicom,
    pydicom_quietly,
    read_header,
)
from metadata_extractors.dicom_values import (
    BINARY_VRS,
    CHARSET_VRS,
    STRUCT_CODES,
    TEXT_PARSERS,
    BadValue,
    attribute_tags,
    check_ends,
    numbers,
    texts,
    years,
)
from metadata_extractors.ranged import from_front

_PIXEL_REPRESENTATION: Final = 0x00280103
_SIGNED: Final = b"\x01"
_CHARACTER_SET: Final = 0x00080005
_VRS: Final = frozenset(map(str, STANDARD_VR))

MAX_VALUE_BYTES: Final = 1024 * 1024
"""Of text and numbers: a hostile list of millions costs seconds."""


class DicomExtractor:
    """Reads DICOM headers. `columns` are names as `plan_columns` takes them; None means the usual ones.

    Values come from the data set's top level and from the file meta information, never from behind the
    pixel data. A value that is none of its VR becomes null, and a problem.
    """

    name = "dicom"
    version = "1"

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self._columns = plan_columns(columns)
        self._tags = frozenset(column.tag for column in self._columns) | {_PIXEL_REPRESENTATION}
        self._nested = any(column.as_json for column in self._columns)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([column.field for column in self._columns])

    def matches(self, key: str, size: int | None, head: bytes) -> bool:  # noqa: ARG002  # names lie
        return may_be_dicom(head)

    def extract(self, reader: Reader) -> Extraction:
        return from_front(reader, self.parse)

    def parse(self, prefix: Prefix) -> Extraction:
        """The values in the header. Raises `NeedMoreBytes` if it goes on after a prefix that is not the
        last: no value is ever taken from a header cut short by us."""
        with pydicom_quietly() as caught:
            try:
                header = read_header(prefix, self._tags, nested=self._nested)
            except NotRead as why:
                return Extraction(why.outcome, {}, tuple(map(str, [why] if str(why) else [])))
            problems = [*header.problems, *_structural(caught)]
            values = {}
            for column in self._columns:
                caught.clear()
                value, wrong = _value(header, column)
                values[column.name] = value
                if caught and column.vr in CHARSET_VRS:
                    wrong = wrong or "text is not in the character set it declares"
                if wrong:
                    problems.append(f"{column.name}: {wrong}")
        return Extraction("partial" if header.problems else "ok", values, tuple(problems))


def _structural(caught: list[WarningMessage]) -> list[str]:
    """What pydicom warned of while it read elements, in words that hold no value."""
    found = []
    for warning in caught:
        message = str(warning.message)
        if message.startswith("Expected "):
            found.append(message.partition(" - ")[0])
        elif "ncoding" in message or "Specific Character Set" in message or "extension" in message:
            found.append("SpecificCharacterSet: not as the standard writes it")
    return list(dict.fromkeys(found))


def _value(header: Header, column: Column) -> tuple[object, str]:
    """The column's value (None where there is none) and what was wrong with it ("" where nothing)."""
    element = header.elements.get(column.tag)
    if element is None or (isinstance(element, RawDataElement) and not element.value):
        return None, ""
    try:
        if column.as_json:
            return _json(element, header), ""
        if column.tag == _CHARACTER_SET and not isinstance(element, RawDataElement):
            return _character_sets(element), ""
        if not isinstance(element, RawDataElement):
            return None, "a sequence, where the dictionary has a value"
        found, wrong = _values(element, header, column)
    except BadValue as bad:
        return None, str(bad)
    except Exception as error:  # noqa: BLE001  # damaged values fail in pydicom's converters in many ways
        return None, f"cannot be read ({type(error).__name__})"
    if column.many:
        return (found if any(value is not None for value in found) else None), wrong
    if len(found) == 1:
        return found[0], wrong
    return _one_of_several(found, column)


def _character_sets(element: DataElement) -> list[str | None] | None:
    """The values of SpecificCharacterSet, which pydicom converts when it meets it."""
    written = [element.value] if element.VM <= 1 else list(element.value)
    names = [str(name or "").strip(" \0") or None for name in written]
    return names if any(names) else None


def _one_of_several(found: list[object], column: Column) -> tuple[object, str]:
    """Several values where the dictionary allows one: text is kept as it stands, of others none."""
    several = f"{len(found)} values, where the dictionary allows one"
    if column.form == "text" or (column.form == "value" and pa.types.is_string(column.field.type)):
        return "\\".join(str(value or "") for value in found), several
    return None, several


def _values(element: RawDataElement, header: Header, column: Column) -> tuple[list[object], str]:
    raw = cast("bytes", element.value)
    if len(raw) > MAX_VALUE_BYTES and column.vr not in BINARY_VRS:
        raise BadValue(f"longer than {MAX_VALUE_BYTES // 2**20} MiB")
    vr = _actual_vr(element, header, column)
    if vr in STRUCT_CODES and (column.vr in STRUCT_CODES or column.vr == "US or SS"):
        return list(numbers(raw, vr, element.is_little_endian)), ""
    if column.vr in STRUCT_CODES or column.vr == "US or SS":
        written = element.VR if element.VR in _VRS else "no VR of the standard"  # bytes of the file
        raise BadValue(f"written as {written}, where the dictionary has {column.vr}")
    if column.vr in BINARY_VRS:
        return [raw], ""
    if column.vr == "AT":
        return list(attribute_tags(raw, element.is_little_endian)), ""
    if not column.identifying:
        check_ends(raw)
    parse: Callable[[str], object] = str
    if column.form == "years":
        parse = years
    elif column.form == "value":
        parse = TEXT_PARSERS.get(column.vr, str)
    return _parsed(texts(raw, column.vr, header.encodings), parse)


def _parsed(written: list[str | None], parse: Callable[[str], object]) -> tuple[list[object], str]:
    """Each text's value; null for an empty or a bad one."""
    found: list[object] = []
    wrong = ""
    for text in written:
        try:
            found.append(None if text is None else parse(text))
        except BadValue as bad:
            found.append(None)
            wrong = str(bad)
    return found, wrong


def _actual_vr(element: RawDataElement, header: Header, column: Column) -> str:
    """How the number is encoded: as the file says, or by the dictionary where it does not say."""
    if element.VR in STRUCT_CODES:
        return str(element.VR)
    if column.vr != "US or SS":
        return column.vr if element.VR in {None, "UN"} else str(element.VR)
    pixels = header.elements.get(_PIXEL_REPRESENTATION)
    signed = isinstance(pixels, RawDataElement) and (pixels.value or b"").strip(b"\0") == _SIGNED
    return "SS" if signed else "US"


def _json(element: Element, header: Header) -> str:
    """The element as the DICOM JSON model writes it (PS3.18, F.2)."""
    if isinstance(element, RawDataElement):
        element = convert_raw_data_element(element, encoding=header.encodings, ds=header.dataset)
    return json.dumps(element.to_json_dict(None, 0), sort_keys=True)
