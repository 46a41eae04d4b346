"""`runs` and `runs note`: which MLflow runs saw which data, by the notes in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapengine.cli import options
from snapengine.cli.audit import audited
from snapengine.cli.help import Group
from snapengine.cli.output import Output, printable, version_fields
from snapengine.errors import BucketNotEnabled, UsageError
from snapengine.instants import render, to_millis

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.model import RunNote

LIST, NOTE = "list", "note"
LIST_EXAMPLES = """\
snapengine runs scans --since -30d
snapengine runs scans --digest sha256:0123456789abcdef0123456789abcdef
snapengine runs scans --key ct/0001.dcm --json
snapengine runs scans --key ct/0001.dcm --version 3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrH"""
NOTE_EXAMPLES = """\
snapengine runs note 0123456789abcdef0123456789abcdef 'snap://scans@2026-11-20T09:00:00.000Z~1234/ct/'"""


class Runs(Group):
    """`runs BUCKET` is `runs list BUCKET`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = [LIST, *args]
        return super().parse_args(ctx, args)


def list_(
    bucket: options.Bucket,
    digest: Annotated[
        str | None,
        typer.Option(
            "--digest",
            metavar="sha256:HEX",
            help="Runs that saw exactly this data; the first 32 digits, as MLflow shows them, are enough.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="K", help="Runs that saw any version of this object.", show_default=False
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version", metavar="ID", help="With --key: only this version of it.", show_default=False
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Runs that began then or later.", show_default=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the MLflow runs that saw a bucket's data, and exactly which.

    By the table alone: no tracking server is asked. Of a key every view that a run noted is looked into.
    """
    from snapengine.engine import Engine
    from snapengine.seen import runs_that_saw
    from snapengine.verify import digest_given

    if version is not None and key is None:
        raise UsageError("--version says which version of a --key.")
    engine, out = Engine(), Output(as_json=as_json)
    _known(engine, bucket)
    found = runs_that_saw(
        engine,
        bucket,
        digest=digest_given(digest) if digest is not None else None,
        key=key,
        version_id=version,
        since=to_millis(options.time_input(since), now=engine.clock()) if since is not None else None,
    )
    ordered = sorted(found, key=lambda seen: (seen.note.started_at, seen.note.run_id, seen.note.reference))
    if out.as_json:
        for seen in ordered:
            shown = {"versions": [version_fields(v) for v in seen.versions]} if key is not None else {}
            out.json(note_fields(seen.note) | shown)
        return
    rows = []
    for seen in ordered:
        versions = [" ".join(printable(each.version_id) for each in seen.versions)] if key is not None else []
        began = render(seen.note.started_at)
        rows.append((began, seen.note.run_id, *versions, printable(seen.note.reference)))
    out.table(("BEGAN", "RUN", *(["VERSION"] if key is not None else []), "REFERENCE"), rows)
    runs = len({seen.note.run_id for seen in ordered})
    out.note(f"{runs:,} {'run' if runs == 1 else 'runs'} of those that noted what they saw.")


def note(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The MLflow run's id.", show_default=False)],
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="The view that it saw.", show_default=False)
    ],
    context: Annotated[
        str | None,
        typer.Option(
            "--context", metavar="TEXT", help="What MLflow shows with it: training, say.", show_default=False
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Note in an MLflow run, and in the table, that it saw a view.

    For a run that another program made, or that could not note it itself. Noting it again changes nothing.
    """
    from snapengine import tracking
    from snapengine.engine import Engine

    engine, out = Engine(), Output(as_json=as_json)
    engine.store.check()
    view = engine.open_ref(reference)
    on_aws = engine.settings.store.startswith("dynamodb")
    with audited(
        engine, out, "runs note", f"{view.bucket} run:/{run}", detail=view.reference, ask_aws=on_aws
    ):
        noted = tracking.note(run, view, context=context).note
    if out.as_json:
        out.json(note_fields(noted))
        return
    out.line(
        f"Run {noted.run_id} saw {printable(noted.reference)}: {noted.objects:,} objects, {noted.digest}"
    )


def note_fields(noted: RunNote) -> dict[str, Any]:
    """A note as JSON shows it."""
    return {
        "run_id": noted.run_id,
        "bucket": noted.bucket,
        "name": noted.name,
        "reference": noted.reference,
        "digest": noted.digest or None,
        "objects": noted.objects,
        "bytes": noted.bytes,
        "query": noted.query,
        "started_at": render(noted.started_at),
        "noted_at": render(noted.noted_at),
        "experiment": noted.experiment,
        "tracking": noted.tracking,
    }


def _known(engine: Engine, bucket: str) -> None:
    """Raises `BucketNotEnabled` for a bucket that never was enabled, rather than find nothing."""
    engine.store.check()
    if engine.store.config(bucket) is None:
        raise BucketNotEnabled(
            f"Bucket {bucket} is not enabled in {engine.settings.store}. "
            f"Run `snapengine enable-bucket {bucket}`."
        )
