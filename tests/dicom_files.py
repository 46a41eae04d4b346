"""DICOM files: those in pydicom's wheel, and ones made for a test."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from metadata_extractors.base import Extraction, Prefix
from metadata_extractors.dicom import DicomExtractor

# `get_testdata_files` would download 79 more: only those in pydicom's wheel are read here.
WHEEL = Path(pydicom.data.__file__).parent
FILES = sorted(
    path
    for folder in ("test_files", "charset_files")
    for path in (WHEEL / folder).rglob("*")
    if path.is_file()
)


def whole(data: bytes) -> Prefix:
    return Prefix(data, whole=True, last=True)


def cut(data: bytes, length: int) -> Prefix:
    return Prefix(data[:length], whole=length >= len(data), last=length >= len(data))


def extract(data: bytes, columns: Iterable[str] | None = None) -> Extraction:
    return DicomExtractor(None if columns is None else list(columns)).parse(whole(data))


def dicom(syntax: UID = ExplicitVRLittleEndian, pixels: bool = True, **values: Any) -> bytes:
    """A DICOM file with these values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are meant to be bad
        dataset = Dataset()
        dataset.SOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = "1.2.3.4"
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        if pixels:
            dataset.BitsAllocated = 8
            dataset.PixelData = bytes(range(256)) * 64
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def with_raw(element: bytes) -> bytes:
    """A DICOM file (explicit VR, little endian) that ends with these bytes."""
    return dicom(pixels=False) + element


def explicit(tag: int, vr: str, raw: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in {"OB", "SQ", "UN", "UT", "UC", "UR", "OW"}:
        return head + struct.pack("<HL", 0, len(raw)) + raw
    return head + struct.pack("<H", len(raw)) + raw
