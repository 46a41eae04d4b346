"""What can be known of the model bucket from what an epoch covers, and what follows for views.

Nothing here calls the fold: each check says of a shown object, from the bucket's true past and from which
events and pages are covered, that it must be so, or may be so, or cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from snapengine.model import (
    CREATED,
    EVENT,
    NULL_VERSION,
    VERSION_DELETED,
    ObjectVersion,
    Observation,
)
from snapengine.testing.model_bucket import ModelBucket, Version
from tests.stateful.listings import Listing, Reconcile


def shown(version: Version | ObjectVersion | None) -> tuple[object, ...] | None:
    """What every view has to say of an object, however it is known."""
    return None if version is None else (version.version_id, version.etag, version.size)


@dataclass(frozen=True)
class Known:
    """The observations of one key that an epoch covers."""

    bucket: ModelBucket
    key: str
    observations: Sequence[Observation]

    # What the observations are of

    def made(self) -> list[Version]:
        return [version for version in self.bucket.made if version.key == self.key]

    def told(self, event: Observation) -> bool:
        """Whether the event came."""
        return event in self._events()

    def _events(self) -> set[Observation]:
        return {o for o in self.observations if o.origin == EVENT}

    def rows(self, version: Version) -> list[Observation]:
        """The rows of listings that show a version, or (of a null one) may be meant to."""
        return [
            o
            for o in self.observations
            if o.listing is not None
            and (o.kind, o.version_id, o.etag or None) == (version.kind, version.version_id, version.etag)
            and o.event_time == version.last_modified
        ]

    def seems_earlier(self, version: Version, at: int) -> bool:
        """Whether a listing makes the version seem to have been at `at` already.

        No event says better, or it is a null version on a page that was asked for, as far as we know S3's
        clock, before it was made.
        """
        if not version.last_modified <= at < version.time:
            return False
        rows = self.rows(version)
        if not self.told(self.bucket.told[version]):
            return bool(rows)
        return self.seems_twice(version)

    def seems_twice(self, version: Version) -> bool:
        """Whether a null version is on a page that, as far as we know S3's clock, was asked for before it
        was made: then its event is taken for that of another one, until a later page shows it."""
        return version.version_id == NULL_VERSION and any(
            row.page_time is not None and row.page_time < version.time for row in self.rows(version)
        )

    def seems_gone_earlier(self, version: Version, at: int) -> bool:
        """Whether a page that does not show the version was asked for, as far as we know S3's clock, before
        it went; an event that says better does so for a version with an id of its own only."""
        end = self.bucket.ended.get(version)
        if end is None or at >= end.event_time:
            return False
        if version.version_id != NULL_VERSION and self.told(end):
            return False
        return any(o.event_time > version.time for o in self._absences(version) if o.event_time <= at)

    def _absences(self, version: Version) -> list[Observation]:
        return [
            o
            for o in self.observations
            if o.listing is not None and o.kind == VERSION_DELETED and o.version_id == version.version_id
        ]

    def removed(self, version: Version, at: int) -> bool:
        """Whether a version with an id of its own is taken to have gone by then; an event says it best."""
        ends = [o for o in self._events() if o.kind == VERSION_DELETED and o.version_id == version.version_id]
        return any(o.event_time <= at for o in ends or self._absences(version))

    # What must be

    def nothing_is_missing(self, at: int) -> bool:
        """Whether every event of the key up to `at` came, and no listing dates something later before it."""
        due = {event for event in self.bucket.events if event.key == self.key and event.event_time <= at}
        return due <= self._events() and not self._misdated(at)

    def _misdated(self, at: int) -> bool:
        return any(self.seems_earlier(v, at) or self.seems_gone_earlier(v, at) for v in self.made())

    def listing_tells_all(self, listing: Reconcile, at: int) -> bool:
        """Whether a covered complete listing settles what the key showed at `at`, whatever was lost.

        It does from its last page on until something is done to the key, if nothing was done while it ran;
        unless something was heard of since that it had no reason to look for, or something later seems to
        have been there already.
        """
        compared = listing.compared.get(self.key)
        if compared is None or at < compared.at:
            return False
        times = [event.event_time for event in self.bucket.events if event.key == self.key]
        if any(compared.listing.first_page <= time <= at for time in times):
            return False
        return not self._misdated(at) and not any(self._haunts(v, listing) for v in self.made())

    def _haunts(self, version: Version, listing: Reconcile) -> bool:
        """Whether a version that had gone before the listing was heard of after it only, its end never."""
        compared, end = listing.compared[self.key].listing, self.bucket.ended.get(version)
        if end is None or self.told(end) or end.event_time >= compared.first_page:
            return False
        if version.version_id == NULL_VERSION and any(
            row.version_id == NULL_VERSION for row in compared.rows
        ):
            return False
        creation = self.bucket.told[version]
        return self.told(creation) and creation not in listing.known.get(self.key, [])

    def survivors(self, listing: Listing) -> list[Version]:
        """What was there when the listing began, and still was when it ended."""
        assert listing.begun is not None
        assert listing.ended_at is not None
        return [
            version
            for version in self.made()
            if version.time < listing.begun
            and ((end := self.bucket.ended.get(version)) is None or end.event_time > listing.ended_at)
        ]

    def known_but_gone(self, listing: Reconcile) -> list[Version]:
        """What was known when a reconcile began (by events; with an id of its own) and had gone by then."""
        compared, known = listing.compared.get(self.key), listing.known.get(self.key, [])
        return [
            version
            for version in self.made()
            if version.version_id != NULL_VERSION
            and self.bucket.told[version] in known
            and (end := self.bucket.ended.get(version)) is not None
            and compared is not None
            and end.event_time < compared.listing.first_page
            and not self.told(end)
        ]

    # What may be

    def existed(self, row: ObjectVersion) -> bool:
        """Whether the bucket ever had such an object, of that time: an event's is exact; a listed one is
        never before what S3 says nor later than the truth, or of a null version than the pages that show it.
        """
        return any(
            shown(version) == shown(row)
            and (
                row.event_time == version.time
                if row.time == "event"
                else version.last_modified <= row.event_time <= self._latest(version)
            )
            for version in self.made()
            if version.kind == CREATED
        )

    def _latest(self, version: Version) -> int:
        pages = [o.page_time or 0 for o in self.rows(version)] if version.version_id == NULL_VERSION else []
        return max(version.time, *pages, 0)

    def is_known(self, version: Version) -> bool:
        """Whether any observation tells of the version's creation."""
        return self.told(self.bucket.told[version]) or bool(self.rows(version))

    def only_versions(self) -> bool:
        """Whether the key never had a null version, nor was one removed."""
        return not any(
            o.version_id == NULL_VERSION
            for o in (*self.bucket.events, *self.observations)
            if o.key == self.key
        )

    def may_show(self, row: ObjectVersion | None, at: int) -> bool:
        """Whether a key that never had a null version may seem to show this at `at`.

        What it shows must have been heard of by then and not be known to have gone, and nothing of which
        that is certain may have come after it for certain. It may show nothing if that holds for a marker,
        or if it is certain of nothing.
        """
        here = [v for v in self.made() if self.is_known(v) and not self.removed(v, at)]
        certain = [v for v in here if self._known_time(v)[1] <= at]
        possible = [v for v in here if self._known_time(v)[0] <= at]
        tops = [v for v in possible if not any(self._certainly_after(other, v) for other in certain)]
        if row is None:
            return not certain or any(v.kind != CREATED for v in tops)
        return any(shown(v) == shown(row) for v in tops if v.kind == CREATED)

    def _known_time(self, version: Version) -> tuple[int, int]:
        """The earliest and the latest instant that the view may take it to have come to be."""
        if self.told(self.bucket.told[version]):
            return version.time, version.time
        return version.last_modified, version.time

    def _certainly_after(self, one: Version, other: Version) -> bool:
        events = [self.told(self.bucket.told[v]) for v in (one, other)]
        if all(events):
            return one.number > other.number
        for row in self.rows(one):
            for lower in self.rows(other):
                if row.listing == lower.listing:
                    return (row.position or 0) < (lower.position or 0)
        earliest = one.time if events[0] else one.last_modified
        latest = other.time if events[1] else min(o.page_time or 0 for o in self.rows(other))
        return earliest > latest
