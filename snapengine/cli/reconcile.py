"""`reconcile`: list a bucket, compare the listing with the log, and store what the log lacks."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from snapengine.cli import options
from snapengine.cli.audit import audited
from snapengine.cli.output import Output, printable
from snapengine.errors import Busy, SnapEngineError, TryAgain, UsageError
from snapengine.instants import render

if TYPE_CHECKING:
    from snapengine.buckets.reconcile import ReconcileProgress, ReconcileReport
    from snapengine.engine import Engine

EXAMPLES = """\
snapengine reconcile scans
snapengine reconcile scans --prefix ct/ --pages-per-second 5
snapengine reconcile scans --every 6h --json"""

_FOUND = {
    "created": ("version that no event had told of", "versions that no event had told of"),
    "markers": ("delete marker that no event had told of", "delete markers that no event had told of"),
    "null": ("null version that no event had told of", "null versions that no event had told of"),
    "removed": ("version or delete marker that is gone from S3", "versions or delete markers gone from S3"),
    "back": ("version thought gone that is there", "versions thought gone that are there"),
    "changed": (
        "version whose size, ETag, class or time is another",
        "versions whose size, ETag, class or time is another",
    ),
    "reordered": (
        "key whose versions are in another order than was known",
        "keys whose versions are in another order than was known",
    ),
}
"""The report's kinds in words, for one and for several."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST = 366 * 86_400

sleep = time.sleep
"""Between two runs."""


def reconcile(
    bucket: options.Bucket,
    prefix: options.Prefix = None,
    every: Annotated[
        str | None,
        typer.Option(
            "--every",
            metavar="TIME",
            help="Again so long after each start (30m, 6h, 1d), until Ctrl-C or SIGTERM.",
            show_default=False,
        ),
    ] = None,
    pages_per_second: Annotated[
        float | None,
        typer.Option(
            "--pages-per-second",
            metavar="N",
            help="Ask S3 for no more pages (of 1,000 versions) than that, on average.",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List a bucket, and put right what the log lacks.

    Workers may go on meanwhile. What was stopped goes on where it was. Afterwards every view of an instant
    before its start is `verified`.
    """
    from snapengine.engine import Engine

    interval = interval_of(every) if every is not None else None
    if pages_per_second is not None and not 0 < pages_per_second < float("inf"):
        raise UsageError(f"--pages-per-second {pages_per_second:g}: it must be greater than 0.")
    engine, out = Engine(), Output(as_json=as_json)
    due = time.monotonic()
    while True:
        try:
            _show(out, _one_run(engine, out, bucket, prefix or "", pages_per_second))
        except SnapEngineError as error:
            if interval is None or not _passes(error):
                raise
            out.warn(f"This run ended early ({error.code}): {error} The next goes on.")
        if interval is None:
            return
        sys.stdout.flush()  # whoever reads the pipe is not to wait for the next run
        now = time.monotonic()
        due = max(due + interval, now)  # a run that took longer is followed by the next at once
        sleep(due - now)


def interval_of(text: str, option: str = "--every") -> int:
    """Seconds of `90s`, `30m`, `6h`, `1d`."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text, re.ASCII)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST:
        raise UsageError(f"{option} {printable(text)}: write a length of time such as 90s, 30m, 6h or 1d.")
    return seconds


def found_in_words(found: Mapping[str, int]) -> Iterator[str]:
    """What a run found, a phrase each."""
    for kind, (one, several) in _FOUND.items():
        if count := found.get(kind):
            yield f"{count:,} {one if count == 1 else several}"


def _passes(error: SnapEngineError) -> bool:
    """Whether the next run may fare better. An audit line that cannot be written has its reason as cause."""
    return isinstance(error, TryAgain | Busy) or isinstance(error.__cause__, TryAgain)


def _one_run(
    engine: Engine, out: Output, bucket: str, prefix: str, pages_per_second: float | None
) -> ReconcileReport:
    from snapengine.buckets.reconcile import run_reconcile

    engine.store.check()
    with audited(engine, out, "reconcile", f"{bucket}/{prefix}" if prefix else bucket) as line:
        with out.progress() as display:
            task = display.add_task("Listing", total=None) if display is not None else None

            def show(progress: ReconcileProgress) -> None:
                if display is not None and task is not None:
                    known = f"{progress.entries:,} versions and delete markers"
                    display.update(task, description=f"Listing: {known}, {progress.stored:,} to store")

            report = asyncio.run(
                run_reconcile(engine, bucket, prefix=prefix, pages_per_second=pages_per_second, progress=show)
            )
        line.detail = "; ".join([f"{report.entries:,} listed", *found_in_words(report.found)])
    return report


def _show(out: Output, report: ReconcileReport) -> None:
    if out.as_json:
        out.json(
            {
                "bucket": report.bucket,
                "prefix": report.prefix,
                "begun": render(report.begun),
                "ended": render(report.ended),
                "epoch": report.epoch,
                "pages": report.pages,
                "entries": report.entries,
                "stored": report.stored,
                "found": dict(report.found),
                "resumed": report.resumed,
            }
        )
        return
    if report.resumed:
        out.note("It went on with an earlier run that had been stopped; the counts are over both.")
    below = f" below {report.prefix}" if report.prefix else ""
    listed = "1 version or marker" if report.entries == 1 else f"{report.entries:,} versions and markers"
    pages = "1 page" if report.pages == 1 else f"{report.pages:,} pages"
    out.line(f"Bucket {report.bucket}{printable(below)} is compared with the log: {listed}, {pages}.")
    phrases = list(found_in_words(report.found))
    for phrase in phrases:
        out.line(f"  {phrase}")
    if phrases:
        out.line(f"All of this is in the log now, from epoch {report.epoch} on.")
    else:
        out.line("The log knew all of it.")
    out.note(f"Views of instants before {render(report.begun)} are verified from epoch {report.epoch} on.")
