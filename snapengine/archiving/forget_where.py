"""Which versions a condition on their metadata is true of: all that ever were, not only those of a view."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from snapengine.archiving.forget import Asked
from snapengine.archiving.forget_files import Near
from snapengine.cautions import MetadataMissing
from snapengine.forgotten import version_unit
from snapengine.metadata_rows import conform, joined_schema, plain_schema
from snapengine.model import Epoch, SnapshotRef
from snapengine.row_reading import joined_ranges, row_schema
from snapengine.row_windows import Extracted
from snapengine.view_rows import Joined
from snapengine.views import View


@dataclass(frozen=True)
class _AllRows:
    """`view_rows.Joined` of every version there ever was."""

    schema: pa.Schema
    _batches: Callable[[], Iterator[pa.RecordBatch]]
    files: Sequence[Path] = ()
    changed: Sequence[str] = ()

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self._batches()

    def settled(self) -> _AllRows:
        return self

    def abandon(self) -> None:
        """Nothing is read but by `batches`."""

    def verify(self, columns: Sequence[str] | None = None) -> None:
        """There are no files."""


class _EveryVersion(View):
    """A view whose metadata is that of all versions of its keys: a key may be there more than once."""

    def joined(
        self,
        extractor: str,
        *,
        identifying: bool,
        columns: Sequence[str] | None = None,  # noqa: ARG002  # all are read
    ) -> Joined:
        every = replace(self.ref, start=0, versions="all")
        source: Any = self._source
        full = row_schema(source, self.ref.bucket, self._epoch, extractor)
        schema = joined_schema(full if identifying else plain_schema(full))

        def batches() -> Iterator[pa.RecordBatch]:
            wanted = Extracted(extractor, identifying)
            for table in joined_ranges(source, every, self._epoch, wanted, None):
                yield from conform(table, schema).to_batches(max_chunksize=65_536)

        return _AllRows(joined_schema(full), batches)


def matching(source: Any, bucket: str, epoch: Epoch, extractor: str, where: str) -> tuple[Asked, list[str]]:
    """The versions of whose newest row the condition is true, and their keys in order, each once.

    `source`: an `Engine`. Raises `UsageError` for what is no condition on the extractor's columns,
    `IdentifyingRefused`, and what reading a view raises.
    """
    view = _EveryVersion(source, SnapshotRef(bucket, "", epoch.time, epoch.number), epoch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MetadataMissing)  # what has no row has nothing to be forgotten
        found = view.metadata_table(
            extractor, where=where, columns=["version_id", "etag"], missing="warn", deidentify=False
        )
    columns = (found[name].to_pylist() for name in ("key", "version_id", "etag"))
    versions = list(zip(*columns, strict=True))
    keys = sorted({key for key, _, _ in versions})
    return Asked({version_unit(*version) for version in versions}, Near(keys)), keys
