"""A DuckDB that is closed to the world: it reads the files it is given by name, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from snapengine.errors import UsageError

if TYPE_CHECKING:
    import duckdb

_DEPTH: Final = 120
"""How deep expressions may nest: far less than Python's own recursion allows for reading the tree."""


class Ahead:
    """So many DuckDBs, which threads open and close beside other work: either takes some 10 ms. They are
    blank: only `closed_connection` runs anything on them, and closes them to the world first."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(max(1, count), thread_name_prefix="snapengine-duckdb")
        self._coming = [self._pool.submit(_blank) for _ in range(count)]

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        """None is open any more afterwards."""
        for coming in self._coming:
            coming.add_done_callback(_close)
        self._pool.shutdown()

    def take(self) -> duckdb.DuckDBPyConnection:
        """Another one, opened now where none is left."""
        return self._coming.pop().result() if self._coming else _blank()

    def close(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._pool.submit(connection.close)


def _blank() -> duckdb.DuckDBPyConnection:
    connection: duckdb.DuckDBPyConnection = the_duckdb().connect(":memory:")
    return connection


def _close(opened: Future[duckdb.DuckDBPyConnection]) -> None:
    if opened.exception() is None:
        opened.result().close()


@contextmanager
def closed_connection(
    files: Sequence[str] = (),
    threads: int | None = None,
    memory: str = "512MiB",
    temporary: Path | None = None,
    ahead: Ahead | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB that can read these local files and nothing else, not even Python's variables.

    `memory` is a number with a unit (`800MiB`). What does not fit goes to the folder `temporary`, which
    then holds values of the metadata until the connection closes; without one, the query fails instead. With
    `ahead` it is one of those, and closes by the end of that.
    """
    the_duckdb()
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}.")
    if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]i?B", memory):
        raise UsageError(f"memory must be a number with a unit, such as '800MiB', not {memory!r}.")
    settings = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "allow_persistent_secrets": "false",
        "python_enable_replacements": "false",
        "max_expression_depth": str(_DEPTH),
        "memory_limit": memory,
        "TimeZone": "UTC",
        "temp_directory": str(temporary or ""),
        **({} if threads is None else {"threads": str(threads)}),
    }
    connection = _blank() if ahead is None else ahead.take()
    try:
        for name, value in settings.items():
            connection.execute(f"SET {name} = {literal(value)}")
        if files:
            connection.execute(f"SET allowed_paths = [{', '.join(map(literal, files))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection
    finally:
        connection.close() if ahead is None else ahead.close(connection)


def arrow_table(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """All rows of a query as a `pyarrow.Table`."""
    return connection.sql(sql).to_arrow_table()


def check_names(names: Iterable[str]) -> None:
    """Raises `UsageError` where two columns cannot be told apart: in SQL, `a` and `A` are one name."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(fold(name), name)
        if other is not name:
            raise UsageError(
                f"The columns {other!r} and {name!r} are one name in SQL: leave one of them out."
            )


def quoted(name: str) -> str:
    """A column's name as SQL has it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def run_failure(error: Exception) -> UsageError:
    """How a condition that failed on the rows is told. DuckDB's own text quotes values: it is left out."""
    duckdb = the_duckdb()
    if isinstance(error, duckdb.OutOfMemoryException):
        return UsageError(
            "The query needs more memory than it may take: raise `memory`, as in memory='2GiB' "
            "(--memory 2GiB)."
        )
    kind = type(error).__name__.removesuffix("Exception")
    return UsageError(
        f"The condition cannot be worked out for some row ({kind}): a value is out of range or is no such."
        " Use TRY_CAST(... AS ...), or TRY(...), which give NULL there."
    )


def the_duckdb() -> Any:
    """The module. Raises `UsageError` where it is not installed."""
    try:
        import duckdb
    except ImportError:
        raise UsageError("duckdb is not installed. Run `pip install 'snapengine[sql]'`.") from None
    return duckdb


def literal(text: str) -> str:
    """Text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def fold(name: str) -> str:
    """SQL compares names without regard to the case of ASCII letters."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)
