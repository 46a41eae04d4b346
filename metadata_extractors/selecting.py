"""Rows of metadata by a condition, joined with the objects of a view; each object is counted once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from metadata_extractors.closed_duckdb import (
    arrow_table,
    check_names,
    closed_connection,
    literal,
    quoted,
    run_failure,
    the_duckdb,
)
from metadata_extractors.where import checked
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, BadData, UsageError
from snapengine.model import NULL_VERSION

if TYPE_CHECKING:
    import duckdb

Condition: TypeAlias = "str | pc.Expression"
"""One SQL expression; or a pyarrow expression, which is the caller's own code: bound, and not walked."""

_BATCH_ROWS: Final = 131_072

_Judged = Iterable[tuple[pa.BooleanArray, pa.RecordBatch]]
"""Batches, each with true, false or null for its rows."""


@dataclass(frozen=True, slots=True)
class Selected:
    """The rows for which the condition is true, and how many objects there were of each other kind."""

    table: pa.Table
    """In order of the join's columns; fields keep their metadata."""
    matched: int
    not_matched: int
    unknown: int
    """The condition is NULL: some value that it needs is not there."""
    without_row: int
    """Objects of the view of which there is no metadata. They are in none of the other numbers."""


def select_where(
    relation: pa.Table | pa.RecordBatchReader | Iterable[pa.RecordBatch],
    where: Condition,
    columns: Sequence[str] | None = None,
    *,
    schema: pa.Schema | None = None,
) -> Selected:
    """The rows of an Arrow relation for which `where` is true, in their order, with `columns` (None: all).

    Batches need their `schema`. They are read once, one at a time. Raises `UsageError` as `checked` does, for
    unknown `columns`, and for a condition that cannot be worked out for some row.
    """
    if isinstance(relation, pa.Table):
        batches: Iterable[pa.RecordBatch] = relation.to_batches(_BATCH_ROWS)
        schema = relation.schema
    elif isinstance(relation, pa.RecordBatchReader):
        batches, schema = relation, relation.schema
    elif schema is None:
        raise UsageError("Record batches need their schema: give schema=...")
    else:
        batches = relation
    wanted = _wanted(columns, schema)
    if not isinstance(where, str):
        _check_expression(where, schema)
        return _gather(((_by_arrow(where, batch), batch) for batch in batches), wanted)
    text = checked(where, schema)
    with closed_connection(threads=1) as connection:
        return _gather(((_by_sql(connection, text, batch), batch) for batch in batches), wanted)


def query(
    parquet_paths: Sequence[str | Path],
    view_rows: pa.Table | pa.RecordBatchReader,
    where: Condition | None = None,
    columns: Sequence[str] | None = None,
    join: Sequence[str] = ("key", "version_id"),
    *,
    null_join: Sequence[str] = (),
    schema: pa.Schema | None = None,
    memory: str = "512MiB",
    threads: int | None = None,
    temporary: Path | None = None,
) -> Selected:
    """The objects of a view whose metadata makes `where` true, with `columns` of both.

    `parquet_paths` are local files, read by DuckDB itself, whose rows are unique in `join`. `view_rows`
    has those columns too; where both have a column, the view's counts. `null_join` names what must agree
    besides where `version_id` is `null`, absent values being equal, so that no successor inherits a row.
    `schema` says which columns there are, where no file may have them all; without it they are the
    files'.

    `memory`, `threads`, `temporary` are those of `closed_connection`. Raises `UsageError` as
    `select_where` does, `ArchiveFileMissing` or `ArchiveDamaged` for a file, `BadData` for two rows of
    one version.
    """
    files = [_local(path) for path in parquet_paths]
    stored = _stored_schema(files)
    of_view, of_rows = view_rows.schema, schema if schema is not None else stored
    known = pa.schema([*of_view, *(field for field in of_rows if field.name not in of_view.names)])
    _check_join(of_view, of_rows, join, null_join)
    wanted = _wanted(columns, known)
    text = "true" if where is None else where
    if isinstance(text, str):
        text = checked(text, known)
        used: list[str] = []
    else:
        used = _check_expression(text, known)
    with closed_connection(files, threads, memory, temporary) as connection:
        try:
            total = _take_in(connection, view_rows)
            connection.register("rows_shape", of_rows.empty_table())
            joined = _joined(known, of_view, stored, files, [*join, *null_join], len(join))
            if isinstance(text, str):
                return _run(connection, joined, text, wanted, [*join], total)
            return _run_expression(connection, joined, text, wanted, used, [*join], total)
        except the_duckdb().Error as error:
            if isinstance(error, the_duckdb().IOException) or "arquet" in str(error):
                raise ArchiveDamaged(
                    f"Some of {len(files)} metadata files cannot be read, {files[0]} the first of them."
                ) from None
            raise run_failure(error) from None


def _run(
    connection: duckdb.DuckDBPyConnection,
    joined: Callable[[str], str],
    text: str,
    wanted: pa.Schema,
    order: list[str],
    total: int,
) -> Selected:
    """The numbers, of all rows; then the rows, where DuckDB skips what the condition rules out."""
    judged = f'SELECT "snapengine found" AS found, (\n{text}\n) AS verdict FROM ({joined("LEFT")})'  # noqa: S608  # names are quoted, the condition was checked
    verdicts = ("found", "found AND verdict", "found AND NOT verdict")
    numbers = ", ".join(["count(*)", *(f"count(*) FILTER ({verdict})" for verdict in verdicts)])
    counted = connection.execute(f"SELECT {numbers} FROM ({judged})").fetchall()  # noqa: S608  # as above
    pairs, found, matched, not_matched = counted[0]
    without = _without(pairs, found, total)
    names = ", ".join(quoted(name) for name in wanted.names)
    ordered = ", ".join(quoted(name) for name in order)
    inner = joined("INNER")
    sql = f"SELECT {names} FROM ({inner}) WHERE (\n{text}\n) ORDER BY {ordered}"  # noqa: S608  # names are quoted, the condition was checked
    table = arrow_table(connection, sql)
    return Selected(table.cast(wanted), matched, not_matched, found - matched - not_matched, without)


def _run_expression(
    connection: duckdb.DuckDBPyConnection,
    joined: Callable[[str], str],
    where: pc.Expression,
    wanted: pa.Schema,
    used: list[str],
    order: list[str],
    total: int,
) -> Selected:
    """All rows come through Python once, a batch at a time, and pyarrow says which are kept."""
    names = list(dict.fromkeys([*wanted.names, *used, *order]))
    listed = ", ".join(quoted(name) for name in names)
    sql = f'SELECT {listed}, "snapengine found" AS found FROM ({joined("LEFT")})'  # noqa: S608  # names are quoted, the condition was checked
    pairs = 0

    def judged() -> _Judged:
        nonlocal pairs
        reader: Any = connection.sql(sql).to_arrow_reader(_BATCH_ROWS)
        for batch in reader:
            pairs += batch.num_rows
            kept = batch.filter(batch.column(len(names))).select(names)
            yield _by_arrow(where, kept), kept

    try:
        selected = _gather(judged(), pa.schema([(name, pa.null()) for name in names]))
    except pa.ArrowException as error:
        raise run_failure(error) from None
    found = selected.matched + selected.not_matched + selected.unknown
    table = selected.table.sort_by([(name, "ascending") for name in order])
    without = _without(pairs, found, total)
    return replace(selected, table=table.select(wanted.names).cast(wanted), without_row=without)


def _without(pairs: int, found: int, total: int) -> int:
    """Objects without a row. `pairs` has each object once, and once more for each row too many."""
    if pairs != total:
        raise BadData(
            f"{pairs - total} rows of metadata are too many: some version has more than one in the files."
        )
    return total - found


def _take_in(connection: duckdb.DuckDBPyConnection, view_rows: pa.Table | pa.RecordBatchReader) -> int:
    """Makes the view's rows known, and counts them. A reader is read once, into DuckDB's own memory."""
    if isinstance(view_rows, pa.Table):
        connection.register("view_rows", view_rows)
        return int(view_rows.num_rows)
    connection.register("view_reader", view_rows)
    connection.execute("CREATE TEMP TABLE view_rows AS SELECT * FROM view_reader").fetchall()
    return int(connection.execute("SELECT count(*) FROM view_rows").fetchall()[0][0])


def _joined(
    known: pa.Schema, of_view: pa.Schema, stored: pa.Schema, files: list[str], join: list[str], plain: int
) -> Callable[[str], str]:
    """The view's rows beside their metadata: the query for a kind of join (LEFT, INNER)."""
    listed = []
    for name in known.names:
        if name in of_view.names:
            source = f"v.{quoted(name)}"
        elif name in stored.names:
            source = f"m.{quoted(name)}"
        else:
            source = f"(SELECT {quoted(name)} FROM rows_shape LIMIT 1)"  # noqa: S608  # NULL, of the right type
        listed.append(f"{source} AS {quoted(name)}")
    same = [f"v.{quoted(name)} = m.{quoted(name)}" for name in join[:plain]]
    if join[plain:]:
        also = " AND ".join(
            f"v.{quoted(name)} IS NOT DISTINCT FROM m.{quoted(name)}" for name in join[plain:]
        )
        same.append(f"(v.version_id <> {literal(NULL_VERSION)} OR ({also}))")
    rows = "rows_shape"
    if files:
        paths = ", ".join(map(literal, files))
        rows = f"read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"
    columns = ", ".join(listed)
    found = f'm.{quoted(join[0])} IS NOT NULL AS "snapengine found"'
    on = " AND ".join(same)
    return lambda how: f"SELECT {columns}, {found} FROM view_rows AS v {how} JOIN {rows} AS m ON {on}"  # noqa: S608  # names are quoted, the condition was checked


def _local(path: str | Path) -> str:
    if re.match(r"[a-z0-9]+://", str(path)):
        raise UsageError(f"{path} is no local file: only local files are read.")
    if re.search(r"[*?\[]", str(path)):
        raise UsageError(f"{path} would be read as a pattern of many files: name one file.")
    return str(Path(path).absolute())


def _stored_schema(files: list[str]) -> pa.Schema:
    """The columns of all files. Raises `BadData` where one has another type than in another file."""
    schemas = []
    for path in files:
        try:
            schemas.append(pq.read_schema(path).remove_metadata())
        except FileNotFoundError:
            raise ArchiveFileMissing(f"The metadata file {path} is not there.") from None
        except (pa.ArrowException, OSError) as error:
            raise ArchiveDamaged(
                f"The metadata file {path} cannot be read ({type(error).__name__})."
            ) from None
    try:
        return pa.unify_schemas(schemas or [pa.schema([])])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise BadData(f"The metadata files do not fit together: {error}") from None


def _check_join(
    of_view: pa.Schema, of_rows: pa.Schema, join: Sequence[str], null_join: Sequence[str]
) -> None:
    if not join:
        raise UsageError("join must name at least one column.")
    needed = [*join, *null_join, *(["version_id"] if null_join else [])]
    for name in needed:
        for schema, what in ((of_view, "The view's rows"), (of_rows, "The metadata files")):
            if name not in schema.names:
                raise UsageError(f"{what} have no column {name!r} to join by.")


def _wanted(columns: Sequence[str] | None, schema: pa.Schema) -> pa.Schema:
    if isinstance(columns, str):
        raise UsageError(f"columns must be a list of names, as in columns=[{columns!r}].")
    check_names(schema.names)
    names = list(dict.fromkeys(schema.names if columns is None else columns))
    for name in names:
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, n=1)
            raise UsageError(f"There is no column {name!r}{f'; did you mean {near[0]!r}?' if near else ''}.")
    return pa.schema([schema.field(name) for name in names])


def _check_expression(where: pc.Expression, schema: pa.Schema) -> list[str]:
    """The columns that a pyarrow expression uses. Raises `UsageError` for one that does not fit."""
    if not isinstance(where, pc.Expression):
        raise UsageError(f"where must be text or a pyarrow expression, not {type(where).__name__}.")
    kind = _type_of(where, schema)
    if isinstance(kind, Exception):
        raise UsageError(f"where does not fit the columns: {str(kind).splitlines()[0]}")
    if kind != pa.bool_():
        raise UsageError(f"where must say yes or no, and gives {kind}: compare it with something.")
    return [
        name
        for place, name in enumerate(schema.names)
        if isinstance(_type_of(where, schema.remove(place)), Exception)
    ]


def _type_of(where: pc.Expression, schema: pa.Schema) -> pa.DataType | Exception:
    try:
        scanner = ds.dataset(schema.empty_table()).scanner(columns={"verdict": where})
        return scanner.projected_schema.field("verdict").type
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        return error


def _by_sql(connection: duckdb.DuckDBPyConnection, text: str, batch: pa.RecordBatch) -> pa.BooleanArray:
    connection.register("batch", pa.Table.from_batches([batch]))
    try:
        sql = f"SELECT (\n{text}\n) AS verdict FROM batch"  # noqa: S608  # names are quoted, the condition was checked
        return arrow_table(connection, sql)["verdict"].combine_chunks()
    except the_duckdb().Error as error:
        raise run_failure(error) from None


def _by_arrow(where: pc.Expression, batch: pa.RecordBatch) -> pa.BooleanArray:
    dataset = ds.dataset(pa.Table.from_batches([batch]))
    try:
        return dataset.to_table(columns={"verdict": where})["verdict"].combine_chunks()
    except pa.ArrowException as error:
        raise run_failure(error) from None


def _gather(judged: _Judged, wanted: pa.Schema) -> Selected:
    """The rows judged true. Of `wanted` only the names count where its types are null."""
    kept = []
    rows = matched = unknown = 0
    for verdicts, batch in judged:
        rows += batch.num_rows
        matched += verdicts.true_count
        unknown += verdicts.null_count
        kept.append(batch.select(wanted.names).filter(verdicts))
    table = pa.Table.from_batches(kept, kept[0].schema if kept else wanted)
    return Selected(table, matched, rows - matched - unknown, unknown, 0)
