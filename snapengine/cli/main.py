"""The `snapengine` command: its options, its commands, and how every one of them ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

import snapengine
from snapengine.cli import (
    archive,
    buckets,
    dev,
    forget,
    get,
    history,
    pins,
    rebuild,
    reconcile,
    runs,
    snapshots,
    status,
    table,
    views,
)
from snapengine.cli.failures import Terminated, report, wants_json
from snapengine.cli.help import HELP_OPTIONS, Command, Group, Root
from snapengine.cli.options import TIMES, all_text

app = typer.Typer(
    name="snapengine",
    cls=Root,
    add_completion=False,
    rich_markup_mode=None,
    context_settings=HELP_OPTIONS,
    epilog=TIMES,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"snapengine {snapengine.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    debug: Annotated[  # noqa: ARG001  # read by `run`, where errors end
        bool,
        typer.Option("--debug", envvar="SNAPENGINE_DEBUG", help="Show the traceback of an error."),
    ] = False,
    version: Annotated[  # noqa: ARG001  # its callback does it
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Consistent, read-only views of S3 buckets at any past time."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


VIEWS, BUCKETS, RUN, TRY = "See the past", "Buckets", "Run", "Try it"
SNAPSHOT = "snapshot"
_COMMANDS: list[tuple[str, str, Any, str]] = [
    (VIEWS, "ls", views.ls, views.LS_EXAMPLES),
    (VIEWS, "get", get.get, get.EXAMPLES),
    (VIEWS, "slice", views.slice_, views.SLICE_EXAMPLES),
    (VIEWS, "diff", views.diff, views.DIFF_EXAMPLES),
    (VIEWS, "audit", history.audit, history.AUDIT_EXAMPLES),
    (VIEWS, "verify", history.verify, history.VERIFY_EXAMPLES),
    (VIEWS, "pin", pins.pin, pins.PIN_EXAMPLES),
    (VIEWS, "unpin", pins.unpin, pins.UNPIN_EXAMPLES),
    (BUCKETS, "enable-bucket", buckets.enable_bucket, buckets.ENABLE_EXAMPLES),
    (BUCKETS, "disable-bucket", buckets.disable_bucket, buckets.DISABLE_EXAMPLES),
    (BUCKETS, "reconcile", reconcile.reconcile, reconcile.EXAMPLES),
    (BUCKETS, "archive", archive.archive, archive.EXAMPLES),
    (BUCKETS, "forget", forget.forget, forget.EXAMPLES),
    (BUCKETS, "rebuild", rebuild.rebuild, rebuild.EXAMPLES),
    (BUCKETS, "status", status.status, status.EXAMPLES),
    (RUN, "init", table.init, table.INIT_EXAMPLES),
    (RUN, "audit-log", table.audit_log, table.AUDIT_EXAMPLES),
    (TRY, "dev", dev.dev, dev.DEV_EXAMPLES),
    (TRY, "demo", dev.demo, dev.DEMO_EXAMPLES),
]
_SNAPSHOT_COMMANDS: list[tuple[str, Any, str]] = [
    ("create", snapshots.create, snapshots.CREATE_EXAMPLES),
    ("list", snapshots.list_, snapshots.LIST_EXAMPLES),
    ("show", snapshots.show, snapshots.SHOW_EXAMPLES),
    ("delete", snapshots.delete, snapshots.DELETE_EXAMPLES),
]
_snapshot = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)


@_snapshot.callback(invoke_without_command=True)
def snapshot(context: typer.Context) -> None:
    """Give views names that last."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


_RUNS_COMMANDS: list[tuple[str, Any, str]] = [
    (runs.LIST, runs.list_, runs.LIST_EXAMPLES),
    (runs.NOTE, runs.note, runs.NOTE_EXAMPLES),
]
_runs = typer.Typer(cls=runs.Runs, add_completion=False, rich_markup_mode=None)


@_runs.callback(invoke_without_command=True)
def runs_(context: typer.Context) -> None:
    """Tell which MLflow runs saw which data."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _add(to: typer.Typer, name: str, function: Any, examples: str, section: str | None = None) -> None:
    to.command(name, cls=Command, epilog=examples, rich_help_panel=section, context_settings=HELP_OPTIONS)(
        function
    )


for _section, _name, _function, _examples in _COMMANDS:
    _add(app, _name, _function, _examples, _section)
for _name, _function, _examples in _SNAPSHOT_COMMANDS:
    _add(_snapshot, _name, _function, _examples)
for _name, _function, _examples in _RUNS_COMMANDS:
    _add(_runs, _name, _function, _examples)
app.add_typer(_snapshot, name=SNAPSHOT, rich_help_panel=VIEWS, context_settings=HELP_OPTIONS)
app.add_typer(_runs, name="runs", rich_help_panel=VIEWS, context_settings=HELP_OPTIONS)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. Whatever goes wrong is said on stderr, never raised."""
    given = list(arguments)
    context: Any = None
    try:
        all_text(given)
        command = typer.main.get_command(app)
        with command.make_context("snapengine", list(given)) as context:
            command.invoke(context)
        sys.stdout.flush()  # here, where a reader that has gone is told apart from a failure
    except typer.Exit as end:
        return end.exit_code
    except BaseException as error:  # noqa: BLE001  # the one place where every error ends
        debug = bool(context and context.params.get("debug"))
        name = (context.invoked_subcommand if context else None) or ""
        return report(error, command=f"snapengine {name}".rstrip(), as_json=wants_json(given), debug=debug)
    return 0


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a TextIOWrapper here
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def _terminate(*_: object) -> NoReturn:
    raise Terminated
