"""`audit` and `verify`: what of a view is gone by what the log knows, and whether S3 still has it all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from snapengine.cli import options
from snapengine.cli.options import SCHEME, SNAPSHOT
from snapengine.cli.output import DIM, GREEN, RED, Output, one_line, printable
from snapengine.cli.views import open_view
from snapengine.errors import NoSuchRun, TryAgain, UsageError
from snapengine.instants import render
from snapengine.run_notes import run_named

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.model import RunNote
    from snapengine.verify import Difference
    from snapengine.views import View

AUDIT_EXAMPLES = """\
snapengine audit scans --at 2026-11-20
snapengine audit scans --at snapshot:baseline-2026 --json
snapengine audit snap://scans@2026-11-20T09:00:00.000Z~1234/ct/"""
VERIFY_EXAMPLES = """\
snapengine verify scans --snapshot baseline-2026
snapengine verify scans --snapshot baseline-2026 --bytes
snapengine verify snap://scans@2026-11-20T09:00:00Z~1234/ --digest sha256:0123456789abcdef0123456789abcdef
snapengine verify snap://scans@2026-11-20T09:00:00.000Z~1234/ct/ --bytes --json
snapengine verify run:/0123456789abcdef0123456789abcdef --bytes"""

_ANY_LEVEL = options.wanted(None, 0.0)


def audit(
    bucket: options.BucketOrReference,
    at: options.At = None,
    prefix: options.Prefix = None,
    epoch: options.AsKnownAt = None,
    as_json: options.Json = False,
) -> None:
    """List what of a view is gone from S3, since when and why.

    By what the log knows now, without asking S3. The exit code is 0 whether anything is gone or not.
    """
    from snapengine.engine import Engine

    out = Output(as_json=as_json)
    view = open_view(Engine(), out, bucket, at, prefix, epoch, _ANY_LEVEL)
    gone = view.audit()
    if out.as_json:
        for each in gone:
            out.json(
                {
                    "key": each.key,
                    "version_id": each.version_id,
                    "since": render(each.since),
                    "why": each.why,
                }
            )
        return
    out.table(
        ("GONE SINCE", "VERSION", "WHY", "KEY"),
        [(render(each.since), each.version_id, each.why, each.key) for each in gone],
    )
    reference = printable(view.reference)
    out.note(f"Gone, by what the log knows: {len(gone):,} of {_counted(len(view))} of {reference}.")
    if gone or len(view):
        out.note(f"S3 was not asked: `snapengine verify '{reference}' --bytes` does.")


def verify(
    bucket: options.BucketReferenceOrRun,
    snapshot: Annotated[
        str | None,
        typer.Option(
            "--snapshot",
            metavar="NAME",
            help="The snapshot of BUCKET; its digest is compared.",
            show_default=False,
        ),
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option(
            "--digest",
            metavar="sha256:HEX",
            help="The digest that a reference had; its first 32 digits are enough.",
            show_default=False,
        ),
    ] = None,
    with_bytes: Annotated[
        bool,
        typer.Option("--bytes", help="Ask S3 for every version, and compare ETag and size; reads no bytes."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Check that a view is what it was, and that S3 still has it.

    It resolves the view again and compares digests; with --bytes it asks S3 for each version. Of run:/ID it
    does so for every view that the run noted. The exit code is 1 if anything differs.
    """
    from snapengine.engine import Engine
    from snapengine.verify import digest_given

    expected = digest_given(digest) if digest is not None else None
    engine, out = Engine(), Output(as_json=as_json)
    if (run_id := run_named(bucket)) is not None:
        if snapshot is not None or expected is not None:
            raise UsageError("The digests that a run noted are known: write `snapengine verify run:/ID`.")
        notes = noted_by(engine, run_id)
        checked = [
            _verified(
                engine,
                out,
                open_view(engine, out, note.reference, None, None, None, _ANY_LEVEL),
                note.digest or None,
                with_bytes=with_bytes,
            )
            for note in notes
        ]
        if not all(note.digest for note in notes):
            out.warn("Of some views no digest was noted, so that they are the same was not checked.")
        if not all(checked):
            raise typer.Exit(1)
        return
    if bucket.startswith(SCHEME):
        if snapshot is not None:
            raise UsageError(
                "A reference has no snapshots: write `snapengine verify BUCKET --snapshot NAME`."
            )
        if expected is None and not with_bytes:
            raise UsageError(
                "There is nothing to compare with: give --digest sha256:... as it was printed when the view "
                "was made, or --bytes to ask S3 for each version."
            )
        view = open_view(engine, out, bucket, None, None, None, _ANY_LEVEL)
    else:
        if snapshot is None or expected is not None:
            raise UsageError(
                "Write `snapengine verify BUCKET --snapshot NAME`, whose digest is known, or "
                "`snapengine verify REFERENCE --digest sha256:...`."
            )
        engine.store.check()
        expected = engine.snapshot(bucket, snapshot).digest
        view = open_view(engine, out, bucket, SNAPSHOT + snapshot, None, None, _ANY_LEVEL)
    if not _verified(engine, out, view, expected, with_bytes=with_bytes):
        raise typer.Exit(1)


def noted_by(engine: Engine, run_id: str) -> list[RunNote]:
    """What a run noted. Raises `NoSuchRun` for one that noted nothing: that is not to be in order."""
    from snapengine.replaying import notes_of

    engine.store.check()
    notes = notes_of(engine, run_id)
    if not notes:
        raise NoSuchRun(f"Run {run_id} has noted no view. `snapengine runs note` notes one by hand.")
    return notes


def _verified(engine: Engine, out: Output, view: View, expected: str | None, *, with_bytes: bool) -> bool:
    """Compare, ask, and show; whether all is as it was."""
    from snapengine.verify import same_digest

    found = view.digest()
    same = expected is None or same_digest(expected, found)
    _show_digest(out, view, expected, found, same=same)
    differing = _ask_s3(engine, out, view) if with_bytes else None
    if out.as_json:
        out.json(
            {
                "event": "done",
                "reference": view.reference,
                "objects": len(view),
                "digest": found,
                "expected": expected,
                "digest_matches": same if expected is not None else None,
                "asked": len(view) if with_bytes else 0,
                "differences": differing,
            }
        )
    return same and not differing


def _show_digest(out: Output, view: View, expected: str | None, found: str, *, same: bool) -> None:
    if out.as_json:
        return
    out.line(f"{printable(view.reference)}: {_counted(len(view))}, {found}")
    if expected is None:
        return
    if same:
        out.line(out.paint("The digest is the same.", GREEN))
        return
    out.line(out.paint(f"The digest is another: it was {expected}.", RED))
    out.note(
        "The view lists other objects than it did: it is not the reference that this digest was taken of "
        "(without an epoch, what was learned since counts too), or the log has been changed."
    )


def _ask_s3(engine: Engine, out: Output, view: View) -> int:
    """Ask S3 for each version, and show those that differ: how many."""
    found: list[Difference] = []
    try:
        for difference in _with_progress(engine, out, view):
            found += [difference] if difference else []
    except TryAgain:
        _show_differences(out, found)  # what was found is worth knowing all the same
        raise
    _show_differences(out, found)
    objects = _counted(len(view))
    if found:
        kinds = Counter(each.kind for each in found)
        said = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        out.note(out.paint_note(f"{len(found):,} of {objects} cannot be had as they were: {said}.", RED))
    elif not out.as_json:
        out.line(out.paint(f"S3 has all of it: {objects}, each with its ETag and size.", GREEN))
    return len(found)


def _with_progress(engine: Engine, out: Output, view: View) -> Iterator[Difference | None]:
    from snapengine.verify import differences

    with out.progress() as progress:
        task = progress.add_task("Asking S3", total=len(view)) if progress is not None else None
        for difference in differences(engine, view):
            if progress is not None and task is not None:
                progress.advance(task)
            yield difference


def _show_differences(out: Output, found: list[Difference]) -> None:
    if out.as_json:
        for each in found:
            out.json(
                {
                    "event": "difference",
                    "kind": each.kind,
                    "key": each.key,
                    "version_id": each.version_id,
                    "since": render(each.since) if each.since is not None else None,
                    "detail": each.detail,
                }
            )
        return
    width = max((len(each.version_id) for each in found), default=0)
    for each in found:
        kind = out.paint(f"{each.kind:<10}", RED)
        detail = out.paint(f"({one_line(each.detail)})", DIM)
        out.line(f"{kind}  {printable(each.version_id):<{width}}  {printable(each.key)}  {detail}")


def _counted(count: int) -> str:
    return "1 object" if count == 1 else f"{count:,} objects"
