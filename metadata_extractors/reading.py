"""Objects of a view that have no row of metadata, read now: as the worker would, but nothing is stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import pyarrow as pa

from metadata_extractors.base import Extraction
from metadata_extractors.extracting import Extractors, Source, row_of
from snapengine.bulkfold import versions_of
from snapengine.errors import NotFound, Refused, UsageError
from snapengine.extraction_tasks import Task
from snapengine.metadata_rows import fold_rows, join_rows
from snapengine.model import ObjectVersion
from snapengine.ports import Clock

_AHEAD: Final = 4
"""Objects begun for each worker before their rows are taken."""
_OBJECTS_A_CHILD: Final = 16
"""A child process takes half a second to start: few objects do not need many."""


def read_now(
    source: Source,
    bucket: str,
    extractor: str,
    columns: Sequence[str] | None,
    objects: pa.Table,
    workers: int,
    clock: Clock,
) -> pa.Table:
    """View rows (`VIEW_SCHEMA`, in key order), each with what the extractor says of that version.

    What happens to one object is its row's `outcome` and `error`, also that it may not be read; only where S3
    does not answer an error is raised. `workers` threads have a child process each, which can be killed.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}.")
    count = min(workers, 1 + objects.num_rows // _OBJECTS_A_CHILD)
    with Extractors(source, clock, count, columns=columns) as extractors:
        (face,) = extractors.faces([extractor]).values()

        def row(version: ObjectVersion) -> pa.RecordBatch:
            task = Task(
                bucket,
                version.key,
                version.version_id,
                version.size,
                version.etag,
                version.sequencer,
                version.event_time,
            )
            try:
                return extractors.rows(task, [extractor])[0].batch
            except (Refused, NotFound) as error:
                failed = Extraction("failed", problems=(f"{error.code}: {error}",))
                return row_of(task, extractor, face, failed, clock()).batch

        schema = row_of(Task(bucket, "", "", None, None, None, 0), extractor, face, Extraction("ok"), 0)
        batches = list(_in_turn(row, versions_of(objects), count))
    rows = pa.Table.from_batches(batches, schema.batch.schema)
    return join_rows(objects, fold_rows(rows) if rows.num_rows else rows)


def _in_turn(row: Any, versions: Iterable[ObjectVersion], workers: int) -> Iterator[pa.RecordBatch]:
    """The rows in order, with no more objects begun than the workers need to keep busy."""
    begun: deque[Future[pa.RecordBatch]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="metadata") as pool:
        try:
            for version in versions:
                begun.append(pool.submit(row, version))
                if len(begun) >= workers * _AHEAD:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
