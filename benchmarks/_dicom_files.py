"""The objects of `dicom_headers`: the DICOM files that come with pydicom and pydicom-data, in two sets."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import pydicom
import pydicom.data
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from benchmarks.harness import Unavailable
from metadata_extractors.dicom_header import pydicom_quietly

SCAN_ELEMENTS: Final = 100
"""A header with as many elements of its own was written by a scanner, not for a test of pydicom."""
HEADER_BYTES: Final = 15 * 1024
"""The median of 2,483 files of 226 studies, most of them MR; the packages' own have 3 KiB."""
NESTED: Final = 0.75
"""So pydicom takes about 3.5 times as long for every value as for a few; for those files it took 3.7."""
SCAN_BYTES: Final = 512 * 1024
"""What a slice of a CT takes: 512 by 512 pixels of 16 bits."""


@dataclass(frozen=True, slots=True)
class File:
    name: str
    data: bytes


def package_files() -> list[File]:
    """Every file that pydicom itself takes for DICOM, each content once. Raises `Unavailable`."""
    try:
        more = Path(str(files("data_store"))) / "data"
    except ModuleNotFoundError:
        raise Unavailable("The package pydicom-data is not installed. Run `make setup`.") from None
    wheel = Path(pydicom.data.__file__).parent
    found: dict[bytes, File] = {}
    with pydicom_quietly():
        for folder in (wheel / "test_files", wheel / "charset_files", more):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and _is_dicom(data := path.read_bytes()):
                    found.setdefault(data, File(path.name, data))
    return list(found.values())


def scan_files(package: Sequence[File]) -> list[File]:
    """Those with a scanner's header and plain pixels, grown to what is usual where they are smaller: the
    header to `HEADER_BYTES`, the object to `SCAN_BYTES`."""
    with pydicom_quietly():
        return [File(each.name, grown) for each in package if (grown := _grown(each.data))]


def _is_dicom(data: bytes) -> bool:
    try:
        pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    except (InvalidDicomError, EOFError, ValueError):
        return False
    return True


def _grown(data: bytes) -> bytes | None:
    """The file with more elements before its pixel data and more pixels; None for one of another kind."""
    elements = 0
    pixels: tuple[int, str | None, int] | None = None
    source = io.BytesIO(data)

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal elements, pixels
        elements += 1
        if tag == 0x7FE00010:
            pixels = (source.tell(), vr, length)
        return tag >> 16 == 0x7FE0

    dataset = read_partial(source, stop)
    if pixels is None or elements < SCAN_ELEMENTS:
        return None
    start, vr, length = pixels
    end = start + length
    if end > len(data) or vr is None:  # compressed, of no length that is told; or of implicit VRs
        return None
    order = "<" if dataset.original_encoding[1] else ">"
    at = start - (12 if vr in EXPLICIT_VR_LENGTH_32 else 8)
    more = _more_elements(dataset, HEADER_BYTES - at, order)
    pad = max(0, SCAN_BYTES - len(data) - len(more))
    if pad and vr not in EXPLICIT_VR_LENGTH_32:
        return None
    longer = data[at : start - 4] + struct.pack(order + "L", length + pad) + data[start:end] + bytes(pad)
    return data[:at] + more + longer + data[end:]


def _more_elements(dataset: Dataset, size: int, order: str) -> bytes:
    """So many bytes of private elements, or a little more: the file's own VRs and values once more, as
    elements of the data set and, a part of `NESTED`, in items of a sequence."""
    own: list[tuple[str, bytes]] = [
        (raw.VR, raw.value)
        for raw in dataset._dict.values()
        if isinstance(raw, RawDataElement)
        and raw.VR
        and raw.VR != "SQ"
        and raw.value
        and len(raw.value) <= 256
    ]
    if size <= 0:
        return b""
    items: list[bytes] = []
    count = itertools.count(0x1001)
    item = b"".join(_explicit(0x00091000 + place, *each, order) for place, each in enumerate(own[:200]))
    while sum(map(len, items)) < size * NESTED:
        items.append(struct.pack(order + "HHL", 0xFFFE, 0xE000, len(item)) + item)
    creators = b"".join(
        _explicit(0x7FDF0000 + block, "LO", b"BENCHMARK ", order) for block in range(0x10, 0x20)
    )
    found = creators + _explicit(0x7FDF1000, "SQ", b"".join(items), order)
    for vr, value in itertools.cycle(own):
        if len(found) >= size:
            break
        found += _explicit(0x7FDF0000 + next(count), vr, value, order)
    return found


def _explicit(tag: int, vr: str, value: bytes, order: str) -> bytes:
    form, reserved = ("HH2sHL", [0]) if vr in EXPLICIT_VR_LENGTH_32 else ("HH2sH", [])
    return struct.pack(order + form, tag >> 16, tag & 0xFFFF, vr.encode(), *reserved, len(value)) + value
