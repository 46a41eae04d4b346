"""Files of the archive on the local disk: whole ones for programs that read Parquet themselves."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import secrets
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from snapengine.archive.manifest import ArchiveFile
from snapengine.archive.pieces import REQUEST, Piece, chunks_of, pieces_of
from snapengine.archive.roots import Root
from snapengine.archive.writing import BLOCK, BLOCKS
from snapengine.checksums import first_wrong
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, PermissionMissing, SnapEngineError

_AT_ONCE = 4
_CHECKED_AT_ONCE = 4 * BLOCK
"""Bytes, so few that they stay in the processor's cache, and their memory is not asked for anew."""


def fetch(root: Root, file: ArchiveFile, path: Path) -> None:
    """Put the whole file at `path`, once its hash is known to be the manifest's. Raises `ArchiveFileMissing`,
    `ArchiveDamaged`, and what the root raises."""
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    starts = range(0, file.size, REQUEST)
    try:
        with partial.open("xb") as target, ThreadPoolExecutor(_AT_ONCE) as pool:
            found = hashlib.sha256()
            for number in range(0, len(starts), _AT_ONCE):
                some = starts[number : number + _AT_ONCE]
                for data in pool.map(lambda at: root.read(file.path, at, min(at + REQUEST, file.size)), some):
                    found.update(data)
                    target.write(data)
        if found.hexdigest() != file.sha256:
            name = f"{root.url}/{file.path}"
            raise ArchiveDamaged(_damaged(name, "has another hash than its manifest says"))
        partial.replace(path)
    except OSError as error:
        raise SnapEngineError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def announce(path: Path, pieces: Sequence[Piece]) -> None:
    """Have the system begin to read these bytes, where it can: a disk is then at work while others of them
    are used. What is wrong with the file is told by whoever reads it."""
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for start, end in pieces:
                os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def check_readable(path: Path, name: str) -> None:
    """Raises `ArchiveFileMissing`, or `PermissionMissing` for a file that may not be read."""
    try:
        path.open("rb").close()
    except FileNotFoundError as error:
        raise ArchiveFileMissing(
            f"{name}, a file of the archive, is missing. Restore it from a copy."
        ) from error
    except OSError as error:
        raise PermissionMissing(f"{name} could not be read: {error.strerror or error}.") from error


def check_blocks(path: Path, file: ArchiveFile, name: str, columns: Sequence[str]) -> None:
    """Compare of a local file all that holds these columns with what was written, in bounded memory.

    Raises `ArchiveDamaged`, which names it, and `ArchiveFileMissing`.
    """
    check_readable(path, name)
    end = file.size - file.footer_size
    with path.open("rb", buffering=0) as opened:
        handle = opened.fileno()
        if os.fstat(handle).st_size != file.size:
            raise ArchiveDamaged(_damaged(name, f"has not {file.size} bytes any more"))
        footer = os.pread(handle, file.footer_size, end)
        if hashlib.sha256(footer).hexdigest() != file.footer_sha256:
            raise ArchiveDamaged(_damaged(name, "has another footer than its manifest says"))
        metadata = pq.read_metadata(pa.BufferReader(footer))
        packed = base64.b64decode(metadata.metadata[BLOCKS])
        sums = struct.unpack(f"<{len(packed) // 4}I", packed)
        buffer = memoryview(bytearray(_CHECKED_AT_ONCE))
        chunks = chunks_of(metadata, columns)
        for piece in pieces_of(chunks, range(len(chunks)), columns, end, BLOCK, gap=0):
            if (block := _wrong_block(opened, piece, sums, buffer)) is not None:
                raise ArchiveDamaged(_damaged(name, f"was altered near byte {block * BLOCK}"))


def _wrong_block(file: io.FileIO, piece: Piece, sums: Sequence[int], buffer: memoryview) -> int | None:
    file.seek(piece.start)
    for start in range(piece.start, piece.end, len(buffer)):
        count = file.readinto(buffer[: piece.end - start])
        first = start // BLOCK
        wrong = first_wrong(buffer[:count], BLOCK, sums[first : first - -count // BLOCK])
        if wrong is not None:
            return first + wrong
        if count < min(len(buffer), piece.end - start):
            return (start + count) // BLOCK
    return None


def _damaged(name: str, how: str) -> str:
    return f"{name}, a file of the archive, {how}. Restore it from a copy."
