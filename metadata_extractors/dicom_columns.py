"""PURE: columns by DICOM keyword, and the one type that each has.

Types follow from the data dictionary (PS3.6) alone. An attribute that may have several values by its VM there
is always a list, also where a file has one; any other is never a list.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import pyarrow as pa
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_dict, tag_for_keyword

from metadata_extractors.dicom_usual import DEFAULT_COLUMNS, UNITS
from metadata_extractors.dicom_values import BINARY_VRS, TYPED_TEXT_VRS
from metadata_extractors.identifying import is_identifying
from snapengine.errors import UsageError

Form = Literal["value", "years", "text"]
"""The value in its VR's type; an age (AS) in years; the text as it was written."""

_SUFFIXES: Final[tuple[tuple[str, Form, frozenset[str]], ...]] = (
    ("Years", "years", frozenset({"AS"})),
    ("Text", "text", TYPED_TEXT_VRS),
)

__all__ = ["DEFAULT_COLUMNS", "Column", "plan_columns"]

_PIXEL_GROUP: Final = 0x7FE0


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the frame."""

    name: str
    tag: int
    vr: str
    """The dictionary's, such as `US or SS`; of a private element `UN`."""
    many: bool
    """A list, by the dictionary's VM."""
    identifying: bool
    form: Form = "value"

    @property
    def as_json(self) -> bool:
        """A sequence or a private element: text in the DICOM JSON model (PS3.18, annex F)."""
        return self.vr == "SQ" or (self.tag >> 16) % 2 == 1

    @property
    def field(self) -> pa.Field:
        """Name, type and what is known of the column: `tag`, `vr`, `identifying`, `unit`."""
        unit = "a" if self.form == "years" else UNITS.get(self.name, "")
        metadata = {"unit": unit} if unit else {}
        metadata |= {
            "tag": f"{self.tag:08X}",
            "vr": self.vr,
            "identifying": str(self.identifying).lower(),
        }
        kind = self._type()
        return pa.field(self.name, pa.list_(kind) if self.many else kind, metadata=metadata)

    def _type(self) -> pa.DataType:
        if self.as_json or self.form == "text":
            return pa.string()
        if self.form == "years":
            return pa.float64()
        return _types().get(self.vr, pa.string())


@cache
def _types() -> dict[str, pa.DataType]:
    """What is not text."""
    return {
        "DA": pa.date32(),
        "TM": pa.time64("us"),
        "DT": pa.timestamp("us"),
        "DS": pa.float64(),
        "FL": pa.float64(),
        "FD": pa.float64(),
        **dict.fromkeys(("IS", "US", "SS", "UL", "SL", "SV", "US or SS"), pa.int64()),
        "UV": pa.uint64(),
        **dict.fromkeys(BINARY_VRS, pa.binary()),
    }


def plan_columns(names: Sequence[str] | None) -> tuple[Column, ...]:
    """The columns for these names, in their order, each once; None means `DEFAULT_COLUMNS`.

    A name is a DICOM keyword; or the keyword of an age (AS) with `Years` after it, which the keyword alone
    brings too; or that of a date, a time or a number written as text (DA, TM, DT, DS, IS) with `Text` after
    it; or the eight hexadecimal digits of a private tag. Raises `UsageError` for any other.
    """
    if isinstance(names, str):
        raise UsageError(f"columns must be a list of names, as in columns=[{names!r}].")
    planned: dict[str, Column] = {}
    for name in DEFAULT_COLUMNS if names is None else names:
        column = _column(name)
        planned.setdefault(column.name, column)
        if column.vr == "AS" and column.form == "value":
            beside = _derived(column, "Years", "years")
            planned.setdefault(beside.name, beside)
    return tuple(planned.values())


def _column(name: str) -> Column:
    tag = tag_for_keyword(name) if name else None  # nameless retired elements have the keyword ""
    if tag is not None:
        return _standard(name, tag)
    for suffix, form, vrs in _SUFFIXES:
        keyword = name.removesuffix(suffix)
        base = tag_for_keyword(keyword) if keyword and keyword != name else None
        if base is not None and dictionary_VR(base) in vrs:
            return _derived(_standard(keyword, base), suffix, form)
    if re.fullmatch(r"[0-9A-Fa-f]{3}[13579BDFbdf][0-9A-Fa-f]{4}", name):
        return Column(name.upper(), int(name, 16), "UN", many=False, identifying=is_identifying("", "UN"))
    raise UsageError(f"{name!r} is no DICOM keyword{_nearest(name)}")


def _standard(keyword: str, tag: int) -> Column:
    if tag >> 16 == _PIXEL_GROUP:
        raise UsageError(f"{keyword!r} is no metadata: headers are read up to group 7FE0 and no further.")
    vr = dictionary_VR(tag)
    many = dictionary_VM(tag) != "1" and vr != "SQ"
    return Column(keyword, tag, vr, many, is_identifying(keyword, vr))


def _derived(column: Column, suffix: str, form: Form) -> Column:
    return Column(column.name + suffix, column.tag, column.vr, column.many, column.identifying, form)


def _nearest(name: str) -> str:
    lowered = {keyword.lower(): keyword for keyword in keyword_dict if keyword}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f"; did you mean {lowered[close[0]]!r}?" if close else "."
