"""PURE: the digest of a view's rows. Equal digests mean equal data."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from itertools import islice

import pyarrow as pa

from snapengine.row_bytes import COLUMNS, encoded_rows

BLOCK_ROWS = 65_536
UNKNOWN_SIZE = 2**64 - 1
"""Stands for a size that no event or listing told."""

Row = tuple[str, str, str | None, int | None]
"""Key, version id, ETag, size in bytes."""

_PIECE_ROWS = 8_192
"""So many rows' bytes are hashed while they are still in the processor's cache."""
_WORKERS = min(4, os.cpu_count() or 1)


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

    A few threads encode and hash, as neither needs Python: while they do, the next batches are read here.
    Raises `BadData` for rows that no digest can stand for: without a key, or of a negative size.
    """
    total = sha256()
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="snapengine-digest")
    waiting: deque[Future[bytes]] = deque()
    try:
        for block in _blocks(batches):
            waiting.append(pool.submit(_hashed, block))
            if len(waiting) > 2 * _WORKERS:
                total.update(waiting.popleft().result())
        for ahead in waiting:
            total.update(ahead.result())
    finally:
        pool.shutdown(cancel_futures=True)
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


def _blocks(batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[pa.Table]:
    """The rows again, 65,536 at a time; nothing is copied."""
    parts: list[pa.RecordBatch] = []
    missing = BLOCK_ROWS
    for given in batches:
        columns = given.select(list(COLUMNS))
        for batch in columns.to_batches() if isinstance(columns, pa.Table) else [columns]:
            start = 0
            while start < batch.num_rows:
                part = batch.slice(start, missing)
                parts.append(part)
                start += part.num_rows
                missing -= part.num_rows
                if not missing:
                    yield pa.Table.from_batches(parts)
                    parts, missing = [], BLOCK_ROWS
    if parts:
        yield pa.Table.from_batches(parts)


def _hashed(block: pa.Table) -> bytes:
    found = sha256()
    for piece in block.to_batches(max_chunksize=_PIECE_ROWS):
        rows = encoded_rows(piece)
        _, offsets, values = rows.buffers()
        first, last = (memoryview(offsets).cast("i")[rows.offset + i] for i in (0, len(rows)))
        found.update(memoryview(values)[first:last])
    return found.digest()
