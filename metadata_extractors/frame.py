"""Metadata of the objects of a view as a table: each object read by its exact version, one row each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

import pyarrow as pa

from metadata_extractors.base import Extraction, Extractor, MetadataRow
from metadata_extractors.ranged import RangedReader, extract_from
from metadata_extractors.registry import make_extractor
from snapengine.errors import SnapEngineError, UsageError, VersionArchived, VersionGone
from snapengine.model import ObjectVersion

if TYPE_CHECKING:
    import pandas as pd

ROW_FIELDS: Final = [
    pa.field(name, kind, nullable, {"identifying": "false"})
    for name, kind, nullable in (
        ("key", pa.string(), False),
        ("version_id", pa.string(), False),
        ("size", pa.int64(), True),
        ("event_time", pa.timestamp("ms", "UTC"), False),
        ("outcome", pa.string(), False),
        ("error", pa.string(), True),
    )
]
"""The columns that every row has, before the extractor's own."""

_BATCH_ROWS: Final = 4096
_AHEAD: Final = 4
"""Objects begun for each worker before their rows are taken."""


class ObjectView(Protocol):
    """What is needed of a view; `str()` of it is its reference."""

    def items(self) -> Iterable[tuple[str, ObjectVersion]]:
        """Keys and versions, in key order."""
        ...

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes `[start, end)` of exactly that version; fewer where it ends before."""
        ...


def metadata_frame(
    view: ObjectView,
    extractor: str = "dicom",
    columns: Sequence[str] | None = None,
    prefix: str = "",
    workers: int = 8,
) -> pd.DataFrame:
    """What `metadata_table` gives, as a DataFrame whose columns keep their Arrow types (`pandas.ArrowDtype`).

    `frame.attrs` has the view's `reference` and the names of the `identifying` columns.
    """
    try:
        import pandas as pd
    except ImportError:
        raise UsageError("pandas is not installed. Run `pip install 'snapengine[dicom]'`.") from None
    table = metadata_table(view, extractor, columns, prefix, workers)
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    frame.attrs["reference"] = str(view)
    frame.attrs["identifying"] = [
        column.name for column in table.schema if (column.metadata or {}).get(b"identifying") == b"true"
    ]
    return frame


def metadata_table(
    view: ObjectView,
    extractor: str = "dicom",
    columns: Sequence[str] | None = None,
    prefix: str = "",
    workers: int = 8,
) -> pa.Table:
    """One row for each object of the view whose key starts with `prefix`, in key order.

    Only headers are read, each from the version that the view shows, by `workers` threads that share one
    Python: they hide the waiting for S3. What happens to one object is its row's `outcome` and `error`; it
    never stops the rest. Raises `UsageError` for an unknown extractor or column, and for a slice of all
    versions, whose keys do not say which version is meant.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}.")
    chosen = make_extractor(extractor, columns)
    schema = pa.schema([*ROW_FIELDS, *chosen.schema])
    rows = _rows(view, chosen, prefix, workers)
    batches = []
    while some := list(islice(rows, _BATCH_ROWS)):
        batches.append(_batch(some, schema))
    return pa.Table.from_batches(batches, schema)


def _batch(rows: list[MetadataRow], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array([row[place] for row in rows], column.type) for place, column in enumerate(ROW_FIELDS)]
    arrays += [
        pa.array([row.values.get(column.name) for row in rows], column.type)
        for column in list(schema)[len(ROW_FIELDS) :]
    ]
    return pa.record_batch(arrays, schema=schema)


def _rows(view: ObjectView, extractor: Extractor, prefix: str, workers: int) -> Iterator[MetadataRow]:
    """The rows in key order, with no more objects begun than the workers need to keep busy."""
    begun: deque[Future[MetadataRow]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="metadata") as pool:
        try:
            for version in _versions(view, prefix):
                begun.append(pool.submit(_row, view, extractor, version))
                if len(begun) >= workers * _AHEAD:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def _versions(view: ObjectView, prefix: str) -> Iterator[ObjectVersion]:
    previous = None
    for key, version in view.items():
        if key == previous:
            raise UsageError(
                f"{view} shows {key!r} more than once: metadata is read by key, of one version each. "
                "Take a view, or a slice of the last versions."
            )
        previous = key
        if key.startswith(prefix):
            yield version


def _row(view: ObjectView, extractor: Extractor, version: ObjectVersion) -> MetadataRow:
    found = _extract(view, extractor, version)
    return MetadataRow(
        version.key,
        version.version_id,
        version.size,
        version.event_time,
        found.outcome,
        "; ".join(found.problems) or None,
        found.values,
    )


def _extract(view: ObjectView, extractor: Extractor, version: ObjectVersion) -> Extraction:
    def read(start: int, end: int) -> bytes:
        return view.read_range(version.key, start, end)

    try:
        return extract_from(extractor, RangedReader(read, version.size, version.key))
    except VersionGone as gone:
        return Extraction("gone", problems=(str(gone),))
    except VersionArchived as archived:
        return Extraction("archived", problems=(str(archived),))
    except SnapEngineError as error:
        return Extraction("failed", problems=(f"{error.code}: {error}",))
    except Exception as error:  # noqa: BLE001  # no object may cost the rest their rows; text may hold values
        return Extraction("failed", problems=(f"{type(error).__name__} while reading",))
