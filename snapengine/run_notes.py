"""PURE: what a run notes of its views: their names, MLflow's tags within its limits, `run:/<id>` and back.

Light on purpose: MLflow loads it with every `import mlflow`, by way of the run context provider.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from snapengine.errors import BadTime
from snapengine.instants import render, to_millis
from snapengine.model import RunNote, SnapshotRef
from snapengine.reference import parse_reference

RUN: Final = "run:/"
EVER: Final = 253_402_300_799_999
"""The last instant there is: a clock for times that were checked when they were noted."""

NAME_LIMIT: Final = 500
RUN_TAG_LIMIT: Final = 5_000
"""Characters of a run tag's value; some tracking servers take 8,000."""
INPUT_TAG_LIMIT: Final = 500
TAG_KEY_LIMIT: Final = 250
QUERY_LIMIT: Final = 4_000
"""Characters of a condition in a note; what was selected by it has it in full."""

AT: Final = "snapengine.at"
BUCKETS: Final = "snapengine.buckets"
IGNORED: Final = "snapengine.ignored"
VIEW: Final = "snapengine.view."
DIGEST: Final = "snapengine.digest."
QUERY: Final = "snapengine.query."
REFERENCE: Final = "snapengine.reference"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
"""Source: mlflow.utils.validation, `_RUN_ID_REGEX`, with ASCII letters."""
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*/?")
_SLUG_LENGTH = 120
_EXTRACTOR_LENGTH = 60


# run:/<id>


def run_named(time: object) -> str | None:
    """The run's id, if a time is given as `run:/<id>`. Raises `BadTime` for one that no run can have."""
    if not isinstance(time, str) or not time.startswith(RUN):
        return None
    run_id = time.removeprefix(RUN)
    if not _RUN_ID.fullmatch(run_id):
        raise BadTime(f"{time!r} names no run. Write run:/ and the run's id, as MLflow shows it.")
    return run_id


def run_text(run_id: str) -> str:
    """`run:/<id>`."""
    return f"{RUN}{run_id}"


# Names


def view_name(ref: SnapshotRef, *, own: bool) -> str:
    """A view's name in a run: `scans`, `scans/ct/`; of a slice with its interval, of a narrowed view with the
    beginning of what it selects.

    `own`: it is of the run's own instant and epoch; others say which. So a run's views have distinct names,
    the same whoever of several processes notes them, and those of many runs the same name where they are
    asked for alike. At most 500 characters, all printable.
    """
    name = f"{ref.bucket}/{ref.prefix}" if ref.prefix else ref.bucket
    if ref.start is not None:
        name += f"@{render(ref.start)}..{render(ref.at + 1)}{'~all' if ref.versions == 'all' else ''}"
    elif not own:
        name += f"@{render(ref.at)}"
    if not own:
        name += f"~{ref.epoch}"
    if ref.selection:
        name += f"?{ref.selection.removeprefix('sha256:')[:8]}"
    shown = _UNPRINTABLE.sub("?", name)
    if shown == name and len(name) <= NAME_LIMIT:
        return name
    return f"{shown[: NAME_LIMIT - 9]}-{_mark(name)}"


def is_own(note: RunNote) -> bool:
    """Whether a note's name says that it is of its run's own instant and epoch."""
    parsed = parse_reference(note.reference)
    at = to_millis(parsed.at, now=EVER)
    start = None if parsed.start is None else to_millis(parsed.start, now=EVER)
    ref = SnapshotRef(
        parsed.bucket,
        parsed.prefix,
        at if start is None else at - 1,
        parsed.epoch or 0,
        start,
        "all" if parsed.all_versions else "last",
        parsed.selection,
    )
    return note.name == view_name(ref, own=True)


def slug(name: str) -> str:
    """The name as the end of a tag's key, distinct for distinct names. MLflow's file store makes files of
    keys, so there is no slash in it."""
    plain = name.rstrip("/").replace("/", ".")
    if _PLAIN.fullmatch(name) and name.endswith("/") == ("/" in name) and len(plain) <= _SLUG_LENGTH:
        return plain
    return f"{re.sub('[^A-Za-z0-9_-]+', '.', name)[:_SLUG_LENGTH].strip('.')}-{_mark(name)}"


def _mark(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


# Tags


def run_tags(note: RunNote) -> dict[str, str]:
    """A run's tags of one note."""
    end = slug(note.name)
    tags = {VIEW + end: note.reference}
    if note.digest:
        tags[DIGEST + end] = note.digest
    if note.query is not None:
        tags[QUERY + end] = cut(note.query, RUN_TAG_LIMIT)
    return tags


def query_tag(name: str, extractor: str, query: str) -> tuple[str, str]:
    """A run's tag, key and value, of a condition by which metadata of the view `name` was asked for."""
    key = f"{QUERY}{slug(name)}.{slug(extractor)[:_EXTRACTOR_LENGTH]}-{_mark(f'{extractor} {query}')}"
    return key, cut(query, QUERY_LIMIT)


def input_tags(note: RunNote) -> dict[str, str]:
    """The tags of MLflow's input: the exact reference, in pieces where it is long, as the dataset itself may
    be shared with a run that saw the same data by another."""
    pieces = [
        note.reference[start : start + INPUT_TAG_LIMIT]
        for start in range(0, len(note.reference), INPUT_TAG_LIMIT)
    ]
    keys = [REFERENCE, *(f"{REFERENCE}.{number}" for number in range(2, len(pieces) + 1))]
    return dict(zip(keys, pieces, strict=True))


def reference_of(tags: Mapping[str, str]) -> str | None:
    """The reference of an input's tags."""
    if REFERENCE not in tags:
        return None
    number, found = 2, tags[REFERENCE]
    while (piece := tags.get(f"{REFERENCE}.{number}")) is not None:
        number, found = number + 1, found + piece
    return found


def views_of(tags: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """The references in a run's tags, in the order of their keys, each with its digest if that was noted."""
    return [
        (tags[key], tags.get(DIGEST + key.removeprefix(VIEW))) for key in sorted(tags) if key.startswith(VIEW)
    ]


def cut(text: str, limit: int) -> str:
    """The text, cut with an ellipsis where it is longer."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


# Tracking without code


@dataclass(frozen=True, slots=True)
class Tracked:
    """A bucket, or a prefix of one, that every run is to be tagged with."""

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket


def tracked(text: str) -> tuple[list[Tracked], list[str]]:
    """What `SNAPENGINE_TRACK` names (`scans,labels/2026/`), each once, and what of it names nothing."""
    found: dict[Tracked, None] = {}
    wrong = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        bucket, _, prefix = part.partition("/")
        if _BUCKET.fullmatch(bucket):
            found[Tracked(bucket, prefix)] = None
        else:
            wrong.append(part)
    return list(found), wrong


def tracking_tags(text: str, at: int | str, *, replaying: bool = False) -> dict[str, str]:
    """A run's tags for `SNAPENGINE_TRACK`; `at` in UTC milliseconds, or text that is none yet (`run:/<id>`).
    The instant is told where anything is tracked, or an earlier one is `replaying`.

    The references have no epoch: they name what was there at that instant, by all that is known by the time
    they are opened. A view that the run opens is noted exactly, in their place.
    """
    buckets, wrong = tracked(text)
    tags: dict[str, str] = {}
    if buckets or replaying:
        tags[AT] = cut(at, RUN_TAG_LIMIT) if isinstance(at, str) else render(at)
    if buckets:
        tags[BUCKETS] = cut(",".join(map(str, buckets)), RUN_TAG_LIMIT)
        if not isinstance(at, str):
            for each in buckets:
                ref = SnapshotRef(each.bucket, each.prefix, at, 0)
                tags[VIEW + slug(view_name(ref, own=True))] = (
                    f"snap://{each.bucket}@{render(at)}/{each.prefix}"
                )
    if wrong:
        tags[IGNORED] = cut(",".join(wrong), RUN_TAG_LIMIT)
    return tags


# Back again


def fitting(
    notes: Iterable[RunNote], prefix: str, *, interval: bool = False, every: bool = False
) -> list[RunNote]:
    """Which of a run's notes of one bucket are meant by a view (or a slice: `interval`, of `every` version)
    of `prefix`: those of the longest prefix that holds it; else, where none is asked for, any.

    Views that were not narrowed are meant before those that were.
    """
    told = [(note, parse_reference(note.reference)) for note in notes]
    kind = [(n, p) for n, p in told if (p.start is not None) == interval and p.all_versions == every]
    holding = [(n, p) for n, p in kind if prefix.startswith(p.prefix)]
    longest = max((p.prefix for _, p in holding), key=len, default="")
    meant = [(n, p) for n, p in holding if p.prefix == longest] or ([] if prefix else kind)
    return [n for n, p in meant if not p.selection] or [n for n, _ in meant]
