"""What a note says of a view besides its reference, in one pass over its rows and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.digest import digest_batches
from snapengine.row_bytes import COLUMNS
from snapengine.views import View


@dataclass(frozen=True, slots=True)
class Facts:
    """How much a view is, and exactly which."""

    digest: str
    """`sha256:…`"""
    objects: int
    bytes: int
    """Of all objects whose size is known."""


def facts_of(view: View, between: Callable[[], None] = lambda: None) -> Facts:
    """`between` is called before each batch. Raises what resolving a view raises."""
    counted = _Counted(between)
    digest = digest_batches(counted.of(view.to_batches(COLUMNS)))
    return Facts(digest, counted.rows, counted.bytes)


class _Counted:
    """Rows and bytes, as batches pass."""

    def __init__(self, between: Callable[[], None]) -> None:
        self._between = between
        self.rows = 0
        self.bytes = 0

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self._between()
            self.rows += batch.num_rows
            self.bytes += pc.sum(batch["size"]).as_py() or 0
            yield batch
