"""PURE: what a listing in progress has counted, and where another run could go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from snapengine.archive.manifest import ArchiveFile, files_from_payload, files_to_payload
from snapengine.buckets.listing import ListedEntry, Page
from snapengine.model import BASELINE, CREATED, NULL_VERSION, BucketConfig, Observation, Origin

YOUNG_MS = 2000
"""A null version listed within so long of its `LastModified` is listed again."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a run can go on: after the last key of which every entry is committed."""

    complete: str = ""
    """That key; empty before the first."""
    versions: int = 0
    """Up to that key; all counts are over all runs."""
    markers: int = 0
    pages: int = 0
    started: int | None = None
    """The first page's time, UTC milliseconds by S3's clock."""


@dataclass(frozen=True, slots=True)
class Young:
    """Keys of one page whose null version was too young, to be listed again when they are `due`."""

    due: int
    """UTC milliseconds by S3's clock."""
    keys: frozenset[str]
    before: Mark
    """Where a run could go on that has yet to list them."""


@dataclass(slots=True)
class Bookkeeping:
    """Of one run, page by page."""

    begun: Mark
    """What earlier runs left."""
    listing: str
    """The listing's id."""
    mark: Mark = field(init=False)
    last_key: str = ""
    young: deque[Young] = field(default_factory=deque)
    _position: int = 0
    _open_versions: int = 0
    _open_markers: int = 0

    def __post_init__(self) -> None:
        self.mark = self.begun
        self.last_key = self.begun.complete

    @property
    def versions(self) -> int:
        return self.mark.versions + self._open_versions

    @property
    def markers(self) -> int:
        return self.mark.markers + self._open_markers

    def take(self, page: Page) -> list[Observation]:
        """Count a page, and give its observations."""
        before = self.mark
        if before.started is None:
            before = self.mark = replace(before, started=page.time)
        for entry in page.entries:
            if entry.key != self.last_key:
                self._close()
                self.last_key = entry.key
            if entry.kind == CREATED:
                self._open_versions += 1
            else:
                self._open_markers += 1
        if page.next_version_id is None:  # the next page, if any, begins with another key
            self._close()
        self.mark = replace(self.mark, pages=self.mark.pages + 1)
        self._note_young(page, before)
        observations = observations_of(page.entries, page.time, self.listing, self._position)
        self._position += len(page.entries)
        return observations

    def _close(self) -> None:
        """Every entry of the last key has been seen."""
        self.mark = replace(self.mark, complete=self.last_key, versions=self.versions, markers=self.markers)
        self._open_versions = self._open_markers = 0

    def _note_young(self, page: Page, before: Mark) -> None:
        young = [
            entry
            for entry in page.entries
            if entry.version_id == NULL_VERSION and entry.last_modified > page.time - YOUNG_MS
        ]
        if young:
            due = max(entry.last_modified for entry in young) + YOUNG_MS
            self.young.append(Young(due, frozenset(entry.key for entry in young), before))

    def resume_at(
        self,
        config: BucketConfig,
        now: int,
        *,
        kept: Mark | None = None,
        files: Sequence[ArchiveFile] = (),
    ) -> dict[str, str | int]:
        """To be saved: where another run could go on, should this one be stopped now (UTC milliseconds).

        `kept`: up to where all is committed or in finished `files`; None if all that was taken is.
        """
        marks = [self.mark if kept is None else kept, *(young.before for young in list(self.young)[:1])]
        mark = min(marks, key=lambda m: m.pages)
        return {
            "complete": mark.complete,
            "versions": mark.versions,
            "markers": mark.markers,
            "pages": mark.pages,
            "started": mark.started or 0,
            "saved_at": now,
            **({"files": files_to_payload(list(files)).decode()} if files else {}),
            **_of(config),
        }


def saved_mark(saved: Mapping[str, str | int] | None, config: BucketConfig) -> Mark:
    """Where to go on: at the start, if what was saved is of an earlier enabling or another prefix."""
    if saved is None or not _is_of(saved, config):
        return Mark()
    return Mark(
        complete=str(saved["complete"]),
        versions=int(saved["versions"]),
        markers=int(saved["markers"]),
        pages=int(saved["pages"]),
        started=int(saved["started"]) or None,
    )


def saved_files(saved: Mapping[str, str | int] | None, config: BucketConfig) -> list[ArchiveFile]:
    """The Parquet files that were finished and may have to be named yet; none of an earlier enabling."""
    if saved is None or "files" not in saved or not _is_of(saved, config):
        return []
    return files_from_payload(str(saved["files"]).encode())


def _is_of(saved: Mapping[str, str | int], config: BucketConfig) -> bool:
    return all(saved.get(name) == value for name, value in _of(config).items())


def _of(config: BucketConfig) -> dict[str, str | int]:
    return {"prefix": config.prefix, "enabled_at": config.enabled_at or 0}


def observations_of(
    entries: Iterable[ListedEntry], page_time: int, listing: str, position: int, origin: Origin = BASELINE
) -> list[Observation]:
    """A page's entries as observations; `position` is the first one's place in the listing."""
    return [
        Observation(
            kind=entry.kind,
            key=entry.key,
            version_id=entry.version_id,
            event_time=entry.last_modified,
            size=entry.size,
            etag=entry.etag,
            storage_class=entry.storage_class,
            origin=origin,
            listing=listing,
            page_time=page_time,
            position=place,
        )
        for place, entry in enumerate(entries, position)
    ]
