"""Which versions of a view lack a row of an extractor in the version that is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import merge
from itertools import islice
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snapengine.bulkfold import VIEW_SCHEMA, versions_of
from snapengine.engine import NO_EPOCH, Engine
from snapengine.model import ObjectVersion
from snapengine.row_reading import Joined, joined
from snapengine.views import View

Lacking = list[tuple[ObjectVersion, tuple[str, ...]]]
"""Versions, each with the names of the extractors of which it lacks a row."""

_AT_ONCE: Final = 1_000
_BATCH: Final = 16_384
_COLUMNS: Final = [*VIEW_SCHEMA.names, "extractor_version"]
_Known = tuple[ObjectVersion, str | None]
"""A version, and which version of the extractor its row is of."""


def lacking(
    engine: Engine, view: View, versions: Mapping[str, str], *, again: bool = False
) -> Iterator[Lacking]:
    """All versions of the view in key order, some at a time, in bounded memory. `versions` are those of the
    extractors, by name; with `again` all lack all.

    A row counts that the view's epoch covers. Where an older version of the extractor read an object that
    the newer one failed on, the older one's row is the answer still, and the object counts as lacking.
    """
    if again:
        every = ((version, tuple(versions)) for version in view.versions())
        while some := list(islice(every, _AT_ONCE)):
            yield some
        return
    epoch = engine.store.epoch(view.bucket, view.epoch) or NO_EPOCH
    found = {
        name: joined(engine, view.ref, epoch, name, identifying=False, columns=[]).settled()
        for name in versions
    }
    for each in found.values():
        each.verify(_COLUMNS)
    rows = zip(*(_in_order(each) for each in found.values()), strict=True)
    while several := list(islice(rows, _AT_ONCE)):
        yield [
            (
                same[0][0],
                tuple(
                    name for (name, own), (_, has) in zip(versions.items(), same, strict=True) if has != own
                ),
            )
            for same in several
        ]


def _in_order(rows: Joined) -> Iterator[_Known]:
    """Every version of the view, in key order."""
    changed = (known for batch in rows.batches() for known in _known(batch))
    return merge(_of_files(rows), changed, key=lambda known: known[0].key)


def _of_files(rows: Joined) -> Iterator[_Known]:
    """Those of the files' rows that count."""
    for path in rows.files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=_COLUMNS):
                keys = batch.column("key").cast(pa.string())
                counts = pc.and_(
                    pc.invert(pc.is_in(keys, value_set=pa.array(rows.changed, pa.string()))),
                    pc.greater_equal(keys, rows.keys.first),
                )
                if rows.keys.after is not None:
                    counts = pc.and_(counts, pc.less(keys, rows.keys.after))
                yield from _known(batch.filter(counts))


def _known(batch: pa.RecordBatch) -> Iterator[_Known]:
    table = pa.Table.from_batches([batch]).select(_COLUMNS)
    return zip(versions_of(table), table["extractor_version"].to_pylist(), strict=True)
