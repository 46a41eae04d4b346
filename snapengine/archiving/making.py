"""One segment, being made: its epochs and entries are gathered, sorted, written, and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from secrets import token_hex
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.archive.manifest import ArchiveFile, Segment, files_from_payload
from snapengine.archive.planning import Bounds, KeyRange, split
from snapengine.archive.roots import Root
from snapengine.archive.schemas import ARCHIVED, EPOCH, EPOCHS, OBSERVATION_ROWS, ORDER
from snapengine.archive.sorting import Sorter
from snapengine.archive.windows import Window
from snapengine.archive.writing import FileWriter
from snapengine.archiving import paths
from snapengine.archiving.irregular import irregular
from snapengine.archiving.leasing import Renew
from snapengine.archiving.publishing import Series
from snapengine.archiving.row_making import GatheredRows, RowLog
from snapengine.archiving.tail import Tail
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import LogDamaged
from snapengine.model import Epoch, LogEntry
from snapengine.observation_codec import SCHEMA, decode_table

MAX_EPOCHS = 100_000
"""Of a segment."""
RANGE_ROWS = 262_144
"""Rows that are sorted and written at a time, more or less."""
_ALL = KeyRange("", None)


@dataclass(frozen=True, slots=True)
class ArchiveProgress:
    """How far a segment is."""

    step: Literal["reading", "writing", "checking"]
    rows: int
    """Observations read, written or checked so far."""
    of: int | None
    """Of so many; None as long as that is not known."""
    epoch: int
    """The last one read."""


Show = Callable[[ArchiveProgress], None]


@dataclass(slots=True)
class _Gathered:
    """What one segment will hold."""

    epochs: list[Epoch] = field(default_factory=list)
    before: dict[int, int] = field(default_factory=dict)
    """For each epoch the time of the one before it."""
    listed: list[tuple[int, tuple[ArchiveFile, ...]]] = field(default_factory=list)
    """Files that entries name, with the epoch of each entry."""
    rows: int = 0
    listed_until: int = 0


class Making:
    """One segment, being made. A context manager, as it may have files of its own on the disk."""

    def __init__(
        self,
        tools: ArchiveTools,
        root: Root,
        bucket: str,
        first: int,
        last: Segment | None,
        progress: Show,
        renew: Renew,
    ) -> None:
        self._tools = tools
        self._root = root
        self._bucket = bucket
        self._first = first
        self._progress = progress
        self._renew = renew
        self._reader = tools.reader(root.url)
        self._time_before = last.last_time if last else None
        self._got = _Gathered(listed_until=last.listed_until if last else 0)
        self._sorter = Sorter(ARCHIVED)
        self._metadata = GatheredRows()
        self._stack = ExitStack()

    def __enter__(self) -> Making:
        self._stack.enter_context(self._sorter)
        self._stack.enter_context(self._metadata)
        self._pool = self._stack.enter_context(
            ThreadPoolExecutor(max_workers=4, thread_name_prefix="snapengine-archive")
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # Reading

    def gather(
        self, epochs: Iterator[Epoch], tail: Tail, row_log: RowLog, newest: int, max_rows: int
    ) -> None:
        """Take epochs, with their entries, until there are enough rows."""
        got = self._got
        for epoch in epochs:
            if self._time_before is not None:
                got.before[epoch.number] = self._time_before
            self._time_before = epoch.time
            got.epochs.append(epoch)
            for entry in tail.entries(epoch):
                self._renew()
                self._take(entry, epoch.number)
                self._progress(ArchiveProgress("reading", got.rows, None, epoch.number))
            for extractor, schema, rows in row_log.rows(epoch):
                self._renew()
                self._metadata.add(extractor, schema, rows, epoch.number)
            enough = max(got.rows, self._metadata.rows) >= max_rows or len(got.epochs) >= MAX_EPOCHS
            if epoch.number == newest or enough:
                return
        raise LogDamaged(f"Epoch {newest:,} of bucket {self._bucket} is missing.")

    def _take(self, entry: LogEntry, epoch: int) -> None:
        got = self._got
        if entry.form == "stub":
            raise self._damaged(entry, "has no observations any more, and the archive lacks them")
        if entry.form == "files":
            files = self._files(entry)
            rows = sum(f.rows for f in files)
            until = max((f.max_page for f in files), default=0)
            got.listed.append((epoch, tuple(f for f in files if f.rows)))
        else:
            table = self._rows(entry)
            rows = table.num_rows
            until = pc.max(table["page_time"].cast(pa.int64())).as_py() or 0
            self._sorter.add(_with_epoch(table, epoch))
        if rows != entry.count:
            raise self._damaged(entry, f"has {rows:,} observations where it should have {entry.count:,}")
        got.rows += rows
        got.listed_until = max(got.listed_until, until)

    def _files(self, entry: LogEntry) -> list[ArchiveFile]:
        try:
            return files_from_payload(entry.payload)
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged(entry, f"should name files, and cannot be read: {error}") from error

    def _rows(self, entry: LogEntry) -> pa.Table:
        try:
            return decode_table(entry.payload)
        except LogDamaged as error:
            raise self._damaged(entry, f"is damaged: {error}") from error

    def _damaged(self, entry: LogEntry, how: str) -> LogDamaged:
        return LogDamaged(
            f"Entry {entry.number} of stream {entry.stream} of bucket {self._bucket} {how}"
            + ("" if how.endswith(".") else ".")
        )

    # Writing

    def write(self) -> Segment:
        """Put the files, and read them back; nothing is committed."""
        got, now = self._got, self._tools.clock()
        last = got.epochs[-1]
        observations = self._observations(last.number)
        metadata = self._metadata.write(self._root, self._bucket, self._first, last.number, self._renew)
        files = (*observations, *metadata, self._epochs(last.number))
        self._sure(sum(f.rows for f in observations), got.rows, "observations")
        for extractor, gathered in self._metadata.by_extractor().items():
            for role in {f.role for f in metadata if f.extractor == extractor} | {"rows"}:
                held = sum(f.rows for f in metadata if f.role == role and f.extractor == extractor)
                self._sure(held, gathered, f"{role} of extractor {extractor}")
        self._check(files)
        return Segment(
            first=self._first,
            last=last.number,
            files=files,
            cover=dict(last.cover),
            last_time=last.time,
            listed_until=got.listed_until,
            created_at=now,
            # What came in files never had items of its own in the table.
            leaving_since=now if got.listed else None,
            rows_cover=dict(last.rows),
        )

    def _sure(self, held: int, gathered: int, what: str) -> None:
        if held != gathered:
            raise LogDamaged(f"{held:,} {what} were written of {gathered:,} of bucket {self._bucket}.")

    def _observations(self, last: int) -> list[ArchiveFile]:
        folder = paths.observations(self._bucket, self._first, last)
        with (
            Series(self._root, f"{folder}/regular", "regular", ARCHIVED, ORDER, OBSERVATION_ROWS) as regular,
            Series(self._root, f"{folder}/irregular", "irregular", ARCHIVED, ORDER, OBSERVATION_ROWS) as late,
        ):
            written = 0
            for rows in self._sorted():
                self._renew()
                mask = irregular(rows, self._got.before, self._got.listed_until)
                regular.write(rows.filter(pc.invert(mask)))
                late.write(rows.filter(mask))
                written += rows.num_rows
                self._progress(ArchiveProgress("writing", written, self._got.rows, last))
            return [*regular.close(), *late.close()]

    def _sorted(self) -> Iterator[pa.Table]:
        """All rows, range by range of keys."""
        bounds = self._sorter.bounds()
        windows: list[tuple[int, Window]] = []
        for epoch, files in self._got.listed:
            windows.append((epoch, Window.of_files(lambda: self._reader, files, SCHEMA, self._pool)))
            bounds += [Bounds(*group) for file in files for group in self._reader.groups(file)]
        for keys in split(bounds, _ALL, RANGE_ROWS):
            listed = [_with_epoch(window.rows(keys), epoch) for epoch, window in windows]
            rows = pa.concat_tables([self._sorter.within(keys), *listed])
            if rows.num_rows:
                yield rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in ORDER]))

    def _epochs(self, last: int) -> ArchiveFile:
        path = f"{paths.epochs(self._bucket, self._first, last)}/epochs-{token_hex(4)}-00000.parquet"
        with FileWriter(self._root, path, "epochs", EPOCHS, sort=("number",)) as writer:
            writer.write(epochs_table(self._got.epochs))
        return writer.file

    def _check(self, files: tuple[ArchiveFile, ...]) -> None:
        checked = 0
        for file in files:
            self._renew()
            self._reader.check(file)
            checked += file.rows if file.role in {"regular", "irregular"} else 0
            self._progress(ArchiveProgress("checking", checked, self._got.rows, self._got.epochs[-1].number))


def _with_epoch(table: pa.Table, epoch: int) -> pa.Table:
    column = pa.repeat(pa.scalar(epoch, pa.int64()), table.num_rows)
    return table.append_column(EPOCH, column).replace_schema_metadata(None)


def epochs_table(epochs: list[Epoch]) -> pa.Table:
    """By `EPOCHS`; cover, watermarks and rows as JSON objects, their keys in order."""
    columns = [
        [e.number for e in epochs],
        [e.time for e in epochs],
        [_by_stream(e.cover) for e in epochs],
        [json.dumps(asdict(e.watermarks), sort_keys=True) for e in epochs],
        [_by_stream(e.rows) if e.rows else None for e in epochs],
    ]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, EPOCHS, strict=True)], schema=EPOCHS)


def _by_stream(cover: Mapping[int, int]) -> str:
    return json.dumps({str(stream): to for stream, to in sorted(cover.items())})
