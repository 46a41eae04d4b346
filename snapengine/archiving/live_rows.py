"""Of a checkpoint, for each extractor: its objects joined with their rows of metadata.

They are made of the last checkpoint's and of what came since. Rows of versions that the checkpoint does not
know yet, which a view of a later instant may show, are put beside them (`pending`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import ArchiveFile, Checkpoint, Role
from snapengine.archive.planning import newest_start
from snapengine.archive.roots import Root
from snapengine.archive.row_files import LIVE_GROUP_ROWS, ROW_FILE_ROWS, ROW_ORDER, RowSchema, telling
from snapengine.archiving import paths
from snapengine.archiving.publishing import Series
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import ArchiveDamaged, BadData, LogDamaged, SchemaTooNew
from snapengine.metadata_rows import conform, identifying_names, joined_schema, plain_schema
from snapengine.model import Epoch, SnapshotRef
from snapengine.row_folding import full_schema
from snapengine.row_reading import folded_ranges
from snapengine.row_windows import Extracted

_logger = logging.getLogger(__name__)


def live_files(
    tools: ArchiveTools,
    root: Root,
    ref: SnapshotRef,
    epoch: Epoch,
    renew: Callable[[], None],
    base: Checkpoint | None = None,
) -> list[ArchiveFile]:
    """The files of all extractors for a checkpoint at `ref` and the last archived epoch, in the root; with
    `base` for a differential from that checkpoint, of the extractors that it has.

    An extractor whose versions contradict each other is left out, with a warning: views are then made of its
    rows alone, and say so.
    """
    segments = tools.archive(ref.bucket).segments
    extractors = {f.extractor for s in segments for f in s.files if f.role == "rows"}
    files: list[ArchiveFile] = []
    for extractor in sorted(extractors if base is None else extractors & set(base.extractors)):
        try:
            files += _of_extractor(tools, root, ref, epoch, extractor, renew, base)
        except (ArchiveDamaged, LogDamaged, SchemaTooNew):
            raise
        except BadData as error:
            _logger.warning(
                "The %s of bucket %s has no metadata of extractor %s: %s",
                "checkpoint" if base is None else "differential",
                ref.bucket,
                extractor,
                error,
            )
    return files


def _of_extractor(
    tools: ArchiveTools,
    root: Root,
    ref: SnapshotRef,
    epoch: Epoch,
    extractor: str,
    renew: Callable[[], None],
    base: Checkpoint | None,
) -> list[ArchiveFile]:
    begin = newest_start(tools.archive(ref.bucket), ref.at, epoch.number, extractor, of=base)
    wanted = Extracted(extractor, full=True)
    results = folded_ranges(tools, ref, epoch, wanted, begin, whole=base is None, rest=True)
    first = next(results, None)
    if first is None:
        return []
    members, _ = first
    with ExitStack() as stack:
        point = paths.Point(ref.bucket, ref.at, epoch.number, base is not None)
        writing = _Writing(root, point, extractor, members, stack)
        for _, table in chain([first], results):
            renew()
            writing.write(table)
        return writing.close()


class _Writing:
    """Live rows and pending ones, plain and with all columns."""

    def __init__(
        self,
        root: Root,
        point: paths.Point,
        extractor: str,
        members: Sequence[RowSchema],
        stack: ExitStack,
    ) -> None:
        self._full = full_schema(members, extractor)
        self._root = root
        self._point = point
        self._extractor = extractor
        self._members = members
        self._stack = stack
        plain = plain_schema(self._full)
        self._live = [self._series("live", joined_schema(plain))]
        self._pending = [self._series("pending", plain)]
        if identifying_names(self._full):
            self._live.append(self._series("live_identifying", joined_schema(self._full)))
            self._pending.append(self._series("pending_identifying", self._full))

    def _series(self, role: Role, schema: pa.Schema) -> tuple[Series, pa.Schema]:
        name, _, identifying = role.partition("_")
        folder = paths.live(self._point, self._extractor, identifying=bool(identifying))
        series = Series(
            self._root,
            f"{folder}/{name}",
            role,
            telling(schema, self._members),
            ("key",) if name == "live" else ROW_ORDER,
            ROW_FILE_ROWS,
            extractor=self._extractor,
            group_rows=LIVE_GROUP_ROWS if name == "live" else None,
        )
        return self._stack.enter_context(series), schema

    def write(self, table: pa.Table) -> None:
        """A range's result."""
        there = pc.is_valid(table["event_time"])
        shown = table.filter(there)
        for series, schema in self._live:
            series.write(shown.select(schema.names).cast(schema))
        # Without a version id it is a key that is gone, of which the differential's objects tell.
        rest = table.filter(pc.and_(pc.invert(there), pc.is_valid(table["version_id"])))
        rest = conform(rest, self._full)
        rest = rest.take(pc.sort_indices(rest, sort_keys=[(name, "ascending") for name in ROW_ORDER]))
        for series, schema in self._pending:
            series.write(rest.select(schema.names).cast(schema))

    def close(self) -> list[ArchiveFile]:
        return [file for series, _ in (*self._live, *self._pending) for file in series.close()]
