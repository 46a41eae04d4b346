"""A condition over a view's rows of metadata: DuckDB reads the archive's files itself, the rest is streamed.

The files hold the whole bucket as a checkpoint saw it. What has changed since is left out of them by its key,
and comes from the log: so an answer costs a scan of the files, and what changed, and never the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from metadata_extractors.closed_duckdb import (
    Ahead,
    closed_connection,
    literal,
    run_failure,
    the_duckdb,
)
from metadata_extractors.conditions import EVERYTHING
from metadata_extractors.having_columns import READ_OUTCOMES, lacks
from metadata_extractors.query_files import Files, local
from metadata_extractors.selecting import USUAL, Asked, Tally
from snapengine.archive.planning import keys_below
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.errors import ArchiveDamaged, BadData, SnapEngineError
from snapengine.narrowing import between
from snapengine.view_rows import Joined

if TYPE_CHECKING:
    import duckdb


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
    ahead: Ahead | None = None


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
        verifying = _Later(pool, partial(joined.verify, shape.names))
        try:
            with _connected(joined, asked, means) as connection:
                if joined.files and connection is not None:
                    with _told():
                        files = Files(connection, _local(joined), shape, scope)
                        verifying.begun()  # not before: two threads in Python hinder each other
                        joined = _over_files(joined, files, columns, tally, without)
                meant = (scope.of(shaped(batch, shape)) for batch in joined.batches())
                tally.judge((batch for batch in meant if batch.num_rows), without, connection)
        except SnapEngineError:
            begun.abandon()
            verifying.begun().result()  # what a damaged file seems to say is no error of the caller's
            raise
        except BaseException:
            begun.abandon()
            raise
        verifying.begun().result()
    return tally


class _Later:
    """What a thread does, once, from when it is begun."""

    def __init__(self, pool: Executor, call: Callable[[], None]) -> None:
        self._pool = pool
        self._call = call
        self._coming: Future[None] | None = None

    def begun(self) -> Future[None]:
        """Begin it, if it has not begun."""
        self._coming = self._coming or self._pool.submit(self._call)
        return self._coming


def _connected(
    joined: Joined, asked: Asked, means: Means
) -> AbstractContextManager[duckdb.DuckDBPyConnection | None]:
    """One that reads the files, and works the condition out of other rows too."""
    if not joined.files and asked.condition.sql in {None, EVERYTHING.where}:
        return nullcontext()
    threads = means.threads if joined.files else 1
    return closed_connection(_local(joined), threads, means.memory, means.temporary, means.ahead)


def _local(joined: Joined) -> list[str]:
    return [local(path) for path in joined.files]


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


def _over_files(
    joined: Joined,
    files: Files,
    columns: Sequence[str],
    tally: Tally,
    without: list[pa.RecordBatch] | None,
) -> Joined:
    """What remains to be judged when the files have been.

    A condition in SQL costs one scan that skips what it rules out, while it is found out which keys have
    changed; then a look at what is neither chosen nor ruled out. Any other is judged batch by batch, and so
    is one that fails there: it may have failed on a row that does not count.
    """
    text = tally.asked.condition.sql
    shape = files.shape
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
        tally.judge((batch.cast(shape) for batch in files.batches(shape.names, "true")), without)
        return settled
    tally.keep(chosen.cast(pa.schema([shape.field(name) for name in columns])))
    tally.count(numbers)
    if without is not None:
        without += (batch.cast(shape) for batch in files.batches(shape.names, "outcome IS NULL"))
    return settled


@contextmanager
def _told() -> Iterator[None]:
    """What fails here, as callers know it: no condition was worked out in it."""
    try:
        yield
    except the_duckdb().OutOfMemoryException as error:
        raise run_failure(error) from None
    except the_duckdb().Error:
        raise ArchiveDamaged("Some file of the archive's metadata cannot be read.") from None


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


def _scan(files: Files, columns: Sequence[str], asked: Asked) -> tuple[pa.Table, bool]:
    """The rows that are chosen, also of keys that have changed, and whether all others are ruled out."""
    text = asked.condition.sql or "true"
    proven = asked.condition.null_by_null_alone and files.prove(asked.condition.columns)
    chosen = files.table(columns, text if proven else f"outcome IS NOT NULL AND (\n{text}\n)")
    return chosen, not asked.numbers and (proven or _plain(files, text))


def _standing(rows: pa.Table, joined: Joined) -> pa.Table:
    """Without the keys that have changed."""
    if not len(joined.changed):
        return rows
    return rows.filter(pc.invert(pc.is_in(rows["key"], value_set=pa.array(joined.changed, pa.string()))))


def _plain(files: Files, text: str) -> bool:
    """Whether all rows, also of keys that have changed, are chosen or plainly ruled out. Keys, which take
    longest, are not read for it."""
    look = f"SELECT count(*) FROM {files.relation} WHERE {_left_over(text)}"  # noqa: S608  # as below
    return files.connection.execute(look).fetchall() == [(0,)]


def _left_over(text: str) -> str:
    """Neither chosen nor plainly ruled out."""
    usual = ", ".join(map(literal, USUAL))
    return f"outcome IS NULL OR outcome NOT IN ({usual}) OR (\n{text}\n) IS NULL"


def _numbers(
    files: Files, asked: Asked, chosen: int, *, plain: bool
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
