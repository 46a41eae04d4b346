"""What every store checks alike."""

from __future__ import annotations

from snapengine.errors import LogDamaged
from snapengine.model import LogEntry


def check_stub(wanted: LogEntry, standing: LogEntry | None) -> None:
    """That a metadata entry which could not be rewritten is a stub by now. Raises `LogDamaged` if not."""
    if standing is None or standing.form != "stub" or standing.nonce != wanted.nonce:
        raise LogDamaged(
            f"Entry {wanted.number} of stream {wanted.stream} of {wanted.bucket} is not the entry of rows "
            f"that it should be, with nonce {wanted.nonce}."
        )
