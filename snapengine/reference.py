"""PURE: a view's reference as text, `snap://BUCKET@AT~EPOCH/PREFIX`, and back."""

from __future__ import annotations

import re
from dataclasses import dataclass

from snapengine.errors import BadReference, UsageError
from snapengine.instants import render
from snapengine.model import SnapshotRef

_REFERENCE = re.compile(
    r"snap://(?P<bucket>[^@/]+)@(?P<start>[^~/@]*?(?=\.\.))?(?P<dots>\.\.)?(?P<at>[^~/@]+)"
    r"(?:~(?P<epoch>[0-9]{1,18}))?(?P<all>~all)?(?:/(?P<prefix>.*))?",
    re.DOTALL,
)
_SELECT = "?select="
_SELECTION = re.compile(r"sha256:[0-9a-f]{64}")
_NONE = "none"
"""What is selected by a reference that only has a prefix with `?select=` in it."""


_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")
"""All that S3 has ever taken; new names are stricter. Source: S3 User Guide, "Bucket naming rules"."""


def checked_bucket(name: str) -> str:
    """The name, if a bucket can have it. Raises `UsageError` for `s3://scans/ct` and its like."""
    if not _BUCKET.fullmatch(name):
        raise UsageError(
            f"{name!r} is no bucket's name. Give the bare name, without s3:// or an ARN; where a view is "
            "asked for, a snap:// reference will do too."
        )
    return name


@dataclass(frozen=True, slots=True)
class ParsedRef:
    """A reference as somebody wrote it: its times are still text, its epoch may be left open."""

    bucket: str
    prefix: str
    at: str
    """For a slice its exclusive end."""
    start: str | None
    epoch: int | None
    all_versions: bool
    selection: str = ""
    """Of a narrowed view `sha256:…`."""


def parse_reference(text: str) -> ParsedRef:
    """Read `snap://BUCKET@AT[~EPOCH]/PREFIX` or `snap://BUCKET@START..END[~EPOCH][~all]/PREFIX`.

    The prefix is everything after the first slash, to the letter: nothing in it is decoded. A narrowed view's
    reference has an epoch, and ends in `?select=sha256:…`; whatever else stands there is refused.
    """
    rest, mark, selection = text.rpartition(_SELECT)
    if mark and selection != _NONE and not _SELECTION.fullmatch(selection):
        raise BadReference(f"{text!r} is no reference: what is selected is not whole. Copy all of it.")
    selection = "" if selection == _NONE or not mark else selection
    match = _REFERENCE.fullmatch(rest if mark else text)
    if not match or bool(match["dots"]) != bool(match["start"]):
        raise BadReference(
            f"{text!r} is no reference. Write snap://BUCKET@TIME/PREFIX, "
            "for example snap://scans@2026-11-20T09:00:00Z/ct/."
        )
    if match["all"] and not match["start"]:
        raise BadReference(f"{text!r} asks for all versions, which only a slice (START..END) has.")
    if selection and (not match["epoch"] or match["all"]):
        raise BadReference(f"{text!r} is no reference: what is selected has an epoch, and one version a key.")
    return ParsedRef(
        bucket=match["bucket"],
        prefix=match["prefix"] or "",
        at=match["at"],
        start=match["start"],
        epoch=int(match["epoch"]) if match["epoch"] else None,
        all_versions=bool(match["all"]),
        selection=selection,
    )


def render_reference(ref: SnapshotRef) -> str:
    """The reference as text. It resolves to the same answer for ever."""
    time = render(ref.at) if ref.start is None else f"{render(ref.start)}..{render(ref.at + 1)}"
    every = "~all" if ref.versions == "all" else ""
    chosen = ref.selection or (_NONE if _SELECT in ref.prefix else "")
    end = _SELECT + chosen if chosen else ""
    return f"snap://{ref.bucket}@{time}~{ref.epoch}{every}/{ref.prefix}{end}"


def without_selection(text: str) -> str:
    """The reference of the view that was narrowed, once or several times."""
    parsed = parse_reference(text)
    if not parsed.selection:
        return text
    return text.removesuffix(_SELECT + parsed.selection) + (
        _SELECT + _NONE if _SELECT in parsed.prefix else ""
    )
