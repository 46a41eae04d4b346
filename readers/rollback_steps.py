"""PURE: what makes a bucket show again what a view shows, key by key, by adding versions and markers only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from typing import Final, Literal

from readers.export_order import side_by_side
from snapengine.buckets.listing import ListedEntry
from snapengine.errors import BadData
from snapengine.model import CREATED, NULL_VERSION, ObjectVersion

Kind = Literal[
    "same",
    "equal",
    "absent",
    "copy",
    "mark",
    "unsure",
    "gone",
    "archived",
    "restoring",
    "denied",
    "unreadable",
]
TO_DO: Final = ("copy", "mark")
NOT_TO_BE_HAD: Final = ("unsure", "gone", "archived", "restoring", "denied", "unreadable")

_SECOND: Final = 1_000
_DAY: Final = 86_400_000
_ARCHIVED: Final = {"GLACIER", "DEEP_ARCHIVE"}


@dataclass(frozen=True, slots=True)
class Step:
    """One key: what the view shows, what the bucket shows now, and what is to be done."""

    kind: Kind
    """`same`: the version itself is the latest. `equal`: the latest is another with the same bytes. `absent`:
    neither shows the key. `copy`: the version is to be copied onto its key. `mark`: a delete marker is to be
    put. `unsure`: the log does not know what S3 shows. The others say why the version cannot be had."""
    key: str
    version: ObjectVersion | None
    """What the view shows, if it shows the key."""
    latest_id: str | None
    """The latest version's id, or the latest marker's; None for a key that S3 does not know."""
    latest_etag: str | None
    """None for a marker."""
    latest_size: int | None
    """Bytes."""
    latest_time: int | None = None
    """UTC milliseconds of its `LastModified`, if that tells when it came to be, to the second; of what came
    in parts, and of markers that a lifecycle rule put, it does not."""
    not_before: int | None = None
    """Of those the `LastModified`: they came to be then, or hours later."""
    stored_class: str | None = None
    """The version's storage class as S3 lists it now."""
    detail: str = ""
    """Why the version cannot be had, in words."""
    under_id: str | None = None
    """Where the latest came after the instant: what S3 shows beneath it since before, by the listing's times,
    unless that is the version itself."""
    under_etag: str | None = None
    under_early: bool = False
    """It is dated early, and may have come after the instant as well."""

    def line(self) -> str:
        """As one line of text, for `step_of_line`."""
        return json.dumps(asdict(self)) + "\n"


def step_of_line(line: str) -> Step:
    fields = json.loads(line)
    if fields["version"] is not None:
        fields["version"] = ObjectVersion(**fields["version"])
    return Step(**fields)


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing shows of one key; its entries can be had once, before the next key is asked for."""

    key: str
    entries: Iterator[ListedEntry]


def steps(
    versions: Iterable[ObjectVersion], entries: Iterable[ListedEntry], at: int | None = None
) -> Iterator[Step]:
    """For each key that the view or the bucket knows, by a complete listing of all versions, in key order.

    `at`: the view's instant, to see what was there then by the listing's own times. What `copy` has of the
    size of the latest version must be looked at more closely: their ETags differ, but that does not always
    mean that the bytes do.
    """
    listed = (Listed(key, group) for key, group in groupby(entries, attrgetter("key")))
    for version, found in side_by_side(versions, listed):
        yield step_of(version, found, at)


def step_of(version: ObjectVersion | None, listed: Listed | None, at: int | None = None) -> Step:
    """The step of one key."""
    latest, stored, under = _looked_up(version, listed, at)
    key = version.key if version is not None else listed.key if listed is not None else ""
    kind, detail = _kind(version, latest, stored)
    early = latest is not None and _is_dated_early(latest)
    return Step(
        kind,
        key,
        version,
        latest.version_id if latest else None,
        latest.etag if latest else None,
        latest.size if latest else None,
        latest.last_modified if latest and not early else None,
        latest.last_modified if latest and early else None,
        stored.storage_class if stored else None,
        detail,
        under.version_id if under else None,
        under.etag if under else None,
        under is not None and _is_dated_early(under),
    )


def _looked_up(
    version: ObjectVersion | None, listed: Listed | None, at: int | None
) -> tuple[ListedEntry | None, ListedEntry | None, ListedEntry | None]:
    """The latest entry of a key, the version's own, and the newest from before the instant, if that is
    neither and, where the view shows no object, is no marker."""
    latest = stored = under = None
    for entry in listed.entries if listed is not None else ():
        if under is None and at is not None and entry.last_modified + _SECOND <= at:
            under = entry
        if entry.is_latest:
            latest = entry
        if version is not None and _is(entry, version):
            stored = entry
    if listed is not None and latest is None:
        raise BadData(
            f"S3 lists {listed.key!r} without saying which of its versions is the latest. "
            "Check AWS_ENDPOINT_URL, and run it again."
        )
    agrees = under is latest or under is stored or (version is None and under and under.kind != CREATED)
    return latest, stored, None if agrees else under


def _is_dated_early(entry: ListedEntry) -> bool:
    """What came in parts is dated from its beginning, a lifecycle rule's marker from midnight."""
    return "-" in (entry.etag or "") if entry.kind == CREATED else entry.last_modified % _DAY == 0


def predates(step: Step, at: int) -> bool:
    """Whether S3 shows since before the instant something else than the view shows at it."""
    return step.kind in TO_DO and step.latest_time is not None and step.latest_time + _SECOND <= at


def may_predate(step: Step, at: int) -> bool:
    """Whether it may be so: S3 does not say when what it shows came to be, and that may have been before."""
    return step.kind in TO_DO and step.not_before is not None and step.not_before + _SECOND <= at


def _is(entry: ListedEntry, version: ObjectVersion) -> bool:
    """The id `null` is used again and again: its ETag and size say which is meant."""
    if entry.kind != CREATED or entry.version_id != version.version_id:
        return False
    return entry.version_id != NULL_VERSION or _alike(entry, version)


def _alike(entry: ListedEntry, version: ObjectVersion) -> bool:
    return (
        entry.kind == CREATED
        and version.etag is not None
        and entry.etag == version.etag
        and version.size in {None, entry.size}
    )


def _kind(
    version: ObjectVersion | None, latest: ListedEntry | None, stored: ListedEntry | None
) -> tuple[Kind, str]:
    if version is None:
        return ("mark" if latest is not None and latest.kind == CREATED else "absent"), ""
    if latest is not None and latest is stored:
        return "same", ""
    if latest is not None and _alike(latest, version):
        return "equal", ""
    if stored is None:
        return "gone", "S3 has no such version any more"
    if stored.storage_class in _ARCHIVED:
        return "archived", f"in {stored.storage_class}: it must be restored before it can be copied"
    return "copy", ""
