"""A condition as text: proven to be one SQL expression over known columns before anything runs it.

DuckDB's own parser reads the text; of its tree only what is listed is let through, and the binder then says
whether the types fit. Nothing that reads a file, a setting, a clock or a random number is listed, so that the
same rows give the same answer on any day.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from metadata_extractors.closed_duckdb import (
    Ahead,
    check_names,
    closed_connection,
    fold,
    quoted,
    the_duckdb,
)
from metadata_extractors.where_names import (
    ALLOWED_CLASSES,
    ALLOWED_FUNCTIONS,
    ALLOWED_OPERATORS,
    ALLOWED_TYPES,
    CHANGING,
    WHY_CLASSES,
    WHY_FUNCTIONS,
)
from metadata_extractors.where_nulls import null_by_null_alone
from snapengine.errors import UsageError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MAX_TEXT: Final = 2**20
"""Characters of a condition at most: room for some ten thousand keys in an `IN (...)`."""

_SELECT: Final = "SELECT NULL WHERE "
_PLACES: Final = re.compile(r'"query_location(?:_length)?":\d+,?')
_QUOTED: Final = re.compile(r"'(?:[^']|'')*(?:'|$)|(\$\w*\$).*?(?:\1|$)", re.DOTALL)


class Checked(NamedTuple):
    """A single boolean SQL expression over known columns."""

    text: str
    """Without the blanks around it."""
    columns: list[str]
    """The names of those that it uses, in their order."""
    null_by_null_alone: bool
    """It is known to be NULL at most where one of them is."""


def checked(where: str, columns: pa.Schema, ahead: Ahead | None = None) -> Checked:
    """The condition, if it is a single boolean SQL expression over `columns`.

    Raises `UsageError` for anything else: it says why and shows the place, but never what
    stands in quotes there.
    """
    text = _plain_text(where)
    with closed_connection(threads=1, ahead=ahead) as connection:
        expression = _parsed(connection, text)
        used = _walk(expression, text, columns)
        _bind(connection, text, columns)
    names = [name for name in columns.names if name in used]
    return Checked(text, names, null_by_null_alone(expression))


def mentioned(where: str) -> list[str]:
    """The names that stand where columns do in the text, whether there are such columns or not. Raises
    `UsageError` for text that is not one SQL expression."""
    text = _plain_text(where)
    names: list[str] = []
    with closed_connection(threads=1) as connection:
        waiting: list[Any] = [_parsed(connection, text)]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if found.get("class") == "COLUMN_REF":
                names.append(str(found["column_names"][0]))
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)
    return sorted(set(names))


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
    end = "" if why.endswith("?") else "."
    # From None: what DuckDB said has the values of the condition, and a traceback would show it.
    raise UsageError(f"where must be one SQL expression: {why}{end}{shown}") from None


def _mask(quote: re.Match[str]) -> str:
    """As long as before, so that places stay."""
    return "'" + "*" * (len(quote[0]) - 2) + "'" if len(quote[0]) > 1 else quote[0]


def _parsed(connection: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    """The tree of the one expression that the text is, alone and in brackets."""
    duckdb = the_duckdb()
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
        what = "there is a second statement" if "SELECT statements" in said else what
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
    duckdb = the_duckdb()
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


def _walk(expression: dict[str, Any], text: str, columns: pa.Schema) -> set[str]:
    """Refuses whatever is not listed, wherever it stands in the tree. Returns the columns that it uses."""
    known = {fold(field.name): field for field in columns}
    used: set[str] = set()
    waiting: list[Any] = [expression]
    while waiting:
        found = waiting.pop()
        if isinstance(found, list):
            waiting.extend(found)
        elif isinstance(found, dict):
            if "class" in found:
                _one(found, text, known)
            if found.get("class") == "COLUMN_REF":
                used.add(known[fold(str(found["column_names"][0]))].name)
            elif str(found.get("type", "")).endswith("_NODE"):
                _refuse("it holds a query", text)
            waiting.extend(found.values())
    return used


def _one(found: dict[str, Any], text: str, known: dict[str, pa.Field]) -> None:
    kind = str(found["class"])
    place = _place(found.get("query_location"), text)
    if kind not in ALLOWED_CLASSES:
        _refuse(WHY_CLASSES.get(kind, f"{kind.lower()} may not stand in it"), text, place)
    if kind == "OPERATOR" and found["type"] not in ALLOWED_OPERATORS:
        _refuse(f"{str(found['type']).lower()} may not stand in it", text, place)
    if kind == "TYPE" and (fold(str(found.get("type_name"))) not in ALLOWED_TYPES or _qualified(found)):
        _refuse(f"the type {found.get('type_name')!r} may not stand in it", text, place)
    if kind == "CAST" and "type_expr" not in found:
        raise UsageError("This duckdb is too old to check a condition with: duckdb 2.0 or later is needed.")
    if kind == "FUNCTION":
        _function(found, text, place)
    if kind == "COLUMN_REF":
        _column(found, text, place, known)
    if kind in {"COMPARISON", "BETWEEN"} or found["type"] == "COMPARE_IN":
        _compared(found, text, place, known)


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
    if fold(name) not in ALLOWED_FUNCTIONS:
        why = next((why for pattern, why in WHY_FUNCTIONS if re.fullmatch(pattern, fold(name))), "")
        near = difflib.get_close_matches(fold(name), ALLOWED_FUNCTIONS, n=1)
        hint = why or (f"did you mean {near[0]!r}?" if near else "it is none of those allowed")
        _refuse(f"the function {name!r} may not stand in it: {hint}", text, place)


def _column(found: dict[str, Any], text: str, place: int | None, known: dict[str, pa.Field]) -> None:
    name = str(found["column_names"][0])
    if fold(name) in known:
        return
    if fold(name) in CHANGING:
        _refuse(
            f"{name} changes from day to day or from caller to caller; write the value itself", text, place
        )
    near = difflib.get_close_matches(fold(name), known, n=3)
    hint = "text is in single quotes"
    if near:
        hint = f"did you mean {' or '.join(quoted(known[one].name) for one in near)}?"
    _refuse(f"there is no column {name!r} ({hint})", text, place)


def _compared(found: dict[str, Any], text: str, place: int | None, known: dict[str, pa.Field]) -> None:
    """DuckDB would read every text as a number, and fail at the first that is none."""
    sides = [
        *found.get("children", ()),
        *(found.get(name) for name in ("left", "right", "input", "lower", "upper")),
    ]
    sides = [side for side in sides if isinstance(side, dict)]
    numbers = [side for side in sides if side.get("literal", {}).get("kind") in {"INTEGER", "NUMERIC"}]
    for side in sides:
        field = known.get(fold(str(side["column_names"][0]))) if side["class"] == "COLUMN_REF" else None
        if numbers and field is not None and str(field.type) in {"string", "large_string"}:
            _refuse(
                f"{field.name} is text, and is compared with a number; put that in single quotes", text, place
            )


def _bind(connection: duckdb.DuckDBPyConnection, text: str, columns: pa.Schema) -> None:
    """Lets DuckDB say, over a row of nulls, whether the types fit and the answer is a boolean."""
    import pyarrow as pa

    duckdb = the_duckdb()
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
