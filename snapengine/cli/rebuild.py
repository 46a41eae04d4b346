"""`rebuild`: build what a lost table knew of a bucket from its archive, and list what is there now."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapengine.cli import options
from snapengine.cli.audit import audited
from snapengine.cli.output import Output, printable
from snapengine.cli.reconcile import found_in_words
from snapengine.errors import UsageError
from snapengine.instants import render

if TYPE_CHECKING:
    from snapengine.archiving.rebuild import RebuildProgress, Rebuilt
    from snapengine.buckets.reconcile import ReconcileProgress, ReconcileReport
    from snapengine.engine import Engine

EXAMPLES = """\
snapengine rebuild scans --root s3://archives/snapengine
snapengine rebuild scans --check --json
snapengine rebuild scans --up-to-gap --no-listing"""


def rebuild(
    bucket: options.Bucket,
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="URL",
            help="The archive's root: s3://BUCKET/PREFIX or file:///FOLDER; else SNAPENGINE_ARCHIVE.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read every file first, not only its size.")] = False,
    up_to_gap: Annotated[
        bool,
        typer.Option("--up-to-gap", help="Give up the epochs from the first on that is not to be had."),
    ] = False,
    no_listing: Annotated[
        bool, typer.Option("--no-listing", help="Do not list the bucket; `reconcile` does it later.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Build a lost table's knowledge of a bucket from its archive.

    Stop workers and archivers first. Every archived view is as it was; what was not archived is lost, and the
    listing finds what is left of it. A run that was stopped goes on. docs/rebuild.md has it step by step.
    """
    from snapengine.engine import Engine
    from snapengine.settings import load_settings

    engine = Engine(load_settings(archive=root) if root is not None else load_settings())
    out = Output(as_json=as_json)
    url = engine.settings.archive
    if url is None:
        raise UsageError("Say where the archive is: --root s3://BUCKET/PREFIX or file:///FOLDER.")
    engine.store.check()
    with audited(engine, out, "rebuild", bucket, detail=f"from {url}") as line:
        report, listing, epoch = _run(
            engine, out, bucket, url, check=check, up_to_gap=up_to_gap, list_it=not no_listing
        )
        line.detail += f"; up to epoch {report.epoch}, on from {report.next_epoch}"
        if report.lost:
            line.detail += f"; given up: {report.lost}"
    _show(out, report, listing, epoch)


def _run(
    engine: Engine, out: Output, bucket: str, url: str, *, check: bool, up_to_gap: bool, list_it: bool
) -> tuple[Rebuilt, ReconcileReport | None, int | None]:
    """What was rebuilt, what the listing found, and the epoch that knows of both."""
    from snapengine.archiving.rebuild import finish, rebuild_table
    from snapengine.buckets.reconcile import run_reconcile

    with out.progress() as display:
        task = display.add_task("Looking at the archive", total=None) if display is not None else None

        def tell(text: str, done: int = 0, of: int | None = None) -> None:
            if display is not None and task is not None:
                display.update(task, description=text, completed=done, total=of)

        def show(progress: RebuildProgress) -> None:
            if progress.step == "checking":
                tell("Checking the archive", progress.done, progress.of if check else None)
            else:
                tell(f"Writing epochs: {progress.done:,}")

        def show_listing(progress: ReconcileProgress) -> None:
            tell(f"Listing: {progress.entries:,} versions and delete markers, {progress.stored:,} to store")

        async def run() -> tuple[Rebuilt, ReconcileReport | None, int | None]:
            report = await rebuild_table(engine, bucket, url, check=check, up_to_gap=up_to_gap, progress=show)
            listing = None
            if list_it and not report.listing:
                listing = await run_reconcile(engine, bucket, progress=show_listing)
            epoch = await finish(engine, bucket, listing.begun if listing else None)
            return report, listing, epoch.number if epoch else None

        return asyncio.run(run())


def _show(out: Output, report: Rebuilt, listing: ReconcileReport | None, epoch: int | None) -> None:
    if out.as_json:
        fields: dict[str, Any] = asdict(report) | {"epoch_time": render(report.epoch_time), "listing": None}
        if listing is not None:
            fields["listing"] = {
                "begun": render(listing.begun),
                "entries": listing.entries,
                "stored": listing.stored,
                "found": dict(listing.found),
                "epoch": epoch,
            }
        out.json({**fields, "remarks": [*report.remarks, *([report.listing] if report.listing else [])]})
        return
    if report.resumed:
        out.note("It went on with an earlier run that had been stopped.")
    for remark in report.remarks:
        out.warn(remark)
    out.line(
        f"Bucket {report.bucket} is as it was at epoch {report.epoch:,} of {render(report.epoch_time)}, from "
        f"{printable(report.root)}:"
    )
    counts = {
        "epochs": report.epochs,
        "observations": report.observations,
        "checkpoints": report.checkpoints,
        "snapshots": report.snapshots,
        "narrowed views": report.selections,
        "notes of runs": report.runs,
    }
    out.line("  " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    if report.lost:
        out.warn(f"Given up: {report.lost}")
    out.note(
        f"What was recorded after that and not archived is lost; recording goes on with epoch "
        f"{report.next_epoch:,}."
    )
    _show_listing(out, report, listing, epoch)


def _show_listing(out: Output, report: Rebuilt, listing: ReconcileReport | None, epoch: int | None) -> None:
    if listing is None:
        later = f"The present is not known yet: run `snapengine reconcile {report.bucket}`."
        out.warn(report.listing or later)
        return
    phrases = list(found_in_words(listing.found))
    out.line(f"The bucket was listed, {listing.entries:,} versions and markers:")
    for phrase in phrases or ["the archive knew all of it"]:
        out.line(f"  {phrase}")
    out.note(f"Views are exact again from epoch {epoch:,} on. Workers and archivers may start.")
