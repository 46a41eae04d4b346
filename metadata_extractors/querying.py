"""A condition over a view's rows of metadata: DuckDB reads the archive's files itself, the rest is streamed.

The files hold the whole bucket as a checkpoint saw it. What has changed since is left out of them by its key,
and comes from the log: so an answer costs a scan of the files, and what changed, and never the history.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metadata_extractors.closed_duckdb import (
    arrow_table,
    closed_connection,
    literal,
    quoted,
    run_failure,
    the_duckdb,
)
from metadata_extractors.having_columns import READ_OUTCOMES, lacks
from metadata_extractors.selecting import USUAL, Asked, Tally
from snapengine.archive.planning import keys_below
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, BadData, SnapEngineError, UsageError
from snapengine.narrowing import between
from snapengine.view_rows import Joined

if TYPE_CHECKING:
    import duckdb

_BATCH_ROWS: Final = 131_072


@dataclass(frozen=True, slots=True)
class Scope:
    """Which objects are meant, of those that are read."""

    prefixes: tuple[str, ...] = ()
    """All of them begin the key."""
    since: int | None = None
    """Only versions of this instant or later (UTC milliseconds), as a slice shows."""
    keys: pa.Array[Any] | None = None
    """Only these, in order, as a narrowed view shows."""
    versions: frozenset[str] | None = None
    """Of the extractor: values of any other lack a column that is asked for; they count as no row."""

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that are meant."""
        for prefix in self.prefixes:
            batch = batch.filter(pc.starts_with(batch["key"], pattern=prefix))
        if self.since is not None:
            batch = batch.filter(pc.greater_equal(batch["event_time"].cast(pa.int64()), self.since))
        if self.keys is not None and batch.num_rows:
            ends = pc.min_max(batch["key"]).as_py()
            here = between(self.keys, ends["min"], ends["max"])
            batch = batch.filter(pc.is_in(batch["key"], value_set=here))
        if self.versions is not None:
            outcome = pc.if_else(lacks(batch, self.versions), None, batch["outcome"])
            place = batch.schema.get_field_index("outcome")
            batch = batch.set_column(place, batch.schema.field(place), outcome)
        return batch

    def outcome(self) -> str:
        """How a row ended, over files; NULL if it counts as none."""
        if self.versions is None:
            return "f.outcome"
        versions = ", ".join(map(literal, ["", *sorted(self.versions)]))
        read = ", ".join(map(literal, READ_OUTCOMES))
        lacking = f"f.outcome IN ({read}) AND f.extractor_version NOT IN ({versions})"
        return f"CASE WHEN {lacking} THEN NULL ELSE f.outcome END AS outcome"

    def sql(self) -> list[str]:
        """The same, but for the keys, over files."""
        found = []
        for keys in map(keys_below, self.prefixes):
            found.append(f"f.key >= {literal(keys.first)}")
            found += [] if keys.after is None else [f"f.key < {literal(keys.after)}"]
        if self.since is not None:
            found.append(f"epoch_ms(f.event_time) >= {self.since}")
        return found


@dataclass(frozen=True, slots=True)
class Means:
    """What a query may use; see `closed_connection`."""

    memory: str = "512MiB"
    threads: int | None = None
    temporary: Path | None = None


def query(
    joined: Joined,
    known: pa.Schema,
    asked: Asked,
    columns: Sequence[str],
    scope: Scope,
    means: Means,
    *,
    without: list[pa.RecordBatch] | None = None,
) -> Tally:
    """All of the view's objects that are meant, judged and counted.

    `known` are all columns that may be named, `columns` those that the answer is made of. The view's rows of
    objects without metadata go to `without`. Raises `UsageError` for a condition that cannot be worked out,
    `ArchiveDamaged`, and what reading a view raises.
    """
    names = [*columns, *asked.condition.columns, "outcome", "key", "event_time"]
    names += VIEW_SCHEMA.names if without is not None else []
    names += ["extractor_version"] if scope.versions is not None else []
    shape = pa.schema([known.field(name).with_nullable(True) for name in dict.fromkeys(names)])
    tally, begun = Tally(asked), joined
    with ThreadPoolExecutor(1, thread_name_prefix="snapengine-verify") as pool:
        verified = pool.submit(joined.verify, shape.names)
        try:
            if joined.files:
                joined = _over_files(joined, shape, columns, scope, means, tally, without)
            meant = (scope.of(shaped(batch, shape)) for batch in joined.batches())
            tally.judge((batch for batch in meant if batch.num_rows), without)
        except SnapEngineError:
            begun.abandon()
            verified.result()  # what a damaged file seems to say is no error of the caller's
            raise
        except BaseException:
            begun.abandon()
            raise
        verified.result()
    return tally


def shaped(batch: pa.RecordBatch, shape: pa.Schema) -> pa.RecordBatch:
    """The columns of `shape`; those that the batch lacks are null. Raises `BadData` for another type."""
    for field in shape:
        if field.name in batch.schema.names and (found := batch.schema.field(field.name).type) != field.type:
            raise BadData(f"The column {field.name} of the metadata is {found}, and not {field.type}.")
    columns = [
        batch[field.name] if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
        for field in shape
    ]
    return pa.record_batch(columns, schema=shape)


class _Files:
    """The rows of files that are meant, as a relation for DuckDB."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        paths: list[str],
        shape: pa.Schema,
        scope: Scope,
    ) -> None:
        self.connection = connection
        self.shape = shape
        stored = _stored_schemas(paths, shape)
        connection.register("shape", shape.empty_table())
        listed = ", ".join(
            scope.outcome()
            if name == "outcome"
            else f"f.{quoted(name)}"
            if name in stored
            else f"(SELECT {quoted(name)} FROM shape) AS {quoted(name)}"  # noqa: S608  # NULL, of the right type
            for name in shape.names
        )
        by_name = ", union_by_name = true" if len(paths) > 1 else ""
        source = f"read_parquet([{', '.join(map(literal, paths))}], hive_partitioning = false{by_name}) AS f"
        if scope.keys is not None:
            connection.register("chosen", pa.table({"key": scope.keys}))
            source += " SEMI JOIN chosen ON f.key = chosen.key"
        where = " AND ".join(scope.sql()) or "true"
        self.relation = f"(SELECT {listed} FROM {source} WHERE {where})"  # noqa: S608  # names are quoted
        self.standing = self.relation
        """The rows of keys that have not changed."""

    def leave_out(self, changed: pa.Array[Any]) -> None:
        if len(changed):
            self.connection.register("changed", pa.table({"key": changed}))
            self.standing = f"(SELECT s.* FROM {self.relation} AS s ANTI JOIN changed ON s.key = changed.key)"  # noqa: S608  # as above

    def table(self, columns: Sequence[str], where: str) -> pa.Table:
        """Also of keys that have changed."""
        return arrow_table(self.connection, self._select(columns, self.relation, where))

    def batches(self, columns: Sequence[str], where: str) -> Iterator[pa.RecordBatch]:
        relation: Any = self.connection.sql(self._select(columns, self.standing, where))
        yield from relation.to_arrow_reader(_BATCH_ROWS)

    def _select(self, columns: Sequence[str], relation: str, where: str) -> str:
        names = ", ".join(map(quoted, columns))
        return f"SELECT {names} FROM {relation} WHERE (\n{where}\n)"  # noqa: S608  # names are quoted, the condition was checked


def _over_files(
    joined: Joined,
    shape: pa.Schema,
    columns: Sequence[str],
    scope: Scope,
    means: Means,
    tally: Tally,
    without: list[pa.RecordBatch] | None,
) -> Joined:
    """What remains to be judged when the files have been.

    A condition in SQL costs one scan that skips what it rules out, while it is found out which keys have
    changed; then a look at what is neither chosen nor ruled out. Any other is judged batch by batch, and so
    is one that fails there: it may have failed on a row that does not count.
    """
    paths = [_local(path) for path in joined.files]
    text = tally.asked.condition.sql
    with closed_connection(paths, means.threads, means.memory, means.temporary) as connection:
        try:
            files = _Files(connection, paths, shape, scope)
            skipping = text is not None and not tally.asked.transformed_first
            scanned = _unless_it_fails(lambda: _scan(files, columns, tally.asked)) if skipping else None
            settled = joined.settled()
            if not settled.files:
                return settled
            files.leave_out(pa.array(settled.changed, pa.string()))
            numbers = None
            if scanned is not None:
                chosen, plain = _standing(scanned[0], settled), scanned[1]
                numbers = _unless_it_fails(lambda: _numbers(files, tally.asked, chosen.num_rows, plain=plain))
            if numbers is None:
                read = (batch.cast(shape) for batch in files.batches(shape.names, "true"))
                tally.judge(read, without)
                return settled
            answer = pa.schema([shape.field(name) for name in columns])
            tally.keep(chosen.cast(answer))
            tally.count(numbers)
            if without is not None:
                without += (batch.cast(shape) for batch in files.batches(shape.names, "outcome IS NULL"))
        except the_duckdb().OutOfMemoryException as error:
            raise run_failure(error) from None
        except the_duckdb().Error:  # no condition was worked out in what failed here
            raise ArchiveDamaged("Some file of the archive's metadata cannot be read.") from None
    return settled


T = TypeVar("T")


def _unless_it_fails(scan: Callable[[], T]) -> T | None:
    """What a scan gives that works the condition out; None if that fails, on whatever row. DuckDB may look
    at the rows of keys that have changed before it leaves them out."""
    duckdb = the_duckdb()
    try:
        return scan()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error:
        return None


def _scan(files: _Files, columns: Sequence[str], asked: Asked) -> tuple[pa.Table, bool]:
    """The rows that are chosen, also of keys that have changed, and whether all others are ruled out."""
    text = asked.condition.sql
    chosen = files.table(columns, f"outcome IS NOT NULL AND (\n{text}\n)")
    return chosen, text is not None and not asked.numbers and _plain(files, text)


def _standing(rows: pa.Table, joined: Joined) -> pa.Table:
    """Without the keys that have changed."""
    if not len(joined.changed):
        return rows
    return rows.filter(pc.invert(pc.is_in(rows["key"], value_set=pa.array(joined.changed, pa.string()))))


def _plain(files: _Files, text: str) -> bool:
    """Whether all rows, also of keys that have changed, are chosen or plainly ruled out. Keys, which take
    longest, are not read for it."""
    look = f"SELECT count(*) FROM {files.relation} WHERE {_left_over(text)}"  # noqa: S608  # as below
    return files.connection.execute(look).fetchall() == [(0,)]


def _left_over(text: str) -> str:
    """Neither chosen nor plainly ruled out."""
    usual = ", ".join(map(literal, USUAL))
    return f"outcome IS NULL OR outcome NOT IN ({usual}) OR (\n{text}\n) IS NULL"


def _numbers(
    files: _Files, asked: Asked, chosen: int, *, plain: bool
) -> list[tuple[str | None, bool | None, int]]:
    """Numbers by outcome and verdict; unless all are wanted without the rows that are plainly ruled out."""
    if plain:
        return [(USUAL[0], True, chosen)]
    text = asked.condition.sql or "true"
    where = "true" if asked.numbers else _left_over(text)
    counted = f"SELECT outcome, (\n{text}\n) AS verdict, count(*) FROM {files.standing} WHERE {where}"  # noqa: S608  # as above
    found = files.connection.execute(f"{counted} GROUP BY ALL").fetchall()
    if asked.numbers:
        return found
    told = sum(count for outcome, true, count in found if outcome is not None and true)
    return [*found, (USUAL[0], True, chosen - told)]


def _local(path: Path) -> str:
    """The path, if it is that of one file only for DuckDB."""
    if re.search(r"[*?\[]", str(path)):
        raise UsageError(
            f"{path} would be read as a pattern of many files. Set SNAPENGINE_CACHE (or TMPDIR) to a folder "
            "without *, ? and [ in its name."
        )
    return str(path)


def _in_parquet(shape: pa.Schema) -> pa.Schema:
    """The types that Parquet has for these: it has no timestamps in seconds, for one."""
    sink = pa.BufferOutputStream()
    pq.write_table(shape.empty_table(), sink)
    return pq.read_schema(pa.BufferReader(sink.getvalue()))


def _stored_schemas(paths: Sequence[str], shape: pa.Schema) -> set[str]:
    """The names of the columns that some file has. Raises `BadData` where one is of another type."""
    names: set[str] = set()
    expected = _in_parquet(shape)
    for path in paths:
        try:
            stored = pq.read_schema(path)
        except FileNotFoundError:
            raise ArchiveFileMissing(f"The metadata file {path} is not there.") from None
        except (pa.ArrowException, OSError) as error:
            raise ArchiveDamaged(
                f"The metadata file {path} cannot be read ({type(error).__name__})."
            ) from None
        for field in expected:
            if field.name in stored.names and stored.field(field.name).type != field.type:
                found = stored.field(field.name).type
                raise BadData(f"{path} has {found} in its column {field.name}, and not {field.type}.")
        names.update(stored.names)
    return names
