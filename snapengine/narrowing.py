"""Narrowed views: some objects of a view, chosen one by one or by a condition, as a view of their own."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.after_fork import lock_of
from snapengine.bulkfold import VIEW_SCHEMA, versions_of
from snapengine.errors import NoSuchKey, UsageError
from snapengine.model import Epoch, GoneVersion, ObjectVersion, SnapshotRef
from snapengine.rollup import range_of
from snapengine.view_rows import FEW_ROWS, BaseSource


def wanted_objects(chosen: Any) -> tuple[pa.Array[Any], pa.Array[Any] | None]:
    """The keys that somebody chose, in order and each once or more, and beside them the versions, if given.

    `chosen` is a table (pandas, pyarrow, or anything that gives Arrow data) with a column `key` and perhaps
    `version_id`, or keys. Raises `UsageError` for anything else.
    """
    if isinstance(chosen, str | bytes):
        raise UsageError(f"select wants several keys, or a table of them: write [{chosen!r}].")
    if hasattr(chosen, "columns") and hasattr(chosen, "iloc"):
        names = [name for name in ("key", "version_id") if name in chosen.columns]
        table = pa.Table.from_pandas(chosen[names], preserve_index=False) if names else pa.table({})
    elif hasattr(chosen, "columns") or hasattr(chosen, "schema"):
        table = _as_table(chosen)
    elif not isinstance(chosen, Iterable):
        raise UsageError(f"select wants keys, or a table of them, not {type(chosen).__name__}.")
    else:
        keys = chosen.to_pylist() if isinstance(chosen, pa.Array | pa.ChunkedArray) else list(chosen)
        if wrong := next((key for key in keys if not isinstance(key, str)), None):
            raise UsageError(f"select wants keys, which are text, not {type(wrong).__name__}.")
        table = pa.table({"key": pa.array(keys, pa.string())})
    if "key" not in table.schema.names:
        raise UsageError("select wants a table with a column `key`, as `view.metadata()` gives it.")
    versions = _texts(table, "version_id") if "version_id" in table.schema.names else None
    return _texts(table, "key"), versions


def _as_table(chosen: Any) -> pa.Table:
    try:
        return pa.table(chosen)
    except (TypeError, ValueError) as error:
        raise UsageError(f"select cannot read {type(chosen).__name__} as a table: {error}.") from None


def _texts(table: pa.Table, name: str) -> pa.Array[Any]:
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if len(column) and not any(
        kind(column.type) for kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    ):
        raise UsageError(f"The column `{name}` of what is selected holds {column.type}, and not text.")
    if column.null_count:
        raise UsageError(f"The column `{name}` of what is selected is empty in {column.null_count} rows.")
    return column.cast(pa.string()).combine_chunks()


def pick(
    batches: Iterable[pa.RecordBatch], keys: pa.Array[Any], versions: pa.Array[Any] | None, reference: str
) -> pa.Table:
    """Of a view's rows, in key order, those of the keys. Raises `NoSuchKey` for one that is not among them,
    and `UsageError` for one of another version."""
    distinct = pc.unique(keys)
    distinct = distinct.take(pc.sort_indices(distinct))
    found = [VIEW_SCHEMA.empty_table()]
    for batch in batches:
        if not batch.num_rows or not len(distinct):
            continue
        here = between(distinct, str(batch["key"][0]), str(batch["key"][batch.num_rows - 1]))
        if len(here):
            found.append(pa.Table.from_batches([batch.filter(pc.is_in(batch["key"], value_set=here))]))
    rows = pa.concat_tables(found).combine_chunks()
    shown = rows["key"].combine_chunks()
    if len(shown) < len(distinct):
        missing = distinct.filter(pc.invert(pc.is_in(distinct, value_set=shown)))
        raise NoSuchKey(str(missing[0]), reference)
    if versions is not None and len(keys):
        _check_versions(rows, keys, versions, reference)
    return rows


def between(keys: pa.Array[Any], first: str, last: str) -> pa.Array[Any]:
    """Of sorted keys those in `[first, last]`; nothing is copied. Python compares text as UTF-8 bytes do."""
    start = bisect_left(range(len(keys)), first, key=lambda i: keys[i].as_py())
    return keys.slice(start, bisect_right(range(len(keys)), last, key=lambda i: keys[i].as_py()) - start)


def _check_versions(rows: pa.Table, keys: pa.Array[Any], versions: pa.Array[Any], reference: str) -> None:
    places = pc.index_in(keys, value_set=rows["key"].combine_chunks())
    shown = rows["version_id"].combine_chunks().take(places)
    other = pc.indices_nonzero(pc.not_equal(shown, versions))
    if len(other):
        at = other[0].as_py()
        raise UsageError(
            f"{reference} shows version {shown[at]} of {str(keys[at])!r}, not {versions[at]}, which was "
            "selected. Select from the view that the rows were taken from."
        )


class NarrowedSource:
    """The source of a narrowed view: its rows, and the source of the view that was narrowed for all else.

    Rows that the table does not keep go along when it is pickled.
    """

    def __init__(
        self, base: BaseSource, ref: SnapshotRef, rows: pa.Table | None, *, only_here: bool = False
    ) -> None:
        self.base = base
        self._ref = ref
        self._rows = rows
        self._only_here = only_here
        self._lock = lock_of(self)

    def __reduce__(self) -> tuple[Any, ...]:
        few = self._rows is not None and self._rows.num_rows <= FEW_ROWS
        rows = self._rows if few or self._only_here else None
        return (_unpickled, (self.base, self._ref, rows, self._only_here))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NarrowedSource) and (self.base, self._ref) == (other.base, other._ref)

    def __hash__(self) -> int:
        return hash(self._ref)

    def _below(self, ref: SnapshotRef) -> pa.Table:
        with self._lock:
            if self._rows is None:
                self._rows = self.base.selected(self._ref)
        first, last = range_of(self._rows["key"], ref.prefix)
        return self._rows.slice(first, last - first)

    def table(self, ref: SnapshotRef, epoch: Epoch) -> pa.Table:  # noqa: ARG002  # a selection is of one epoch
        return self._below(ref)

    def batches(
        self,
        ref: SnapshotRef,
        epoch: Epoch,  # noqa: ARG002  # a selection is of one epoch
        columns: Sequence[str] | None = None,
        after: str = "",
    ) -> Iterator[pa.RecordBatch]:
        rows = self._below(ref)
        keys = rows["key"]
        rows = rows.slice(bisect_right(range(rows.num_rows), after, key=lambda i: keys[i].as_py()))
        yield from rows.select(list(columns or rows.schema.names)).to_batches()

    def bound(self, ref: SnapshotRef, epoch: Epoch) -> int:  # noqa: ARG002  # a selection is of one epoch
        return int(self._below(ref).num_rows)

    def differing(self, *_views: Any) -> None:
        """Both sides are read."""

    def explain(self, ref: SnapshotRef, epoch: Epoch) -> str:  # noqa: ARG002  # a selection is of one epoch
        return f"the {self._below(ref).num_rows:,} rows that were selected, as they were kept"

    def version(self, ref: SnapshotRef, epoch: Epoch, key: str) -> ObjectVersion | None:  # noqa: ARG002  # a selection is of one epoch
        keys = (rows := self._below(ref))["key"]
        at = bisect_left(range(rows.num_rows), key, key=lambda i: keys[i].as_py())
        return next((v for v in versions_of(rows.slice(at, 1)) if v.key == key), None)

    def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        return self.base.read(bucket, version, start, end)

    def removal(self, bucket: str, version: ObjectVersion) -> str | None:
        return self.base.removal(bucket, version)

    def audit(self, ref: SnapshotRef, shown: pa.Table) -> list[GoneVersion]:
        return self.base.audit(ref, shown)


def _unpickled(base: BaseSource, ref: SnapshotRef, rows: pa.Table | None, only_here: bool) -> NarrowedSource:
    return NarrowedSource(base, ref, rows, only_here=only_here)
