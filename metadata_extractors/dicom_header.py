"""Reads a DICOM header with pydicom so that neither a cut nor a damaged one passes for a whole one.

pydicom takes a short read for the end of the file, and says nothing. Here a header counts as read only when
the next element is in group 7FE0 or the object has ended, exactly after an element.
"""

from __future__ import annotations

import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, cast

from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import ENCODED_VR, read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import UID

from metadata_extractors.base import NeedMoreBytes, Outcome, Prefix
from metadata_extractors.dicom_scan import TooSlow, scan
from metadata_extractors.ranged import MAX_HEADER_BYTES, PrefixFile

MAX_INFLATED_BYTES: Final = 64 * 1024 * 1024
MAX_SECONDS: Final = 10.0
"""CPU time for one object."""

_PREAMBLE: Final = 128
_MAGIC: Final = b"DICM"
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_INFLATE_STEP: Final = 256 * 1024
_SOP_CLASS_UID: Final = 0x00080016

Element = RawDataElement | DataElement


class NotRead(Exception):
    """No header was read; `outcome` and the text say why."""

    def __init__(self, outcome: Outcome, problem: str = "") -> None:
        super().__init__(problem)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Header:
    """What was read, not yet converted."""

    elements: Mapping[int, Element]
    """By tag, those that were read to their end: file meta information (group 0002) and data set."""
    encodings: list[str]
    """Python's codecs for its text."""
    problems: tuple[str, ...] = ()
    """Why it is not whole; empty where it is."""
    dataset: Dataset | None = None
    """pydicom's, where it was asked."""


def read_header(
    prefix: Prefix, tags: Collection[int], seconds: float = MAX_SECONDS, nested: bool = True
) -> Header:
    """The elements of these tags, and those that tell whether it is DICOM at all. `nested` is false if none
    of the tags is a sequence or private: pydicom is then needed for odd headers only.

    Raises `NeedMoreBytes` where the header goes on after a prefix that is not the last, `NotRead` where
    there is none. Call it, and convert what it gives, within `pydicom_quietly`.
    """
    magic = prefix.data[_PREAMBLE : _PREAMBLE + 4] == _MAGIC
    if not magic and len(prefix.data) < _PREAMBLE + 4 and not prefix.last:
        raise NeedMoreBytes(_PREAMBLE + 4)
    if not magic and not _begins_like_a_dataset(prefix.data):
        raise NotRead("not_matched")
    try:
        scanned = None if nested else scan(prefix, tags, seconds)
    except TooSlow:
        raise _timeout(seconds) from None
    if scanned is not None:
        return Header(scanned.elements, scanned.encodings)
    header, has_meta = _read(prefix, [*tags, _SOP_CLASS_UID], seconds)
    if not has_meta and not _is_uid(header.elements.get(_SOP_CLASS_UID)):
        raise NotRead(*(("failed", "DICM, but no DICOM after it") if magic else ("not_matched",)))
    return header


def may_be_dicom(head: bytes) -> bool:
    """Whether an object with these first bytes is worth a try."""
    return head[_PREAMBLE : _PREAMBLE + 4] == _MAGIC or _begins_like_a_dataset(head)


def _begins_like_a_dataset(data: bytes) -> bool:
    """Whether a file without preamble may be DICOM: a known element of group 0002 or 0008, or the
    group's length (element 0000), comes first."""
    if len(data) < 8:
        return False
    for order in "<>":
        group, element = struct.unpack(order + "HH", data[:4])
        if group in {0x0002, 0x0008} and (element == 0 or dictionary_has_tag(group << 16 | element)):
            implicit_length = struct.unpack("<L", data[4:8])[0]
            return data[4:6] in ENCODED_VR or (order == "<" and implicit_length <= 1024)
    return False


def _is_uid(element: Element | None) -> bool:
    raw = element.value if isinstance(element, RawDataElement) else None
    text = (raw or b"").rstrip(b"\0 ").decode("ascii", "replace")
    return "." in text and UID(text).is_valid


def _timeout(seconds: float) -> NotRead:
    return NotRead("timeout", f"reading the header took more than {seconds:g} s")


def _read(prefix: Prefix, tags: list[int], seconds: float) -> tuple[Header, bool]:
    """By pydicom; and whether there is file meta information."""
    first = _Attempt(prefix, tags, seconds)
    if first.raised or not (first.dataset or first.complete):
        # pydicom drops all that it had read: read again, up to before the element where it failed.
        attempt = _Attempt(prefix, tags, seconds, limit=max(first.stop.seen - 1, 0))
        if attempt.raised:
            raise NotRead("failed", f"damaged from the start ({attempt.raised})")
    else:
        attempt = first
    problems = []
    if first.source.needed is not None:
        problems.append(f"the header is longer than {MAX_HEADER_BYTES // 2**20} MiB, or cut")
    elif first.source.problem:
        problems.append(first.source.problem)
    elif first.raised:
        problems.append(f"an element cannot be read ({first.raised}); values are those before it")
    elif any(_is_cut(element) for part in (first.meta, first.dataset) for element in _elements(part)):
        problems.append("an element claims more bytes than the object has")
    elif not first.complete:
        problems.append("the object ends within an element or at a stray delimiter")
    declared = attempt.dataset.original_character_set
    encodings = [declared] if isinstance(declared, str) else list(declared)
    return Header(attempt.elements, encodings, tuple(problems), attempt.dataset), bool(attempt.meta)


class _Attempt:
    """One run of pydicom over a prefix, and all that tells whether to believe it."""

    def __init__(self, prefix: Prefix, tags: list[int], seconds: float, limit: int | None = None) -> None:
        self.stop = _Stop(limit)
        self.source = _Source(prefix, seconds)
        self.meta = Dataset()
        self.dataset = Dataset()
        self.raised = ""
        """The name of what pydicom raised: its text may hold values."""
        try:
            self._parse(prefix, tags, seconds)
        except Exception as error:  # noqa: BLE001  # pydicom raises a dozen kinds for damaged files
            if _by_recursion(error):
                raise NotRead("failed", "sequences are nested too deep") from None
            self.raised = type(error).__name__
        if self.source.timed_out:
            raise _timeout(seconds)
        if self.source.needed is not None and not prefix.last:
            raise NeedMoreBytes(self.source.needed)

    @property
    def elements(self) -> dict[int, Element]:
        """Those that were read to their end."""
        meta = {int(each.tag): each for each in _elements(self.meta) if each.tag >> 16 == 2}
        rest = {int(each.tag): each for each in _elements(self.dataset) if each.tag >> 16 != 2}
        return {tag: element for tag, element in (meta | rest).items() if not _is_cut(element)}

    @property
    def complete(self) -> bool:
        """pydicom came to the pixel data, or to the object's end behind an element."""
        return self.stop.at_pixels or self.source.ended_cleanly

    def _parse(self, prefix: Prefix, tags: list[int], seconds: float) -> None:
        specific: list[BaseTag | int] = list(tags)
        deflated_from = self._deflated_from(prefix.data)
        if deflated_from is None:
            self.dataset = read_partial(self.source, self.stop, force=True, specific_tags=specific)  # type: ignore[arg-type]  # it needs read, seek, tell
        else:
            self.source = _InflatedSource(prefix, seconds, deflated_from)
            self.dataset = read_dataset(self.source, False, True, stop_when=self.stop, specific_tags=specific)  # type: ignore[arg-type]  # as above

    def _deflated_from(self, data: bytes) -> int | None:
        """Where the deflated data set begins; None if the transfer syntax is another."""
        self.source.seek(_PREAMBLE + 4 if data[_PREAMBLE : _PREAMBLE + 4] == _MAGIC else 0)
        meta = read_dataset(self.source, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)  # type: ignore[arg-type]  # as above
        at = self.source.tell()
        self.source.seek(0)
        syntax = meta.get_item(0x00020010, keep_deferred=True) if 0x00020010 in meta else None
        self.meta = meta  # pydicom's own has values already converted
        deflated = syntax is not None and bytes(syntax.value or b"").rstrip(b"\0 ") == _DEFLATED
        return at if deflated else None


class _Stop:
    """pydicom's `stop_when`: before the pixels, or before the element after `limit` others."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.seen = 0
        self.at_pixels = False

    def __call__(self, tag: BaseTag, _vr: str | None, _length: int) -> bool:
        if tag >> 16 == 0x7FE0:
            self.at_pixels = True
            return True
        self.seen += 1
        return self._limit is not None and self.seen > self._limit


class _Source(PrefixFile):
    problem = ""
    """Why there is no more to read, where that is not the object's end."""


class _InflatedSource(_Source):
    """The data set of a deflated transfer syntax (PS3.5, A.5), inflated no further than it is read."""

    def __init__(self, prefix: Prefix, seconds: float, start: int) -> None:
        super().__init__(prefix, seconds)
        self._data = bytearray()
        self._deflated = prefix.data[start:]
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    def _make_known(self, end: int) -> None:
        known = cast("bytearray", self._data)
        while end > len(known) and not self._inflate.eof and not self.problem:
            if len(known) >= MAX_INFLATED_BYTES:
                self.problem = f"the inflated header is longer than {MAX_INFLATED_BYTES // 2**20} MiB"
                break
            try:
                more = self._inflate.decompress(self._deflated, _INFLATE_STEP)
            except zlib.error:
                self.problem = "the deflated data are damaged"
                break
            self._deflated = self._inflate.unconsumed_tail
            known += more
            if not more and not self._deflated and not self._inflate.eof:
                if not self._prefix.whole:
                    self._refuse(len(self._prefix.data) + 1)
                self.problem = "the deflated data end too early"


def _by_recursion(error: BaseException | None) -> bool:
    """Whether a RecursionError is behind it: pydicom makes another error of one, where it happens to hit."""
    while error is not None:
        if isinstance(error, RecursionError):
            return True
        error = error.__context__
    return False


def _elements(dataset: Dataset) -> Iterator[Element]:
    return iter(dataset._dict.values())


def _is_cut(element: Element) -> bool:
    """Whether the object ended before the element's value did."""
    return (
        isinstance(element, RawDataElement)
        and element.length != _UNDEFINED_LENGTH
        and len(element.value or b"") < element.length
    )


_lock = threading.Lock()
_quiet: ContextVar[bool] = ContextVar("pydicom_quiet", default=False)
logging.getLogger("pydicom").addFilter(lambda _record: not _quiet.get())


@contextmanager
def pydicom_quietly() -> Iterator[list[warnings.WarningMessage]]:
    """Collects pydicom's warnings and silences its log in this thread: both may hold values of patients.

    One thread at a time: Python's warning filters belong to the whole process. Little is lost by that, for
    pydicom is pure Python.
    """
    with _lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        token = _quiet.set(True)
        try:
            yield caught
        finally:
            _quiet.reset(token)
