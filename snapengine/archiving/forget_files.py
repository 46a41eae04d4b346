"""Forgetting in the archive: files with forgotten rows are written anew without them, and the old ones go.

In this order, each step repeatable: the new files are put and read back; a copy of the new manifest is put;
the manifest is swapped, on condition that nobody has changed it; then (`forget_places.py`) older copies, and
all files that no manifest names, are deleted at once. A reader with an older plan finds a file missing, and
plans again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snapengine.archive.manifest import ArchiveFile, Checkpoint, Segment, from_json, to_json
from snapengine.archive.reading import ArchiveReader, Group
from snapengine.archive.roots import Root
from snapengine.archive.writing import BLOCKS, FORMAT, FileWriter
from snapengine.archiving import paths
from snapengine.archiving.leasing import Renew
from snapengine.buckets.tools import Store
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.errors import Busy
from snapengine.forgotten import Forgotten
from snapengine.metadata_codec import compacted

_LIVE: Final = frozenset({"live", "live_identifying"})
"""Objects with their rows: of these the object stays."""
_IDS: Final = ("key", "version_id", "etag")


@dataclass(frozen=True, slots=True)
class Near:
    """Keys and prefixes in clear, so that files far from them need not be read."""

    keys: Sequence[str]
    """In order."""
    prefixes: Sequence[str] = ()

    def may_be(self, group: Group) -> bool:
        """Whether a row group may have one of them."""
        if any(group.min_key <= key <= group.max_key for key in self.keys):
            return True
        return any(
            p <= group.max_key and (group.min_key <= p or group.min_key.startswith(p)) for p in self.prefixes
        )


@dataclass(slots=True)
class FilesForgotten:
    """What was taken out of the archive, or would be."""

    segment_rows: int = 0
    """Each once, also where it is in a plain file and in one with all columns."""
    checkpoint_rows: int = 0
    files: int = 0
    """Written anew."""
    manifests: list[str] = field(default_factory=list)
    """Of which some file was."""


class FilesForgetting:
    """One pass over the standing manifests that have not been gone through; with `apply` false it counts."""

    def __init__(
        self,
        store: Store,
        root: Root,
        bucket: str,
        forgotten: Forgotten,
        renew: Renew,
        *,
        apply: bool,
        near: Near | None = None,
        since: int = 0,
    ) -> None:
        """`near` is what was forgotten after number `since`."""
        self._store = store
        self._root = root
        self._bucket = bucket
        self._forgotten = forgotten
        self._renew = renew
        self._apply = apply
        self._near = near
        self._since = since
        self._reader = ArchiveReader(root)  # nothing of it is to be cached
        self._done = FilesForgotten()

    def run(self) -> FilesForgotten:
        """Raises `Busy` if somebody else changes a manifest meanwhile, `ArchiveDamaged`, and what the store
        and the root raise. It may always be called again."""
        for body in self._store.manifests(self._bucket):
            manifest = from_json(body)
            if not isinstance(manifest, Segment | Checkpoint) or manifest.retired_at is not None:
                continue
            if manifest.forgotten < self._forgotten.number or not self._apply:
                self._manifest(manifest, body)
        return self._done

    def _manifest(self, manifest: Segment | Checkpoint, body: str) -> None:
        near = self._near if manifest.forgotten >= self._since else None
        files: list[ArchiveFile] = []
        rows = 0
        for file in manifest.files:
            self._renew()
            found = self._hits(file, near) if file.extractor else 0
            rows += 0 if "identifying" in file.role else found
            files.append(self._anew(file) if found and self._apply else file)
            self._done.files += found > 0
        if isinstance(manifest, Segment):
            self._done.segment_rows += rows
        else:
            self._done.checkpoint_rows += rows
        if self._apply:
            self._swap(
                replace(manifest, files=tuple(files), forgotten=self._forgotten.number), manifest, body
            )

    def _swap(self, new: Segment | Checkpoint, old: Segment | Checkpoint, body: str) -> None:
        text = to_json(new)
        if new.files != old.files:
            self._done.manifests.append(new.name)
            self._root.put_bytes(f"{paths.copies(self._bucket, new.name)}{token_hex(4)}.json", text.encode())
        self._renew()
        if not self._store.put_manifest(self._bucket, new.name, text, replacing=body):
            raise Busy(
                f"Another process has changed the archive of bucket {self._bucket} meanwhile. Nothing is "
                f"lost: run `snapengine forget {self._bucket} --finish` to go on."
            )

    # Files

    def _hits(self, file: ArchiveFile, near: Near | None) -> int:
        """Forgotten rows in a file."""
        live = file.role in _LIVE
        columns = [*_IDS, *(["outcome"] if live else [])]
        found = 0
        for place, group in enumerate(self._reader.groups(file)):
            if near is not None and not near.may_be(group):
                continue
            self._renew()
            rows = self._reader.read(file, groups=[place], columns=columns)
            mask = self._forgotten.mask(rows)
            if live:
                mask = pc.and_(mask, pc.is_valid(rows["outcome"]))
            found += pc.sum(mask).as_py() or 0
        return found

    def _anew(self, file: ArchiveFile) -> ArchiveFile:
        """A file in its place; it is in the root, and has been read back."""
        self._reader.check(file)
        footer = self._root.read(file.path, file.size - file.footer_size, file.size)
        metadata = pq.read_metadata(pa.BufferReader(footer))
        schema = metadata.schema.to_arrow_schema()
        told = {
            name: value for name, value in (schema.metadata or {}).items() if name not in {FORMAT, BLOCKS}
        }
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        sort = [metadata.schema.column(one.column_index).path for one in groups[0].sorting_columns]
        folder, _, name = file.path.rpartition("/")
        stem, number = name.partition("-")[0], name.rpartition("-")[2]
        with FileWriter(
            self._root,
            f"{folder}/{stem}-{token_hex(4)}-{number}",
            file.role,
            schema.with_metadata(told),
            sort=sort,
            extractor=file.extractor,
            group_rows=max(group.num_rows for group in groups),
        ) as writer:
            for rows in self._left(file, len(groups)):
                self._renew()
                writer.write(rows)
        self._reader.check(writer.file)
        return writer.file

    def _left(self, file: ArchiveFile, groups: int) -> Iterator[pa.Table]:
        for place in range(groups):
            rows = self._reader.read(file, groups=[place])
            mask = self._forgotten.mask(rows)
            rows = without_values(rows, mask) if file.role in _LIVE else rows.filter(pc.invert(mask))
            yield compacted(rows)


def without_values(live: pa.Table, mask: pa.ChunkedArray[Any]) -> pa.Table:
    """Objects with their rows, where the masked ones have none."""
    places = pa.array(range(live.num_rows), pa.int64())
    told = pc.if_else(mask.combine_chunks(), pa.scalar(None, pa.int64()), places)
    columns = [live[f.name] if f.name in VIEW_SCHEMA.names else live[f.name].take(told) for f in live.schema]
    return pa.table(columns, schema=live.schema)
