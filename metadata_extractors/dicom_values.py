"""PURE: a DICOM element's bytes to values of one Python type for each VR (PS3.5, section 6.2).

Every function here gives a value, or None for an empty one, or raises `BadValue`, whose text says what is
wrong and never holds the value: it may identify a patient.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from typing import Final

from pydicom.charset import default_encoding
from pydicom.multival import MultiValue
from pydicom.values import convert_PN, convert_single_string, convert_text

INT64_MAX: Final = 2**63 - 1
DAYS_A_YEAR: Final = 365.25


class BadValue(ValueError):
    """A value that is none of its VR."""


CHARSET_VRS: Final = frozenset({"SH", "LO", "ST", "LT", "UC", "UT", "PN"})
"""VRs that Specific Character Set applies to."""
UNSPLIT_VRS: Final = frozenset({"ST", "LT", "UT", "UR"})
"""Text in which a backslash is a character and leading spaces count."""
TYPED_TEXT_VRS: Final = frozenset({"DA", "TM", "DT", "DS", "IS"})
"""VRs written as text that become another type."""
BINARY_VRS: Final = frozenset(
    {"OB", "OW", "OF", "OD", "OL", "OV", "UN", "OB or OW", "US or OW", "US or SS or OW"}
)
STRUCT_CODES: Final = {
    "US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d",
}  # fmt: skip


def texts(raw: bytes, vr: str, encodings: Sequence[str]) -> list[str | None]:
    """The values of an element of a text VR, without padding; None for an empty one."""
    values: object
    if vr == "PN":
        values = convert_PN(raw, list(encodings))
    elif vr in CHARSET_VRS:
        convert = convert_single_string if vr in UNSPLIT_VRS else convert_text
        values = convert(raw, list(encodings))
    elif vr in UNSPLIT_VRS:
        values = raw.decode(default_encoding)
    else:
        values = raw.decode(default_encoding).split("\\")
    several = values if isinstance(values, list | MultiValue) else [values]
    return [_clean(str(value), vr) for value in several]


def _clean(text: str, vr: str) -> str | None:
    text = text.rstrip(" \0") if vr in UNSPLIT_VRS or vr in {"PN", "UC"} else text.strip(" \0")
    # A file may name any codec of Python's as its character set, also one that yields lone surrogates.
    return text.encode("utf-8", "replace").decode("utf-8") or None


_RUN_ON: Final = re.compile(rb"[\x01-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]|\0(?![ \0]*(?:\\|\Z))")
"""Control characters but tab, line feed, form feed, carriage return and escape; NUL but as padding."""


def check_ends(raw: bytes) -> None:
    """Refuses text that goes on into the next element, as where a length is wrong: the tag and the length of
    that one show in it. A patient's name that stands there would otherwise be a value of this attribute."""
    if _RUN_ON.search(raw):
        raise BadValue("control characters, as where a wrong length takes in other elements")


def numbers(raw: bytes, vr: str, little_endian: bool) -> list[int | float]:
    """The values of an element of a binary number VR."""
    code = STRUCT_CODES[vr]
    width = struct.calcsize("=" + code)
    if len(raw) % width:
        raise BadValue(f"its length is no multiple of {width} bytes ({vr})")
    return list(struct.unpack(f"{'<' if little_endian else '>'}{len(raw) // width}{code}", raw))


def attribute_tags(raw: bytes, little_endian: bool) -> list[str]:
    """The values of an AT element, each as eight hexadecimal digits, as the DICOM JSON model writes tags."""
    if len(raw) % 4:
        raise BadValue("its length is no multiple of 4 bytes (AT)")
    halves = struct.unpack(f"{'<' if little_endian else '>'}{len(raw) // 2}H", raw)
    return [f"{halves[i]:04X}{halves[i + 1]:04X}" for i in range(0, len(halves), 2)]


def years(text: str) -> float:
    """An AS value (`063Y`, `018M`, `004W`, `010D`) in years; fewer than three digits are read too."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text, re.ASCII)
    if not match:
        raise BadValue("no age (AS)")
    count = int(match[1])
    match match[2]:
        case "Y":
            return float(count)
        case "M":
            return count / 12
        case "W":
            return count * 7 / DAYS_A_YEAR
        case _:
            return count / DAYS_A_YEAR


def day(text: str) -> date:
    """A DA value: `YYYYMMDD`, or `YYYY.MM.DD` as ACR-NEMA wrote it."""
    match = re.fullmatch(r"(\d{4})(\d{2})(\d{2})|(\d{4})\.(\d{2})\.(\d{2})", text, re.ASCII)
    try:
        year, month, of_month = (int(part) for part in match.groups() if part) if match else (0, 0, 0)
        return date(year, month, of_month)
    except ValueError:
        raise BadValue("no date (DA)") from None


_CLOCK: Final = r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?"


def time_of_day(text: str) -> time:
    """A TM value: `HH[MM[SS[.F]]]`, or with colons as ACR-NEMA wrote it; what is left out is zero."""
    match = re.fullmatch(_CLOCK, text, re.ASCII)
    try:
        return _time(*match.groups()) if match else time(99)
    except ValueError:  # 60, a leap second, too: no type here holds one
        raise BadValue("no time of day (TM)") from None


def _time(hour: str, minute: str | None, second: str | None, fraction: str | None) -> time:
    return time(int(hour), int(minute or 0), int(second or 0), int((fraction or "0").ljust(6, "0")))


def date_time(text: str) -> datetime:
    """A DT value, `YYYYMMDD[HH[MM[SS[.F]]]][&ZZXX]`, as the clock showed it where it was written.

    A zone is read and left out (few files have one, and times with and without cannot be one type). A value
    without a day is none.
    """
    match = re.fullmatch(r"(\d{8})(?:" + _CLOCK + r")?(?:[+-]\d{4})?", text, re.ASCII)
    if not match:
        raise BadValue("no date and time (DT)")
    try:
        clock = _time(*match.groups()[1:]) if match[2] else time()
        return datetime.combine(day(match[1]), clock)
    except ValueError:
        raise BadValue("no date and time (DT)") from None


def decimal(text: str) -> float:
    """A DS value."""
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        value = float(text)
        if math.isfinite(value):
            return value
    raise BadValue("no decimal number (DS)")


def integer(text: str) -> int:
    """An IS value; `5.0` is one too. Held in 64 bits, though the standard allows 32."""
    if re.fullmatch(r"[+-]?\d{1,19}(\.0*)?", text, re.ASCII):
        value = int(text.partition(".")[0])
        if abs(value) <= INT64_MAX:
            return value
    raise BadValue("no whole number (IS)")


TEXT_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "DA": day,
    "TM": time_of_day,
    "DT": date_time,
    "DS": decimal,
    "IS": integer,
}
"""How a text becomes a value of the VR's type."""
