"""Rows of metadata as text, JSON, CSV or Parquet. A file appears whole or not at all."""

from __future__ import annotations

import csv
import json
import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from metadata_extractors.closed_duckdb import fold
from metadata_extractors.conditions import names_in
from metadata_extractors.frame import LEAD
from snapengine.cli.output import Output
from snapengine.errors import UsageError
from snapengine.instants import render

if TYPE_CHECKING:
    from snapengine.views import View

_SHOWN: Final = 60
"""Letters of a value on the screen."""


def ask_columns(view: View, extractor: str, where: str | None) -> list[str]:
    """Those for the screen: the outcome, and what the condition speaks of."""
    names = names_in(where)
    known = {fold(name): name for name in view.row_schema(extractor).names}
    used = [known.get(fold(name), name) for name in names]
    return list(dict.fromkeys(["outcome", *(name for name in used if name not in LEAD)]))


def show(out: Output, table: pa.Table) -> None:
    """The rows on stdout, one a line: aligned text, or a JSON object each."""
    rows = _rows(table)
    if out.as_json:
        for row in rows:
            out.json(row)
        return
    names = ["size", "event_time", *table.schema.names[len(LEAD) :], "key"]
    shown = [[_cell(row[name]) for name in names] for row in rows]
    if shown:
        out.table([name.upper() if name in LEAD else name for name in names], shown)


def show_selection(out: Output, view: View) -> None:
    """A narrowed view's reference; for programs with what it holds."""
    if out.as_json:
        out.json(
            {
                "reference": view.reference,
                "where": view.query,
                "objects": len(view),
                "digest": view.digest(),
            }
        )
        return
    out.line(view.reference)
    objects = "1 object" if len(view) == 1 else f"{len(view):,} objects"
    out.note(f"{objects}, digest {view.digest()}")


def write_csv(table: pa.Table, path: str) -> None:
    """With a header, in UTF-8; lists are JSON, what is null is empty."""
    with _whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.schema.names)
        for row in _rows(table):
            writer.writerow(["" if value is None else _text(value) for value in row.values()])


def write_parquet(table: pa.Table, path: str) -> None:
    """With all that is known of the columns, and of the answer under `snapengine`."""
    with _whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


@contextmanager
def _whole(path: str) -> Iterator[Path]:
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{path} is a folder: name a file.")
    temporary = target.with_name(f".{target.name}.{token_hex(4)}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """As JSON has them: times are RFC 3339, bytes are Base64, no number is none."""
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            yield {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, datetime) and value.tzinfo is not None:
        return render(round(value.timestamp() * 1000))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list) else str(value)


def _cell(value: Any) -> str:
    text = "-" if value is None else _joined(value) if isinstance(value, list) else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _joined(values: Sequence[Any]) -> str:
    return "\\".join("" if value is None else str(value) for value in values)
