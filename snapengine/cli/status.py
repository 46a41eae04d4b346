"""`status`: which buckets are watched, how far behind they are, and what somebody has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapengine.cli import options
from snapengine.cli.output import RED, YELLOW, Output, one_line
from snapengine.errors import TryAgain
from snapengine.further_columns import in_words, uses
from snapengine.instants import render

if TYPE_CHECKING:
    from snapengine.buckets.status import ArchiveStatus, BucketStatus, ExtractionStatus, QueueStatus

EXAMPLES = """\
snapengine status
snapengine status scans
snapengine status --json"""

_INSTANTS = {
    "enabled_at",
    "trusted_since",
    "epoch_time",
    "caught_up",
    "settled_until",
    "verified_since",
    "archived_until",
    "newest_checkpoint",
    "started",
    "ended",
}


def status(
    bucket: Annotated[
        str | None,
        typer.Argument(
            metavar="BUCKET",
            help="The bucket's name; all if not given.",
            callback=options.bucket_name,
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show what is watched, how far behind, and what is wrong.

    The exit code is 1 if something could not be read; what could is shown all the same.
    """
    from snapengine.buckets.status import all_statuses, bucket_status
    from snapengine.engine import Engine

    engine, out = Engine(), Output(as_json=as_json)
    found = [bucket_status(engine, bucket)] if bucket is not None else all_statuses(engine)
    if out.as_json:
        for each in found:
            out.json(_rendered(asdict(each)))
    elif bucket is not None:
        out.facts(_facts(found[0]))
    elif found:
        header = (
            "BUCKET",
            "STATE",
            "QUEUED",
            "DEAD",
            "EXTRACT",
            "BASELINE",
            "HISTORY SINCE",
            "EPOCH",
            "BEHIND",
        )
        out.table(header, map(_row, found))
    else:
        out.note("No bucket is enabled yet. Enable one with `snapengine enable-bucket BUCKET`.")
    for each in found:
        _remarks(out, each)
    _warnings(out, found)
    if unread := [each.bucket for each in found if each.errors]:
        reasons = " ".join(dict.fromkeys(reason for each in found for reason in each.errors))
        raise TryAgain(f"Not everything could be read of {', '.join(unread)}: {reasons}")


def _rendered(fields: dict[str, Any]) -> dict[str, Any]:
    """With instants as every command prints them."""
    return {
        name: _rendered(value)
        if isinstance(value, dict)
        else render(value)
        if name in _INSTANTS and value is not None
        else value
        for name, value in fields.items()
    }


def _row(each: BucketStatus) -> tuple[str, ...]:
    return (
        each.bucket + (f"/{each.prefix}" if each.prefix else ""),
        _state(each),
        _number(each.queue.visible + each.queue.in_flight if each.queue else None),
        _number(each.dead_letters),
        _to_extract(each.extraction),
        each.baseline.state,
        _instant(each.trusted_since),
        _number(each.epoch),
        _behind(each.behind_ms),
    )


def _facts(each: BucketStatus) -> Iterator[tuple[str, str]]:
    yield "bucket", each.bucket
    yield "state", _state(each)
    yield "keys", f"those below {each.prefix}" if each.prefix else "all"
    yield "region", f"{each.region}, account {each.account}"
    yield "versioning", each.versioning or "?"
    yield "notification rule", _rule(each)
    if each.queue:
        yield "queue", _queue(each.queue)
    yield "dead letters", _number(each.dead_letters)
    yield from _extraction(each.extraction)
    yield "baseline", _baseline(each)
    yield "enabled at", _instant(each.enabled_at)
    yield "history since", _instant(each.trusted_since)
    yield "newest epoch", f"{_number(each.epoch)} of {_instant(each.epoch_time)}"
    yield "caught up to", f"{_instant(each.caught_up)} ({_behind(each.behind_ms)} behind)"
    yield "settled up to", _instant(each.settled_until)
    yield "verified at", _instant(each.verified_since)
    yield "views are", levels_in_words(each)
    yield "archive", _archive(each)
    if each.archive is not None:
        yield "checkpoints", _checkpoints(each.archive)
        if each.archive.keep_days is not None:
            yield "the table keeps", f"{each.archive.keep_days:,} days of what is archived"


def _queue(queue: QueueStatus) -> str:
    age = queue.oldest_age_seconds
    oldest = f", the oldest {_behind(age * 1000)} old" if age is not None else ""
    return f"{queue.visible:,} waiting, {queue.in_flight:,} in flight{oldest} ({queue.url})"


def _extraction(found: ExtractionStatus | None) -> Iterator[tuple[str, str]]:
    if found is None:
        return
    by = ", ".join(map(in_words, uses(found.extractors, found.columns)))
    yield "extraction", f"by {by}" if by else "ended"
    if found.queue:
        yield "to be extracted", f"messages of up to 20 objects: {_queue(found.queue)}"
    elif found.extractors:
        yield "to be extracted", "?"
    yield "extraction dead letters", _number(found.dead_letters)


def _to_extract(found: ExtractionStatus | None) -> str:
    return _number(found.queue.visible + found.queue.in_flight if found and found.queue else None)


def levels_in_words(each: BucketStatus) -> str:
    """How complete a view of an instant is, as its instant goes on."""
    verified, settled = each.verified_since, each.settled_until
    if each.trusted_since is None:
        return "provisional, as the baseline has not ended"
    if verified is None:
        return f"provisional, until a first `snapengine reconcile {each.bucket}` has ended"
    between = f", settled up to {render(settled)}" if settled is not None and settled >= verified else ""
    return f"verified before {render(verified)}{between}, provisional after that"


def _archive(each: BucketStatus) -> str:
    from snapengine.notebook import human_bytes

    found = each.archive
    if found is None:
        return "none"
    segments = "1 segment" if found.segments == 1 else f"{found.segments:,} segments"
    until = f"up to epoch {found.epoch:,} of {_instant(found.archived_until)}" if found.epoch else "empty"
    return (
        f"{until}: {found.observations:,} observations in {segments}; "
        f"{found.files:,} files, {human_bytes(found.bytes)}, at {found.root}"
    )


def _checkpoints(found: ArchiveStatus) -> str:
    newest = f", the newest of {_instant(found.newest_checkpoint)}" if found.checkpoints else ""
    return f"{found.checkpoints:,}{newest}"


def _rule(each: BucketStatus) -> str:
    if each.rule_present is None:
        return "?"
    if not each.enabled:
        return "still there: disable the bucket again" if each.rule_present else "none, as it is disabled"
    return "as it should be" if each.rule_present else "missing or changed"


def _state(each: BucketStatus) -> str:
    if not each.enabled:
        return "disabled"
    return "drifted" if each.drift else "enabled"


def _baseline(each: BucketStatus) -> str:
    listed = each.baseline.versions
    return each.baseline.state + (f", {listed:,} versions listed" if listed is not None else "")


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _instant(value: int | None) -> str:
    return "-" if value is None else render(value)


def _behind(millis: int | None) -> str:
    if millis is None:
        return "-"
    seconds = millis // 1000
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _remarks(out: Output, each: BucketStatus) -> None:
    for text in each.drift:
        out.note(f"{out.paint_note('Changed:', RED)} {one_line(f'{each.bucket}: {text}')}")
    if each.dead_letters:
        out.note(
            f"{out.paint_note('Set aside:', RED)} {each.dead_letters:,} messages of {each.bucket} could not "
            "be taken in; they wait in its dead-letter queue."
        )
    if each.extraction and each.extraction.dead_letters:
        out.note(
            f"{out.paint_note('Set aside:', RED)} {each.extraction.dead_letters:,} extraction messages of "
            f"{each.bucket} failed; they wait in the dead-letter queue of extraction."
        )


def _warnings(out: Output, found: Sequence[BucketStatus]) -> None:
    """Each once, with the buckets that it is about where several are shown."""
    about: dict[str, list[str]] = {}
    for each in found:
        for text in each.warnings:
            about.setdefault(text, []).append(each.bucket)
    for text, buckets in about.items():
        whose = f"{', '.join(dict.fromkeys(buckets))}: " if len(found) > 1 else ""
        out.note(f"{out.paint_note('Warning:', YELLOW)} {one_line(whose + text)}")
