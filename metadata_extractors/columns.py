"""PURE: which of an extractor's columns are asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from snapengine.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa


def pick(fields: Sequence[pa.Field], names: Sequence[str] | None) -> list[pa.Field]:
    """The fields of these names, in their order, each once; None means all. Raises `UsageError`."""
    if names is None:
        return list(fields)
    if isinstance(names, str):
        raise UsageError(f"columns must be a list of names, as in columns=[{names!r}].")
    by_name = {field.name: field for field in fields}
    for name in names:
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(by_name)}."
            raise UsageError(f"There is no column {name!r}; {hint}")
    return [by_name[name] for name in dict.fromkeys(names)]
