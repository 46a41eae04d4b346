"""`ls`, `slice` and `diff`: what was where, and what changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapengine.cli import options
from snapengine.cli.audit import at_level
from snapengine.cli.options import SCHEME, SNAPSHOT
from snapengine.cli.output import (
    CYAN,
    DIM,
    GREEN,
    LEVEL_COLOURS,
    RED,
    YELLOW,
    Output,
    printable,
    version_fields,
)
from snapengine.errors import UsageError
from snapengine.instants import TimeInput, render, to_millis
from snapengine.model import Level
from snapengine.reference import parse_reference
from snapengine.run_notes import RUN, run_named

if TYPE_CHECKING:
    import pyarrow as pa

    from snapengine.diff import Change
    from snapengine.engine import Engine
    from snapengine.model import ObjectVersion, RunNote
    from snapengine.views import Listing, View

LISTED_MARK = "~"

LS_EXAMPLES = """\
snapengine ls scans --at 2026-11-20T09:00:00Z --prefix ct/
snapengine ls scans --at -24h --delimiter /
snapengine ls snap://scans@2026-11-20T09:00:00.000Z~1234/ct/ --json
snapengine ls scans --at snapshot:baseline-2026 --summary
snapengine ls scans --at -1h --require verified"""
SLICE_EXAMPLES = """\
snapengine slice scans --start 2026-11-19 --end 2026-11-20
snapengine slice scans --start -7d --versions all --json"""
DIFF_EXAMPLES = """\
snapengine diff scans --from -7d
snapengine diff scans --from 2026-11-19 --to 2026-11-20 --prefix ct/
snapengine diff scans --from snapshot:baseline-2026 --to snapshot:release-2
snapengine diff snap://scans@2026-11-20T09:00:00.000Z~1234/ snap://scans@2026-11-20T09:00:00.000Z~1301/
snapengine diff run:/0123456789abcdef0123456789abcdef run:/fedcba9876543210fedcba9876543210"""


def ls(
    bucket: options.BucketOrReference,
    at: options.At = None,
    prefix: options.Prefix = None,
    epoch: options.AsKnownAt = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            metavar="D",
            help="Roll keys up into common prefixes, as folders (D is mostly /).",
            show_default=False,
        ),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Not the objects: reference, count, bytes, digest and level.")
    ] = False,
    require: options.Require = None,
    timeout: options.Timeout = 300,
    as_json: options.Json = False,
) -> None:
    """List a bucket as it was at an instant."""
    from snapengine.engine import Engine

    if delimiter is not None and (summary or not delimiter):
        raise UsageError("--delimiter wants a text such as /, and cannot go with --summary.")
    wanted = options.wanted(require, timeout)
    out = Output(as_json=as_json)
    view = open_view(Engine(), out, bucket, at, prefix, epoch, wanted)
    if summary:
        show_summary(out, view)
    elif delimiter is not None:
        show_level(out, view, view.list(view.prefix if prefix is None else prefix, delimiter))
    else:
        show_rows(out, view)


def slice_(
    bucket: options.Bucket,
    start: Annotated[
        str, typer.Option("--start", metavar="TIME", help="The first instant.", show_default=False)
    ],
    end: Annotated[
        str | None,
        typer.Option(
            "--end", metavar="TIME", help="The instant after the last; now if not given.", show_default=False
        ),
    ] = None,
    prefix: options.Prefix = None,
    epoch: options.AsKnownAt = None,
    versions: Annotated[
        str,
        typer.Option(
            "--versions",
            metavar="last|all",
            help="Of each key the state at the end, or every version and what became of it.",
        ),
    ] = "last",
    require: options.Require = None,
    timeout: options.Timeout = 300,
    as_json: options.Json = False,
) -> None:
    """List what was ingested between two instants.

    The first is included, the second is not.
    """
    from snapengine.engine import Engine

    if versions not in {"last", "all"}:
        raise UsageError(f"--versions {versions}: it is `last` or `all`.")
    wanted = options.wanted(require, timeout)
    out = Output(as_json=as_json)
    engine = Engine()
    now = engine.clock()

    def make(level: Level) -> View:
        return engine.slice(
            bucket,
            _instant(start, now),
            _instant(end or "now", now),
            prefix=prefix or "",
            epoch=options.epoch_input(epoch),
            versions=versions,  # type: ignore[arg-type]  # checked above
            require=level,
            timeout=wanted["timeout"],
        )

    with waiting(out, wanted):
        fixed = epoch is not None or _names_a_view(end or "now")
        view = at_level(engine, out, make, wanted["require"], fixed=fixed)
    show_rows(out, view)


def diff(
    bucket: options.BucketReferenceOrRun,
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="REFERENCE",
            help="The view to compare with, if the first is a reference (or a run) too.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="The earlier instant.", show_default=False)
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="The later instant; now if not given.", show_default=False),
    ] = None,
    prefix: options.Prefix = None,
    epoch: options.AsKnownAt = None,
    require: options.Require = None,
    timeout: options.Timeout = 300,
    as_json: options.Json = False,
) -> None:
    """Show what changed between two instants or views.

    + added, ~ changed, - removed. The exit code is 0 whether anything changed or not.
    """
    from snapengine.engine import Engine

    engine, out = Engine(), Output(as_json=as_json)
    wanted = options.wanted(require, timeout)
    if run_named(bucket) is not None:
        if run_named(reference) is None or any((start, end, prefix, epoch)):
            raise UsageError(
                "A run is compared with a run, without options: `snapengine diff run:/ID run:/ID`."
            )
        _diff_runs(engine, out, bucket, str(reference), wanted)
        return
    if bucket.startswith(SCHEME):
        if reference is None or not reference.startswith(SCHEME) or any((start, end, prefix, epoch)):
            raise UsageError(
                "A reference is compared with a reference, without options: "
                "`snapengine diff REFERENCE REFERENCE`."
            )
        before = open_view(engine, out, bucket, None, None, None, wanted)
        after = open_view(engine, out, reference, None, None, None, wanted)
    else:
        if reference is not None or start is None:
            raise UsageError(f"Write `snapengine diff {printable(bucket)} --from TIME [--to TIME]`.")
        before, after = _two_views(engine, out, bucket, (start, end or "now"), prefix, epoch, wanted)
    _show_diff(out, before, after)


def _show_diff(out: Output, before: View, after: View) -> None:
    found = before.diff(after)
    for change in found:
        _show_change(out, change)
    out.note(f"{found}: from {printable(found.before)} to {printable(found.after)}")


def _diff_runs(engine: Engine, out: Output, before: str, after: str, wanted: options.Wanted) -> None:
    """View by view, those of one name; of a name that one run alone has, that is said."""
    from snapengine.cli.history import noted_by

    told = [{n.name: n for n in noted_by(engine, str(run_named(run)))} for run in (before, after)]
    for name in sorted({*told[0], *told[1]}):
        first, second = (of_run.get(name) for of_run in told)
        if first is not None and second is not None:
            _diff_notes(engine, out, (first, second), wanted)
        elif first is not None:
            _show_only(out, before, first)
        elif second is not None:
            _show_only(out, after, second)


def _diff_notes(engine: Engine, out: Output, notes: tuple[RunNote, RunNote], wanted: options.Wanted) -> None:
    first, second = (open_view(engine, out, n.reference, None, None, None, wanted) for n in notes)
    if first.ref.versions == "last":
        _show_diff(out, first, second)
        return
    said = "the same" if first.digest() == second.digest() else "not the same"
    out.note(f"All versions of {printable(notes[0].name)}: {said}.")


def _show_only(out: Output, run: str, note: RunNote) -> None:
    if out.as_json:
        out.json({"event": "only", "run": run, "name": note.name, "reference": note.reference})
    else:
        out.line(f"Only {run} saw {printable(note.reference)}")


def _two_views(
    engine: Engine,
    out: Output,
    bucket: str,
    times: tuple[str, str],
    prefix: str | None,
    epoch: str | None,
    wanted: options.Wanted,
) -> tuple[View, View]:
    """The views of two instants: at one epoch, as what was learned in between is no change of the bucket.

    A named snapshot keeps its own epoch, and its prefix holds for the other view too: what it does not
    cover has not been added or removed.
    """

    def view_of(time: str, prefix: str | None, epoch: str | None) -> View:
        return open_view(engine, out, bucket, time, prefix, epoch, wanted)

    named = [time for time in times if time.startswith((SNAPSHOT, RUN))]
    if named:
        if prefix is None:
            prefix = max((view_of(time, None, epoch).prefix for time in named), key=len)
        return view_of(times[0], prefix, epoch), view_of(times[1], prefix, epoch)
    now = engine.clock()  # read once, so that two equal times are one instant
    start, end = (render(to_millis(options.time_input(time), now=now)) for time in times)
    # The later one first: an epoch that knows enough of it for its level knows enough of the other.
    later = view_of(max(start, end), prefix, epoch)
    earlier = view_of(min(start, end), prefix, str(later.epoch))
    return (earlier, later) if start <= end else (later, earlier)


def open_view(
    engine: Engine,
    out: Output,
    target: str,
    at: str | None,
    prefix: str | None,
    epoch: str | None,
    wanted: options.Wanted,
) -> View:
    """The view that BUCKET and its options name, or the one that a reference in its place names."""
    if target.startswith(SCHEME) and (at, prefix, epoch) != (None, None, None):
        raise UsageError("A reference says its time, prefix and epoch itself: leave out the options.")
    at, now = "now" if at is None else at, engine.clock()

    def make(level: Level) -> View:
        how: options.Wanted = {"require": level, "timeout": wanted["timeout"]}
        if target.startswith(SCHEME):
            return engine.open_ref(target, **how)
        epochs = options.epoch_input(epoch)
        return engine.view(target, _instant(at, now), prefix=prefix or "", epoch=epochs, **how)

    fixed = epoch is not None or _names_a_view(at) or _has_an_epoch(target)
    with waiting(out, wanted):
        return at_level(engine, out, make, wanted["require"], fixed=fixed)


def _has_an_epoch(target: str) -> bool:
    return target.startswith(SCHEME) and parse_reference(target).epoch is not None


def _names_a_view(time: str) -> bool:
    """Whether a time is one with an epoch of its own."""
    return time.startswith((SNAPSHOT, RUN))


def _instant(time: str, now: int) -> TimeInput:
    """A time as given, but what is counted from now as the instant that it is: one for every try."""
    if time == "now" or time.startswith("-"):
        return to_millis(options.time_input(time), now=now)
    return options.time_input(time)


@contextmanager
def waiting(out: Output, wanted: options.Wanted) -> Iterator[None]:
    """While inside, somebody at a terminal sees what is waited for."""
    if wanted["require"] == "provisional":
        yield
        return
    with out.progress() as progress:
        if progress is not None:
            progress.add_task(f"Waiting until it is {wanted['require']}", total=None)
        yield


class Totals:
    """Counts a view's rows as they pass, in whatever columns they come."""

    def __init__(self) -> None:
        self.objects = 0
        self.bytes = 0
        self.listed = False

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow.compute as pc

        for batch in batches:
            self.objects += batch.num_rows
            self.bytes += pc.sum(batch["size"]).as_py() or 0
            self.listed = self.listed or bool(pc.any(pc.equal(batch["time"], "listed")).as_py())
            yield batch

    @classmethod
    def all_of(cls, view: View) -> Totals:
        totals = cls()
        for _ in totals.of(view.to_batches(["size", "time"])):
            pass
        return totals


def show_summary(out: Output, view: View) -> None:
    """What the view is, and what it holds, without its rows."""
    level = view.completeness
    totals = Totals.all_of(view)
    fields: dict[str, Any] = {
        "reference": view.reference,
        "bucket": view.bucket,
        "prefix": view.prefix,
        "at": render(view.ref.at),
        "epoch": view.epoch,
        "objects": totals.objects,
        "bytes": totals.bytes,
        "digest": view.digest(),
        "level": level.level,
        "history": level.history,
        "reason": level.reason,
    }
    if out.as_json:
        out.json(fields)
    else:
        out.facts((name, str(value)) for name, value in fields.items())


def show_rows(out: Output, view: View) -> None:
    """Every row of a view or slice, with its fate if all versions are shown; on stderr what it is."""
    import pyarrow as pa

    from snapengine.bulkfold import versions_of

    totals, width = Totals(), None
    with_fate = view.ref.versions == "all"
    for batch in totals.of(view.to_batches()):
        fates = (str(value) for value in batch["became"]) if with_fate else repeat("")
        rows = zip(versions_of(pa.Table.from_batches([batch])), fates, strict=False)
        if out.as_json:
            for version, became in rows:
                out.json(version_fields(version) | ({"became": became} if became else {}))
            continue
        if width is None:
            width = _header(out, _width(batch["version_id"]), with_fate=with_fate)
        _text_rows(out, rows, width)
    _footer(out, view, totals)


def show_level(out: Output, view: View, listing: Listing) -> None:
    """One level of a view: common prefixes first, as folders, then objects."""
    if out.as_json:
        for prefix in listing.prefixes:
            out.json({"prefix": prefix})
        for version in listing.objects:
            out.json(version_fields(version))
        return
    for prefix in listing.prefixes:
        out.line(out.paint(printable(prefix), CYAN))
    if listing.objects:
        width = _header(out, max(len(version.version_id) for version in listing.objects))
        _text_rows(out, ((version, "") for version in listing.objects), width)
    _footer(out, view, Totals.all_of(view))


def _width(column: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.max(pc.utf8_length(column)).as_py() or 0)


def _header(out: Output, width: int, *, with_fate: bool = False) -> int:
    """On a terminal the columns' names. Returns the width of the versions' column."""
    if out.terminal:
        width = max(width, len("VERSION"))
        fate = f"  {'BECAME':<10}" if with_fate else ""
        out.line(out.paint(f"{'SIZE':>10}  {'EVENT TIME':<25}  {'VERSION':<{width}}{fate}  KEY", DIM))
    return width


def _text_rows(out: Output, rows: Iterable[tuple[ObjectVersion, str]], width: int) -> None:
    """Key last: it may be as long as it likes, and rows can be written as they come."""
    for version, became in rows:
        moment = render(version.event_time) + (LISTED_MARK if version.time == "listed" else " ")
        cells = f"{_size(version):>10}  {moment}  {printable(version.version_id):<{width}}"
        fate = f"  {became:<10}" if became else ""
        out.line(f"{out.paint(cells, DIM)}{fate}  {printable(version.key)}")


def _footer(out: Output, view: View, totals: Totals) -> None:
    from snapengine.notebook import human_bytes

    if out.as_json:
        return
    objects = "1 object" if totals.objects == 1 else f"{totals.objects:,} objects"
    out.note(f"{objects}, {human_bytes(totals.bytes)} in {out.paint_note(printable(view.reference), CYAN)}")
    show_completeness(out, view)
    if totals.listed:
        out.note(
            f"{LISTED_MARK} The time comes from a listing: early by up to a second, by hours for a "
            "multipart upload."
        )


def show_completeness(out: Output, view: View) -> None:
    """The level of a view, and what it rests on, on stderr."""
    level = view.completeness
    out.note(f"{out.paint_note(level.level, LEVEL_COLOURS[level.level])}: {level.reason}")


def _size(version: ObjectVersion) -> str:
    from snapengine.notebook import human_bytes

    return "-" if version.size is None else human_bytes(version.size)


_SIGNS = {"added": ("+", GREEN), "changed": ("~", YELLOW), "removed": ("-", RED)}


def _show_change(out: Output, change: Change) -> None:
    if out.as_json:
        out.json(
            {
                "change": change.kind,
                "key": change.key,
                "before": change.before and version_fields(change.before),
                "after": change.after and version_fields(change.after),
            }
        )
        return
    sign, colour = _SIGNS[change.kind]
    states = [state for state in (change.before, change.after) if state]
    sizes = " → ".join(map(_size, states))
    versions = " → ".join(printable(state.version_id) for state in states)
    detail = out.paint(f"({sizes}, version {versions})", DIM)
    out.line(f"{out.paint(f'{sign} {printable(change.key)}', colour)}  {detail}")
