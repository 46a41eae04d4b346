"""`snapengine metadata`: rows of metadata by a condition, on the screen or in a file; or a narrowed view."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapengine.cli import options

if TYPE_CHECKING:
    from snapengine.cli.output import Output
    from snapengine.engine import Engine
    from snapengine.views import View

PANEL = "See the past"
EXAMPLES = """snapengine metadata scans --at -7d --where "Modality = 'CT' AND PatientAgeYears >= 50"
snapengine metadata scans --at 2026-11-20 --columns PatientID,StudyDate --parquet ct.parquet
snapengine metadata scans --where "PatientSex = 'M'" --select
snapengine metadata scans --extractor images --where "Width >= 4000" --json"""


def metadata(
    bucket: options.BucketOrReference,
    at: options.At = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="SQL",
            help="Only objects of which this expression is true.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="A,B",
            help="These columns; by default all, and on the screen those of --where.",
            show_default=False,
        ),
    ] = None,
    extractor: Annotated[
        str, typer.Option("--extractor", metavar="NAME", help="Whose columns they are.")
    ] = "dicom",
    prefix: options.Prefix = None,
    epoch: options.AsKnownAt = None,
    select: Annotated[
        bool, typer.Option("--select", help="Print the reference of the view narrowed to what was found.")
    ] = False,
    csv: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE", help="Write the rows there, as CSV.", show_default=False),
    ] = None,
    parquet: Annotated[
        str | None,
        typer.Option(
            "--parquet", metavar="FILE", help="Write the rows there, as Parquet.", show_default=False
        ),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(
            "--missing",
            metavar="warn|read|error",
            help="Objects without a row: warn of them, read them now, or fail.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="What the query may take besides the answer itself; 512MiB if not given.",
            show_default=False,
        ),
    ] = None,
    deidentify: Annotated[
        bool | None,
        typer.Option(
            "--deidentify/--identified",
            help="Whether to replace what identifies by pseudonyms; by default as the setting says.",
            show_default=False,
        ),
    ] = None,
    profile_option: Annotated[
        list[str] | None,
        typer.Option(
            "--profile-option",
            metavar="NAME",
            help="De-identify with this option of PS3.15's profile; may be repeated.",
            show_default=False,
        ),
    ] = None,
    require: options.Require = None,
    timeout: options.Timeout = 300,
    as_json: options.Json = False,
) -> None:
    """Show metadata of objects as they were at an instant.

    The condition is one SQL expression over the extractor's columns and those of the listing.
    """
    from metadata_extractors.metadata_output import (
        ask_columns,
        show,
        show_selection,
        write_csv,
        write_parquet,
    )
    from snapengine.cli.output import Output
    from snapengine.cli.views import open_view
    from snapengine.engine import Engine
    from snapengine.errors import UsageError

    if sum((csv is not None, parquet is not None, select, as_json and not select)) > 1:
        raise UsageError("Give one of --json, --csv, --parquet and --select.")
    if select and (where is None or columns is not None):
        raise UsageError("--select wants --where, and no --columns: a view has those of the listing.")
    if deidentify is False and profile_option:
        raise UsageError("--profile-option is for de-identified rows, not for --identified ones.")
    wanted = options.wanted(require, timeout)
    engine, out = Engine(), Output(as_json=as_json)
    view = open_view(engine, out, bucket, at, prefix, epoch, wanted)
    asked: dict[str, Any] = {"missing": missing, "deidentify": profile_option or deidentify}
    if memory is not None:
        asked["memory"] = memory
    with cautions_noted(out):
        if select:
            show_selection(out, _selected(engine, out, view, extractor, where, asked))
            return
        names = [name.strip() for name in columns.split(",") if name.strip()] if columns is not None else None
        if names is None and not (as_json or csv or parquet):
            names = ask_columns(view, extractor, where)
        table = view.metadata_table(extractor, where=where, columns=names, numbers=True, **asked)
    if csv is not None:
        write_csv(table, csv)
    elif parquet is not None:
        write_parquet(table, parquet)
    else:
        show(out, table)
    _footer(out, view, table, csv or parquet)


def _selected(
    engine: Engine, out: Output, view: View, extractor: str, where: str | None, asked: dict[str, Any]
) -> View:
    """The view narrowed to what the condition finds, which the table keeps from then on."""
    from metadata_extractors.frame import metadata_where
    from snapengine.cli.audit import attempted, audited
    from snapengine.errors import SnapEngineError

    action, on_aws = "metadata --select", engine.settings.store.startswith("dynamodb")
    with attempted(engine, out, action, view.bucket, ask_aws=on_aws):
        rows, chosen = metadata_where(view, extractor, where, **asked)
    with audited(engine, out, action, view.bucket, detail=f"of {view.reference}", ask_aws=on_aws) as line:
        narrowed = view.narrowed(rows, chosen)
        line.detail = narrowed.reference
        if engine.is_only_here(narrowed.ref):
            raise SnapEngineError("The table did not keep what was selected: its reference would not open.")
    return narrowed


@contextmanager
def cautions_noted(out: Output) -> Iterator[None]:
    """While inside, our warnings go where a command's remarks go."""
    from snapengine.cautions import SnapEngineWarning

    told: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", SnapEngineWarning)
            yield
    finally:
        for warning in told:
            if issubclass(warning.category, SnapEngineWarning):
                out.warn(str(warning.message))
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _footer(out: Output, view: View, table: Any, file: str | None) -> None:
    import json

    from snapengine.cli.output import CYAN, printable
    from snapengine.cli.views import show_completeness

    told = json.loads(table.schema.metadata[b"snapengine"])
    total = sum(told[name] for name in ("matched", "not_matched", "unknown", "without_row"))
    where = f" to {printable(file)}" if file else ""
    parts = [f"{told['matched']:,} of {total:,} objects{where}"]
    parts += [f"{told['unknown']:,} unknown"] if told["unknown"] else []
    parts += [f"{told['read_now']:,} read now"] if told["read_now"] else []
    if bad := sum(told["outcomes"].get(name, 0) for name in ("failed", "timeout")):
        parts.append(f"{bad:,} could not be read")
    out.note(f"{', '.join(parts)}, in {out.paint_note(printable(view.reference), CYAN)}")
    if told["deidentified"]:
        out.note(f"De-identified: {told['deidentified']}.")
    show_completeness(out, view)
