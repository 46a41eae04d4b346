"""Which versions of a view lack a row of an extractor in the version that is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b

import pyarrow as pa

from snapengine.bulkfold import versions_of
from snapengine.engine import Engine
from snapengine.metadata_codec import decode
from snapengine.metadata_rows import metadata_log
from snapengine.model import NULL_VERSION, ObjectVersion
from snapengine.views import View

Lacking = list[tuple[ObjectVersion, tuple[str, ...]]]
"""Versions, each with the names of the extractors of which it lacks a row."""


def lacking(
    engine: Engine, view: View, versions: Mapping[str, str], *, again: bool = False
) -> Iterator[Lacking]:
    """All versions of the view in key order, some at a time. `versions` are the extractors' by name; with
    `again` all lack all. A row counts that the view's epoch covers."""
    known = {} if again else {name: _with_rows(engine, view, name, own) for name, own in versions.items()}
    for batch in view.to_batches():
        found = versions_of(pa.Table.from_batches([batch]))
        yield [
            (version, tuple(name for name in versions if again or _identity(version) not in known[name]))
            for version in found
        ]


def _with_rows(engine: Engine, view: View, extractor: str, own: str) -> set[bytes]:
    """Digests of the versions that have a row."""
    epoch = engine.store.epoch(view.bucket, view.epoch)
    found: set[bytes] = set()
    for stream, last in sorted(epoch.rows.items() if epoch else ()):
        for entry in engine.store.entries(metadata_log(view.bucket), stream, 0, last):
            rows = decode(entry.payload)
            if rows.extractor == extractor:
                columns = rows.table.select(
                    ["key", "version_id", "etag", "sequencer", "extractor_version"]
                ).to_pydict()
                found.update(
                    _digest(*four) for *four, version in zip(*columns.values(), strict=True) if version == own
                )
    return found


def _identity(version: ObjectVersion) -> bytes:
    return _digest(version.key, version.version_id, version.etag, version.sequencer)


def _digest(key: str, version_id: str, etag: str | None, sequencer: str | None) -> bytes:
    which = (etag, sequencer) if version_id == NULL_VERSION else ()
    return blake2b(repr((key, version_id, *which)).encode(), digest_size=16).digest()
