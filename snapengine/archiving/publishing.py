"""How something becomes part of the archive: its files, a copy of its manifest, and the manifest itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from secrets import token_hex

import pyarrow as pa

from snapengine.archive.manifest import ArchiveFile, Manifest, Role, from_json, retired, to_json
from snapengine.archive.roots import Root
from snapengine.archive.writing import FileWriter
from snapengine.archiving import paths
from snapengine.ports import LogReader, Registry


class Series:
    """Files `<stem>-<nonce>-<n>.parquet` of at most so many rows, of tables that come in order.

    A nonce of its own keeps a second writer's files apart. After an exception the file begun is not put.
    """

    def __init__(
        self,
        root: Root,
        stem: str,
        role: Role,
        schema: pa.Schema,
        sort: Sequence[str],
        rows: int,
        *,
        extractor: str = "",
        group_rows: int | None = None,
    ) -> None:
        self._root = root
        self._stem = f"{stem}-{token_hex(4)}"
        self._role = role
        self._schema = schema
        self._sort = sort
        self._rows = rows
        self._extractor = extractor
        self._group_rows = group_rows
        self._writer: FileWriter | None = None
        self._files: list[ArchiveFile] = []

    def write(self, table: pa.Table) -> None:
        while table.num_rows:
            if self._writer is None:
                path = f"{self._stem}-{len(self._files):05d}.parquet"
                self._writer = FileWriter(
                    self._root,
                    path,
                    self._role,
                    self._schema,
                    sort=self._sort,
                    extractor=self._extractor,
                    group_rows=self._group_rows,
                )
            room = self._rows - self._writer.rows
            self._writer.write(table.slice(0, room))
            table = table.slice(room)
            if self._writer.rows == self._rows:
                self.close()

    def close(self) -> list[ArchiveFile]:
        """All files; they are in the root."""
        if self._writer is not None:
            self._files.append(self._writer.close())
            self._writer = None
        return self._files

    def __enter__(self) -> Series:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.abandon()


def write_sorted(
    root: Root,
    stem: str,
    role: Role,
    schema: pa.Schema,
    sort: Sequence[str],
    tables: Iterable[pa.Table],
    rows: int,
) -> list[ArchiveFile]:
    """A `Series` of all tables."""
    with Series(root, stem, role, schema, sort, rows) as series:
        for table in tables:
            series.write(table)
        return series.close()


def publish(
    root: Root, registry: Registry, bucket: str, manifest: Manifest, *, replacing: str | None = None
) -> bool:
    """Commit a manifest whose files are in the root; False if another of its name was committed before.
    `replacing`: one of its name that does not stand any more.

    A copy goes to the root first, for the day the table is lost.
    """
    body = to_json(manifest)
    root.put_bytes(f"{paths.copies(bucket, manifest.name)}{token_hex(4)}.json", body.encode())
    return registry.put_manifest(bucket, manifest.name, body, replacing=replacing)


def put_back_copies(log: LogReader, root: Root, bucket: str) -> int:
    """Write a copy of each standing manifest that has none any more; how many."""
    there = {stored.path for stored in root.paths(f"{bucket}/manifests/")}
    put = 0
    for body in log.manifests(bucket):
        manifest = from_json(body)
        start = paths.copies(bucket, manifest.name)
        if manifest.retired_at is None and not any(path.startswith(start) for path in there):
            root.put_bytes(f"{start}{token_hex(4)}.json", body.encode())
            put += 1
    return put


def retire(registry: Registry, bucket: str, manifest: Manifest, now: int) -> bool:
    """Take a manifest out of use; its files stay for readers who have begun. False if it has changed."""
    return registry.put_manifest(
        bucket, manifest.name, to_json(retired(manifest, now)), replacing=to_json(manifest)
    )
