"""What the archiver does to a history, at any moment: none of it may change any answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from snapengine import Engine, Settings
from snapengine.archive.manifest import ArchiveFile, Checkpoint, Segment, files_from_payload
from snapengine.archive.reading import ArchiveReader
from snapengine.archive.roots import Root, Stored
from snapengine.archiving.checkpoints import make_checkpoint, make_differential
from snapengine.archiving.compaction import put_together
from snapengine.archiving.letting_go import let_go
from snapengine.archiving.publishing import publish, retire, write_sorted
from snapengine.archiving.segments import make_segments
from snapengine.archiving.sweeping import sweep_orphans, sweep_retired
from snapengine.errors import ArchiveFileMissing
from snapengine.log import StreamWriter
from snapengine.model import LogEntry, Observation
from snapengine.observation_codec import SCHEMA, decode, decode_table, encode, observations_of
from snapengine.ports import Clock, LogStore
from tests.stateful.backends import Site

ROOT = "file:///archive"


class MemoryRoot:
    """A root that is gone when the history is."""

    url = ROOT

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def put(self, path: str, source: Path) -> None:
        self.files[path] = source.read_bytes()

    def put_bytes(self, path: str, data: bytes) -> None:
        self.files[path] = data

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        if path not in self.files:
            raise ArchiveFileMissing(f"{path} is missing.")
        return self.files[path][start:end]

    def size(self, path: str) -> int | None:
        return len(self.files[path]) if path in self.files else None

    def paths(self, prefix: str = "") -> Iterator[Stored]:
        return (Stored(p, len(d), 0) for p, d in sorted(self.files.items()) if p.startswith(prefix))

    def delete(self, path: str) -> None:
        self.files.pop(path, None)

    def local(self, path: str) -> Path | None:
        return None


class SiteEngine(Engine):
    """An engine over a history's log, its archive in memory."""

    def __init__(self, site: Site, clock: Clock) -> None:
        super().__init__(Settings(store="sqlite:///:memory:", archive=ROOT, cache="off"), clock=clock)
        self.store = site.store
        self.memory = MemoryRoot()
        self._site = site

    def root(self, url: str) -> Root:
        assert url == ROOT
        return self.memory

    def forget(self) -> None:
        self.__dict__.pop("_manifests", None)

    @asynccontextmanager
    async def log(self) -> AsyncIterator[LogStore]:
        yield self._site.log


class Archiver:
    """Does one thing at a time. What it is given picks at random."""

    def __init__(self, site: Site, engine: SiteEngine) -> None:
        self._site = site
        self._engine = engine

    def archive(self, max_rows: int) -> None:
        make_segments(self._engine, self._engine.memory, self._site.bucket, max_rows=max_rows)

    def checkpoint(self, instants: Sequence[int], pick: int) -> bool:
        """At any instant up to the last archived epoch's."""
        return self._make(make_checkpoint, instants, pick)

    def differential(self, instants: Sequence[int], pick: int) -> bool:
        """The same, from a checkpoint before it."""
        return self._make(make_differential, instants, pick)

    def _make(self, make: Callable[..., Checkpoint | None], instants: Sequence[int], pick: int) -> bool:
        last = self._last()
        usable = [at for at in instants if last is not None and at <= last.last_time]
        if not usable:
            return False
        at = usable[pick % len(usable)]
        return make(self._engine, self._engine.memory, self._site.bucket, at, lambda: None) is not None

    @property
    def checkpoints(self) -> int:
        return len(self._engine.archive(self._site.bucket).checkpoints)

    def drop_checkpoint(self, pick: int) -> bool:
        """As they are thinned out; or a differential."""
        archive = self._engine.archive(self._site.bucket)
        standing = (*archive.checkpoints, *archive.differentials)
        if not standing:
            return False
        one = standing[pick % len(standing)]
        return retire(self._site.store, self._site.bucket, one, self._engine.clock())

    def compact(self, first: int, many: int) -> bool:
        segments = list(self._engine.archive(self._site.bucket).segments)
        first %= max(len(segments), 1)
        run = segments[first : first + many]
        if len(run) < 2 or len({s.leaving_since is None for s in run}) > 1:
            return False
        memory, bucket = self._engine.memory, self._site.bucket
        longer = put_together(self._engine, memory, bucket, run, lambda: None)
        assert publish(memory, self._site.store, bucket, longer)
        for shorter in run:
            assert retire(self._site.store, bucket, shorter, self._engine.clock())
        return True

    def sweep(self) -> None:
        """At once: nobody reads meanwhile."""
        sweep_retired(self._engine, self._engine.memory, self._site.bucket, 0, lambda: None)
        self._site.run(sweep_orphans(self._engine, self._engine.memory, self._site.bucket, 0, lambda: None))

    def let_go(self) -> bool:
        """Of what is more than a day old; it goes at once, where a day should pass first: so what is
        remembered of manifests for a minute is forgotten."""
        self._engine.forget()
        done = self._site.run(let_go(self._engine, self._engine.memory, self._site.bucket, 1))
        self._site.expire()
        return bool(done.entries or done.stubs)

    def _last(self) -> Segment | None:
        return max(self._engine.archive(self._site.bucket).segments, key=lambda s: s.last, default=None)

    # A baseline straight to Parquet

    def append_files(self, writer: StreamWriter, observations: Sequence[Observation]) -> None:
        table = decode_table(encode(sorted(observations, key=lambda o: o.key)))
        files = write_sorted(
            self._engine.memory,
            f"{self._site.bucket}/listed/baseline/part",
            "irregular",
            SCHEMA,
            ("key",),
            [table],
            3,
        )
        self._site.run(writer.append_files(self._site.bucket, list(files), table.num_rows))

    def told_by(self, entry: LogEntry) -> list[Observation]:
        """An entry's observations, wherever they are."""
        if entry.form == "rows":
            return decode(entry.payload)
        assert entry.form == "files", "an entry that was not read before it became a stub"
        files: list[ArchiveFile] = files_from_payload(entry.payload)
        reader: Any = ArchiveReader(self._engine.memory)
        tables = [reader.read(file, columns=SCHEMA.names).cast(SCHEMA) for file in files]
        return observations_of(pa.concat_tables(tables))
