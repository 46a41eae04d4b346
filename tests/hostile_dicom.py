"""DICOM files that were made to harm whoever reads them."""

from __future__ import annotations

import struct
import zlib

from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.dicom_files import dicom, explicit, with_raw


def deflate_bomb() -> bytes:
    """1 MB that inflates to 1 GB."""
    deflated = dicom(DeflatedExplicitVRLittleEndian, pixels=False)
    meta_end = 132 + 12 + struct.unpack("<L", deflated[140:144])[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = struct.pack("<HH2sHL", 0x0009, 0x1010, b"OB", 0, 2**30)
    packed = packer.compress(explicit(0x00080060, "CS", b"MR") + head)
    block = bytes(16 * 2**20)
    packed += b"".join(packer.compress(block) for _ in range(64)) + packer.flush()
    return deflated[:meta_end] + packed


def empty_items() -> bytes:
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    return with_raw(struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 500_000 * 8) + item * 500_000)


def private_elements() -> bytes:
    return with_raw(
        b"".join(
            struct.pack("<HH2sH", group, element, b"CS", 0)
            for group in range(0x0009, 0x0009 + 2 * 16, 2)
            for element in range(0x1000, 0x10000)
        )[: 15 * 2**20]
    )


def nested() -> bytes:
    open_sequence = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    return with_raw((open_sequence + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)) * 2000)


def claims_4_gb() -> bytes:
    return with_raw(struct.pack("<HH2sHL", 0x0028, 0x0010, b"OB", 0, 2**32 - 2) + bytes(100))


def random_after_magic() -> bytes:
    return bytes(128) + b"DICM" + bytes(range(255, -1, -1)) * 4
