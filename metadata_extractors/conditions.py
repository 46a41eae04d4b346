"""A condition on rows, as SQL text or as a pyarrow expression: checked once, then judged batch by batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from metadata_extractors.closed_duckdb import Ahead, arrow_table, closed_connection, run_failure, the_duckdb
from metadata_extractors.where import checked, mentioned
from snapengine.errors import UsageError

if TYPE_CHECKING:
    import duckdb

Where: TypeAlias = "str | pc.Expression"
"""One SQL expression; or a pyarrow expression, which is the caller's own code: bound, and not walked."""

Judge: TypeAlias = Callable[[pa.RecordBatch], "pa.BooleanArray"]
"""True, false or null for each row."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that fits the columns it was checked against."""

    where: str | pc.Expression
    columns: tuple[str, ...]
    """Those that it uses."""
    null_by_null_alone: bool = False
    """It is known to be NULL at most where one of them is."""

    @property
    def sql(self) -> str | None:
        """Its text, if it is SQL."""
        return self.where if isinstance(self.where, str) else None

    @contextmanager
    def judging(self, connection: duckdb.DuckDBPyConnection | None = None) -> Iterator[Judge]:
        """Judges batches with its columns. Raises `UsageError` for a row of which it cannot be worked out.

        `connection` is a closed one, used for nothing else meanwhile; without one another is opened."""
        where = self.where
        if not isinstance(where, str):
            yield lambda batch: _by_arrow(where, batch)
        elif where == EVERYTHING.where:
            yield lambda batch: pa.array([True] * batch.num_rows, pa.bool_())
        elif connection is not None:
            yield lambda batch: _by_sql(connection, where, batch)
        else:
            with closed_connection(threads=1) as own:
                yield lambda batch: _by_sql(own, where, batch)


EVERYTHING = Condition("true", (), null_by_null_alone=True)
"""What is asked where nothing is."""


def condition(where: Where | None, columns: pa.Schema, ahead: Ahead | None = None) -> Condition:
    """The condition, checked against the columns. Raises `UsageError` as `where.checked` does, and for an
    expression that does not fit."""
    if where is None:
        return EVERYTHING
    if isinstance(where, str):
        found = checked(where, columns, ahead)
        return Condition(found.text, tuple(found.columns), found.null_by_null_alone)
    return Condition(where, tuple(_check_expression(where, columns)))


def names_in(where: Where | None) -> list[str]:
    """The names that may be columns, whether there are such or not."""
    if where is None:
        return []
    if isinstance(where, str):
        return mentioned(where)
    return sorted(set(re.findall(r"\w+", str(where))))


def _check_expression(where: pc.Expression, schema: pa.Schema) -> list[str]:
    """The columns that a pyarrow expression uses. Raises `UsageError` for one that does not fit."""
    if not isinstance(where, pc.Expression):
        raise UsageError(f"where must be text or a pyarrow expression, not {type(where).__name__}.")
    kind = _type_of(where, schema)
    if isinstance(kind, Exception):
        why = str(kind).splitlines()[0]
        if unknown := re.match(r"No match for FieldRef\.Name\((.*?)\) in ", why):
            why = f"there is no column {unknown[1]!r}."
        raise UsageError(f"where does not fit the columns: {why}")
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
        found: Any = arrow_table(connection, sql)["verdict"].combine_chunks()
    except the_duckdb().Error as error:
        raise run_failure(error) from None
    return found


def _by_arrow(where: pc.Expression, batch: pa.RecordBatch) -> pa.BooleanArray:
    dataset = ds.dataset(pa.Table.from_batches([batch]))
    try:
        return dataset.to_table(columns={"verdict": where})["verdict"].combine_chunks()
    except pa.ArrowException as error:
        raise run_failure(error) from None
