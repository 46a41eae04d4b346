"""A view: a bucket (or a prefix, or a slice of time) as a read-only mapping from key to version."""

from __future__ import annotations

import io
from bisect import bisect_left, bisect_right
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from snapengine.bulkfold import versions_of
from snapengine.completeness import completeness
from snapengine.diff import Diff, diff_tables
from snapengine.digest import BLOCK_ROWS, digest
from snapengine.download import download
from snapengine.errors import NoSuchKey, SnapEngineError, UsageError, VersionGone
from snapengine.instants import to_datetime
from snapengine.model import Completeness, Epoch, GoneVersion, ObjectVersion, SnapshotRef
from snapengine.reference import render_reference
from snapengine.version_file import VersionFile

if TYPE_CHECKING:
    import pandas as pd


class ViewSource(Protocol):
    """What a view reads from; an `Engine` is one. It must pickle."""

    def table(self, ref: SnapshotRef, epoch: Epoch) -> pa.Table: ...

    def version(self, ref: SnapshotRef, epoch: Epoch, key: str) -> ObjectVersion | None: ...

    def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes: ...

    def removal(self, bucket: str, version: ObjectVersion) -> str | None:
        """When and why a version was removed, in words, if the log knows."""
        ...

    def audit(self, ref: SnapshotRef, shown: pa.Table) -> list[GoneVersion]: ...


@dataclass(frozen=True, slots=True)
class Listing:
    """One level of a view, as S3's ListObjectsV2 shows it."""

    objects: list[ObjectVersion]
    """The objects at this level, in key order."""
    prefixes: list[str]
    """The common prefixes, each ending in the delimiter, in order."""


class View(Mapping[str, ObjectVersion]):
    """A consistent, read-only view of a bucket at one instant, as known at one epoch.

    It maps keys (str) to `ObjectVersion`, in ascending order of the keys' UTF-8 bytes. Nothing is read
    until it is needed: a look-up of one key costs that key's history, anything else resolves the view once.
    Equal views have equal references; pickling carries the rows, so nothing is resolved again elsewhere.
    """

    def __init__(
        self, source: ViewSource, ref: SnapshotRef, epoch: Epoch, table: pa.Table | None = None
    ) -> None:
        self._source = source
        self.ref = ref
        self._epoch = epoch
        self._table = table
        self._lock = RLock()

    # What it is a view of

    @property
    def bucket(self) -> str:
        return self.ref.bucket

    @property
    def prefix(self) -> str:
        return self.ref.prefix

    @property
    def epoch(self) -> int:
        """The epoch's number."""
        return self.ref.epoch

    @property
    def at(self) -> datetime:
        """The instant, inclusive, aware, UTC; of a slice the last millisecond before its end."""
        return to_datetime(self.ref.at)

    @property
    def reference(self) -> str:
        """`snap://BUCKET@AT~EPOCH/PREFIX`: `snapengine.open_ref` of it gives this view again, for ever."""
        return render_reference(self.ref)

    @property
    def completeness(self) -> Completeness:
        """How much this view can promise, and what that rests on."""
        return completeness(self.ref.at, self.ref.prefix, self._epoch, start=self.ref.start)

    def __str__(self) -> str:
        return self.reference

    def __repr__(self) -> str:
        known = f"{len(self):,} objects" if self._table is not None else "not read yet"
        return f"<snapengine view {self.reference} ({known})>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and self.ref == other.ref

    def __hash__(self) -> int:
        return hash(self.ref)

    def __reduce__(self) -> tuple[Any, ...]:
        return (View, (self._source, self.ref, self._epoch, self.to_arrow()))

    # The mapping

    def __getitem__(self, key: str) -> ObjectVersion:
        if self._table is None and self.ref.versions == "last":
            version = self._source.version(self.ref, self._epoch, key)
        else:
            version = self._find(key)
        if version is None:
            raise NoSuchKey(key, self.reference)
        return version

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, str) and self[key] is not None
        except NoSuchKey:
            return False

    def __iter__(self) -> Iterator[str]:
        return (version.key for version in self.versions())

    def __len__(self) -> int:
        return int(self.to_arrow().num_rows)

    def items(self) -> ItemsView[str, ObjectVersion]:
        return _Items(self)

    def values(self) -> ValuesView[ObjectVersion]:
        return _Values(self)

    def versions(self) -> Iterable[ObjectVersion]:
        """The rows, in order. Only a slice of all versions has several of one key."""
        return versions_of(self.to_arrow())

    def list(self, prefix: str = "", delimiter: str = "") -> Listing:
        """The objects whose keys start with `prefix`, like S3's ListObjectsV2.

        With a delimiter, keys that hold it after the prefix are rolled up into common prefixes.
        """
        keys = self.to_arrow()["key"]
        first, last = self._range(keys, prefix)
        if not delimiter:
            return Listing(list(versions_of(self.to_arrow().slice(first, last - first))), [])
        objects: list[ObjectVersion] = []
        prefixes: list[str] = []
        while first < last:
            key = keys[first].as_py()
            cut = key.find(delimiter, len(prefix))
            if cut < 0:
                objects += versions_of(self.to_arrow().slice(first, 1))
                first += 1
            else:
                prefixes.append(key[: cut + len(delimiter)])
                _, first = self._range(keys, prefixes[-1])
        return Listing(objects, prefixes)

    def _find(self, key: str) -> ObjectVersion | None:
        table = self.to_arrow()
        keys = table["key"]
        row = bisect_right(range(table.num_rows), key, key=lambda i: keys[i].as_py()) - 1
        if row < 0 or keys[row].as_py() != key:
            return None
        return next(iter(versions_of(table.slice(row, 1))))

    @staticmethod
    def _range(keys: Any, prefix: str) -> tuple[int, int]:
        """The rows whose keys start with `prefix`: Python compares text as UTF-8 bytes compare."""
        rows = range(len(keys))
        first = bisect_left(rows, prefix, key=lambda i: keys[i].as_py())
        last = bisect_right(rows, prefix, lo=first, key=lambda i: keys[i].as_py()[: len(prefix)])
        return first, last

    # As data

    def to_arrow(self) -> pa.Table:
        """The rows: `snapengine.bulkfold.VIEW_SCHEMA` (a slice of all versions has `became` too)."""
        with self._lock:
            if self._table is None:
                self._table = self._source.table(self.ref, self._epoch)
            return self._table

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a DataFrame. Raises `UsageError` where pandas is not installed."""
        try:
            import pandas  # noqa: F401  # only to say what is missing
        except ImportError:
            raise UsageError("pandas is not installed. Run `pip install 'snapengine[pandas]'`.") from None
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def digest(self) -> str:
        """`sha256:<hex>` over keys, version ids, ETags and sizes. Equal digests mean equal data."""
        columns = self.to_arrow().select(["key", "version_id", "etag", "size"])
        return digest(
            row
            for batch in columns.to_batches(max_chunksize=BLOCK_ROWS)
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )

    def diff(self, other: View) -> Diff:
        """What changed from this view to the other: keys added, removed, and with another version."""
        if self.bucket != other.bucket:
            raise UsageError(f"{self} and {other} are views of different buckets.")
        if "all" in (self.ref.versions, other.ref.versions):
            raise UsageError("A slice of all versions has no one version a key to compare.")
        return diff_tables(self.reference, self.to_arrow(), other.reference, other.to_arrow())

    def metadata(self, extractor: str = "dicom", **options: Any) -> pd.DataFrame:
        """Metadata of the view's objects, each read from its own version, as a DataFrame.

        See `metadata_extractors.frame.metadata_frame` for the options (`columns=`, `prefix=`).
        """
        from snapengine.plugins import load_one

        frame: pd.DataFrame = load_one("snapengine.metadata", "metadata")(self, extractor, **options)
        return frame

    # Bytes

    def open(self, key: str) -> io.BufferedReader:
        """A seekable binary file over the version that this view shows, and no other.

        Raises `NoSuchKey`; reading raises `VersionGone` or `VersionArchived` where the bytes cannot be had.
        """
        return io.BufferedReader(VersionFile(self._read, self[key]), buffer_size=1 << 20)

    def read_bytes(self, key: str) -> bytes:
        """The whole object."""
        return self._read(self[key], 0, None)

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes `[start, end)` of the object; fewer where it ends before."""
        if not 0 <= start <= end:
            raise UsageError(f"No such range of bytes: [{start}, {end}).")
        return self._read(self[key], start, end)

    def audit(self) -> Sequence[GoneVersion]:
        """The versions of this view that are gone from S3, since when and why, by all that is known now.

        From the log alone: S3 is not asked.
        """
        return self._source.audit(self.ref, self.to_arrow())

    def _read(self, version: ObjectVersion, start: int, end: int | None) -> bytes:
        try:
            return self._source.read(self.bucket, version, start, end)
        except VersionGone as gone:
            removal = self._why_gone(version)
            if removal is None:
                raise
            raise VersionGone(f"{gone} {removal}", version.key, version.version_id) from gone

    def _why_gone(self, version: ObjectVersion) -> str | None:
        """The log's word on it. That it cannot be asked must not hide that the version is gone."""
        try:
            return self._source.removal(self.bucket, version)
        except SnapEngineError as error:
            return f"(Why, the log could not be asked: {error})"

    def download(self, folder: str | Path, prefix: str = "", *, workers: int = 8) -> Sequence[Path]:
        """Write the objects below `prefix` as files `folder/KEY`; returns their paths, in key order.

        A key that no file path can name exactly (`a//b`, `../a`, two keys that differ in case on a
        folder that does not tell them apart) is refused with `CannotExpressKey` before anything is written.
        A file appears whole or not at all.
        """
        if self.ref.versions == "all":
            raise UsageError(
                "A slice of all versions may hold several objects of one key: read them one by one."
            )
        return download(self.list(prefix).objects, Path(folder), self._read, workers=workers)

    def _repr_html_(self) -> str:
        from snapengine.notebook import view_html

        return view_html(self)


class _Items(ItemsView[str, ObjectVersion]):
    """Reads the rows once, in order, where the mixin would look up each key."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._view = view

    def __iter__(self) -> Iterator[tuple[str, ObjectVersion]]:
        return ((version.key, version) for version in self._view.versions())


class _Values(ValuesView[ObjectVersion]):
    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._view = view

    def __iter__(self) -> Iterator[ObjectVersion]:
        return iter(self._view.versions())
