"""Which extractors a child process is to run, and what one object may cost it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from metadata_extractors.ranged import FIRST_BYTES, MAX_HEADER_BYTES
from metadata_extractors.registry import find_entry_point
from snapengine.further_columns import extractor_of
from snapengine.metadata_rows import row_schema


@dataclass(frozen=True, slots=True)
class Limits:
    """What one object may cost one extractor."""

    memory_bytes: int = 1024 * 1024 * 1024
    """Address space of the child, its libraries included (RLIMIT_AS)."""
    cpu_seconds: float = 10.0
    wall_seconds: float = 30.0
    """Without the time that reading from S3 takes."""
    header_bytes: int = MAX_HEADER_BYTES
    objects: int = 10_000
    """After so many a child is replaced."""


@dataclass(frozen=True, slots=True)
class ExtractorSpec:
    """Which extractor, and the columns for it."""

    name: str
    target: str
    """`module:factory`."""
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Face:
    """What is known of an extractor without importing it here."""

    version: str
    schema: pa.Schema
    head_bytes: int = FIRST_BYTES
    """How many of an object's first bytes it looks at in any case."""

    @cached_property
    def of_rows(self) -> pa.Schema:
        """Of its rows, by `metadata_rows.row_schema`."""
        return row_schema(self.schema)


def spec_of(name: str, columns: Sequence[str] | None = None) -> ExtractorSpec:
    """Of an installed extractor; its further columns may be in the name, as `further_columns.use_of` has it.
    Raises `UsageError` if there is none of that name."""
    target = find_entry_point(extractor_of(name)).value
    return ExtractorSpec(name, target, None if columns is None else tuple(columns))
