"""PURE: the digest of a view's rows. Equal digests mean equal data."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from itertools import islice

BLOCK_ROWS = 65_536
UNKNOWN_SIZE = 2**64 - 1
"""Stands for a size that no event or listing told."""

Row = tuple[str, str, str | None, int | None]
"""Key, version id, ETag, size in bytes."""


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
