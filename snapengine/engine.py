"""The composition root: settings to an engine. The only place that builds AWS clients and opens stores."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal

import boto3
import botocore.session
from botocore.config import Config

from snapengine import kept_views, selections
from snapengine.after_fork import lock_of
from snapengine.archive.manifest import Archive
from snapengine.archive.manifests import Manifests
from snapengine.aws_errors import translated
from snapengine.changes import differing, removed_keys
from snapengine.errors import BadTime, BucketNotEnabled, NoSuchEpoch, NoSuchSnapshot, Refused, UsageError
from snapengine.fold import merge, removal_of
from snapengine.gone import gone_versions, why
from snapengine.instants import TimeInput, render, to_millis
from snapengine.model import Epoch, GoneVersion, Level, ObjectVersion, Snapshot, SnapshotRef
from snapengine.ports import Clock, LogStore
from snapengine.reference import checked_bucket, parse_reference
from snapengine.replaying import slice_of_run, view_of_run
from snapengine.requiring import in_thread, require_level
from snapengine.resolver import (
    bound,
    covered,
    explain,
    key_history,
    resolve,
    resolve_key,
    resolve_pieces,
    resolve_ranges,
)
from snapengine.row_bytes import Piece
from snapengine.run_notes import run_named
from snapengine.selections import Chosen
from snapengine.settings import Settings, load_settings
from snapengine.stores.dynamodb import DynamoDBStore
from snapengine.stores.objects import S3Objects, StoredVersion, VersionFacts
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import MEMORY, Database
from snapengine.view_rows import Joined
from snapengine.views import View

if TYPE_CHECKING:
    import pyarrow as pa
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

    from snapengine.archive.cache import Cache
    from snapengine.archive.reading import ArchiveReader
    from snapengine.archive.roots import Root

_OPTIONS: dict[str, Any] = {
    "retries": {"mode": "standard", "max_attempts": 4},
    "connect_timeout": 5,
    "read_timeout": 60,
    "max_pool_connections": 32,
    "user_agent_extra": "snapengine",
}

EpochInput = Any
"""An epoch's number (int), a time input (the last epoch cut at or before it), or None for the newest."""

NO_EPOCH = Epoch(number=0, time=0, cover={})
"""Before the first cut: nothing is covered."""

_SNAPSHOT = "snapshot:"
_LOADER: dict[str, Any] = {}
_LOADER_LOCK = RLock()


def wall_clock() -> int:
    """UTC milliseconds now."""
    return time.time_ns() // 1_000_000


def _snapshot_named(time: TimeInput) -> str | None:
    """The name, if a time is given as `snapshot:NAME`."""
    return time.removeprefix(_SNAPSHOT) if isinstance(time, str) and time.startswith(_SNAPSHOT) else None


class Engine:
    """Everything a process needs of snapengine, built when it is first used. Thread-safe; picklable."""

    def __init__(self, settings: Settings | None = None, *, clock: Clock = wall_clock) -> None:
        self.settings = settings or load_settings()
        self.clock = clock
        self._lock = lock_of(self, "store", "_session", "_manifests", "_readers", "_objects", "s3", "sqs")

    def __reduce__(self) -> tuple[Any, ...]:
        if self.settings.store == f"sqlite:///{MEMORY}":
            raise UsageError("An engine whose log is in memory cannot go to another process.")
        return (Engine, (self.settings,))

    @cached_property
    def store(self) -> DynamoDBStore | SQLiteStore:
        """The log to read, and the registry."""
        scheme, _, rest = self.settings.store.partition("://")
        if scheme == "sqlite":
            return SQLiteStore(self._database)
        return DynamoDBStore(self.client("dynamodb"), rest)

    @cached_property
    def _checked(self) -> bool:
        self.store.check()
        return True

    @cached_property
    def _database(self) -> Database:
        return Database(self.settings.store.removeprefix("sqlite:///"))

    @asynccontextmanager
    async def log(self) -> AsyncIterator[LogStore]:
        """The log to write."""
        scheme, _, rest = self.settings.store.partition("://")
        if scheme == "sqlite":
            from snapengine.stores.sqlite_log import SQLiteLog

            yield SQLiteLog(self._database, clock=self.clock)
            return
        from snapengine.stores.dynamodb_log import DynamoDBLog

        # Our codec makes the items: that botocore checks each attribute again costs a quarter of a write.
        async with self.async_client("dynamodb", parameter_validation=False) as client:
            yield DynamoDBLog(client, rest)

    def async_client(self, service: Any, **options: Any) -> Any:
        """An aioboto3 client, as an asynchronous context manager. Options go before our own."""
        import aioboto3
        from aiobotocore.config import AioConfig

        with translated(service):
            return aioboto3.Session().client(service, config=AioConfig(**(_OPTIONS | options)))

    @cached_property
    def _session(self) -> boto3.session.Session:
        """AWS's descriptions of its services, which take longer to read than a view does, are read once."""
        core = botocore.session.get_session()
        with _LOADER_LOCK:
            core.register_component(
                "data_loader", _LOADER.setdefault("one", core.get_component("data_loader"))
            )
        return boto3.session.Session(botocore_session=core)

    def client(self, service: Any) -> Any:
        """A boto3 client of its own. Raises `UsageError` without a region."""
        with self._lock, translated(service):  # making a client is not thread-safe, using one is
            return self._session.client(service, config=Config(**_OPTIONS))

    # Views

    def view(
        self,
        bucket: str,
        at: TimeInput = "now",
        *,
        prefix: str = "",
        epoch: EpochInput = None,
        require: Level = "provisional",
        timeout: float = 300.0,
        as_it_is: bool = False,
    ) -> View:
        """The bucket as it was at `at` (inclusive), as known at `epoch` (the newest, unless asked for
        another by number or by time). See `snapengine.view`. A prefix is taken `as_it_is` for references."""
        if (name := _snapshot_named(at)) is not None:
            if epoch is not None:
                raise UsageError(f"{at} has an epoch of its own: ask for no other.")
            kept = self.open_ref(self.snapshot(bucket, name).reference, require=require, timeout=timeout)
            return self.within(kept, prefix, f"{at}")
        if (run_id := run_named(at)) is not None:
            if epoch is not None:
                raise UsageError(f"{at} has an epoch of its own: ask for no other.")
            return view_of_run(self, bucket, run_id, prefix, require=require, timeout=timeout)
        instant = to_millis(at, now=self.clock())
        return require_level(
            self,
            lambda: self._make(bucket, prefix, instant, epoch, as_it_is=as_it_is),
            require,
            timeout,
            fixed=epoch is not None,
        )

    def slice(
        self,
        bucket: str,
        start: TimeInput,
        end: TimeInput = "now",
        *,
        prefix: str = "",
        epoch: EpochInput = None,
        versions: Literal["last", "all"] = "last",
        require: Level = "provisional",
        timeout: float = 300.0,
        as_it_is: bool = False,
    ) -> View:
        """What was ingested in `[start, end)`. See `snapengine.slice`. A prefix is taken `as_it_is` for
        references."""
        if versions not in {"last", "all"}:
            raise UsageError(f"versions={versions!r}: it is 'last' or 'all'.")
        if (run_id := run_named(end)) is not None:
            if epoch is not None:
                raise UsageError(f"{end} has an epoch of its own: ask for no other.")
            return slice_of_run(
                self, bucket, run_id, start, prefix, versions, require=require, timeout=timeout
            )
        now = self.clock()
        first, after = self._instant(bucket, start, now), self._instant(bucket, end, now)
        if first > after:
            raise BadTime(f"The slice ends at {render(after)}, before it starts at {render(first)}.")
        return require_level(
            self,
            lambda: self._make(
                bucket, prefix, after - 1, epoch, start=first, versions=versions, as_it_is=as_it_is
            ),
            require,
            timeout,
            fixed=epoch is not None,
        )

    def open_ref(self, reference: str, *, require: Level = "provisional", timeout: float = 300.0) -> View:
        """The view or slice that a `snap://` reference names."""
        return kept_views.open_ref(self, reference, require=require, timeout=timeout)

    def name_snapshot(
        self, view: View, name: str, *, creator: str, note: str = "", labels: Mapping[str, str] | None = None
    ) -> Snapshot:
        """Keep a view's reference and digest under a name. Raises `Refused` if the name is taken."""
        return kept_views.name_snapshot(self, view, name, creator=creator, note=note, labels=labels or {})

    def snapshot(self, bucket: str, name: str) -> Snapshot:
        """Raises `NoSuchSnapshot`."""
        found = self.store.snapshot(bucket, name)
        if found is None:
            raise NoSuchSnapshot(
                f"Bucket {bucket} has no snapshot {name}. `snapengine snapshot list {bucket}` shows them."
            )
        return found

    def _instant(self, bucket: str, time: TimeInput, now: int) -> int:
        """A bound of a slice; a named snapshot stands for its instant."""
        name = _snapshot_named(time)
        return to_millis(
            parse_reference(self.snapshot(bucket, name).reference).at if name is not None else time, now=now
        )

    def within(self, view: View, prefix: str, name: str) -> View:
        """Of a view that goes by a `name` what is below the prefix; all of it where that is empty."""
        if not prefix or prefix == view.prefix:
            return view
        if not prefix.startswith(view.prefix):
            raise UsageError(f"{name} holds only keys below {view.prefix!r}, not {prefix!r}.")
        if view.ref.selection:
            return view.select([key for key in view if key.startswith(prefix)])
        ref = replace(view.ref, prefix=prefix)
        return View(self, ref, self.epoch(view.bucket, ref.epoch))

    def _make(
        self,
        bucket: str,
        prefix: str,
        at: int,
        epoch: EpochInput,
        start: int | None = None,
        versions: Literal["last", "all"] = "last",
        *,
        as_it_is: bool = False,
    ) -> View:
        """A prefix is narrowed to what is watched, but a reference's stays `as_it_is`, whatever is watched by
        now."""
        if not isinstance(prefix, str):
            raise UsageError(f"prefix={prefix!r}: it is text; leave it out for the whole bucket.")
        _, config, cut = self._at_once(
            lambda: self._checked, lambda: self.store.config(bucket), lambda: self.epoch(bucket, epoch)
        )
        if config is None:
            raise BucketNotEnabled(
                f"Bucket {checked_bucket(bucket)} is not enabled in {self.settings.store}. "
                f"Run `snapengine enable-bucket {bucket}`."
            )
        watched = prefix if as_it_is else max(prefix, config.prefix, key=len)
        if not as_it_is and not (prefix.startswith(config.prefix) or config.prefix.startswith(prefix)):
            raise UsageError(
                f"Only keys below {config.prefix!r} of bucket {bucket} are watched, so nothing is known of "
                f"{prefix!r}."
            )
        if config.archive is not None:
            self._archives[bucket] = config.archive
        return View(self, SnapshotRef(bucket, watched, at, cut.number, start, versions), cut)

    def _at_once(self, *calls: Callable[[], Any]) -> list[Any]:
        """What several questions to the table give, asked together where it is far; errors in their order."""
        if isinstance(self.store, SQLiteStore):
            return [call() for call in calls]
        with ThreadPoolExecutor(len(calls), thread_name_prefix="snapengine-ask") as pool:
            return [coming.result() for coming in [pool.submit(call) for call in calls]]

    def epoch(self, bucket: str, wanted: EpochInput) -> Epoch:
        """The epoch that is asked for. Raises `NoSuchEpoch`, `BadTime`."""
        found: Epoch | None
        if wanted is None:
            found = self.store.newest_epoch(bucket)
        elif isinstance(wanted, int) and not isinstance(wanted, bool):
            found = self.store.epoch(bucket, wanted) if wanted else None
            if found is None and wanted:
                raise NoSuchEpoch(f"Epoch {wanted} of bucket {bucket} has not been cut.")
        else:
            try:
                time = to_millis(wanted, now=self.clock())
            except BadTime as error:
                raise BadTime(f"An epoch is asked for by number (an int) or by time. {error}") from None
            found = self.store.epoch_at(bucket, time)
        return found or NO_EPOCH

    # What a view reads from

    def table(self, ref: SnapshotRef, epoch: Epoch) -> pa.Table:
        return resolve(self, ref, epoch)

    def batches(
        self, ref: SnapshotRef, epoch: Epoch, columns: Sequence[str] | None = None, after: str = ""
    ) -> Iterator[pa.RecordBatch]:
        for table in resolve_ranges(self, ref, epoch, columns=columns, after=after):
            yield from table.to_batches()

    def pieces(self, ref: SnapshotRef, epoch: Epoch) -> Iterator[Piece]:
        return resolve_pieces(self, ref, epoch)

    def bound(self, ref: SnapshotRef, epoch: Epoch) -> int:
        return bound(self, ref, epoch)

    def explain(self, ref: SnapshotRef, epoch: Epoch) -> str:
        return explain(self, ref, epoch)

    def differing(
        self, before_ref: SnapshotRef, before_epoch: Epoch, after_ref: SnapshotRef, after_epoch: Epoch
    ) -> tuple[pa.Table, pa.Table] | None:
        return differing(self, (before_ref, before_epoch), (after_ref, after_epoch))

    def version(self, ref: SnapshotRef, epoch: Epoch, key: str) -> ObjectVersion | None:
        return resolve_key(self, ref, epoch, key)

    def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        return self._objects.read(bucket, version, start, end)

    def read_into(self, bucket: str, version: ObjectVersion, start: int, buffer: memoryview) -> None:
        self._objects.read_into(bucket, version, start, buffer)

    def head(self, bucket: str, version: ObjectVersion) -> StoredVersion:
        return self._objects.head(bucket, version)

    def facts(self, bucket: str, version: ObjectVersion) -> VersionFacts:
        return self._objects.facts(bucket, version)

    def removal(self, bucket: str, version: ObjectVersion) -> str | None:
        newest = self.store.newest_epoch(bucket)
        if newest is None:
            return None
        facts = merge(key_history(self, bucket, version.key, newest))
        removal = removal_of(facts, version)
        if removal is None:
            return None
        return f"It went at {render(removal.time)} ({why(removal)})."

    def audit(self, ref: SnapshotRef, shown: pa.Table) -> list[GoneVersion]:
        newest = self.store.newest_epoch(ref.bucket)
        if newest is None or not shown.num_rows:
            return []
        now = SnapshotRef(ref.bucket, ref.prefix, newest.time, newest.number)
        keys = removed_keys(self, now, newest, shown["key"].combine_chunks())
        return gone_versions(shown, covered(self, now, newest, only=keys)) if keys else []

    # Metadata, and what is chosen by it

    def joined(
        self,
        ref: SnapshotRef,
        epoch: Epoch,
        extractor: str,
        *,
        identifying: bool,
        columns: Sequence[str] | None = None,
    ) -> Joined:
        from snapengine.row_reading import joined

        return joined(self, ref, epoch, extractor, identifying, columns)

    def row_schema(self, bucket: str, epoch: Epoch, extractor: str) -> pa.Schema:
        from snapengine.row_reading import row_schema

        return row_schema(self, bucket, epoch, extractor)

    def extracting(self, bucket: str, extractor: str) -> bool:
        config = self.store.config(bucket)
        return config is not None and extractor in config.extractors

    def keep(self, ref: SnapshotRef, rows: pa.Table, chosen: Chosen) -> None:
        async def put() -> None:
            async with self.log() as log:
                await selections.keep(log, ref, rows, self.clock)
                await selections.note(log, ref, chosen, self.clock)
                self._unkept.pop(ref, None)  # another thread may have kept the same

        self._unkept[ref] = rows
        in_thread(put())

    def is_only_here(self, ref: SnapshotRef) -> bool:
        """Whether this process alone has what a narrowed view's reference selects."""
        return ref in self._unkept

    def selected(self, ref: SnapshotRef) -> pa.Table:
        unkept = self._unkept.get(ref)
        return selections.kept(self.store, ref) if unkept is None else unkept

    @cached_property
    def _unkept(self) -> dict[SnapshotRef, pa.Table]:
        """What the table did not take, for as long as this process lasts."""
        return {}

    def chosen(self, ref: SnapshotRef) -> Chosen | None:
        async def ask() -> list[Chosen]:
            async with self.log() as log:
                return await selections.noted(log, self.store, ref)

        found = in_thread(ask())
        return min(found, key=lambda one: one.identifying and one.query is None, default=None)

    # The archive

    def archive(self, bucket: str, *, lately: Epoch | None = None) -> Archive:
        """The manifests of a bucket's archive, as they stand now, or stood a moment ago (`lately`)."""
        return self._manifests.read(bucket, lately=lately)

    @cached_property
    def _manifests(self) -> Manifests:
        return Manifests(self.store)

    def files(self, bucket: str) -> ArchiveReader:
        """Reads the files of a bucket's archive. Raises `Refused` where it has none."""
        if bucket not in self._archives:  # an archive never moves
            config = self.store.config(bucket)
            if config is None or config.archive is None:
                raise Refused(f"Bucket {bucket} has no archive. `snapengine archive {bucket}` makes it.")
            self._archives[bucket] = config.archive
        return self.reader(self._archives[bucket])

    @cached_property
    def _archives(self) -> dict[str, str]:
        return {}

    def reader(self, url: str) -> ArchiveReader:
        """Reads the files below an archive's root; one for all who ask."""
        from snapengine.archive.reading import ArchiveReader

        with self._lock:
            if url not in self._readers:
                self._readers[url] = ArchiveReader(self.root(url), self._cache)
            return self._readers[url]

    @cached_property
    def _readers(self) -> dict[str, ArchiveReader]:
        return {}

    def root(self, url: str) -> Root:
        """Where an archive is kept. Raises `UsageError` for what is no such place."""
        from snapengine.archive.roots import open_root

        return open_root(url, lambda: self.s3)

    @cached_property
    def _cache(self) -> Cache | None:
        from snapengine.archive.cache import Cache

        folder = self.settings.cache_folder
        return Cache(folder, self.settings.cache_bytes) if folder else None

    @cached_property
    def _objects(self) -> S3Objects:
        return S3Objects(self.s3)

    @cached_property
    def s3(self) -> S3Client:
        return self.client("s3")  # type: ignore[no-any-return]  # boto3 types clients by literal name

    @cached_property
    def sqs(self) -> SQSClient:
        return self.client("sqs")  # type: ignore[no-any-return]  # boto3 types clients by literal name
