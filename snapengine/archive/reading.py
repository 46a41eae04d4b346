"""Reads Parquet files of the archive: only the bytes that are wanted, and none that was not verified.

The manifest vouches for the footer, the footer (see `writing`) for each 64 KiB before it.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from snapengine.archive.cache import Cache
from snapengine.archive.local_files import announce, fetch
from snapengine.archive.manifest import FORMAT_VERSION, ArchiveFile
from snapengine.archive.pieces import (
    GAP,
    REQUEST,
    Chunks,
    Piece,
    chunks_of,
    data_end,
    merged,
    pieces_of,
    sparse_file,
)
from snapengine.archive.roots import Root
from snapengine.archive.windows import DECODERS
from snapengine.archive.writing import BLOCK, BLOCKS, FORMAT
from snapengine.checksums import first_wrong
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, SchemaTooNew

SMALL: Final = 16 * 1024 * 1024
"""Up to so many bytes a file is read at once when most of it is wanted."""
TINY: Final = 4 * 1024 * 1024
"""Up to so many bytes it is read at once whichever columns are wanted."""
_TOGETHER: Final = 8
"""No more row groups than these are decoded by one thread, or their columns in parallel; and so many of a
folder's file are read at once."""
_FOOTERS: Final = 64 * 1024 * 1024
"""Bytes of footers that are kept in memory, where they take some three times as much."""


class Group(NamedTuple):
    """A row group."""

    rows: int
    min_key: str
    max_key: str
    """Exact; both empty where the file has no keys."""


@dataclass(frozen=True, slots=True)
class _Footer:
    metadata: Any
    blocks: tuple[int, ...]
    """CRC-32s."""
    groups: tuple[Group, ...]
    chunks: Chunks
    columns: tuple[str, ...]
    schema: pa.Schema
    size: int


class ArchiveReader:
    """Thread-safe. `workers`: how many requests one `read` has in flight at most.

    All raise `ArchiveFileMissing` and `ArchiveDamaged`, which name the file, and `SchemaTooNew`.
    """

    def __init__(self, root: Root, cache: Cache | None = None, workers: int = 8) -> None:
        self.root: Final = root
        self.requests = 0
        """Made of the root, not of the cache."""
        self.bytes_read = 0
        self._cache = cache
        self._workers = workers
        self._lock = Lock()
        self._footers: OrderedDict[str, _Footer] = OrderedDict()

    def groups(self, file: ArchiveFile) -> Sequence[Group]:
        """The file's row groups, in order; one request for the footer, or none if it is known."""
        return self._footer(file).groups

    def schema(self, file: ArchiveFile) -> pa.Schema:
        """The file's columns, and what its schema says besides; at the cost of `groups`."""
        return self._footer(file).schema

    def read(
        self,
        file: ArchiveFile,
        *,
        groups: Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
        decoders: ThreadPoolExecutor | None = None,
    ) -> pa.Table:
        """The rows of these row groups (None: all), in the file's order, with these columns, in this order.
        Many are decoded by `decoders`, if somebody keeps some: the memory that a thread has given back it
        gets again at no cost.

        Requests: one for a small file of which most is wanted. Otherwise one for the footer, if it is not
        known, and then those for the column chunks, near ones together: concurrently of an object store, a
        few row groups at a time of a folder.
        """
        whole = self._whole(file, groups, columns)
        footer = self._footer_of(file, whole[-file.footer_size :]) if whole else self._footer(file)
        names = list(footer.columns if columns is None else columns)
        if not names or set(names) - set(footer.columns):
            raise ValueError(f"{self.name(file)} has the columns {footer.columns}, not {names}")
        indices = sorted(set(range(len(footer.groups)) if groups is None else groups))
        parts = None
        if whole is None:
            pieces = _pieces(file, footer, indices, names)
            if file.size <= SMALL and 2 * sum(p.end - p.start for p in pieces) >= file.size:
                whole = self._fetch_whole(file)
            elif (own := self.root.local(file.path)) is None:
                parts = self._fetch(file, footer, pieces)
            elif len(indices) > _TOGETHER and self._cache is None:
                announce(own, merged(pieces, GAP, None))
        table = pa.concat_tables(self._decoded(file, footer, whole or parts, indices, names, decoders))
        rows = sum(footer.groups[index].rows for index in indices)
        if table.num_rows != rows:
            raise self._damaged(file, f"has {table.num_rows} rows where its footer says {rows}")
        return table.select(names).replace_schema_metadata(None)

    def check(self, file: ArchiveFile) -> None:
        """Read the whole file from the root, past the cache, in bounded memory, and compare its hash."""
        with self._lock:
            self.requests += 1
        size = self.root.size(file.path)
        if size is None:
            raise ArchiveFileMissing(f"{self.name(file)}, a file of the archive, is missing.")
        if size != file.size:
            raise self._damaged(file, f"has {size} bytes instead of {file.size}")
        found = hashlib.sha256()
        for start in range(0, file.size, REQUEST):
            found.update(self._request(file, Piece(start, min(start + REQUEST, file.size))))
        if found.hexdigest() != file.sha256:
            raise self._damaged(file, "has another hash than its manifest says")

    def local(self, file: ArchiveFile, folder: Path) -> Path:
        """The whole file on this machine's disk: its own place, if the root is a folder, where it is not
        read; else in the cache, or in `folder` if there is none that has room, fetched and compared with its
        hash. Check what is read of it with `local_files.check_blocks`."""
        if (own := self.root.local(file.path)) is not None:
            return own
        kept = self._cache.whole(file.sha256, file.size) if self._cache else None
        path = kept or folder / f"{file.sha256}.parquet"
        if not path.exists() or path.stat().st_size != file.size:
            fetch(self.root, file, path)
        return path

    # Footers

    def _footer(self, file: ArchiveFile) -> _Footer:
        with self._lock:
            if known := self._footers.get(file.sha256):
                self._footers.move_to_end(file.sha256)
                return known
        piece = Piece(file.size - file.footer_size, file.size)
        data = self._cached(file, piece)
        if data is None or hashlib.sha256(data).hexdigest() != file.footer_sha256:
            data = self._request(file, piece)
            if hashlib.sha256(data).hexdigest() != file.footer_sha256:
                raise self._damaged(file, "has another footer than its manifest says")
            self._keep(file, piece, data)
        return self._footer_of(file, data)

    def _footer_of(self, file: ArchiveFile, data: bytes) -> _Footer:
        with self._lock:
            if known := self._footers.get(file.sha256):
                return known
        with self._decoding(file):
            metadata = pq.read_metadata(pa.BufferReader(data))
            kept = metadata.metadata or {}
            version = kept.get(FORMAT, b"")
            if version.isdigit() and int(version) > FORMAT_VERSION:
                raise SchemaTooNew(
                    f"{self.name(file)} has format {int(version)}; this snapengine reads up to "
                    f"{FORMAT_VERSION}. Upgrade it."
                )
            packed = base64.b64decode(kept.get(BLOCKS, b""), validate=True)
            blocks = struct.unpack(f"<{len(packed) // 4}I", packed)
            schema = metadata.schema.to_arrow_schema()
            groups, chunks = tuple(_groups(metadata)), chunks_of(metadata)
            found = _Footer(metadata, blocks, groups, chunks, tuple(schema.names), schema, file.footer_size)
        end = file.size - file.footer_size
        if not version.isdigit() or len(blocks) != -(-end // BLOCK) or data_end(chunks) > end:
            raise self._damaged(file, "is not as snapengine writes them")
        with self._lock:
            self._footers[file.sha256] = found
            while len(self._footers) > 1 and sum(f.size for f in self._footers.values()) > _FOOTERS:
                self._footers.popitem(last=False)
        return found

    # Bytes

    def _whole(
        self, file: ArchiveFile, groups: Sequence[int] | None, columns: Sequence[str] | None
    ) -> bytes | None:
        """All of the file, if that much can be said without its footer."""
        if groups is not None or file.size > SMALL or (columns is not None and file.size > TINY):
            return None
        with self._lock:
            known = file.sha256 in self._footers
        return None if known and columns is not None else self._fetch_whole(file)

    def _fetch_whole(self, file: ArchiveFile) -> bytes:
        piece = Piece(0, file.size)
        data = self._cached(file, piece)
        if data is None or hashlib.sha256(data).hexdigest() != file.sha256:
            data = self._request(file, piece)
            if hashlib.sha256(data).hexdigest() != file.sha256:
                raise self._damaged(file, "has another hash than its manifest says")
            self._keep(file, piece, data)
        return data

    def _fetch(
        self, file: ArchiveFile, footer: _Footer, pieces: Sequence[Piece]
    ) -> list[tuple[int, bytes | memoryview]]:
        """The pieces' bytes, each verified, from the cache or else from the root."""
        found: dict[Piece, bytes | memoryview] = {}
        for piece in pieces:
            data = self._cached(file, piece)
            if data is not None and _wrong_block(footer, piece, data) is None:
                found[piece] = data
        missing = [piece for piece in pieces if piece not in found]

        def ask(wanted: Piece) -> None:
            reply = memoryview(self._request(file, wanted))
            sound = _wrong_block(footer, wanted, reply) is None  # with what is between the pieces
            for piece in missing:
                if wanted.start <= piece.start and piece.end <= wanted.end:
                    data = reply[piece.start - wanted.start : piece.end - wanted.start]
                    if not sound and (block := _wrong_block(footer, piece, data)) is not None:
                        raise self._damaged(file, f"was altered near byte {block * BLOCK}")
                    self._keep(file, piece, data)
                    found[piece] = data

        requests = merged(missing, GAP, REQUEST)
        if len(requests) == 1:
            ask(requests[0])
        elif requests:
            # A pool of its own: one that is kept would not survive a fork.
            with ThreadPoolExecutor(min(self._workers, len(requests))) as pool:
                list(pool.map(ask, requests))
        return [(piece.start, found[piece]) for piece in pieces]

    def _request(self, file: ArchiveFile, piece: Piece) -> bytes:
        with self._lock:
            self.requests += 1
        data = self.root.read(file.path, piece.start, piece.end)
        with self._lock:
            self.bytes_read += len(data)
        return data

    def _cached(self, file: ArchiveFile, piece: Piece) -> bytes | None:
        data = self._cache.get(_cache_name(file, piece)) if self._cache else None
        return data if data is not None and len(data) == piece.end - piece.start else None

    def _keep(self, file: ArchiveFile, piece: Piece, data: bytes | memoryview) -> None:
        if self._cache:
            self._cache.put(_cache_name(file, piece), data)

    # Rows

    def _decoded(
        self,
        file: ArchiveFile,
        footer: _Footer,
        data: bytes | Sequence[tuple[int, bytes | memoryview]] | None,
        groups: Sequence[int],
        names: Sequence[str],
        decoders: ThreadPoolExecutor | None,
    ) -> list[pa.Table]:
        """The row groups, one by one: what is decoded then stays in the processor's cache. A folder's file is
        read here (`data` is None), a few groups at a time: its bytes are then still in that cache. Of a few
        the columns are decoded in parallel; where they are many, some threads take a share of them each."""

        def read(some: Sequence[int], *, threads: bool = False) -> list[pa.Table]:
            found = data or self._fetch(file, footer, _pieces(file, footer, some, names))
            with self._decoding(file):
                source = pa.BufferReader(found) if isinstance(found, bytes) else sparse_file(file.size, found)
                parquet = pq.ParquetFile(source, metadata=footer.metadata, pre_buffer=False)
                columns = list(names)
                return [parquet.read_row_group(n, columns=columns, use_threads=threads) for n in some]

        def read_share(some: Sequence[int]) -> list[pa.Table]:
            return [table for few in _in_parts(some, _TOGETHER) for table in read(few)]

        if not groups:
            return [footer.schema.empty_table()]
        if len(groups) <= _TOGETHER:
            return read(groups, threads=True)
        if decoders is None and DECODERS == 1:
            return read_share(groups)
        shares = list(_in_parts(groups, -(-len(groups) // DECODERS)))
        with ThreadPoolExecutor(len(shares)) if decoders is None else nullcontext(decoders) as pool:
            return [table for found in pool.map(read_share, shares) for table in found]

    # Errors

    def name(self, file: ArchiveFile) -> str:
        """The file in messages."""
        return f"{self.root.url}/{file.path}"

    def _damaged(self, file: ArchiveFile, how: str) -> ArchiveDamaged:
        return ArchiveDamaged(f"{self.name(file)}, a file of the archive, {how}. Restore it from a copy.")

    @contextmanager
    def _decoding(self, file: ArchiveFile) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(file, f"cannot be read: {error}") from error


def _in_parts(groups: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (groups[start : start + size] for start in range(0, len(groups), size))


def _pieces(file: ArchiveFile, footer: _Footer, groups: Sequence[int], names: Sequence[str]) -> list[Piece]:
    return pieces_of(footer.chunks, groups, names, file.size - file.footer_size, BLOCK)


def _groups(metadata: Any) -> Iterator[Group]:
    keys = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path == "key"]
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        least = greatest = ""
        for chunk in map(group.column, keys):
            if not chunk.is_stats_set or not chunk.statistics.has_min_max:
                raise ValueError(f"row group {index} does not say which keys it has")
            least, greatest = chunk.statistics.min, chunk.statistics.max
        yield Group(group.num_rows, least, greatest)


def _wrong_block(footer: _Footer, piece: Piece, data: bytes | memoryview) -> int | None:
    """The number of the first block that is not as it was written. A piece starts with a block."""
    first = piece.start // BLOCK
    wrong = first_wrong(memoryview(data), BLOCK, footer.blocks[first : first - -len(data) // BLOCK])
    return None if wrong is None else first + wrong


def _cache_name(file: ArchiveFile, piece: Piece) -> str:
    return f"{file.sha256}-{piece.start}-{piece.end}"
