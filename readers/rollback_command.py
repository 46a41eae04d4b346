"""`snapengine rollback`: make a bucket show again what it showed at an instant."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapengine.cli import options

if TYPE_CHECKING:
    from readers.rollback import Rollback
    from readers.rollback_outcomes import Outcome, Planned
    from readers.rollback_steps import Step
    from snapengine.cli.output import Output
    from snapengine.engine import Engine
    from snapengine.views import View

PANEL = "Buckets"
EXAMPLES = """snapengine rollback scans --at 2026-11-20T09:00:00Z --dry-run
snapengine rollback scans --at -24h --prefix ct/
snapengine rollback scans --at snapshot:baseline-2026 --yes --json
snapengine rollback scans --at -90d --restore-archived --days 3 --tier Bulk"""

_TICK = 0.5
_SHOWN = 20
"""Problems that people are shown; `--json` has them all."""


class Tier(StrEnum):
    """How fast S3 restores from an archive, and at what price."""

    STANDARD = "Standard"
    BULK = "Bulk"
    EXPEDITED = "Expedited"


def rollback(
    bucket: options.Bucket,
    at: Annotated[
        str,
        typer.Option(
            "--at", metavar="TIME", help="The instant that the bucket is to show.", show_default=False
        ),
    ],
    prefix: options.Prefix = None,
    epoch: options.AsKnownAt = None,
    require: options.Require = None,
    timeout: options.Timeout = 300,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and change nothing.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask; needed where nobody can answer.")
    ] = False,
    restore_archived: Annotated[
        bool,
        typer.Option(
            "--restore-archived", help="Have S3 restore archived versions, for a later run to copy."
        ),
    ] = False,
    days: Annotated[
        int, typer.Option(min=1, max=365, metavar="N", help="For so long a restored copy can be read.")
    ] = 7,
    tier: Annotated[Tier, typer.Option(help="How fast S3 restores, and at what price.")] = Tier.STANDARD,
    as_json: options.Json = False,
) -> None:
    """Make a bucket show again what it showed at an instant.

    Versions are copied onto their keys, and keys that were not there get delete markers: nothing is removed
    from the history, and a rollback can be rolled back. It shows its plan first and asks for the bucket's
    name. The view is compared with the bucket as it is now; what changes meanwhile is left. It may be run
    again. The exit code is 1 if some key could not be brought back.
    """
    from readers.rollback import Rollback
    from readers.rollback_outcomes import Restoring
    from snapengine.cli.audit import attempted, audited
    from snapengine.cli.output import Output
    from snapengine.engine import Engine
    from snapengine.errors import UsageError

    engine, out = Engine(), Output(as_json=as_json)
    if not (dry_run or yes or out.interactive):
        raise UsageError(
            "Nobody can be asked here: give --yes to go on unasked, or --dry-run to see the plan alone."
        )
    engine.store.check()
    view = _view(engine, out, bucket, at, prefix, epoch, require, timeout)
    restoring = Restoring(days, tier.value) if restore_archived else None
    with Rollback(engine, view, restoring) as work:
        with nullcontext() if dry_run else attempted(engine, out, "rollback", bucket):
            planned = _planned(work, out, each=dry_run)
        if dry_run:
            return
        if not planned.to_do and not planned.missing:
            _show_done(out, planned, Counter())
            return
        if not yes:
            _confirm(out, bucket)
        with audited(engine, out, "rollback", bucket, detail=_in_words(planned)) as line:
            counts = _carried_out(work, out, planned)
            line.detail += "; " + ", ".join(f"{count:,} {fate}" for fate, count in sorted(counts.items()))
    _show_done(out, planned, counts)


def _view(
    engine: Engine,
    out: Output,
    bucket: str,
    at: str,
    prefix: str | None,
    epoch: str | None,
    require: str | None,
    timeout: float,
) -> View:
    """At least settled, by events and not by a listing alone, unless something else is asked for: keys that a
    view does not know would go."""
    from readers.rollback import caught_up, check_caught_up
    from snapengine.cli.options import SNAPSHOT
    from snapengine.cli.views import open_view
    from snapengine.instants import to_millis
    from snapengine.run_notes import RUN

    fixed = epoch is not None or at.startswith((SNAPSHOT, RUN))
    wanted = options.wanted(require or ("provisional" if fixed else "settled"), timeout)
    end = time.monotonic() + timeout
    instant = at if fixed else str(to_millis(options.time_input(at), now=engine.clock()))
    while True:
        view = open_view(engine, out, bucket, instant, prefix, epoch, wanted)
        if require is not None or fixed or caught_up(view):
            return view
        if time.monotonic() >= end:  # a listing made it `verified` before the events were read
            check_caught_up(view)
        time.sleep(min(_TICK, max(0.0, end - time.monotonic())))


def _planned(work: Rollback, out: Output, *, each: bool) -> Planned:
    with out.progress() as display:
        if display is not None:
            display.add_task("Comparing with the bucket as it is now", total=None)

        def tell(step: Step) -> None:
            if each and out.as_json:
                out.json({"event": "step", **_fields(step)})

        planned = work.plan(tell)
    _show_plan(out, planned)
    return planned


def _fields(step: Step) -> dict[str, Any]:
    return {
        "step": step.kind,
        "key": step.key,
        "version_id": step.version.version_id if step.version else None,
        "size": step.version.size if step.version else None,
        "latest": step.latest_id,
        "detail": step.detail,
    }


def _confirm(out: Output, bucket: str) -> None:
    from snapengine.errors import Refused

    out.note("Nothing is removed: what the bucket shows now stays in its history.")
    if typer.prompt("Type the bucket's name to go on", err=True) != bucket:
        raise Refused("That is not the bucket's name. Nothing was changed.")


_WORDS = {
    "copy": "to be brought back",
    "mark": "not there then, to get a delete marker",
    "unsure": "unknown to the log, and left",
    "gone": "whose version is gone from S3",
    "archived": "whose version is in an archive",
    "restoring": "whose version is being restored",
    "denied": "whose version may not be read",
    "unreadable": "whose version cannot be read",
}


def _show_plan(out: Output, planned: Planned) -> None:
    from snapengine.cli.output import BOLD, DIM, RED, printable
    from snapengine.notebook import human_bytes

    if out.as_json:
        out.json({"event": "plan", **planned.fields()})
        return
    out.line(out.paint(f"Plan to show {printable(planned.reference)} again, by keys:", BOLD))
    stay = planned.counts["same"] + planned.counts["equal"]
    out.line(
        f"  {stay:,} that show it already ({planned.counts['equal']:,} by another version of the same bytes)"
    )
    for kind, words in _WORDS.items():
        count = planned.counts[kind]
        if not count and kind not in {"copy", "mark"}:
            continue
        size = f", {human_bytes(planned.bytes)}" if kind == "copy" else ""
        text = f"  {count:,} {words}{size}"
        out.line(text if kind in {"copy", "mark"} else out.paint(text, RED))
        samples = planned.samples.get(kind, [])
        for step in samples:
            out.line(out.paint(f"      {printable(step.key)}", DIM))
        if count > len(samples):
            out.line(out.paint(f"      and {count - len(samples):,} more", DIM))
    for warning in planned.warnings:
        out.warn(warning)


def _in_words(planned: Planned) -> str:
    told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(planned.counts.items()))
    return f"to {planned.reference}: {told}"


def _carried_out(work: Rollback, out: Output, planned: Planned) -> Counter[str]:
    from readers.rollback_outcomes import PROBLEMS

    shown = 0
    with out.progress("{task.completed:,} of {task.total:,}") as display:
        total = planned.to_do + planned.missing
        task = display.add_task("Rolling back", total=total) if display is not None else None

        def tell(outcome: Outcome) -> None:
            nonlocal shown
            if display is not None and task is not None:
                display.advance(task)
            if out.as_json:
                out.json({"event": "key", **outcome.fields()})
            elif outcome.fate in PROBLEMS and shown < _SHOWN:
                shown += 1
                _show_problem(out, outcome)

        return work.carry_out(tell)


def _show_problem(out: Output, outcome: Outcome) -> None:
    from snapengine.cli.output import DIM, RED, one_line, printable

    version = outcome.step.version.version_id if outcome.step.version else "-"
    fate = out.paint(f"{outcome.fate:<10}", RED)
    detail = out.paint(f"({one_line(outcome.detail)})", DIM)
    out.line(f"{fate}  {printable(version)}  {printable(outcome.step.key)}  {detail}")


def _show_done(out: Output, planned: Planned, counts: Counter[str]) -> None:
    """Ends the command with 1 if something could not be brought back."""
    from readers.rollback_outcomes import PROBLEMS
    from snapengine.cli.output import GREEN, RED

    problems = sum(counts[fate] for fate in PROBLEMS)
    if out.as_json:
        fates = ("copied", "marked", "there", *PROBLEMS)
        out.json({"event": "done", "reference": planned.reference, **{fate: counts[fate] for fate in fates}})
    else:
        out.line(f"{counts['copied']:,} copied, {counts['marked']:,} delete markers put.")
        if problems:
            out.note(out.paint_note(f"{problems:,} keys do not show what they are to show.", RED))
        else:
            out.line(out.paint("Every key shows it again, as far as the plan saw the bucket.", GREEN))
        if planned.to_do:
            out.note(
                "What was written since the plan was made is left: run it again to see whether anything was."
            )
        out.note("Views of now show it once the worker has taken in what S3 tells of this.")
    if problems:
        raise typer.Exit(1)
