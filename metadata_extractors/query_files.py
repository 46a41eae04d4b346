"""The files of an archive's rows of metadata, as DuckDB reads them, and what their footers say of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from metadata_extractors.closed_duckdb import arrow_table, literal, quoted
from metadata_extractors.footers import has_no_null, is_always_one_of
from metadata_extractors.selecting import USUAL
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, BadData, UsageError

if TYPE_CHECKING:
    import duckdb

    from metadata_extractors.querying import Scope

_BATCH_ROWS: Final = 131_072


class Files:
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
        self._footers, stored = _footers(paths, shape)
        self._told_apart = scope.versions is not None
        connection.register("shape", shape.empty_table())
        listed = ", ".join(
            scope.outcome()
            if name == "outcome"
            else f"f.{quoted(name)}"
            if name in stored
            else f"(SELECT {quoted(name)} FROM shape) AS {quoted(name)}"  # noqa: S608  # NULL, of the right type
            for name in shape.names
        )
        # By name DuckDB reads all footers once more before it begins.
        alike = all(footer.schema.equals(self._footers[0].schema) for footer in self._footers)
        by_name = "" if alike else ", union_by_name = true"
        # Without being told DuckDB takes it that no number is NaN, which statistics leave out.
        options = f"hive_partitioning = false, can_have_nan = true{by_name}"
        source = f"read_parquet([{', '.join(map(literal, paths))}], {options}) AS f"
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

    def prove(self, columns: Sequence[str]) -> bool:
        """Whether the footers alone prove that each row has a value in all of these columns, and an outcome
        that is usual. Where they do not, it may still be so."""
        if self._told_apart or not is_always_one_of(self._footers, "outcome", USUAL):
            return False
        return all(has_no_null(self._footers, name) for name in columns)

    def table(self, columns: Sequence[str], where: str) -> pa.Table:
        """Also of keys that have changed."""
        return arrow_table(self.connection, self._select(columns, self.relation, where))

    def batches(self, columns: Sequence[str], where: str) -> Iterator[pa.RecordBatch]:
        relation: Any = self.connection.sql(self._select(columns, self.standing, where))
        yield from relation.to_arrow_reader(_BATCH_ROWS)

    def _select(self, columns: Sequence[str], relation: str, where: str) -> str:
        names = ", ".join(map(quoted, columns))
        return f"SELECT {names} FROM {relation} WHERE (\n{where}\n)"  # noqa: S608  # names are quoted, the condition was checked


def local(path: Path) -> str:
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


def _footers(paths: Sequence[str], shape: pa.Schema) -> tuple[list[pq.FileMetaData], set[str]]:
    """One of each file, and the names of the columns that some file has. Raises `BadData` where one is of
    another type."""
    footers: list[pq.FileMetaData] = []
    names: set[str] = set()
    expected = _in_parquet(shape)
    for path in paths:
        try:
            footers.append(pq.read_metadata(path))
            stored = footers[-1].schema.to_arrow_schema()
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
    return footers, names
