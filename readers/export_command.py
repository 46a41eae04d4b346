"""`snapengine export`: a view as files in a folder, or as objects of another bucket or prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapengine.cli import options

if TYPE_CHECKING:
    from readers.export import Exported, Options, Planned
    from readers.export_outcomes import Outcome
    from snapengine.cli.output import Output
    from snapengine.engine import Engine
    from snapengine.views import View

PANEL = "See the past"
EXAMPLES = """snapengine export snap://scans@2026-11-20T09:00:00.000Z~1234/ct/ data/
snapengine export scans s3://other/november/ --at 2026-11-20
snapengine export scans data/ --at snapshot:baseline-2026 --dry-run
snapengine export run:/0123456789abcdef0123456789abcdef data/ --json"""

_SHOWN = 20
"""Problems that people are shown; the manifest has them all."""


def export(
    bucket: options.BucketReferenceOrRun,
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DEST", help="A folder, or s3://BUCKET/PREFIX/ of another place.", show_default=False
        ),
    ],
    at: options.At = None,
    prefix: options.Prefix = None,
    epoch: options.AsKnownAt = None,
    require: options.Require = None,
    timeout: options.Timeout = 300,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what there is to do, and write nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there and is another object.")
    ] = False,
    leave_out: Annotated[
        bool,
        typer.Option("--leave-out", help="Leave out keys that DEST cannot name exactly, and report each."),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, metavar="N", help="Objects at once; 8 to a folder, 24 to a bucket."),
    ] = None,
    copy_limit: Annotated[
        int,
        typer.Option(
            min=5 << 20,
            max=5 << 30,
            metavar="BYTES",
            help="To a bucket: copy larger objects in parts, even those that did not come in parts.",
        ),
    ] = 5 << 30,
    as_json: options.Json = False,
) -> None:
    """Write a view to a folder, or copy it to another bucket or prefix.

    Files appear whole or not at all; to a bucket S3 itself copies the very versions of the view, with their
    metadata and tags. Each is compared afterwards. Run it again after an interruption: what is there is
    checked and left. The exit code is 1 if something is missing; a manifest says what became of each object.
    """
    from readers.export import Export, Options
    from snapengine.cli.output import Output
    from snapengine.engine import Engine

    wanted = options.wanted(require, timeout)
    engine, out = Engine(), Output(as_json=as_json)
    engine.store.check()
    view = _view(engine, out, bucket, at, prefix, epoch, wanted)
    with Export(
        engine, view, destination, _options(Options, overwrite, leave_out, workers, copy_limit)
    ) as work:
        with out.progress() as display:
            if display is not None:
                display.add_task("Looking at what there is to do", total=None)
            planned = work.plan()
        _show_plan(out, planned, overwrite=overwrite)
        if dry_run:
            return
        done = _carried_out(work, out, planned)
    _show_done(out, done)
    if done.tally.problems:
        raise typer.Exit(1)


def _options(
    kind: type[Options], overwrite: bool, leave_out: bool, workers: int | None, copy_limit: int
) -> Options:
    return kind(
        overwrite=overwrite,
        leave_out=leave_out,
        workers=workers,
        copy_limit=copy_limit,
        part=min(copy_limit, 512 << 20),
    )


def _view(
    engine: Engine,
    out: Output,
    target: str,
    at: str | None,
    prefix: str | None,
    epoch: str | None,
    wanted: options.Wanted,
) -> View:
    """The view that is meant; of a run the one that it noted."""
    from snapengine.cli.history import noted_by
    from snapengine.cli.output import printable
    from snapengine.cli.views import open_view
    from snapengine.errors import UsageError
    from snapengine.replaying import opened
    from snapengine.run_notes import run_named

    if (run_id := run_named(target)) is None:
        return open_view(engine, out, target, at, prefix, epoch, wanted)
    if (at, prefix, epoch) != (None, None, None):
        raise UsageError("What a run saw has its time, prefix and epoch: leave out the options.")
    notes = noted_by(engine, run_id)
    if len(notes) > 1:
        told = ", ".join(printable(note.reference) for note in notes)
        raise UsageError(f"Run {run_id} saw several views. Export the one that is meant: {told}.")
    return opened(engine, notes[0], **wanted)


def _carried_out(work: Any, out: Output, planned: Planned) -> Exported:
    from snapengine.cli.output import printable

    shown = 0
    with out.progress("{task.completed:,} of {task.total:,}") as display:
        total = planned.objects
        task = display.add_task("Exporting", total=total) if display is not None else None

        def tell(outcome: Outcome) -> None:
            nonlocal shown
            if display is not None and task is not None:
                display.advance(task)
            problem = outcome.kind not in {"copied", "there"}
            if out.as_json and problem:
                out.json(outcome.fields())
            elif problem and shown < _SHOWN:
                shown += 1
                _show_problem(out, outcome)

        done: Exported = work.carry_out(planned, tell)
    if done.tally.problems + done.tally.counts["left-out"] > shown and not out.as_json:
        out.note(f"The manifest has the others: {printable(done.manifest)}")
    return done


def _show_problem(out: Output, outcome: Outcome) -> None:
    from snapengine.cli.output import DIM, RED, one_line, printable

    kind = out.paint(f"{outcome.kind:<10}", RED)
    version = printable(outcome.version.version_id)
    detail = out.paint(f"({one_line(outcome.detail)})", DIM)
    out.line(f"{kind}  {version}  {printable(outcome.version.key)}  {detail}")


def _show_plan(out: Output, planned: Planned, *, overwrite: bool) -> None:
    from snapengine.cli.output import BOLD, printable
    from snapengine.notebook import human_bytes

    if out.as_json:
        out.json({"event": "plan", **planned.fields()})
        return

    def counted(kind: str) -> str:
        return f"{planned.standing[kind]:,} objects, {human_bytes(planned.standing_bytes[kind])}"

    out.line(out.paint(f"{printable(planned.reference)} to {printable(planned.destination)}:", BOLD))
    out.line(f"  {counted('new')}, to be copied")
    if planned.standing["there"]:
        out.line(f"  {counted('there')}, there by what is known of them: to be checked")
    if planned.standing["other"]:
        then = "replaced unless they are the same" if overwrite else "compared, and left as they are"
        out.line(f"  {counted('other')}, whose place something else may have: {then}")
    if planned.odd:
        out.line(f"  {len(planned.odd):,} left out, as their keys cannot be named there exactly")
    if planned.standing["beside"]:
        out.warn(
            f"{planned.standing['beside']:,} others are at {printable(planned.destination)} that the view "
            "does not have: they stay, so more will be there than the view."
        )
    for warning in planned.warnings:
        out.warn(warning)


def _show_done(out: Output, done: Exported) -> None:
    from snapengine.cli.output import GREEN, RED, printable
    from snapengine.notebook import human_bytes

    tally, planned = done.tally, done.planned
    if out.as_json:
        out.json(
            {
                "event": "done",
                "reference": planned.reference,
                "digest": planned.digest,
                "destination": planned.destination,
                "manifest": done.manifest,
                "objects": planned.objects,
                **tally.fields(),
            }
        )
        return
    out.line(
        f"{tally.counts['copied']:,} objects copied, {human_bytes(tally.bytes_copied)}; "
        f"{tally.counts['there']:,} were there already, {human_bytes(tally.bytes_there)}."
    )
    if tally.by_size_alone:
        out.note(
            f"{tally.by_size_alone:,} of them could be compared by size alone: S3 tells no more of both."
        )
    if tally.counts["left-out"]:
        out.warn(f"{tally.counts['left-out']:,} were left out, as they were to be.")
    if tally.problems:
        out.note(out.paint_note(f"{tally.problems:,} of {planned.objects:,} objects are missing there.", RED))
    elif not tally.counts["left-out"]:
        out.line(out.paint(f"All {planned.objects:,} are there: {planned.digest}", GREEN))
    out.note(f"What became of each: {printable(done.manifest)}")
