"""Writes a Parquet file of the archive in row groups, hashes it, and puts it to the root.

The footer holds a CRC-32 for each 64 KiB before it. As the manifest holds the footer's hash, every byte that
a reader takes from the file, however few, is known to be the one that was written. (Parquet's own page
checksums, written too, cover neither the pages' headers nor a file put in place of another.)
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snapengine.archive.manifest import FORMAT_VERSION, ArchiveFile, Role
from snapengine.archive.roots import Root
from snapengine.archive.schemas import ROW_GROUP_ROWS
from snapengine.checksums import crc32
from snapengine.metadata_codec import compacted

BLOCK: Final = 65_536
"""Bytes for each checksum."""
FORMAT: Final = b"snapengine.format"
BLOCKS: Final = b"snapengine.crc32-of-65536"
"""Footer metadata: base64 of little-endian CRC-32s, of each 64 KiB from the file's start to its footer."""

_COMPRESSION_LEVEL: Final = 1
"""zstd's. Version ids, ETags and sequencers are random; level 9 saves 1 % and takes four times as long."""
_FEW_VALUES: Final = frozenset({"kind", "storage_class", "origin", "event_name", "listing", "time"})


class FileWriter:
    """A context manager that writes one file: `write` it tables; after the block, `file` describes it.

        with FileWriter(root, path, "regular", schema, sort=("key", "event_time", "epoch")) as writer:
            writer.write(table)
        manifest_entry = writer.file

    The file is in the root, whole, when the block has ended; if it ends by an exception, nothing was put.
    Rows stay in memory until they fill a row group.
    """

    def __init__(
        self,
        root: Root,
        path: str,
        role: Role,
        schema: pa.Schema,
        *,
        sort: Sequence[str] = (),
        extractor: str = "",
        group_rows: int | None = None,
        folder: Path | None = None,
    ) -> None:
        """`sort`: the columns by which the rows come, ascending; `write` holds the caller to the first.
        `extractor`: whose rows of metadata these are. `group_rows`: of a row group, `ROW_GROUP_ROWS` if None.
        `folder`: for the local copy; the system's temporary one if None."""
        self.rows = 0
        self._extractor = extractor
        self._group_rows = group_rows or ROW_GROUP_ROWS
        self._root = root
        self._path = path
        self._role = role
        self._schema = schema.with_metadata({**(schema.metadata or {}), FORMAT: str(FORMAT_VERSION)})
        self._sort = tuple(sort)
        self._ranges: dict[str, tuple[Any, Any]] = {}
        self._last: Any = None
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._file: ArchiveFile | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="snapengine-", dir=folder))
        try:
            self._open()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _open(self) -> None:
        self._local = self._folder / "file.parquet"
        self._sink = pa.OSFile(str(self._local), "wb")
        self._writer = pq.ParquetWriter(
            self._sink,
            self._schema,
            compression="zstd",
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=_dictionaries(self._schema, metadata=bool(self._extractor)),
            column_encoding=_encodings(self._schema, metadata=bool(self._extractor)),
            write_page_checksum=True,
            sorting_columns=[pq.SortingColumn(self._schema.get_field_index(name)) for name in self._sort]
            or None,
        )

    @property
    def file(self) -> ArchiveFile:
        """What was put. Only after `close`."""
        if self._file is None:
            raise ValueError(f"{self._path} has not been closed")
        return self._file

    def write(self, table: pa.Table) -> None:
        """Append rows, of the schema's columns, in the order of `sort`."""
        if not table.num_rows:
            return
        table = table.select(self._schema.names).cast(self._schema)
        if self._extractor:
            table = compacted(table)  # a dictionary has values of rows that are elsewhere
        self._note(table)
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        self.rows += table.num_rows
        size = self._group_rows
        if self._waiting_rows >= size:
            waiting = pa.concat_tables(self._waiting)
            whole = self._waiting_rows - self._waiting_rows % size
            for start in range(0, whole, size):
                self._writer.write_table(waiting.slice(start, size), size)
            # Copied, so that a few rows do not hold the memory of many.
            rest = waiting.slice(whole).combine_chunks()
            self._waiting, self._waiting_rows = [rest], rest.num_rows

    def _note(self, table: pa.Table) -> None:
        if self._sort:
            self._check_order(table[self._sort[0]])
        for name in {"key", "event_time", "page_time"} & set(self._schema.names):
            column = table[name].cast(pa.int64()) if name != "key" else table[name]
            found = pc.min_max(column).as_py()
            least, greatest = self._ranges.get(name, (None, None))
            known = [v for v in (least, greatest, found["min"], found["max"]) if v is not None]
            if known:  # Python's order of text is UTF-8's
                self._ranges[name] = (min(known), max(known))

    def _check_order(self, column: pa.ChunkedArray) -> None:
        column = column.combine_chunks()
        first, last = column[0].as_py(), column[len(column) - 1].as_py()
        unordered = pc.any(pc.greater(column.slice(0, len(column) - 1), column.slice(1))).as_py()
        if unordered or (self._last is not None and first < self._last):
            raise ValueError(f"rows of {self._path} are not in the order of {self._sort[0]!r}")
        self._last = last

    def close(self) -> ArchiveFile:
        """Finish the file and put it. A second call gives the same answer."""
        if self._file is not None:
            return self._file
        try:
            self._finish()
            self._file = self._put()
        finally:
            self._discard()
        return self._file

    def _finish(self) -> None:
        if self._waiting_rows:
            self._writer.write_table(pa.concat_tables(self._waiting), self._group_rows)
            self._waiting = []
        self._sink.flush()
        self._end = self._sink.tell()
        sums = [crc32(block) for block in _blocks(self._local, BLOCK)]
        packed = struct.pack(f"<{len(sums)}I", *sums)
        self._writer.add_key_value_metadata({BLOCKS: base64.b64encode(packed)})
        self._writer.close()
        self._sink.close()

    def _put(self) -> ArchiveFile:
        metadata = pq.read_metadata(self._local)
        whole, footer = hashlib.sha256(), hashlib.sha256()
        size = 0
        for block in _blocks(self._local, 1 << 20):
            whole.update(block)
            footer.update(block[max(self._end - size, 0) :])
            size += len(block)
        # What is between the last row group and the size of the footer would be covered by nothing.
        if metadata.num_rows != self.rows or metadata.serialized_size + 8 != size - self._end:
            raise RuntimeError(f"{self._path} was not written as it should be")
        self._root.put(self._path, self._local)
        least_key, greatest_key = self._ranges.get("key", ("", ""))
        least_time, greatest_time = self._ranges.get("event_time", (0, 0))
        return ArchiveFile(
            path=self._path,
            role=self._role,
            rows=self.rows,
            size=size,
            sha256=whole.hexdigest(),
            footer_size=size - self._end,
            footer_sha256=footer.hexdigest(),
            min_key=least_key,
            max_key=greatest_key,
            min_time=least_time,
            max_time=greatest_time,
            max_page=self._ranges.get("page_time", (0, 0))[1],
            extractor=self._extractor,
        )

    def abandon(self) -> None:
        """End without putting anything. Does nothing after `close`."""
        if self._file is None:
            self._discard()

    def _discard(self) -> None:
        try:
            if not self._sink.closed:
                self._writer.close()
                self._sink.close()
        finally:
            self._waiting = []
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._folder.exists():
            self.close()
        else:
            self.abandon()


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block


def _dictionaries(schema: pa.Schema, *, metadata: bool) -> list[str]:
    """Values of metadata are often the same; where they are not, a dictionary that grows large is left."""
    if not metadata:
        return [name for name in schema.names if name in _FEW_VALUES]
    known = _encodings(schema, metadata=True)
    return [path for field in schema if field.name not in known for path in _leaves(field)]


def _leaves(field: pa.Field[Any], above: str = "") -> list[str]:
    """The paths of a field's columns in Parquet."""
    path = above + field.name
    kind = field.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _leaves(kind.value_field.with_name("element"), f"{path}.list.")
    if pa.types.is_map(kind):
        key, item = kind.key_field.with_name("key"), kind.item_field.with_name("value")
        return [*_leaves(key, f"{path}.key_value."), *_leaves(item, f"{path}.key_value.")]
    if pa.types.is_struct(kind):
        return [leaf for n in range(kind.num_fields) for leaf in _leaves(kind.field(n), f"{path}.")]
    return [] if pa.types.is_boolean(kind) else [path]


_ROW_ENCODINGS: Final = {
    "key": "PLAIN",
    "version_id": "DELTA_LENGTH_BYTE_ARRAY",
    "etag": "DELTA_LENGTH_BYTE_ARRAY",
    "sequencer": "DELTA_LENGTH_BYTE_ARRAY",
    "size": "DELTA_BINARY_PACKED",
    "event_time": "DELTA_BINARY_PACKED",
    "extracted_at": "DELTA_BINARY_PACKED",
    "epoch": "DELTA_BINARY_PACKED",
}
"""Of metadata files. DuckDB reads keys that are only compressed in two thirds of the time that it takes for
prefixes left out, and zstd makes as little of both."""


def _encodings(schema: pa.Schema, *, metadata: bool) -> dict[str, str]:
    """Those that DuckDB, Spark 3.3+, Polars and Trino read too. Keys are sorted, times nearly so."""
    if metadata:
        return {name: _ROW_ENCODINGS[name] for name in schema.names if name in _ROW_ENCODINGS}
    found: dict[str, str] = {}
    for field in schema:
        if field.name in _FEW_VALUES:
            continue
        if field.name == "key":
            found[field.name] = "DELTA_BYTE_ARRAY"
        elif pa.types.is_string(field.type) or pa.types.is_binary(field.type):
            found[field.name] = "DELTA_LENGTH_BYTE_ARRAY"
        elif pa.types.is_int64(field.type) or pa.types.is_timestamp(field.type):
            found[field.name] = "DELTA_BINARY_PACKED"
    return found
