"""`enable-bucket` and `disable-bucket`: show the plan, ask, do it, and leave an audit line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapengine.cli import options
from snapengine.cli.audit import attempted, audited
from snapengine.cli.output import BOLD, CYAN, YELLOW, Output, one_line, printable
from snapengine.errors import Refused, UsageError
from snapengine.further_columns import in_words, uses_of
from snapengine.instants import render

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from snapengine.buckets.baseline import BaselineProgress, BaselineReport
    from snapengine.buckets.disable import DisablePlan
    from snapengine.buckets.steps import Plan, Step, Wanted
    from snapengine.engine import Engine
    from snapengine.model import BucketConfig

ENABLE_EXAMPLES = """\
snapengine enable-bucket scans --dry-run
snapengine enable-bucket scans --prefix ct/
snapengine enable-bucket scans --extract dicom,images
snapengine enable-bucket scans --columns dicom=FilterType,ContentSequence,00091001
snapengine enable-bucket scans --no-extract
snapengine enable-bucket scans --yes --json"""
DISABLE_EXAMPLES = """\
snapengine disable-bucket scans --dry-run
snapengine disable-bucket scans --yes"""


class BaselineInto(StrEnum):
    """What `--baseline` takes."""

    AUTO = "auto"
    LOG = "log"
    PARQUET = "parquet"


DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where nobody can answer.")]


def enable_bucket(
    bucket: options.Bucket,
    prefix: Annotated[
        str | None,
        typer.Option(
            "--prefix",
            metavar="P",
            help="Watch only keys that start with this; as before, or all, if not given.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    no_wait: Annotated[
        bool,
        typer.Option(
            "--no-wait",
            help="Skip the 5 to 15 minutes that AWS may take; changes made meanwhile may be missed.",
        ),
    ] = False,
    baseline: Annotated[
        BaselineInto,
        typer.Option(
            "--baseline",
            help="Where the first listing goes: the log, or Parquet files of the archive (needs "
            "SNAPENGINE_ARCHIVE); auto: large buckets' into files.",
        ),
    ] = BaselineInto.AUTO,
    extract: Annotated[
        list[str] | None,
        typer.Option(
            "--extract",
            metavar="NAME,…",
            help="Hand every new version to `snapengine extract-worker`, for these extractors and no others; "
            "as before, if not given.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns",
            metavar="NAME=COLUMN,…",
            help="What this extractor extracts beside its usual columns; `NAME=`: nothing. Repeatable; as "
            "before, if not given.",
            show_default=False,
        ),
    ] = None,
    no_extract: Annotated[bool, typer.Option("--no-extract", help="Hand none to it any more.")] = False,
    as_json: options.Json = False,
) -> None:
    """Watch a bucket: queue, notifications, versioning, first listing.

    It shows its plan first and asks. Safe to repeat: what stands is left as it is, and what was stopped goes
    on. docs/enable-bucket.md has what it changes and refuses.
    """
    from snapengine.buckets.enable import carry_out, plan_enable
    from snapengine.buckets.refusals import refusal_text
    from snapengine.buckets.steps import TakeBaseline, Wanted
    from snapengine.engine import Engine

    out = Output(as_json=as_json)
    _must_be_answered(out, dry_run=dry_run, yes=yes)
    extractors = _extractors(extract, no_extract=no_extract)
    engine = Engine()
    engine.store.check()
    with nullcontext() if dry_run else attempted(engine, out, "enable-bucket", bucket):
        plan = plan_enable(
            engine,
            bucket,
            Wanted(
                prefix=prefix,
                wait=not no_wait,
                streams=engine.settings.streams,
                baseline=baseline.value,
                extract=extractors,
                columns=_columns(columns),
            ),
        )
        _show_plan(out, plan)
        if plan.refusals:
            raise Refused(refusal_text(plan.refusals))
    if not plan.steps:
        out.note(f"Bucket {bucket} is enabled as wanted: there is nothing to do.")
        if out.as_json and not dry_run:
            _show_enabled(out, bucket, engine.store.config(bucket), (), None)
    if dry_run or not plan.steps:
        return
    _agreed(out, yes=yes)
    with audited(engine, out, "enable-bucket", bucket, detail=_in_words(plan)):
        done = carry_out(engine, plan, on_step=_telling(out))
        report = None
        if any(isinstance(step, TakeBaseline) for step in plan.steps):
            report = _baseline(engine, out, bucket, plan.wanted)
    _show_enabled(out, bucket, done.config, done.warnings, report)


def _extractors(given: list[str] | None, *, no_extract: bool) -> tuple[str, ...] | None:
    """Names by commas, by several options, or both; None where nothing was said."""
    if no_extract:
        if given:
            raise UsageError("Give --extract or --no-extract, not both.")
        return ()
    if given is None:
        return None
    names = [name.strip() for text in given for name in text.split(",")]
    if not all(names):
        raise UsageError("--extract takes the names of extractors: dicom, or dicom,images.")
    return tuple(dict.fromkeys(names))


def _columns(given: list[str] | None) -> dict[str, tuple[str, ...]]:
    """By extractor the columns after `=`, all that were given for it."""
    found: dict[str, tuple[str, ...]] = {}
    for text in given or ():
        extractor, equals, names = text.partition("=")
        columns = [name.strip() for name in names.split(",")] if names.strip() else []
        if not (extractor.strip() and equals and all(columns)):
            raise UsageError("--columns takes an extractor and columns: dicom=FilterType,ContentSequence.")
        name = extractor.strip()
        found[name] = tuple(dict.fromkeys((*found.get(name, ()), *columns)))
    return found


def disable_bucket(
    bucket: options.Bucket,
    dry_run: DryRun = False,
    yes: Yes = False,
    no_wait: Annotated[
        bool,
        typer.Option(
            "--no-wait", help="Do not keep the queue for the 5 minutes in which S3 may still send to it."
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Stop watching a bucket; its history stays.

    It shows its plan first and asks. Versioning stays as it is, and so do all versions. A queue that still
    holds messages is kept: run it again when the worker has taken them.
    """
    from snapengine.buckets.disable import disable, plan_disable
    from snapengine.engine import Engine

    out = Output(as_json=as_json)
    _must_be_answered(out, dry_run=dry_run, yes=yes)
    engine = Engine()
    engine.store.check()
    with nullcontext() if dry_run else attempted(engine, out, "disable-bucket", bucket):
        plan = plan_disable(engine, bucket)
        _show_plan(out, plan)
    if not plan.steps:
        out.note(f"Bucket {bucket} is disabled: there is nothing to do.")
        if out.as_json and not dry_run:
            _tell_disabled(out, bucket, ())
    if dry_run or not plan.steps:
        return
    _agreed(out, yes=yes)
    with (
        audited(engine, out, "disable-bucket", bucket, detail=_in_words(plan)) as audit,
        out.progress() as display,
    ):
        moving = _Moving(out, display)
        done = asyncio.run(
            disable(engine, plan, wait=not no_wait, on_step=_telling(out), on_wait=moving.wait)
        )
        if done.kept:
            audit.detail += f"; kept: {' '.join(done.kept)}"
    if out.as_json:
        _tell_disabled(out, bucket, done.kept)
        return
    for text in done.kept:
        out.warn(text)
    out.line(f"Bucket {bucket} is disabled.")


def _tell_disabled(out: Output, bucket: str, kept: Sequence[str]) -> None:
    out.json({"event": "done", "bucket": bucket, "enabled": False, "kept": list(kept)})


def _must_be_answered(out: Output, *, dry_run: bool, yes: bool) -> None:
    if not (dry_run or yes or out.interactive):
        raise UsageError(
            "Nobody can be asked here: give --yes to go on unasked, or --dry-run to see the plan alone."
        )


def _agreed(out: Output, *, yes: bool) -> None:
    """Ask, unless told not to; end the command if the answer is no."""
    if not yes and not typer.confirm("Go on?", err=True):
        out.note("Nothing was changed.")
        raise typer.Exit(1)


def _show_plan(out: Output, plan: Plan | DisablePlan) -> None:
    if out.as_json:
        out.json({"event": "plan", **plan.as_dict()})
        return
    if plan.steps:
        out.line(out.paint(f"Plan for bucket {printable(plan.bucket)}:", BOLD))
    for number, step in enumerate(plan.steps, 1):
        out.line(f"  {number}. {printable(step.words)}")
    for warning in plan.warnings:
        out.line(f"{out.paint('Warning:', YELLOW)} {one_line(warning)}")


def _in_words(plan: Plan | DisablePlan) -> str:
    return "; ".join(step.words for step in plan.steps)


def _telling(out: Output) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        if out.as_json:
            out.json({"event": "step", "step": step.code, "words": step.words})
        else:
            # The plan has just given the reasons, in brackets and after colons.
            brief = step.words.replace(" (", ":").partition(":")[0]
            out.note(f"{out.paint_note('·', CYAN)} {printable(brief)}")

    return tell


def _baseline(engine: Engine, out: Output, bucket: str, wanted: Wanted) -> BaselineReport:
    from snapengine.buckets.baseline import run_baseline

    with out.progress() as display:
        moving = _Moving(out, display)

        def show(progress: BaselineProgress) -> None:
            if progress.phase == "waiting":
                moving.wait(progress.seconds_left)
            else:
                moving.count(progress.versions, progress.markers)

        return asyncio.run(
            run_baseline(engine, bucket, wait=wanted.wait, into=wanted.baseline, progress=show)
        )


class _Moving:
    """What moves while something takes long: a bar at a terminal, elsewhere one line for the wait."""

    def __init__(self, out: Output, display: Progress | None) -> None:
        self._out = out
        self._display = display
        self._task: TaskID | None = None
        self._longest = 0.0

    def wait(self, seconds: float) -> None:
        """So many seconds are left."""
        if not self._longest and self._display is None:
            self._out.note(f"Waiting {seconds / 60:.0f} min for AWS to apply it all (--no-wait skips that).")
        self._longest = max(self._longest, seconds)
        self._update(
            f"Waiting for AWS to apply it all, {seconds:.0f} s left",
            total=self._longest,
            completed=self._longest - seconds,
        )

    def count(self, versions: int, markers: int) -> None:
        """S3 does not tell how many there are: the bar has no end."""
        self._update(f"Listing: {_counted(versions, markers)}", total=None, completed=0)

    def _update(self, text: str, *, total: float | None, completed: float) -> None:
        if self._display is None:
            return
        if self._task is None:
            self._task = self._display.add_task(text, total=total)
        self._display.update(self._task, description=text, total=total, completed=completed)


def _counted(versions: int, markers: int) -> str:
    return f"{versions:,} versions, {markers:,} delete markers"


def _show_enabled(
    out: Output,
    bucket: str,
    config: BucketConfig | None,
    found: Sequence[str],
    report: BaselineReport | None,
) -> None:
    warnings = [*found, *(report.not_assured if report else ())]
    fields: dict[str, Any] = {
        "event": "done",
        "bucket": bucket,
        "enabled": True,
        "extractors": list(config.extractors) if config else [],
        "extractor_columns": dict(config.extractor_columns) if config else {},
        "warnings": warnings,
        "baseline": None,
    }
    if report is not None:
        fields["baseline"] = {
            "versions": report.versions,
            "markers": report.markers,
            "started": render(report.started),
            "ended": render(report.ended),
            "epoch": report.epoch,
            "archived": report.archived,
        }
    if out.as_json:
        out.json(fields)
        return
    for text in warnings:
        out.warn(text)
    out.line(f"Bucket {bucket} is enabled.")
    if report is not None:
        listed = _counted(report.versions, report.markers)
        out.line(f"Its history is complete from {render(report.ended)} on: {listed} were listed.")
        if report.archived:
            out.line(f"{report.archived:,} of them went straight into Parquet files of its archive.")
    if config and config.extractors:
        by = ", ".join(map(in_words, uses_of(config)))
        out.line(f"Metadata is extracted by {by}: keep `snapengine extract-worker` running.")
    out.note(f"Keep `snapengine worker` running; `snapengine status {bucket}` tells how it goes.")
