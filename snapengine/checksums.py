"""CRC-32, as zlib has it, by whatever is fastest on this machine."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:  # there is none for this machine
    from zlib import crc32

__all__ = ["crc32"]
