"""PURE: the digest of a view's rows. Equal digests mean equal data."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

from snapengine.row_bytes import COLUMNS, PIECE_ROWS, Piece, Room, bytes_of

BLOCK_ROWS = 65_536
UNKNOWN_SIZE = 2**64 - 1
"""Stands for a size that no event or listing told."""

Row = tuple[str, str, str | None, int | None]
"""Key, version id, ETag, size in bytes."""

_WORKERS = max(1, min(4, (os.cpu_count() or 1) - 1))
"""One processor is left to those who read: if rows are hashed faster than they come, all wait in turn."""


def digest(rows: Iterable[Row]) -> str:
    """`sha256:<hex>` of rows in ascending order of their keys' UTF-8 bytes.

    A row is the length-prefixed (4 bytes, big-endian) UTF-8 of key, version id and ETag, then the size as
    8 bytes big-endian. The digest is the sha256 of the concatenated sha256s of blocks of 65,536 rows.
    """
    total = sha256()
    remaining = iter(rows)
    while block := list(islice(remaining, BLOCK_ROWS)):
        total.update(sha256(b"".join(map(_encode, block))).digest())
    return f"sha256:{total.hexdigest()}"


def digest_batches(batches: Iterable[pa.RecordBatch | pa.Table]) -> str:
    """The `digest` of rows that come as batches of any size, with at least its `COLUMNS`; in bounded memory.
    Raises `BadData` for rows that no digest can stand for: without a key, or of a negative size."""
    wanted = (batch.select(list(COLUMNS)) for batch in batches)
    return digest_pieces(
        Piece(batch.slice(start, PIECE_ROWS))
        for batch in wanted
        for start in range(0, batch.num_rows, PIECE_ROWS)
    )


def digest_pieces(pieces: Iterable[Piece]) -> str:
    """The same of rows that come as pieces, with its `COLUMNS`.

    A few threads encode and hash, as neither needs Python: while they do, the next pieces are read here.
    Where one processor is left for that, it is done here, while the next ones are read elsewhere.
    """
    total = sha256()
    for block in _hashes(_blocks(pieces)):
        total.update(block)
    return f"sha256:{total.hexdigest()}"


def short(digest_text: str) -> str:
    """The first 32 hex digits, for where 36 characters are all there is (MLflow)."""
    return digest_text.removeprefix("sha256:")[:32]


def _encode(row: Row) -> bytes:
    key, version_id, etag, size = row
    parts = []
    for text in (key, version_id, etag or ""):
        raw = text.encode()
        parts += [len(raw).to_bytes(4, "big"), raw]
    parts.append((UNKNOWN_SIZE if size is None else size).to_bytes(8, "big"))
    return b"".join(parts)


class _Part(NamedTuple):
    piece: Piece
    start: int
    stop: int


def _blocks(pieces: Iterable[Piece]) -> Iterator[list[_Part]]:
    """The rows again, 65,536 at a time; nothing is copied."""
    parts: list[_Part] = []
    missing = BLOCK_ROWS
    for piece in pieces:
        start = 0
        while start < len(piece):
            stop = min(start + missing, len(piece))
            parts.append(_Part(piece, start, stop))
            missing -= stop - start
            start = stop
            if not missing:
                yield parts
                parts, missing = [], BLOCK_ROWS
    if parts:
        yield parts


def _hashes(blocks: Iterable[list[_Part]]) -> Iterator[bytes]:
    """Of each block, in order."""
    rooms = [Room() for _ in range(_WORKERS)]
    if _WORKERS == 1:
        yield from (_hashed(block, rooms) for block in blocks)
        return
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="snapengine-digest")
    waiting: deque[Future[bytes]] = deque()
    try:
        for block in blocks:
            waiting.append(pool.submit(_hashed, block, rooms))
            if len(waiting) > 2 * _WORKERS:
                yield waiting.popleft().result()
        for ahead in waiting:
            yield ahead.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _hashed(block: list[_Part], rooms: list[Room]) -> bytes:
    """What is encoded is hashed while it is in the processor's cache. Of the rooms no other thread has, one
    is used."""
    found, room = sha256(), rooms.pop()
    try:
        for part in block:
            found.update(bytes_of(*part, room))
    finally:
        rooms.append(room)
    return found.digest()
