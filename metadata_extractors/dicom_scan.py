"""The elements of a well-formed DICOM header, found without pydicom in a fraction of its time.

It knows the header's common forms alone, and steps over what was not asked for. At anything else, or at the
slightest oddity, it gives None, and pydicom says what to make of the object: so all that is lenient, and
every word about damage, has one place.
"""

from __future__ import annotations

import struct
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.uid import AllTransferSyntaxes
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32
from pydicom.values import convert_string

from metadata_extractors.base import NeedMoreBytes, Prefix

_META: Final = 132
"""Where file meta information begins: behind the preamble and `DICM`."""
_UNDEFINED: Final = 0xFFFFFFFF
_PIXEL_GROUP: Final = 0x7FE0
_DELIMITERS: Final = 0xFFFE
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
_CHARACTER_SET: Final = 0x00080005
_TRANSFER_SYNTAX: Final = 0x00020010
_DEEPEST: Final = 64
"""Sequences within sequences, each counted with its item."""
_LONGEST_CHARACTER_SET: Final = 128
_CLOCK_EVERY: Final = 1024
"""Elements between two looks at the clock."""

_SHORT: Final = {str(vr).encode(): str(vr) for vr in EXPLICIT_VR_LENGTH_16}
"""VRs whose length takes 16 bits (PS3.5, 7.1.2)."""
_LONG: Final = {str(vr).encode(): str(vr) for vr in EXPLICIT_VR_LENGTH_32 if len(str(vr)) == 2}

_IMPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_DEFLATED: Final = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95"}
_SYNTAXES: Final = {
    str(uid).encode(): (uid == _IMPLICIT, uid != _BIG_ENDIAN)
    for uid in AllTransferSyntaxes
    if uid not in _DEFLATED
}
"""By transfer syntax: whether VRs are implicit, and whether numbers are little-endian."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """A header read to its end."""

    elements: dict[int, RawDataElement | DataElement]
    encodings: list[str]
    """Python's codecs for its text."""


class TooSlow(Exception):
    """The time is up."""


class _Odd(Exception):
    """Something that pydicom has to judge."""


def scan(prefix: Prefix, tags: Collection[int], seconds: float) -> Scanned | None:
    """The file meta information, and the elements of these tags, if the header is well-formed and whole.

    Raises `NeedMoreBytes` where it goes on behind a prefix that is not the last, and `TooSlow` after so many
    seconds of CPU time.
    """
    if prefix.data[_META - 4 : _META] != b"DICM":
        return None
    try:
        return _Scan(prefix, tags, time.thread_time() + seconds).run()
    except _Odd:
        return None


class _Scan:
    def __init__(self, prefix: Prefix, tags: Collection[int], deadline: float) -> None:
        self._data = prefix.data
        self._end = len(prefix.data)
        self._prefix = prefix
        self._tags = tags
        self._deadline = deadline
        self._seen = 0
        self._found: dict[int, RawDataElement | DataElement] = {}
        self._implicit = False
        self._order = "<"

    def run(self) -> Scanned:
        position = self._file_meta()
        syntax = self._found.get(_TRANSFER_SYNTAX)
        if not isinstance(syntax, RawDataElement):
            raise _Odd
        form = _SYNTAXES.get((syntax.value or b"").rstrip(b"\0"))
        if form is None:
            raise _Odd
        self._implicit, little_endian = form
        self._order = "<" if little_endian else ">"
        if self._implicit:
            self._check_implicit(position)
        self._dataset(position)
        return Scanned(self._found, self._character_set(little_endian))

    def _short(self, needed: int) -> Exception:
        """The prefix ends here: more is needed, or pydicom must say what the object's end cuts off."""
        return _Odd() if self._prefix.last else NeedMoreBytes(needed)

    def _check_clock(self) -> None:
        if time.thread_time() > self._deadline:
            raise TooSlow

    def _file_meta(self) -> int:
        """Where the data set begins. All of group 0002 is kept."""
        data, position = self._data, _META
        unpack = struct.Struct("<HH2sH").unpack_from
        self._check_clock()
        while position + 8 <= self._end:
            group, number, code, length = unpack(data, position)
            if group != 2:
                return position
            start = position + 8
            vr = _SHORT.get(code)
            if vr is None:
                vr = _LONG.get(code)
                if vr is None:
                    raise _Odd
                start += 4
                if start > self._end:
                    raise self._short(start)
                (length,) = struct.unpack_from("<L", data, position + 8)
            position = start + length
            if length == _UNDEFINED or len(self._found) > _CLOCK_EVERY:
                raise _Odd
            if position > self._end:
                raise self._short(position)
            tag = group << 16 | number
            self._found[tag] = RawDataElement(tag, vr, length, data[start:position], start, False, True)
        raise self._short(position + 8)

    def _check_implicit(self, position: int) -> None:
        """The first element looks like one with a VR: pydicom decides."""
        if position + 6 > self._end:
            raise self._short(position + 6)
        if all(0x40 < letter < 0x5B for letter in self._data[position + 4 : position + 6]):
            raise _Odd

    def _dataset(self, position: int) -> None:
        """The data set's own elements, to the pixel data or to the object's end."""
        data, end, tags, implicit = self._data, self._end, self._tags, self._implicit
        little_endian = self._order == "<"
        unpack = struct.Struct(self._order + ("HHL" if implicit else "HH2sH")).unpack_from
        unpack_length = struct.Struct(self._order + "L").unpack_from
        seen = 0
        while True:
            if position + 8 > end:
                if position == end and self._prefix.whole:
                    return
                raise self._short(position + 8)
            start = position + 8
            vr = None
            if implicit:
                group, number, length = unpack(data, position)
            else:
                group, number, code, length = unpack(data, position)
                vr = _SHORT.get(code)
                if vr is None:
                    vr = _LONG.get(code)
                    if vr is None:
                        raise _Odd
                    start += 4
                    if start > end:
                        raise self._short(start)
                    (length,) = unpack_length(data, position + 8)
            if group == _PIXEL_GROUP:
                return
            if group == _DELIMITERS or group <= 2:
                raise _Odd
            tag = group << 16 | number
            if length == _UNDEFINED:
                if tag in tags or not (vr == "SQ" or self._is_sequence(tag, vr, start)):
                    raise _Odd
                position = self._behind_sequence(start)
            else:
                position = start + length
                if tag in tags or tag == _CHARACTER_SET:
                    if position > end:
                        raise self._short(position)
                    value = data[start:position]
                    self._found[tag] = RawDataElement(tag, vr, length, value, start, implicit, little_endian)
            seen += 1
            if not seen % _CLOCK_EVERY:
                self._check_clock()

    def _is_sequence(self, tag: int, vr: str | None, start: int) -> bool:
        """Whether an element of undefined length without a VR is a sequence."""
        if vr is not None:
            return False
        try:
            return dictionary_VR(tag) == "SQ"
        except KeyError:
            if start + 4 > self._end:
                raise self._short(start + 4) from None
            return struct.unpack_from(self._order + "HH", self._data, start) == (_DELIMITERS, _ITEM)

    def _behind_sequence(self, position: int) -> int:
        """Where the sequence of undefined length ends whose first item is here.

        Every element in it is walked over, so that all lengths are known to fit.
        """
        data, end, implicit = self._data, self._end, self._implicit
        unpack = struct.Struct(self._order + "HHL").unpack_from
        unpack_vr = struct.Struct(self._order + "HH2sH").unpack_from
        ends: list[int | None] = [
            None
        ]  # of the open sequences and, in between, items; None: a delimiter ends it
        while ends:
            closes = ends[-1]
            if closes is not None and position >= closes:
                if position > closes:
                    raise _Odd
                ends.pop()
                continue
            if position + 8 > end:
                raise self._short(position + 8)
            self._seen += 1
            if not self._seen % _CLOCK_EVERY:
                self._check_clock()
            group, number, length = unpack(data, position)
            start = position + 8
            if group == _DELIMITERS:
                in_sequence = len(ends) % 2 == 1
                if in_sequence and number == _ITEM:
                    ends.append(None if length == _UNDEFINED else start + length)
                elif (
                    closes is None and length == 0 and number == (_SEQUENCE_END if in_sequence else _ITEM_END)
                ):
                    ends.pop()
                else:
                    raise _Odd
                position = start
                continue
            if len(ends) % 2 == 1 or len(ends) > _DEEPEST:
                raise _Odd
            vr = None
            if not implicit:
                _, _, code, length = unpack_vr(data, position)
                vr = _SHORT.get(code)
                if vr is None:
                    vr = _LONG.get(code)
                    if vr is None:
                        raise _Odd
                    start += 4
                    if start > end:
                        raise self._short(start)
                    _, _, length = unpack(data, position + 4)
            if length == _UNDEFINED:
                if not (vr == "SQ" or self._is_sequence(group << 16 | number, vr, start)):
                    raise _Odd
                ends.append(None)
                position = start
            else:
                position = start + length
        return position

    def _character_set(self, little_endian: bool) -> list[str]:
        """The codecs; the element itself is converted, as pydicom does."""
        element = self._found.get(_CHARACTER_SET)
        if not isinstance(element, RawDataElement):
            return [default_encoding]
        raw = element.value or b""
        if len(raw) > _LONGEST_CHARACTER_SET:
            raise _Odd
        known = _encodings(raw, little_endian)
        if known is None:
            raise _Odd
        self._found[_CHARACTER_SET] = _converted(raw, little_endian)
        return list(known)


@lru_cache(maxsize=64)
def _encodings(raw: bytes, little_endian: bool) -> tuple[str, ...] | None:
    """None for what pydicom has something to say about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = convert_encodings(convert_string(raw, little_endian))
        except (LookupError, ValueError):
            return None
    return None if caught else tuple(found)


@lru_cache(maxsize=64)
def _converted(raw: bytes, little_endian: bool) -> DataElement:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        element = RawDataElement(_CHARACTER_SET, "CS", len(raw), raw, 0, False, little_endian)  # type: ignore[arg-type]  # an int does
        return convert_raw_data_element(element)
