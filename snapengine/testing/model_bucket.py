"""An S3 bucket on plain dictionaries: what S3 holds, lists and tells, and what each key showed ever since.

It is the truth that views are compared with, so it knows nothing of the engine but the form of an event
(`Observation`) and of a page of ListObjectVersions (`Page`). Times are UTC milliseconds.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from snapengine.buckets.listing import ListedEntry, Page
from snapengine.model import CREATED, MARKER_CREATED, NULL_VERSION, VERSION_DELETED, Kind, Observation

Versioning = Literal["off", "enabled", "suspended"]
Marker = tuple[str, int]
"""Where a page ended: the key, and the number of its last version shown."""

DAY_MS = 86_400_000
SWITCH_MS = 900_000
"""AWS asks to wait a quarter of an hour after versioning is switched, before objects are written."""


class Version(NamedTuple):
    """A version or a delete marker, as S3 made it."""

    key: str
    version_id: str
    kind: Kind
    etag: str | None
    size: int | None
    last_modified: int
    """Whole seconds; of a multipart upload its initiation, of a lifecycle rule's marker midnight."""
    time: int
    """When it came to be."""
    number: int
    """S3 made the lower ones before."""


class ModelBucket:
    """The bucket. Operations that S3 would refuse, or not notice, do nothing."""

    def __init__(self, versioning: Versioning, now: int) -> None:
        self.versioning = versioning
        self.now = now
        self.versions: dict[str, list[Version]] = {}
        """What exists of each key, the newest first."""
        self.made: list[Version] = []
        """All that ever existed."""
        self.told: dict[Version, Observation] = {}
        """The event of its creation."""
        self.ended: dict[Version, Observation] = {}
        """The event of what ended it: its removal, or a write that took its place."""
        self.past: dict[str, list[tuple[int, Version | None]]] = {}
        """Of each key, after each thing done to it: the time, and the object that it showed from then on."""
        self.events: list[Observation] = []
        """Whatever S3 told, in its own order."""
        self._uploads: list[tuple[str, int]] = []
        self._expired_on: dict[str, int] = {}

    # What is done to it

    def put(self, key: str, content: str) -> None:
        self._create(key, CREATED, content, self.now, "ObjectCreated:Put")

    def begin_upload(self, key: str) -> None:
        self._uploads.append((key, self.now))

    def complete_upload(self, content: str) -> None:
        """Complete the oldest multipart upload that is open."""
        if self._uploads:
            key, begun = self._uploads.pop(0)
            self._create(key, CREATED, f"{content}-2", begun, "ObjectCreated:CompleteMultipartUpload")

    def delete(self, key: str) -> None:
        """Delete without a version id: a marker, or where versioning was never on, a removal."""
        if self.versioning == "off":
            self._remove(key, NULL_VERSION, "ObjectRemoved:Delete")
        else:
            self._create(key, MARKER_CREATED, None, self.now, "ObjectRemoved:DeleteMarkerCreated")

    def remove(self, key: str, which: int, name: str = "ObjectRemoved:Delete") -> None:
        """Remove one version or marker of a key for good."""
        if stack := self.versions.get(key):
            self._remove(key, stack[which % len(stack)].version_id, name)

    def expire(self, key: str) -> None:
        """What a lifecycle rule does to a current object: once a day, dated midnight."""
        today = self.now // DAY_MS
        if self.current(key) is None or self._expired_on.get(key) == today:
            return
        self._expired_on[key] = today
        if self.versioning == "off":
            self._remove(key, NULL_VERSION, "LifecycleExpiration:Delete")
        else:
            name = "LifecycleExpiration:DeleteMarkerCreated"
            self._create(key, MARKER_CREATED, None, today * DAY_MS, name)

    def expire_noncurrent(self, key: str) -> None:
        """What a lifecycle rule does to the oldest version that is not the newest."""
        if len(self.versions.get(key, [])) > 1:
            self.remove(key, -1, "LifecycleExpiration:Delete")

    def switch(self) -> None:
        """Enable versioning, or suspend it; it is never off again."""
        self.now += SWITCH_MS
        self.versioning = "suspended" if self.versioning == "enabled" else "enabled"

    # What it shows

    def current(self, key: str) -> Version | None:
        """The object that a key shows now."""
        stack = self.versions.get(key)
        return stack[0] if stack and stack[0].kind == CREATED else None

    def at(self, key: str, instant: int) -> Version | None:
        """The object that a key showed at `instant`, inclusive."""
        shown = [version for time, version in self.past.get(key, []) if time <= instant]
        return shown[-1] if shown else None

    def page(self, after: Marker | None, size: int, page_time: int) -> tuple[Page, Marker | None]:
        """A page of ListObjectVersions, and where the next one goes on, if there is one."""
        left = [
            version
            for key in sorted(self.versions, key=str.encode)
            for version in self.versions[key]
            if after is None or key > after[0] or (key == after[0] and version.number < after[1])
        ]
        shown = left[:size]
        entries = tuple(
            ListedEntry(
                kind=v.kind,
                key=v.key,
                version_id=v.version_id,
                last_modified=v.last_modified,
                etag=v.etag,
                size=v.size,
                storage_class="STANDARD" if v.kind == CREATED else None,
                is_latest=v is self.versions[v.key][0],
            )
            for v in shown
        )
        if len(left) <= size:
            return Page(entries, page_time, None, None), None
        last = shown[-1]
        return Page(entries, page_time, last.key, last.version_id), (last.key, last.number)

    # How it is done

    def _create(self, key: str, kind: Kind, etag: str | None, modified: int, name: str) -> None:
        number = len(self.made)
        version_id = f"v{number}" if self.versioning == "enabled" else NULL_VERSION
        size = None if etag is None else sum(map(ord, etag))  # equal ETags are equal content
        second = modified // 1000 * 1000
        version = Version(key, version_id, kind, etag, size, second, self.now, number)
        replaced = self._drop(key, version_id)
        self.versions[key].insert(0, version)
        self.made.append(version)
        self.told[version] = self._tell(replaced, key, kind, version_id, name, size, etag)

    def _remove(self, key: str, version_id: str, name: str) -> None:
        self._tell(self._drop(key, version_id), key, VERSION_DELETED, version_id, name)

    def _drop(self, key: str, version_id: str) -> list[Version]:
        stack = self.versions.get(key, [])
        self.versions[key] = [version for version in stack if version.version_id != version_id]
        return [version for version in stack if version.version_id == version_id]

    def _tell(
        self,
        dropped: list[Version],
        key: str,
        kind: Kind,
        version_id: str,
        name: str,
        size: int | None = None,
        etag: str | None = None,
    ) -> Observation:
        self.past.setdefault(key, []).append((self.now, self.current(key)))
        number = 8 * (len(self.events) + 1)
        sequencer = f"{number:08x}".rstrip("0")  # lengths differ, and so do capitals
        sequencer = sequencer.upper() if number % 3 else sequencer + "00"
        event = Observation(kind, key, version_id, self.now, sequencer, size, etag, event_name=name)
        self.events.append(event)
        self.ended |= dict.fromkeys(dropped, event)
        return event
