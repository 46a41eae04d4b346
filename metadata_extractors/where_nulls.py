"""PURE: whether a condition is NULL for no row whose values are all there, by the tree of DuckDB's parser.

Only what is listed is known to be so; of anything else nothing is said. NULLIF, TRY_CAST, TRY and a CASE
without ELSE give NULL of values that are there, as do some functions. Where values do not fit what is listed,
that fails instead.
"""

from __future__ import annotations

from typing import Any, Final

_LITERALS: Final = frozenset({"BOOLEAN", "INTEGER", "NUMERIC", "STRING"})

_PARTS: Final = {
    ("BETWEEN", "COMPARE_BETWEEN"): ("input", "lower", "upper"),
    ("COMPARISON", "COMPARE_DISTINCT_FROM"): ("left", "right"),
    ("COMPARISON", "COMPARE_EQUAL"): ("left", "right"),
    ("COMPARISON", "COMPARE_GREATERTHAN"): ("left", "right"),
    ("COMPARISON", "COMPARE_GREATERTHANOREQUALTO"): ("left", "right"),
    ("COMPARISON", "COMPARE_LESSTHAN"): ("left", "right"),
    ("COMPARISON", "COMPARE_LESSTHANOREQUALTO"): ("left", "right"),
    ("COMPARISON", "COMPARE_NOTEQUAL"): ("left", "right"),
    ("COMPARISON", "COMPARE_NOT_DISTINCT_FROM"): ("left", "right"),
    ("CONJUNCTION", "CONJUNCTION_AND"): ("children",),
    ("CONJUNCTION", "CONJUNCTION_OR"): ("children",),
    ("OPERATOR", "COMPARE_IN"): ("children",),
    ("OPERATOR", "OPERATOR_IS_NOT_NULL"): ("children",),
    ("OPERATOR", "OPERATOR_IS_NULL"): ("children",),
    ("OPERATOR", "OPERATOR_NOT"): ("children",),
}
"""By class and type the names under which all that such a node is made of stands."""


def null_by_null_alone(expression: dict[str, Any]) -> bool:
    """Whether it is NULL at most where some column that it names is."""
    waiting: list[Any] = [expression]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            return False
        kind = (node.get("class"), node.get("type"))
        if kind == ("COLUMN_REF", "COLUMN_REF"):
            if len(node["column_names"]) != 1:  # a field of a struct may be NULL by itself
                return False
        elif kind == ("CONSTANT", "VALUE_CONSTANT"):
            if node.get("literal", {}).get("kind") not in _LITERALS:
                return False
        elif kind in _PARTS:
            for name in _PARTS[kind]:
                part = node.get(name)
                waiting += part if isinstance(part, list) and part else [part]
        else:
            return False
    return True
