"""How something becomes part of the archive: its files, a copy of its manifest, and the manifest itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from secrets import token_hex

import pyarrow as pa

from snapengine.archive.manifest import ArchiveFile, Manifest, Role, retired, to_json
from snapengine.archive.roots import Root
from snapengine.archive.writing import FileWriter
from snapengine.ports import Registry


def write_sorted(
    root: Root,
    folder: str,
    name: str,
    role: Role,
    schema: pa.Schema,
    sort: Sequence[str],
    tables: Iterable[pa.Table],
    rows: int,
) -> Iterator[ArchiveFile]:
    """Files `<folder>/<name>-<nonce>-<n>.parquet` of some `rows` each, of tables that come in order.

    Each is in the root when it is given; a nonce of its own keeps a second writer's files apart.
    """
    nonce = token_hex(4)
    writer: FileWriter | None = None
    number = 0
    try:
        for table in tables:
            for start in range(0, table.num_rows, rows):
                piece = table.slice(start, rows)
                if writer is not None and writer.rows + piece.num_rows > rows:
                    yield writer.close()
                    writer = None
                if writer is None:
                    path = f"{folder}/{name}-{nonce}-{number:05d}.parquet"
                    writer = FileWriter(root, path, role, schema, sort=sort)
                    number += 1
                writer.write(piece)
        if writer is not None:
            yield writer.close()
    finally:
        if writer is not None:
            writer.abandon()


def publish(root: Root, registry: Registry, bucket: str, manifest: Manifest) -> bool:
    """Commit a manifest whose files are in the root; False if another of its name was committed before.

    A copy goes to the root first, for the day the table is lost.
    """
    body = to_json(manifest)
    name = manifest.name.replace("#", "-").lower()
    root.put_bytes(f"{bucket}/manifests/{name}-{token_hex(4)}.json", body.encode())
    return registry.put_manifest(bucket, manifest.name, body)


def retire(registry: Registry, bucket: str, manifest: Manifest, now: int) -> bool:
    """Take a manifest out of use; its files stay for readers who have begun. False if it has changed."""
    return registry.put_manifest(
        bucket, manifest.name, to_json(retired(manifest, now)), replacing=to_json(manifest)
    )
