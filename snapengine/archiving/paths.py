"""PURE: where the archive's files are, and whose a path is. The whole layout is in `archive.manifest`."""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["segment", "checkpoint", "listing", "manifest"]

_SEGMENT = re.compile(r"(?:observations|epochs)/epochs=([0-9]{1,18})_([0-9]{1,18})/[^/]+")
_CHECKPOINT = re.compile(r"(?:objects|histories)/checkpoint=(-?[0-9]{1,18})_([0-9]{1,18})/[^/]+")
_LISTING = re.compile(r"listed/[^/]+/[^/]+")
_COPY = re.compile(r"manifests/[^/]+")


def observations(bucket: str, first: int, last: int) -> str:
    """The folder of a segment's `regular` and `irregular` files."""
    return f"{bucket}/observations/epochs={first}_{last}"


def epochs(bucket: str, first: int, last: int) -> str:
    """The folder of a segment's `epochs` file."""
    return f"{bucket}/epochs/epochs={first}_{last}"


def registry(bucket: str) -> str:
    """A copy of what the table knows of the bucket besides its log."""
    return f"{bucket}/registry.json"


def owner(bucket: str, path: str) -> tuple[Kind, str] | None:
    """What a file belongs to: its kind, and the name of the manifest that could name it (empty where the path
    does not tell). None for what is not the archive's own, and is left alone."""
    place, _, below = path.partition("/")
    if place != bucket:
        return None
    if match := _SEGMENT.fullmatch(below):
        return "segment", f"SEGMENT#{int(match[1]):012d}_{int(match[2]):012d}"
    if match := _CHECKPOINT.fullmatch(below):
        return "checkpoint", f"CHECKPOINT#{int(match[1]):015d}_{int(match[2]):012d}"
    if _LISTING.fullmatch(below):
        return "listing", ""
    if _COPY.fullmatch(below):
        return "manifest", ""
    return None
