"""A condition as text: proven to be one SQL expression over known columns before anything runs it.

DuckDB's own parser reads the text; of its tree only what is listed is let through, and the binder then says
whether the types fit. Nothing that reads a file, a setting, a clock or a random number is listed, so that the
same rows give the same answer on any day.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from metadata_extractors.where_names import (
    ALLOWED_CLASSES,
    ALLOWED_FUNCTIONS,
    ALLOWED_OPERATORS,
    ALLOWED_TYPES,
    CHANGING,
    WHY_CLASSES,
    WHY_FUNCTIONS,
)
from snapengine.errors import UsageError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MAX_TEXT: Final = 2**20
"""Characters of a condition at most: room for some ten thousand keys in an `IN (...)`."""

_SELECT: Final = "SELECT NULL WHERE "
_DEPTH: Final = 120
"""How deep expressions may nest: far less than Python's own recursion allows for reading the tree."""

_PLACES: Final = re.compile(r'"query_location(?:_length)?":\d+,?')
_QUOTED: Final = re.compile(r"'(?:[^']|'')*(?:'|$)|(\$\w*\$).*?(?:\1|$)", re.DOTALL)


def checked(where: str, columns: pa.Schema) -> str:
    """The condition without the blanks around it, if it is a single boolean SQL expression over `columns`.

    Raises `UsageError` for anything else: it says why and shows the place, but never what
    stands in quotes there.
    """
    text = _plain_text(where)
    with closed_connection(threads=1) as connection:
        expression = _parsed(connection, text)
        _walk(expression, text, tuple(columns.names))
        _bind(connection, text, columns)
    return text


@contextmanager
def closed_connection(
    files: Sequence[str] = (),
    threads: int | None = None,
    memory: str = "512MiB",
    temporary: Path | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory DuckDB that can read these local files and nothing else, not even Python's variables.

    `memory` is a number with a unit (`800MiB`). What does not fit goes to the folder `temporary`, which
    then holds values of the metadata until the connection closes; without one, the query fails instead.
    """
    duckdb = _duckdb()
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
    connection = duckdb.connect(":memory:")
    try:
        for name, value in settings.items():
            connection.execute(f"SET {name} = {_literal(value)}")
        if files:
            connection.execute(f"SET allowed_paths = [{', '.join(map(_literal, files))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection
    finally:
        connection.close()


def check_names(names: Iterable[str]) -> None:
    """Raises `UsageError` where two columns cannot be told apart: in SQL, `a` and `A` are one name."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_fold(name), name)
        if other is not name:
            raise UsageError(
                f"The columns {other!r} and {name!r} are one name in SQL: leave one of them out."
            )


def quoted(name: str) -> str:
    """A column's name as SQL has it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def run_failure(error: Exception) -> UsageError:
    """How a condition that failed on the rows is told. DuckDB's own text quotes values: it is left out."""
    duckdb = _duckdb()
    if isinstance(error, duckdb.OutOfMemoryException):
        return UsageError(
            "The query needs more memory than it may take: raise `memory`, or give `temporary`."
        )
    kind = type(error).__name__.removesuffix("Exception")
    return UsageError(
        f"The condition cannot be worked out for some row ({kind}): a value is out of range or of another form."
        " Use TRY_CAST(... AS ...), or TRY(...), which give NULL there."
    )


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise UsageError("duckdb is not installed. Run `pip install 'snapengine[sql]'`.") from None
    return duckdb


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _fold(name: str) -> str:
    """SQL compares names without regard to the case of ASCII letters."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def _plain_text(where: str) -> str:
    if not isinstance(where, str):
        raise UsageError(f"where must be text or a pyarrow expression, not {type(where).__name__}.")
    text = where.strip()
    if not text:
        raise UsageError("where is empty: leave it out to have all rows.")
    if len(text) > MAX_TEXT:
        raise UsageError(f"where has {len(text)} characters; at most {MAX_TEXT} are read.")
    if "\x00" in text:
        _refuse("it holds a NUL character", text, text.index("\x00"))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        _refuse("it holds half a surrogate pair, which is no text", text, error.start)
    return text


def _refuse(why: str, text: str, place: int | None = None) -> NoReturn:
    """`place` counts characters of the text from 0."""
    masked = _QUOTED.sub(_mask, text)
    shown = ""
    if place is not None and place >= 0:
        start = max(0, place - 30)
        piece = f"{masked[start:place]}⟦here⟧{masked[place : place + 40]}"
        shown = f" At character {place + 1}: {piece!r}."
    raise UsageError(f"where must be one SQL expression: {why}.{shown}")


def _mask(quote: re.Match[str]) -> str:
    """As long as before, so that places stay."""
    return "'" + "*" * (len(quote[0]) - 2) + "'" if len(quote[0]) > 1 else quote[0]


def _parsed(connection: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    """The tree of the one expression that the text is, alone and in brackets."""
    duckdb = _duckdb()
    try:
        comment = next((at for at, kind in duckdb.tokenize(text) if kind == duckdb.token_type.comment), None)
    except (duckdb.Error, RuntimeError):
        _refuse("it cannot be read, as where a quote is opened and not closed", text)
    if comment is not None:
        _refuse("it holds a comment", text, _characters(text, comment))
    answer = _serialized(connection, _SELECT + text)
    tree = _tree(answer, text)
    if tree["error"]:
        said = str(tree.get("error_message", "")).split("\n")[0]
        what = "it nests too deeply" if "depth" in said else "its syntax is wrong"
        _refuse(what, text, _place(tree.get("position"), text))
    statements = tree["statements"]
    if len(statements) != 1:
        _refuse("there is a second statement", text, text.find(";"))
    node = statements[0]["node"]
    expression = node.get("where_clause")
    in_brackets = _serialized(connection, f"{_SELECT}(\n{text}\n)")
    if not isinstance(expression, dict) or _PLACES.sub("", in_brackets) != _PLACES.sub("", answer):
        _refuse("there is more than an expression, such as `;`, UNION or ORDER BY", text)
    empty = _tree(_serialized(connection, f"{_SELECT}NULL"), text)["statements"][0]["node"]
    if _without_condition(node) != _without_condition(empty):
        _refuse("there is a clause after it", text)
    return expression


def _serialized(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    duckdb = _duckdb()
    try:
        row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()[0]
    except duckdb.Error as error:
        raise UsageError(
            f"where must be one SQL expression: it cannot be read ({type(error).__name__})."
        ) from None
    return str(row[0])


def _tree(answer: str, text: str) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = json.loads(answer)
    except RecursionError:
        _refuse("it nests too deeply", text)
    return tree


def _without_condition(node: dict[str, Any]) -> str:
    rest = {name: value for name, value in node.items() if name != "where_clause"}
    return _PLACES.sub("", json.dumps(rest, separators=(",", ":")))


def _place(position: object, text: str) -> int | None:
    """DuckDB counts bytes of the whole statement, where it says a place at all."""
    if position is None or not str(position).isdigit():
        return None
    at = int(str(position)) - len(_SELECT)
    return _characters(text, at) if 0 <= at <= len(text.encode()) else None


def _characters(text: str, offset: int) -> int:
    return len(text.encode()[:offset].decode(errors="ignore"))


def _walk(expression: dict[str, Any], text: str, names: tuple[str, ...]) -> None:
    """Refuses whatever is not listed, wherever it stands in the tree."""
    known = {_fold(name) for name in names}
    waiting: list[Any] = [expression]
    while waiting:
        found = waiting.pop()
        if isinstance(found, list):
            waiting.extend(found)
        elif isinstance(found, dict):
            if "class" in found:
                _one(found, text, names, known)
            elif str(found.get("type", "")).endswith("_NODE"):
                _refuse("it holds a query", text)
            waiting.extend(found.values())


def _one(found: dict[str, Any], text: str, names: tuple[str, ...], known: set[str]) -> None:
    kind = str(found["class"])
    place = _place(found.get("query_location"), text)
    if kind not in ALLOWED_CLASSES:
        _refuse(WHY_CLASSES.get(kind, f"{kind.lower()} may not stand in it"), text, place)
    if kind == "OPERATOR" and found["type"] not in ALLOWED_OPERATORS:
        _refuse(f"{str(found['type']).lower()} may not stand in it", text, place)
    if kind == "TYPE" and (_fold(str(found.get("type_name"))) not in ALLOWED_TYPES or _qualified(found)):
        _refuse(f"the type {found.get('type_name')!r} may not stand in it", text, place)
    if kind == "CAST" and "type_expr" not in found:
        raise UsageError("This duckdb is too old to check a condition with: duckdb 2.0 or later is needed.")
    if kind == "FUNCTION":
        _function(found, text, place)
    if kind == "COLUMN_REF":
        _column(found, text, place, names, known)


def _qualified(found: dict[str, Any]) -> bool:
    return bool(
        found.get("schema") or found.get("schema_name") or found.get("catalog") or found.get("catalog_name")
    )


def _function(found: dict[str, Any], text: str, place: int | None) -> None:
    name = str(found["function_name"])
    if _qualified(found):
        _refuse(f"write `{name}(column)`, with no name and dot before it", text, place)
    if (
        found.get("filter")
        or found.get("distinct")
        or found.get("export_state")
        or found["order_bys"].get("orders")
    ):
        _refuse(
            "aggregates, and their DISTINCT, FILTER and ORDER BY, are of many rows, not of one", text, place
        )
    if _fold(name) not in ALLOWED_FUNCTIONS:
        why = next((why for pattern, why in WHY_FUNCTIONS if re.fullmatch(pattern, _fold(name))), "")
        near = difflib.get_close_matches(_fold(name), ALLOWED_FUNCTIONS, n=1)
        hint = why or (f"did you mean {near[0]!r}?" if near else "it is none of those allowed")
        _refuse(f"the function {name!r} may not stand in it: {hint}", text, place)


def _column(
    found: dict[str, Any], text: str, place: int | None, names: tuple[str, ...], known: set[str]
) -> None:
    name = str(found["column_names"][0])
    if _fold(name) in known:
        return
    if _fold(name) in CHANGING:
        _refuse(
            f"{name} changes from day to day or from caller to caller; write the value itself", text, place
        )
    folded = {_fold(column): column for column in names}
    near = difflib.get_close_matches(_fold(name), folded, n=3)
    hint = (
        f"did you mean {' or '.join(quoted(folded[one]) for one in near)}?"
        if near
        else "text is in single quotes"
    )
    _refuse(f"there is no column {name!r} ({hint})", text, place)


def _bind(connection: duckdb.DuckDBPyConnection, text: str, columns: pa.Schema) -> None:
    """Lets DuckDB say, over a row of nulls, whether the types fit and the answer is a boolean."""
    import pyarrow as pa

    duckdb = _duckdb()
    check_names(columns.names)
    try:
        one = pa.table([pa.nulls(1, field.type) for field in columns], names=columns.names)
        connection.register("one_row", one)
        # By itself, so that what cannot be a column's type shows before the condition is looked at.
        connection.execute("SELECT * FROM one_row").fetchall()
    except (duckdb.Error, pa.ArrowException) as error:
        raise UsageError(f"Some column has a type that SQL has not: {_first_line(error)}") from None
    try:
        result = connection.execute(f"SELECT (\n{text}\n) FROM one_row")  # noqa: S608  # it was parsed first
        described = result.description
        result.fetchall()
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        _refuse(f"its types do not fit: {_first_line(error)}", text)
    except duckdb.Error as error:
        _refuse(f"it holds a value that cannot be worked out ({type(error).__name__})", text)
    kind = str(described[0][1]) if described else "nothing"
    if kind.upper() not in {"BOOLEAN", "BOOL"}:
        _refuse(f"it must say yes or no, and gives {kind}: compare it with something", text)


def _first_line(error: Exception) -> str:
    return _QUOTED.sub("'...'", str(error).split("\n")[0])
