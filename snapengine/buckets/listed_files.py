"""Where a baseline's observations go: into the log page by page, or straight into Parquet files.

In the log those of a large bucket would cost an item of the table for every few hundred entries, and another
for each of them. Files cost neither: one entry of the log names them all, when all is listed. A small
bucket's are cheaper in the log, so the first pages are held until it is known which it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from secrets import token_hex
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import ArchiveFile, Listed, files_to_payload, from_json
from snapengine.archive.roots import Root
from snapengine.archive.schemas import OBSERVATION_ROWS
from snapengine.archive.writing import FileWriter
from snapengine.archive_root import RootTools, archive_root
from snapengine.buckets.bookkeeping import Mark
from snapengine.log import StreamWriter
from snapengine.model import BucketConfig, Observation
from snapengine.observation_codec import SCHEMA
from snapengine.ports import LogReader

Into = Literal["auto", "log", "parquet"]
"""Where a baseline goes. `auto`: into Parquet files if there is a place for them and the bucket is large."""
HELD_PAGES: Final = 50
"""A listing that ends within so many pages is one of a small bucket."""
FILES_BYTES: Final = 300_000
"""Of the description of finished files: then they are named in the log before the listing's end, as an item
of the table holds no more. It takes some 600 million observations."""


def place_of(tools: RootTools, config: BucketConfig, into: Into) -> Into:
    """What `auto` means for a bucket. Raises `Refused` if there is no place for files, or a wrong one."""
    if into == "auto" and config.archive is None and tools.settings.archive is None:
        return "log"
    if into != "log":
        archive_root(tools, config)
    return into


class ListedFiles:
    """Writes a listing's observations into files, one after the other, each sorted by key and position."""

    def __init__(self, root: Root, bucket: str, listing: str, *, rows: int = OBSERVATION_ROWS) -> None:
        """`rows`: the most of a file."""
        self._root = root
        self._folder = f"{bucket}/listed/{listing}"
        self._rows = rows
        self._writer: FileWriter | None = None
        self._last = ""
        self._number = 0

    @property
    def empty(self) -> bool:
        """Whether all observations are in finished files."""
        return self._writer is None

    def add(self, observations: Sequence[Observation]) -> list[ArchiveFile]:
        """Take observations in the order of the listing; the files that are finished by it.

        The order of S3's listings is that of keys. From a server that lists otherwise more files come.
        """
        finished: list[ArchiveFile] = []
        for start in range(0, len(observations), self._rows):
            finished += self._add(_sorted(observations[start : start + self._rows]))
        return finished

    def _add(self, table: pa.Table) -> list[ArchiveFile]:
        finished: list[ArchiveFile] = []
        keys = table["key"]
        if self._writer is not None and (
            keys[0].as_py() < self._last or self._writer.rows + table.num_rows > self._rows
        ):
            finished += self.close()
        if self._writer is None:
            path = f"{self._folder}/part-{self._number:05d}-{token_hex(4)}.parquet"
            self._writer = FileWriter(self._root, path, "irregular", SCHEMA, sort=("key", "position"))
            self._number += 1
        self._writer.write(table)
        self._last = keys[-1].as_py()
        if self._writer.rows + table.num_rows > self._rows:  # as many again would be too many
            finished += self.close()
        return finished

    def close(self) -> list[ArchiveFile]:
        """Finish the file that is being written, if one is; that file."""
        if self._writer is None:
            return []
        file = self._writer.close()
        self._writer = None
        return [file]

    def abandon(self) -> None:
        """End without finishing what is being written."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None


def _sorted(observations: Sequence[Observation]) -> pa.Table:
    columns = zip(*observations, strict=True)
    arrays = [pa.array(list(column), type=f.type) for column, f in zip(columns, SCHEMA, strict=True)]
    table = pa.table(arrays, schema=SCHEMA)
    keys = table["key"].combine_chunks()
    if pc.any(pc.greater(keys.slice(0, len(keys) - 1), keys.slice(1))).as_py():
        return table.sort_by([("key", "ascending"), ("position", "ascending")])
    return table


class Destination:
    """Where one run's observations go, and how far they are safe."""

    def __init__(
        self,
        writer: StreamWriter,
        bucket: str,
        into: Into,
        begun: Mark,
        files: Sequence[ArchiveFile],
        *,
        make: Callable[[], Awaitable[ListedFiles]],
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
        held_pages: int = HELD_PAGES,
    ) -> None:
        """`files`: those that an earlier run finished. `make` opens the place for files, when it is certain
        that there will be some; `run` does blocking work."""
        self.kept = begun
        """Up to where everything is in the log or in finished files."""
        self.files = list(files)
        """Finished, and not in the log yet."""
        self.archived = 0
        """How many observations this run has put into the log as files."""
        self._writer = writer
        self._bucket = bucket
        self._make = make
        self._run = run
        self._held_pages = held_pages
        self._held: list[Observation] | None = [] if into == "auto" and not files else None
        self._pages = 0
        self._to_files = into == "parquet" or (into == "auto" and bool(files))
        self._listed: ListedFiles | None = None

    async def take(self, observations: Sequence[Observation], mark: Mark) -> bool:
        """Take a page's observations; `mark` is where the listing stands after it. Whether all that was taken
        so far is safe now."""
        if self._held is not None:
            self._held += observations
            self._pages += 1
            if self._pages <= self._held_pages:
                return False
            observations, self._held, self._to_files = self._held, None, True
        if not self._to_files:
            await self._writer.append(self._bucket, observations)
            self.kept = mark
            return True
        if not observations:
            return False
        listed = self._listed = self._listed or await self._make()
        self.files += await self._run(lambda: listed.add(observations))
        if not listed.empty:
            return False
        self.kept = mark
        return True

    async def end(self, mark: Mark) -> None:
        """The listing has ended."""
        if self._held is not None:
            await self._writer.append(self._bucket, self._held)
            self._held = None
        if self._listed is not None:
            self.files += await self._run(self._listed.close)
        self.kept = mark

    @property
    def full(self) -> bool:
        """Whether the log must name the files now, as their description becomes too long to be saved."""
        return len(self.files) > 1 and len(files_to_payload(self.files)) > FILES_BYTES

    async def show(self) -> None:
        """Make the finished files visible, by one entry of the log."""
        if not self.files:
            return
        rows = sum(file.rows for file in self.files)
        await self._writer.append_files(self._bucket, self.files, rows)
        self.archived += rows
        self.files = []

    def abandon(self) -> None:
        """Give up what has not been finished."""
        if self._listed is not None:
            self._listed.abandon()


def not_named(log: LogReader, bucket: str, files: Sequence[ArchiveFile]) -> list[ArchiveFile]:
    """Those files that no entry of the log has made visible. All entries must have been completed."""
    manifests = [from_json(body) for body in log.manifests(bucket)]
    named = {file.path for one in manifests if isinstance(one, Listed) for file in one.files}
    return [file for file in files if file.path not in named]


def lost(root: Root, files: Sequence[ArchiveFile]) -> list[str]:
    """The paths of files that are not in the root as they were put: they were not named, and so swept."""
    return [file.path for file in files if root.size(file.path) != file.size]
