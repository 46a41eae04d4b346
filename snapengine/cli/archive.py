"""`archive`: put what the log holds into Parquet files, and see whether they are whole."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from snapengine.cli import options
from snapengine.cli.audit import audited
from snapengine.cli.output import Output, printable
from snapengine.cli.reconcile import interval_of
from snapengine.errors import ArchiveDamaged, Busy, SnapEngineError, TryAgain, UsageError
from snapengine.instants import render

if TYPE_CHECKING:
    from snapengine.archiving.checking import CheckReport
    from snapengine.archiving.making import ArchiveProgress
    from snapengine.archiving.run import ArchiveReport
    from snapengine.engine import Engine

EXAMPLES = """\
snapengine archive
snapengine archive scans --root s3://archives/snapengine --keep-days 30
snapengine archive --every 5m
snapengine archive scans --check"""

_KEEP_ALL = "all"

sleep = time.sleep
"""Between two rounds."""


class When(StrEnum):
    """What `--checkpoint` takes."""

    NOW = "now"
    AUTO = "auto"
    NEVER = "never"


def archive(
    bucket: Annotated[
        str | None,
        typer.Argument(
            metavar="BUCKET",
            help="The bucket's name; all that are enabled if not given.",
            callback=options.bucket_name,
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            "--every",
            metavar="TIME",
            help="Again so long after each start (5m, 6h, 1d), until Ctrl-C or SIGTERM.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="URL",
            help="Where to begin an archive: s3://BUCKET/PREFIX or file:///FOLDER; else SNAPENGINE_ARCHIVE.",
            show_default=False,
        ),
    ] = None,
    keep_days: Annotated[
        str | None,
        typer.Option(
            "--keep-days",
            metavar="N",
            help="From now on, let what is archived leave the table after N days; `all`: keep it.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        When, typer.Option("--checkpoint", help="Make a checkpoint now, when one is due, or never.")
    ] = When.AUTO,
    check: Annotated[
        bool, typer.Option("--check", help="Archive nothing: read every file, and name those not whole.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Put what the log holds into Parquet files, so that views are fast.

    No view changes by it. It may be stopped at any time, and run beside workers and readers.
    """
    from snapengine.engine import Engine
    from snapengine.settings import load_settings

    interval = interval_of(every) if every is not None else None
    days = _days(keep_days)
    engine = Engine(load_settings(archive=root) if root is not None else load_settings())
    out = Output(as_json=as_json)
    engine.store.check()
    if check:
        if any((every, root, keep_days)) or checkpoint is not When.AUTO:
            raise UsageError("--check archives nothing: give it alone, or with a BUCKET.")
        _check(engine, out, bucket)
        return
    command = _Command(engine, out, bucket, interval, days, checkpoint)
    with audited(
        engine, out, "archive", bucket or "all enabled buckets", detail=_detail(every, days)
    ) as line:
        line.detail = "; ".join(filter(None, [line.detail, command.run()]))


def _days(text: str | None) -> int | None:
    """0: keep all. None: as before."""
    if text is None or text == _KEEP_ALL:
        return None if text is None else 0
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 36_500):
        raise UsageError(f"--keep-days {printable(text)}: write a number of days from 1 on, or `all`.")
    return int(text)


def _detail(every: str | None, days: int | None) -> str:
    said = [f"every {every}"] if every is not None else []
    if days is not None:
        said.append(f"keep {days} days" if days else "keep all")
    return "; ".join(said)


class _Command:
    """Rounds on one bucket or on all."""

    def __init__(
        self,
        engine: Engine,
        out: Output,
        bucket: str | None,
        interval: int | None,
        days: int | None,
        checkpoint: When,
    ) -> None:
        self._engine = engine
        self._out = out
        self._bucket = bucket
        self._interval = interval
        self._days = days
        self._checkpoint = checkpoint

    def run(self) -> str:
        """What to say of it in the audit log."""
        due = time.monotonic()
        while True:
            reports = self._round()
            if self._interval is None:
                return "; ".join(f"{r.bucket}: {r.observations:,} observations" for r in reports)
            sys.stdout.flush()  # whoever reads the pipe is not to wait for the next round
            now = time.monotonic()
            due = max(due + self._interval, now)  # a round that took longer is followed by the next at once
            sleep(due - now)

    def _round(self) -> list[ArchiveReport]:
        """One on each bucket. One's failure is not the next one's; without `--every`, it is the end's."""
        reports: list[ArchiveReport] = []
        failures: list[tuple[str, Exception]] = []
        buckets = self._buckets()
        for bucket in buckets:
            try:
                reports.append(self._archive(bucket))
            except Exception as error:  # noqa: BLE001  # whatever it is, the other buckets have their turns
                failures.append((bucket, error))
                continue
            _show(self._out, reports[-1])
        lasting = [error for _, error in failures if not isinstance(error, TryAgain | Busy | OSError)]
        if failures and (self._interval is None or len(lasting) == len(buckets)):
            for bucket, failure in failures[1:]:
                self._out.warn(f"Bucket {bucket} was not archived either ({_code(failure)}): {failure}")
            raise failures[0][1]
        for bucket, failure in failures:
            self._out.warn(
                f"The round on {bucket} ended early ({_code(failure)}): {failure} The next goes on."
            )
        return reports

    def _buckets(self) -> Sequence[str]:
        from snapengine.archiving.run import enabled_buckets

        if self._bucket is not None:
            return [self._bucket]
        found = enabled_buckets(self._engine)
        if not found:
            self._out.note("No bucket is enabled yet. Enable one with `snapengine enable-bucket BUCKET`.")
        return found

    def _archive(self, bucket: str) -> ArchiveReport:
        from snapengine.archiving.run import archive_bucket

        with self._out.progress() as display:
            task = display.add_task(f"Archiving {bucket}", total=None) if display is not None else None

            def show(progress: ArchiveProgress) -> None:
                if display is not None and task is not None:
                    text = f"Archiving {bucket}: {progress.step} {progress.rows:,} observations"
                    display.update(task, description=text, completed=progress.rows, total=progress.of)

            report = asyncio.run(
                archive_bucket(
                    self._engine,
                    bucket,
                    every=self._interval,
                    checkpoints=self._checkpoint is not When.NEVER,
                    checkpoint_now=self._checkpoint is When.NOW,
                    keep_days=self._days,
                    progress=show,
                )
            )
        if self._checkpoint is When.NOW and report.checkpoint is None:
            self._out.warn(
                f"No checkpoint of {bucket} was made: its baseline has not ended, or the last archived epoch "
                "has one."
            )
        return report


def _code(error: Exception) -> str:
    return error.code if isinstance(error, SnapEngineError) else type(error).__name__


def _show(out: Output, report: ArchiveReport) -> None:
    if out.as_json:
        instants = {"epoch_time", "checkpoint", "differential"}
        out.json({n: render(v) if n in instants and v is not None else v for n, v in asdict(report).items()})
        return
    if report.epoch_time is None:
        out.line(f"Bucket {report.bucket} has no epoch yet: there is nothing to archive.")
        return
    out.line(
        f"Bucket {report.bucket} is archived up to epoch {report.epoch:,} of {render(report.epoch_time)}, "
        f"at {printable(report.root)}."
    )
    for phrase in _phrases(report):
        out.line(f"  {phrase}")


def _phrases(report: ArchiveReport) -> Iterator[str]:
    from snapengine.notebook import human_bytes

    if report.segments:
        held = [f"{report.observations:,} observations"] if report.observations or not report.rows else []
        held += [f"{report.rows:,} rows of metadata"] if report.rows else []
        yield f"{' and '.join(held)} in {_count(report.segments, 'new segment')}"
    if report.checkpoint is not None:
        yield f"a checkpoint of {render(report.checkpoint)}"
    if report.differential is not None:
        yield f"a differential of {render(report.differential)}"
    if report.compacted:
        yield f"{_count(report.compacted, 'segment')} put together from shorter ones"
    if report.selections:
        yield f"{_count(report.selections, 'narrowed view')} copied"
    if report.bytes:
        yield f"{human_bytes(report.bytes)} written"
    if report.let_go:
        yield f"{report.let_go:,} observations leave the table in a day"
    if report.stubs:
        yield f"{_count(report.stubs, 'log entry', 'log entries')} emptied, as the archive has them"
    if report.swept:
        yield f"{_count(report.swept, 'file')} swept that nothing needs, {human_bytes(report.swept_bytes)}"


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


# Checking


def _check(engine: Engine, out: Output, bucket: str | None) -> None:
    if bucket is not None:
        names = [bucket]
    else:
        names = [config.bucket for config in engine.store.buckets() if config.archive is not None]
    if not names:
        out.note("No bucket has an archive yet. `snapengine archive` makes them.")
    reports = [_check_one(engine, out, name) for name in names]
    if damaged := [f"{r.root}/{path}" for r in reports for path in r.damaged]:
        raise ArchiveDamaged(
            f"{len(damaged):,} of {_count(sum(r.files for r in reports), 'file')} not as written: "
            f"{', '.join(damaged)}. Restore each from a copy or an earlier version of the object."
        )


def _check_one(engine: Engine, out: Output, bucket: str) -> CheckReport:
    from snapengine.archiving.checking import check_archive
    from snapengine.notebook import human_bytes

    with out.progress("[progress.percentage]{task.percentage:>3.0f}%") as display:
        task = display.add_task(f"Checking {bucket}", total=None) if display is not None else None

        def show(done: int, total: int) -> None:
            if display is not None and task is not None:
                display.update(task, completed=done, total=total)

        report = check_archive(engine, bucket, show)
    if out.as_json:
        out.json({**asdict(report), "damaged": dict(report.damaged)})
        return report
    whole = "all whole" if not report.damaged else f"{len(report.damaged):,} NOT as written"
    out.line(f"Bucket {bucket}: {_count(report.files, 'file')}, {human_bytes(report.bytes)}, {whole}.")
    for how in report.damaged.values():
        out.line(f"  {printable(how)}")
    return report
