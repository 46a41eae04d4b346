"""A view: a bucket (or a prefix, or a slice of time) as a read-only mapping from key to version."""

from __future__ import annotations

import io
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast

import pyarrow as pa

from snapengine.bulkfold import versions_of
from snapengine.cautions import SelectionNotKept, caution
from snapengine.completeness import completeness
from snapengine.diff import Diff, diff_batches, diff_tables
from snapengine.download import download, plan_paths
from snapengine.errors import NoSuchKey, SnapEngineError, UsageError, VersionGone
from snapengine.instants import to_datetime
from snapengine.metadata_rows import joined_schema
from snapengine.model import Completeness, Epoch, GoneVersion, ObjectVersion, SnapshotRef
from snapengine.narrowing import NarrowedSource, pick, wanted_objects
from snapengine.plugins import load_one
from snapengine.reference import render_reference
from snapengine.selections import Chosen, selection_digest
from snapengine.version_file import VersionFile
from snapengine.view_rows import FEW_ROWS, BaseSource, Joined, Rows, ViewSource

if TYPE_CHECKING:
    import pandas as pd

    from snapengine.stores.objects import VersionFacts

_METADATA = "snapengine.metadata"
_READERS = "snapengine.readers"


class WhereOptions(TypedDict, total=False):
    """How a condition on metadata is answered."""

    prefix: str
    """Only objects whose keys start with it."""
    missing: Literal["warn", "read", "error"] | None
    """Objects without a row of metadata: `warn` of them, `read` them now, or raise an `error`. None: `warn`,
    but where nothing extracts them, or ever did, up to 10,000 are read."""
    deidentify: bool | str | Sequence[str] | None
    """By the basic profile of PS3.15, with a list of options (`patient characteristics`, ...). None: as the
    setting `SNAPENGINE_DEIDENTIFY` says. The condition, too, then sees only what is left."""
    workers: int
    """How many objects are read at once, where they are."""
    memory: str
    """What the query may take, as `512MiB`; besides the answer itself."""


class MetadataOptions(WhereOptions, total=False):
    """Which metadata is answered, and how."""

    where: Any
    """An SQL expression (text), or a `pyarrow.compute` one."""
    columns: Sequence[str] | None
    """None: all that may be read."""
    numbers: bool
    """Also how many objects make the condition false, and how many rows are `ok`: a look at every row."""


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
    until it is needed. A look-up of one key costs that key's history; what is asked of a prefix, that prefix.
    Anything else resolves a view of at most 2,000,000 objects once, and keeps the rows; of a greater one it
    reads them each time, in bounded memory, and only the columns it needs. Several threads may use a view.

    Equal views have equal references. Pickling carries the rows of a view of at most 2,000,000 objects, so
    that nothing is resolved again elsewhere; of a greater one the reference, which gives the same rows there.
    """

    def __init__(
        self,
        source: ViewSource,
        ref: SnapshotRef,
        epoch: Epoch,
        table: pa.Table | None = None,
        chosen: Chosen | None = None,
    ) -> None:
        self._source = source
        self.ref = ref
        self._epoch = epoch
        self._rows = Rows(source, ref, epoch, table)
        self._chosen = chosen
        self._note: Callable[[View], None] | None = None
        self._note_query: Callable[[SnapshotRef, Chosen], None] | None = None

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
        count = self._rows.known_count
        known = "not read yet" if count is None else f"{count:,} objects"
        return f"<snapengine view {self.reference} ({known})>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and self.ref == other.ref

    def __hash__(self) -> int:
        return hash(self.ref)

    def __reduce__(self) -> tuple[Any, ...]:
        table = self._rows.few()
        carried = table if table is not None and table.num_rows <= FEW_ROWS else None
        return (View, (self._source, self.ref, self._epoch, carried, self._chosen))

    # The mapping

    def __getitem__(self, key: str) -> ObjectVersion:
        version = self._rows.find(key)
        if version is None:
            raise NoSuchKey(key, self.reference)
        return version

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, str) and self[key] is not None
        except NoSuchKey:
            return False

    def __iter__(self) -> Iterator[str]:
        return (key for batch in self.to_batches(["key"]) for key in batch.column(0).to_pylist())

    def __len__(self) -> int:
        """Of a view that is not kept, its keys are read once for this. Python's `list(view)` asks first, too;
        `list(iter(view))` does not."""
        return self._rows.count()

    def __bool__(self) -> bool:
        return any(batch.num_rows for batch in self.to_batches(["key"]))

    def items(self) -> ItemsView[str, ObjectVersion]:
        return _Items(self)

    def values(self) -> ValuesView[ObjectVersion]:
        return _Values(self)

    def versions(self) -> Iterable[ObjectVersion]:
        """The rows, in order. Only a slice of all versions has several of one key."""
        return self._rows.versions()

    def list(self, prefix: str = "", delimiter: str = "") -> Listing:
        """The objects whose keys start with `prefix`, like S3's ListObjectsV2, but all at once.

        With a delimiter, keys that hold it after the prefix are rolled up into common prefixes. Of a view
        whose rows are not in memory only what is below the prefix is read.
        """
        rows = self._rows.below(prefix)
        if not delimiter:
            return Listing(list(rows.versions()), [])
        return Listing(*rows.level(prefix, delimiter))

    def keys_below(self, prefix: str) -> Iterator[str]:
        """The keys that start with `prefix`, in order: what `list` gives, without the rest of the rows."""
        batches = self._rows.below(prefix).batches(["key"])
        return (key for batch in batches for key in batch.column(0).to_pylist())

    # As data

    def to_arrow(self) -> pa.Table:
        """All rows, in memory: `snapengine.bulkfold.VIEW_SCHEMA`, and `became` of a slice of all versions."""
        return self._rows.whole()

    def to_batches(
        self, columns: Sequence[str] | None = None, *, prefix: str = "", after: str = ""
    ) -> Iterator[pa.RecordBatch]:
        """The same rows in order, at most 65,536 at a time and in bounded memory: with `columns` only those,
        in that order, and only of the keys that start with `prefix` and come after `after`.

        Raises `UsageError` for a column that there is not.
        """
        return self._rows.below(prefix).batches(columns, after)

    def rows_if_few(self) -> pa.Table | None:
        """What `to_arrow` gives if that is in memory, or at most 2,000,000 rows; else None."""
        return self._rows.few()

    def bound(self) -> int:
        """At most so many rows, by what is known without reading them."""
        return self._rows.bound()

    def explain(self) -> str:
        """What resolving this view reads, in words."""
        return self._source.explain(self.ref, self._epoch)

    def to_pandas(self) -> pd.DataFrame:
        """All rows as a DataFrame, in memory. Raises `UsageError` where pandas is not installed."""
        try:
            import pandas  # noqa: F401  # only to say what is missing
        except ImportError:
            raise UsageError("pandas is not installed. Run `pip install 'snapengine[pandas]'`.") from None
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def digest(self) -> str:
        """`sha256:<hex>` over keys, version ids, ETags and sizes. Equal digests mean equal data."""
        return self._rows.digest()

    def diff(self, other: View) -> Diff:
        """What changed from this view to the other: keys added, removed, and with another version."""
        if self.bucket != other.bucket:
            raise UsageError(f"{self} and {other} are views of different buckets.")
        if "all" in (self.ref.versions, other.ref.versions):
            raise UsageError("A slice of all versions has no one version a key to compare.")
        before, after = self._rows.known, other._rows.known
        if before is None or after is None:
            if self._source != other._source:
                return diff_batches(self.reference, self.to_batches(), other.reference, other.to_batches())
            differing = self._source.differing(self.ref, self._epoch, other.ref, other._epoch)
            if differing is None:
                return diff_batches(self.reference, self.to_batches(), other.reference, other.to_batches())
            before, after = differing
        return diff_tables(self.reference, before, other.reference, after)

    # By metadata

    def metadata(self, extractor: str = "dicom", **options: Unpack[MetadataOptions]) -> pd.DataFrame:
        """Metadata of the view's objects as a DataFrame with Arrow types (`pandas.ArrowDtype`), in key order:
        `key`, `version_id`, `size` (bytes), `event_time` (UTC), then `columns`.

        `where` is one SQL expression over the extractor's and the view's columns, or a pyarrow one. Objects
        without a row are in `frame.attrs["without_row"]`, and warned about, unless `missing` says otherwise;
        `attrs` has the other numbers and the reference too. See docs/metadata.md for all `MetadataOptions`.
        Raises `UsageError`, `IdentifyingRefused`, and what reading a view raises.
        """
        frame: pd.DataFrame = load_one(_METADATA, "frame")(self, extractor, **options)
        return frame

    def metadata_table(self, extractor: str = "dicom", **options: Unpack[MetadataOptions]) -> pa.Table:
        """The same as an Arrow table, whose fields keep their metadata (`unit`, `identifying`, `tag`), and
        whose own has under `snapengine` what `attrs` has, as JSON."""
        return load_one(_METADATA, "table")(self, extractor, **options)

    def where(self, condition: Any, extractor: str = "dicom", **options: Unpack[WhereOptions]) -> View:
        """The view of those objects whose metadata makes the condition true, as `metadata(where=...)` finds
        them. It has a reference and a digest of its own, and opens for ever; `query` has the condition."""
        rows, chosen = load_one(_METADATA, "where")(self, extractor, condition, **options)
        return self.narrowed(rows, chosen)

    def select(self, objects: Any) -> View:
        """The view of these objects: a table (pandas, pyarrow) with a column `key`, or keys.

        Where the table has a column `version_id` too, as from `metadata`, each must be the version that this
        view shows. Raises `NoSuchKey` for a key that it does not show, `UsageError` for another version.
        """
        keys, versions = wanted_objects(objects)
        rows = pick(self._rows.of_keys(keys), keys, versions, self.reference)
        return self.narrowed(rows, Chosen(self.reference))

    def shows(self, rows: pa.Table) -> bool:
        """Whether these are, to the letter, the view's own rows of their keys."""
        keys = rows["key"].combine_chunks()
        try:
            return bool(pick(self._rows.of_keys(keys), keys, None, self.reference).equals(rows))
        except NoSuchKey:
            return False

    @property
    def query(self) -> str | None:
        """The condition by which the view was narrowed; None if it was not, or not by one."""
        return None if self.chosen is None else self.chosen.query

    @property
    def chosen(self) -> Chosen | None:
        """How the view came to be, if it was narrowed and that is known."""
        if self._chosen is None and self.ref.selection:
            self._chosen = self.source.chosen(self.ref)
        return self._chosen

    def noted_by(self, note: Callable[[View], None], query: Callable[[SnapshotRef, Chosen], None]) -> None:
        """Have `note` told of every view that is narrowed from this one, in this process, and `query` of
        every condition by which its metadata is asked for."""
        self._note, self._note_query = note, query

    def asked_by(self, chosen: Chosen, prefix: str = "") -> None:
        """Tell who notes this view that metadata of what is below the prefix was asked for by a condition.
        One that speaks of identifying columns is told to nobody."""
        if self._note_query is not None and chosen.query is not None and not chosen.identifying:
            self._note_query(replace(self.ref, prefix=max(self.prefix, prefix, key=len)), chosen)

    @property
    def source(self) -> BaseSource:
        """What it reads from; of a narrowed view what the view that was narrowed reads from."""
        found: Any = self._source.base if isinstance(self._source, NarrowedSource) else self._source
        return cast("BaseSource", found)

    def row_schema(self, extractor: str) -> pa.Schema:
        """What `joined` has, known without reading it: `snapengine.metadata_rows.joined_schema`."""
        return joined_schema(self.source.row_schema(self.bucket, self._epoch, extractor))

    def joined(self, extractor: str, *, identifying: bool, columns: Sequence[str] | None = None) -> Joined:
        """The view's rows beside their metadata, for those who ask by other means than `metadata`. Of a
        narrowed view those of the whole view. With `columns` only those of the extractor's need be read."""
        ref = replace(self.ref, selection="")
        return self.source.joined(ref, self._epoch, extractor, identifying=identifying, columns=columns)

    def narrowed(self, rows: pa.Table, chosen: Chosen) -> View:
        """The view of these of its rows, kept with how they were chosen: `where` and `select` end here."""
        if self.ref.versions == "all":
            raise UsageError("A slice of all versions cannot be narrowed: it has no one version a key.")
        base, ref = self.source, replace(self.ref, selection=selection_digest(rows))
        only_here = False
        try:
            base.keep(ref, rows, chosen)
        except SnapEngineError as error:
            only_here = True
            caution(
                f"{render_reference(ref)} opens in this process only, as the table did not take it: {error}",
                SelectionNotKept,
            )
        source = NarrowedSource(base, ref, rows, only_here=only_here)
        narrowed = View(source, ref, self._epoch, rows, chosen)
        if self._note is not None:
            self._note(narrowed)
        return narrowed

    # For other libraries

    @property
    def fs(self) -> Any:
        """A read-only fsspec filesystem over the view, whose paths are keys: `readers.fsspec_fs`.

        For `pyarrow`, `zarr`, `dask` and whatever else takes one. Raises `UsageError` without fsspec.
        """
        return load_one(_READERS, "fs")(self)

    def client(self) -> Any:
        """What takes the place of a boto3 S3 client in code that reads, and answers as of this view:
        `readers.s3_client`. Whatever writes is refused; errors are botocore's own."""
        return load_one(_READERS, "client")(self)

    def dataset(self, format: str = "parquet", **options: Any) -> Any:  # noqa: A002  # as pyarrow names it
        """A `pyarrow.dataset.Dataset` over the view's files of one format: `readers.arrow`."""
        return load_one(_READERS, "dataset")(self, format, **options)

    def to_torch(self, decode: Callable[..., Any] | None = None, **options: Any) -> Any:
        """A torch dataset of the view's objects, version-pinned: `readers.torch_dataset`, docs/reading.md.
        Raises `UsageError` where torch is not installed."""
        return load_one(_READERS, "torch")(self, decode, **options)

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

    def read_version(self, version: ObjectVersion, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `[start, end)` of a version that this view has given, without looking its key up again; fewer
        where it ends before, and to its end if `end` is None. Raises `VersionGone`, `VersionArchived`, ..."""
        return self._read(version, start, end)

    def read_into(self, version: ObjectVersion, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the version's bytes from `start` on, all of which it has. Raises as
        `read_version` does, with anything in the buffer then."""
        try:
            self.source.read_into(self.bucket, version, start, buffer)
        except VersionGone:
            buffer[:] = self._read(version, start, start + len(buffer))  # which tells why it is gone

    def facts(self, version: ObjectVersion) -> VersionFacts:
        """What S3 says of a version that this view has given, besides its bytes. Raises as reading does."""
        return self.source.facts(self.bucket, version)

    def audit(self) -> Sequence[GoneVersion]:
        """The versions of this view that are gone from S3, since when and why, by all that is known now.

        From the log alone: S3 is not asked. The view's rows are all held in memory.
        """
        return self._source.audit(self.ref, self.to_arrow())

    def _read(self, version: ObjectVersion, start: int, end: int | None) -> bytes:
        try:
            return self._source.read(self.bucket, version, start, end)
        except VersionGone as gone:
            removal = self.why_gone(version)
            if removal is None:
                raise
            raise VersionGone(f"{gone} {removal}", version.key, version.version_id) from gone

    def why_gone(self, version: ObjectVersion) -> str | None:
        """The log's word on a version that S3 no longer has. That it cannot be asked must not hide that."""
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
        rows = self._rows.below(prefix)
        keys = (batch.column(0).to_pylist() for batch in rows.batches(["key"]))
        plan_paths([key for part in keys for key in part], Path(folder))
        paths: list[Path] = []
        for batch in rows.batches():
            objects = list(versions_of(pa.Table.from_batches([batch])))
            paths += download(objects, Path(folder), self._read, workers=workers)
        return paths

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
