"""`snapengine extract`: extract metadata from what is already there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from snapengine.cli import options

if TYPE_CHECKING:
    from metadata_extractors.backfill import Report
    from snapengine.cli.output import Output
    from snapengine.views import View

EXAMPLES = """snapengine extract scans
snapengine extract scans --prefix ct/ --at 2026-11-20T09:00:00Z
snapengine extract scans --extractor dicom --again --json"""


def extract(
    bucket: options.Bucket,
    prefix: options.Prefix = None,
    at: options.At = None,
    extractor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="By this extractor. Repeatable. By default those of the bucket.",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also those that have a row already, in the same version.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            metavar="N",
            help="Objects at once, each in a child process; by default as many as there are cores.",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Extract metadata from the objects that a bucket has already.

    Of a view's versions those are read that have no row of the extractor in its version; so a run that was
    stopped goes on where it was, and a new version of an extractor is a reason to run it. Workers may go on
    meanwhile. The exit code is 1 if some could not be tried.
    """
    import asyncio
    import os

    from metadata_extractors.backfill import backfill
    from snapengine.cli.audit import audited
    from snapengine.cli.output import Output
    from snapengine.engine import Engine
    from snapengine.errors import TryAgain
    from snapengine.workers.starting import writer_name

    engine, out = Engine(), Output(as_json=as_json)
    engine.store.check()
    with audited(engine, out, "extract", f"{bucket}/{prefix}" if prefix else bucket) as line:
        with out.progress("{task.completed:,} of {task.total:,}") as display:
            task = display.add_task("Extracting", total=1) if display is not None else None

            def show(view: View, report: Report) -> None:
                if display is not None and task is not None:
                    total = max(view.bound(), report.looked_at)
                    display.update(task, total=total, completed=report.looked_at)

            report = asyncio.run(
                backfill(
                    engine,
                    bucket,
                    writer_name(),
                    at=options.time_input("now" if at is None else at),
                    prefix=prefix or "",
                    extractors=extractor or (),
                    again=again,
                    processes=processes or os.cpu_count() or 1,
                    progress=show,
                )
            )
        line.detail = _in_words(report)
    _show(out, report)
    if untried := report.untried.total():
        codes = ", ".join(f"{count:,} {code}" for code, count in sorted(report.untried.items()))
        raise TryAgain(
            f"{untried:,} objects could not be asked for ({codes}). Remove the cause and run it again: what "
            "is stored stays."
        )


def _in_words(report: Report) -> str:
    rows = sum(outcomes.total() for outcomes in report.outcomes.values())
    forgotten = f", {report.forgotten:,} are forgotten and not read" if report.forgotten else ""
    return f"{report.looked_at:,} objects, {report.had_rows:,} had rows{forgotten}, {rows:,} rows stored"


def _show(out: Output, report: Report) -> None:
    from snapengine.cli.output import printable

    if out.as_json:
        out.json(
            {
                "reference": report.reference,
                "epoch": report.epoch,
                "objects": report.looked_at,
                "had_rows": report.had_rows,
                "forgotten": report.forgotten,
                "extractors": {
                    name: {"version": version, "rows": dict(report.outcomes.get(name, {}))}
                    for name, version in report.versions.items()
                },
                "untried": dict(report.untried),
            }
        )
        return
    out.line(f"{printable(report.reference)}: {_in_words(report)}.")
    for name, version in report.versions.items():
        outcomes = sorted(report.outcomes.get(name, {}).items(), key=lambda item: (-item[1], item[0]))
        said = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes) or "nothing to do"
        out.line(f"  {name} {version}: {said}")
    out.note(f"The rows are in views from epoch {report.epoch} on.")
