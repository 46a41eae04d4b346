"""`snapshot create`, `list`, `show` and `delete`: views with names, kept until somebody deletes the name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapengine.cli import options
from snapengine.cli.audit import attempted, audited
from snapengine.cli.options import SCHEME
from snapengine.cli.output import Output, printable
from snapengine.cli.views import open_view, show_completeness
from snapengine.errors import BucketNotEnabled, UsageError
from snapengine.instants import render

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.model import Snapshot

CREATE_EXAMPLES = """\
snapengine snapshot create scans baseline-2026 --at 2026-11-20
snapengine snapshot create scans train-7 --prefix ct/ --require verified --note "for paper 7" --label run=7
snapengine snapshot create scans release-2 --at snap://scans@2026-11-20T09:00:00.000Z~1234/ct/"""
LIST_EXAMPLES = """\
snapengine snapshot list scans"""
SHOW_EXAMPLES = """\
snapengine snapshot show scans baseline-2026 --json"""
DELETE_EXAMPLES = """\
snapengine snapshot delete scans baseline-2026 --confirm baseline-2026"""

PINS = "pin/"
"""`snapengine.pinning.PREFIX`: names that are not to be given or taken here."""
Name = Annotated[str, typer.Argument(metavar="NAME", help="The snapshot's name.", show_default=False)]


def create(
    bucket: options.Bucket,
    name: Name,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="The instant, or a snap:// reference; now if not given.",
            show_default=False,
        ),
    ] = None,
    prefix: options.Prefix = None,
    epoch: options.AsKnownAt = None,
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="What it is for.", show_default=False)
    ] = "",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="K=V", help="A label; may be repeated.", show_default=False),
    ] = None,
    require: options.Require = None,
    timeout: options.Timeout = 300,
    as_json: options.Json = False,
) -> None:
    """Name a view: its reference and its digest are kept.

    It copies nothing, and keeps nothing in S3 from being removed. A name that is taken is refused.
    """
    from snapengine.engine import Engine

    if name.startswith(PINS):
        raise UsageError(f"Names that begin with {PINS} are those of `snapengine pin`. Choose another.")
    labels, wanted = labels_of(label or ()), options.wanted(require, timeout)
    engine, out = Engine(), Output(as_json=as_json)
    action, target, on_aws = "snapshot create", _target(bucket, name), _on_aws(engine)
    engine.store.check()
    with attempted(engine, out, action, target, ask_aws=on_aws):
        if at is not None and at.startswith(SCHEME):
            view = open_view(engine, out, at, None, prefix, epoch, wanted)
            if view.bucket != bucket:
                raise UsageError(
                    f"{printable(at)} is a view of bucket {view.bucket}, not of {printable(bucket)}."
                )
        else:
            view = open_view(engine, out, bucket, at, prefix, epoch, wanted)
    with audited(engine, out, action, target, detail=view.reference, ask_aws=on_aws) as line:
        snapshot = engine.name_snapshot(view, name, creator=line.actor, note=note, labels=labels)
        line.detail = f"{snapshot.reference} {snapshot.digest}"
    _show(out, snapshot)
    show_completeness(out, view)


def list_(bucket: options.Bucket, as_json: options.Json = False) -> None:
    """List a bucket's snapshots, by name."""
    from snapengine.engine import Engine

    engine, out = Engine(), Output(as_json=as_json)
    _known(engine, bucket)
    found = engine.store.snapshots(bucket)
    if out.as_json:
        for snapshot in found:
            out.json(snapshot_fields(snapshot))
    elif found:
        out.table(
            ("NAME", "CREATED", "CREATOR", "REFERENCE"),
            [(each.name, render(each.created_at), each.creator, each.reference) for each in found],
        )
    else:
        out.note(f"Bucket {printable(bucket)} has no snapshots. Name one with `snapengine snapshot create`.")


def show(bucket: options.Bucket, name: Name, as_json: options.Json = False) -> None:
    """Show what a snapshot names, who named it, and why."""
    from snapengine.engine import Engine

    engine = Engine()
    _known(engine, bucket)
    _show(Output(as_json=as_json), engine.snapshot(bucket, name))


def delete(
    bucket: options.Bucket,
    name: Name,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", metavar="NAME", help="The same name once more.", show_default=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Forget a snapshot's name; no data is touched.

    Its name must be said twice. The view stays as it is: the audit log keeps its reference and digest.
    """
    from snapengine.engine import Engine

    if name.startswith(PINS):
        raise UsageError(
            f"{printable(name)} is a pin, and what it holds would stay held: `snapengine unpin` undoes it."
        )
    if confirm != name:
        raise UsageError(
            f"To delete a snapshot, say its name twice: `snapengine snapshot delete {printable(bucket)} "
            f"{printable(name)} --confirm {printable(name)}`. Nothing was deleted."
        )
    engine, out = Engine(), Output(as_json=as_json)
    action, target, on_aws = "snapshot delete", _target(bucket, name), _on_aws(engine)
    engine.store.check()
    with attempted(engine, out, action, target, ask_aws=on_aws):
        _known(engine, bucket)
        snapshot = engine.snapshot(bucket, name)
    detail = f"{snapshot.reference} {snapshot.digest}"
    with audited(engine, out, action, target, detail=detail, ask_aws=on_aws):
        engine.store.delete_snapshot(bucket, name)
    if out.as_json:
        out.json(snapshot_fields(snapshot) | {"deleted": True})
        return
    out.line(f"Snapshot {name} of bucket {bucket} is deleted.")
    out.note(f"What it named can still be had: {printable(snapshot.reference)}")


def snapshot_fields(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as JSON shows it."""
    return {
        "bucket": snapshot.bucket,
        "name": snapshot.name,
        "reference": snapshot.reference,
        "digest": snapshot.digest,
        "created_at": render(snapshot.created_at),
        "creator": snapshot.creator,
        "note": snapshot.note,
        "labels": dict(snapshot.labels),
    }


def labels_of(texts: Iterable[str]) -> dict[str, str]:
    """`K=V` texts. Raises `UsageError` for one without a key, or with one that is there already."""
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--label {printable(text)}: write KEY=VALUE.")
        if key in labels:
            raise UsageError(f"--label {printable(key)} is given twice.")
        labels[key] = value
    return labels


def _show(out: Output, snapshot: Snapshot) -> None:
    fields = snapshot_fields(snapshot)
    if out.as_json:
        out.json(fields)
        return
    labels = " ".join(f"{key}={value}" for key, value in sorted(snapshot.labels.items()))
    out.facts((name, str(value)) for name, value in (fields | {"labels": labels}).items() if value)


def _known(engine: Engine, bucket: str) -> None:
    """Raises `BucketNotEnabled` for a bucket that never was enabled, rather than find nothing."""
    engine.store.check()
    if engine.store.config(bucket) is None:
        raise BucketNotEnabled(
            f"Bucket {bucket} is not enabled in {engine.settings.store}. "
            f"Run `snapengine enable-bucket {bucket}`."
        )


def _target(bucket: str, name: str) -> str:
    return f"{bucket} {options.SNAPSHOT}{name}"


def _on_aws(engine: Engine) -> bool:
    return engine.settings.store.startswith("dynamodb")
