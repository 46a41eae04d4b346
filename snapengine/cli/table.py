"""`init` and `audit-log`: the table that holds the log, and who changed what."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from snapengine.cli import options
from snapengine.cli.audit import audited
from snapengine.cli.output import Output
from snapengine.instants import render, to_millis

INIT_EXAMPLES = """\
SNAPENGINE_STORE=dynamodb://snapengine snapengine init"""
AUDIT_EXAMPLES = """\
snapengine audit-log --since -7d
snapengine audit-log --json"""


def init(as_json: options.Json = False) -> None:
    """Create the table that holds the log.

    Safe to repeat: what is there already stays as it is.
    """
    from snapengine.engine import Engine

    engine = Engine()
    out = Output(as_json=as_json)
    store = engine.settings.store
    created = engine.store.create()
    if created:  # there is no place for an audit line before
        detail, on_aws = "; ".join(created), store.startswith("dynamodb")
        with audited(engine, out, "init", store, detail=detail, ask_aws=on_aws, started=False):
            pass
    if out.as_json:
        out.json({"store": store, "created": created})
        return
    for text in created:
        out.line(text)
    if not created:
        out.line(f"{store} is set up already.")


def audit_log(
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Only from this instant on.", show_default=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show who changed what, the oldest first.

    Every command that changes something leaves a line as it starts, and one of how it ended.
    """
    from snapengine.engine import Engine

    engine = Engine()
    out = Output(as_json=as_json)
    engine.store.check()
    start = to_millis(options.time_input(since), now=engine.clock()) if since is not None else 0
    records = engine.store.audit_log(start)
    if out.as_json:
        for record in records:
            out.json(asdict(record) | {"time": render(record.time)})
        return
    rows = [
        (
            render(record.time),
            record.outcome,
            record.actor,
            record.action,
            f"{record.target}  {record.detail}".rstrip(),
        )
        for record in records
    ]
    if rows:
        out.table(("TIME", "OUTCOME", "WHO", "WHAT", "TARGET"), rows)
    else:
        out.note("No command has changed anything" + (f" since {render(start)}." if since else " yet."))
