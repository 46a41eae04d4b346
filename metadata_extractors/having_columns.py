"""Columns that only some rows have: those of rows extracted since the bucket asked for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from metadata_extractors.registry import make_extractor
from snapengine.cautions import MetadataMissing, caution
from snapengine.errors import UsageError
from snapengine.further_columns import stamped, versions_of_column

if TYPE_CHECKING:
    from snapengine.views import View

READ_OUTCOMES: Final = ("ok", "partial")
READ_NOW: Final = "missing='read' (--missing read)"
"""How objects without a row are read for a question; in Python, and as a command."""
"""Of rows that have values."""


def further_in(known: pa.Schema, names: Iterable[str]) -> list[str]:
    """Those of the names that not every version of the extractor has."""
    return [name for name in dict.fromkeys(names) if versions_of_column(known.field(name)) is not None]


def having(known: pa.Schema, names: Iterable[str]) -> frozenset[str] | None:
    """The extractor's versions whose rows have all of these columns; None where all versions do."""
    told = [versions_of_column(known.field(name)) for name in further_in(known, names)]
    return frozenset.intersection(*(each or frozenset() for each in told)) if told else None


def lacks(batch: pa.RecordBatch | pa.Table, versions: frozenset[str]) -> Any:
    """For each row whether it has values, and is of none of these versions."""
    read = pc.is_in(batch["outcome"], value_set=pa.array(READ_OUTCOMES))
    return pc.and_(read, pc.invert(pc.is_in(batch["extractor_version"], value_set=_texts(versions))))


def _texts(versions: Iterable[str]) -> pa.Array[Any]:
    return pa.array(sorted(versions), pa.string())


def unextracted(
    stored: pa.Schema, extractor: str, columns: Sequence[str] | None, named: Iterable[str]
) -> list[pa.Field[Any]]:
    """Columns that are asked for, known to the extractor, that no row has; they say so of themselves. What a
    condition names that does not fit what is stored is `named`."""
    names = [*([] if columns is None or isinstance(columns, str) else columns), *named]
    fields: dict[str, pa.Field[Any]] = {}
    for name in names:
        if name in stored.names:
            continue
        try:
            schema = make_extractor(extractor, [name]).schema
        except UsageError:
            continue  # no name of a column: whoever looks for it says so
        fields |= {field.name: field for field in stamped(schema, schema.names, "") if field.name == name}
    return [field.with_nullable(True) for field in fields.values()]


def refuse(fields: Sequence[pa.Field[Any]], view: View, extractor: str) -> None:
    """Raise `UsageError` for such columns, if there are any."""
    if fields:
        raise UsageError(
            f"{', '.join(field.name for field in fields)}: {extractor} can extract this, but did not for "
            f"{view}. {remedy(fields, view, extractor)} Or have every object read now: {READ_NOW}."
        )


def tell_of_nulls(rows: pa.Table, known: pa.Schema, view: View, extractor: str) -> None:
    """Warn if some rows of an answer with all columns are older than one of these."""
    further = further_in(known, (name for name in rows.schema.names if name in known.names))
    versions = having(known, further)
    count = 0 if versions is None else pc.sum(lacks(rows, versions)).as_py() or 0
    if count:
        caution(
            f"{count:,} rows of {view} were extracted without all of {', '.join(further)}: null may mean "
            f"that, and `extractor_version` says where. `snapengine extract {view.bucket} --extractor "
            f"{extractor}` extracts what is registered now, for later views.",
            MetadataMissing,
        )


def remedy(fields: Sequence[pa.Field[Any]], view: View, extractor: str) -> str:
    """How later views come to have these columns."""
    run = f"un `snapengine extract {view.bucket} --extractor {extractor}`: later views have it."
    try:
        usual = make_extractor(extractor).schema.names
    except UsageError:
        usual = []
    further = [field.name for field in fields if field.name not in usual]
    if not further:
        return f"R{run}"
    return (
        f"Name it in `snapengine enable-bucket {view.bucket} --columns {extractor}={','.join(further)}` "
        f"(beside those that `snapengine status` shows), then r{run}"
    )
