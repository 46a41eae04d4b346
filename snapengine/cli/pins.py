"""`pin` and `unpin`: hold a view's versions in S3 by legal hold, and let go of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from snapengine.cli import options
from snapengine.cli.audit import audited
from snapengine.cli.history import noted_by
from snapengine.cli.output import Output, printable
from snapengine.errors import UsageError
from snapengine.run_notes import run_named

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.pinning import Pinned
    from snapengine.views import View

PIN_EXAMPLES = """\
snapengine pin snap://scans@2026-11-20T09:00:00.000Z~1234/ct/
snapengine pin run:/0123456789abcdef0123456789abcdef"""
UNPIN_EXAMPLES = """\
snapengine unpin snap://scans@2026-11-20T09:00:00.000Z~1234/ct/"""

Pinnable = Annotated[
    str,
    typer.Argument(
        metavar="REFERENCE", help="A snap:// reference, or run:/ID: all that a run saw.", show_default=False
    ),
]


def pin(reference: Pinnable, as_json: options.Json = False) -> None:
    """Hold a view's versions in S3 by legal hold, where Object Lock is on.

    Until `unpin` nobody can remove them. One request a version; it may be repeated, also where it was
    interrupted. The exit code is 1 if S3 no longer has some of them.
    """
    from snapengine.pinning import pin as hold

    _each(reference, as_json, "pin", lambda engine, view, actor: hold(engine, view, creator=actor))


def unpin(reference: Pinnable, as_json: options.Json = False) -> None:
    """Let go of a pinned view's versions.

    Those that another pin shows, or that somebody else held before, stay held. No data is touched.
    """
    from snapengine.pinning import unpin as release

    _each(reference, as_json, "unpin", lambda engine, view, _: release(engine, view))


def _each(reference: str, as_json: bool, action: str, act: Callable[[Engine, View, str], Pinned]) -> None:
    from snapengine.engine import Engine

    engine, out = Engine(), Output(as_json=as_json)
    engine.store.check()
    on_aws = engine.settings.store.startswith("dynamodb")
    missing = 0
    for view in _views(engine, reference):
        with audited(engine, out, action, view.bucket, detail=view.reference, ask_aws=on_aws) as line:
            done = act(engine, view, line.actor)
            line.detail = f"{done.reference}: {done.changed} changed, {done.left} left, {len(done.gone)} gone"
        missing += len(done.gone)
        _show(out, action, done)
    if missing and action == "pin":
        raise typer.Exit(1)


def _views(engine: Engine, reference: str) -> list[View]:
    run_id = run_named(reference)
    if run_id is None:
        if not reference.startswith(options.SCHEME):
            raise UsageError(f"{printable(reference)}: give a snap:// reference, or run:/ID.")
        view = engine.open_ref(reference)
        if view.reference != reference:
            raise UsageError(
                f"{printable(reference)} names no epoch. Now it is {printable(view.reference)}: give that."
            )
        return [view]
    found = [engine.open_ref(note.reference) for note in noted_by(engine, run_id)]
    return [view for view in found if view.ref.versions == "last"]


def _show(out: Output, action: str, done: Pinned) -> None:
    if out.as_json:
        for version in done.gone:
            out.json({"event": "gone", "key": version.key, "version_id": version.version_id})
        out.json(
            {
                "event": "done",
                "reference": done.reference,
                "changed": done.changed,
                "left": done.left,
                "gone": len(done.gone),
            }
        )
        return
    said = "held" if action == "pin" else "let go"
    out.line(f"{printable(done.reference)}: {done.changed:,} versions {said}")
    if done.left:
        out.note(f"{done.left:,} are held by somebody else or by another pin, and were left as they are.")
    for version in done.gone:
        out.line(f"gone  {printable(version.version_id)}  {printable(version.key)}")
