"""From a reference to rows: what an epoch covers is read from the log and folded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.bulkfold import VIEW_SCHEMA, bulkfold, bulkfold_all
from snapengine.fold import fold
from snapengine.model import Epoch, ObjectVersion, SnapshotRef
from snapengine.observation_codec import SCHEMA, decode_table
from snapengine.ports import LogReader


def resolve(log: LogReader, ref: SnapshotRef, epoch: Epoch) -> pa.Table:
    """The rows of a view (`VIEW_SCHEMA`) or of a slice of all versions, in order of the keys' UTF-8 bytes.

    A slice keeps of the state at its end what was created at or after its start.
    """
    observations = covered(log, ref, epoch)
    if ref.versions == "all" and ref.start is not None:
        return bulkfold_all(observations, ref.start, ref.at)
    rows = bulkfold(observations, ref.at)
    if ref.start is not None:
        rows = rows.filter(pc.greater_equal(rows["event_time"].cast(pa.int64()), ref.start))
    return rows.replace_schema_metadata(VIEW_SCHEMA.metadata)


def resolve_key(log: LogReader, ref: SnapshotRef, epoch: Epoch, key: str) -> ObjectVersion | None:
    """One key of a view or slice, from its own history: agrees with `resolve`, at the cost of that key."""
    if not key.startswith(ref.prefix):
        return None
    version = fold(log.key_history(ref.bucket, key, epoch.cover), ref.at)
    if version and ref.start is not None and version.event_time < ref.start:
        return None
    return version


def covered(log: LogReader, ref: SnapshotRef, epoch: Epoch) -> pa.Table:
    """All observations below the prefix that the epoch covers, by the log's schema; streams in parallel."""

    def read(stream: int) -> list[pa.Table]:
        return list(_entries(log, ref, stream, epoch.cover[stream]))

    streams = sorted(stream for stream, last in epoch.cover.items() if last)
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="snapengine-read") as pool:
        tables = [table for found in pool.map(read, streams) for table in found]
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def _entries(log: LogReader, ref: SnapshotRef, stream: int, last: int) -> Iterator[pa.Table]:
    for entry in log.entries(ref.bucket, stream, 0, last):
        table = decode_table(entry.payload)
        if ref.prefix:
            table = table.filter(pc.starts_with(table["key"], pattern=ref.prefix))
        if table.num_rows:
            yield table
