"""The values that everything else is made of: observations, versions, epochs, references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

Kind = Literal["Created", "MarkerCreated", "VersionDeleted"]
CREATED: Final = "Created"
MARKER_CREATED: Final = "MarkerCreated"
VERSION_DELETED: Final = "VersionDeleted"

Origin = Literal["event", "baseline", "reconcile"]
EVENT: Final = "event"
BASELINE: Final = "baseline"
RECONCILE: Final = "reconcile"

NULL_VERSION: Final = "null"
"""The version id of objects written while versioning was off or suspended; S3 uses it again and again."""

TimeSource = Literal["event", "listed"]

SLACK_MS: Final = 60_000
"""By how much the order of events may differ from that of their times, and a listed page's time lag behind
what the page shows: a listing asks again for a page that took longer than half of it."""


class Observation(NamedTuple):
    """One report of one fact about one version of one key, kept as it came.

    A fact is what S3 did: `Created`, `MarkerCreated` (a delete marker) or `VersionDeleted` (a version or
    a marker removed for good). A NamedTuple because a worker makes millions of them.
    """

    kind: Kind
    key: str
    """The object's key, decoded: 1 to 1,024 bytes of UTF-8."""
    version_id: str
    """S3's version id; absent, empty and `null` are all `"null"`."""
    event_time: int
    """UTC milliseconds. An event's `eventTime`; of a listed entry its `LastModified`; of a removal by
    absence the page's time."""
    sequencer: str | None = None
    size: int | None = None
    """Bytes; None for markers and removals."""
    etag: str | None = None
    """Without quotes."""
    storage_class: str | None = None
    origin: Origin = EVENT
    event_name: str | None = None
    """S3's name of the event, such as `ObjectCreated:Put` or `LifecycleExpiration:Delete`: the why."""
    listing: str | None = None
    """The id of the listing that showed it (or proved its absence); None for events."""
    page_time: int | None = None
    """UTC milliseconds by S3's clock, never after the request of the listing's page was evaluated."""
    position: int | None = None
    """Place in the listing, from 0; S3 lists the newest version of a key first."""


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """An object as a view shows it: one version of one key."""

    key: str
    version_id: str
    size: int | None
    """Bytes."""
    etag: str | None
    event_time: int
    """UTC milliseconds at which the version came to be, as well as it is known: see `time`."""
    time: TimeSource = "event"
    """`listed` if the time is known from a listing only: early by up to a second, by hours for a
    multipart upload."""
    storage_class: str | None = None
    sequencer: str | None = None


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A half-open interval `[start, end)` in UTC milliseconds."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SnapshotRef:
    """What a view or a slice is a view of. Resolving it gives the same answer for ever.

    `at` is inclusive; a slice has a `start` and is half-open: it shows `[start, at]`, `at` being the last
    millisecond before its end.
    """

    bucket: str
    prefix: str
    at: int
    epoch: int
    start: int | None = None
    versions: Literal["last", "all"] = "last"
    selection: str = ""
    """Of a narrowed view the digest (`sha256:…`) of its rows, which are kept under it; else nothing."""


@dataclass(frozen=True, slots=True)
class Watermarks:
    """What a bucket's writers could vouch for when an epoch was cut; instants in UTC milliseconds."""

    caught_up: int | None = None
    """Workers had seen their queue empty, or its oldest message was younger than this."""
    verified: Mapping[str, int] = field(default_factory=dict)
    """By prefix (`""` is the whole bucket): the request of the first page of its newest complete listing."""
    baseline_ended: int | None = None
    """When the first listing of all versions was complete."""
    enabled_at: int | None = None
    """Since when S3 has been telling our queue of every change."""
    disabled_at: int | None = None
    """When that ended, by `disable-bucket`."""
    settle_ms: int = 120_000
    """How long after an instant its events may still come, for the level `settled`."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A numbered cut through a bucket's log. What it covers never changes."""

    number: int
    time: int
    """UTC milliseconds; greater than the epoch's before it."""
    cover: Mapping[int, int]
    """For each stream, the number of the last entry that the epoch covers (0: none)."""
    watermarks: Watermarks = field(default_factory=Watermarks)
    rows: Mapping[int, int] = field(default_factory=dict)
    """The same of the streams of metadata rows (`metadata_rows.metadata_log`); a stream without any is left
    out."""


Level = Literal["provisional", "settled", "verified"]
History = Literal["recorded", "surviving", "ended"]


@dataclass(frozen=True, slots=True)
class Completeness:
    """How much a view can promise, and what that rests on."""

    level: Level
    watermarks: Watermarks
    history: History
    """`surviving` for instants before the bucket was enabled: built from what still existed then. `ended` for
    instants after it was disabled: what happened since is unknown."""
    reason: str
    """One plain sentence."""


EntryForm = Literal["rows", "files", "stub", "metadata"]
"""What a log entry holds: observations; the names of Parquet files of observations; nothing any more, as the
archive has it; or rows of metadata (`metadata_rows.py`)."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A batch of observations, or of rows of metadata, at one place in one stream of a log. Never deleted;
    never changed but for a stub, or where metadata is erased on request."""

    bucket: str
    stream: int
    number: int
    """From 1, without gaps."""
    nonce: str
    """Drawn anew for each batch: tells a lost reply that had landed from another writer's entry."""
    recorded_at: int
    """UTC milliseconds by the writer's clock; for people, never for answers."""
    count: int
    payload: bytes
    """An Arrow IPC stream, zstd (see `observation_codec.py`), or what `form` says."""
    form: EntryForm = "rows"


@dataclass(frozen=True, slots=True)
class BucketConfig:
    """What `enable-bucket` settled for a bucket."""

    bucket: str
    region: str
    account: str
    """The owner's AWS account id."""
    streams: int = 8
    """How many streams the bucket's log has; it may only grow."""
    prefix: str = ""
    """Only keys below it are watched."""
    queue_url: str | None = None
    queue_arn: str | None = None
    dead_letter_queue_url: str | None = None
    extractors: tuple[str, ...] = ()
    """By which metadata is extracted from new versions, in this order."""
    extractor_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By extractor, the columns that it fills beside its usual ones."""
    extract_queue_url: str | None = None
    extract_queue_arn: str | None = None
    extract_dead_letter_queue_url: str | None = None
    rule_id: str | None = None
    enabled: bool = True
    enabled_at: int | None = None
    """When our notification rule was read back; UTC milliseconds."""
    disabled_at: int | None = None
    """When `disable-bucket` ended the recording, until the bucket is enabled again."""
    versioning_enabled_at: int | None = None
    """When we switched versioning on, or None where it was on already."""
    assured: bool = True
    """False where the waits that AWS asks for were skipped (`--no-wait`)."""
    settle_ms: int = 120_000
    """How long after an instant its events may still come."""
    baseline_started: int | None = None
    baseline_ended: int | None = None
    """The first listing of all versions, UTC milliseconds; history is complete from its end on."""
    archive: str | None = None
    """The archive's root, `s3://…` or `file://…`, once there is one."""
    archive_id: str | None = None
    """Drawn when this table began to archive the bucket there: no other table may go on with it."""
    keep_days: int | None = None
    """After so many days what is archived leaves the table; None: it stays for ever."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "extractors", tuple(self.extractors))  # JSON has lists
        columns = {name: tuple(further) for name, further in self.extractor_columns.items()}
        object.__setattr__(self, "extractor_columns", columns)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A view that somebody named, kept for ever."""

    bucket: str
    name: str
    reference: str
    """`snap://…` with its epoch."""
    digest: str
    """Of the view when it was named; `snapengine verify` compares with it."""
    created_at: int
    """UTC milliseconds."""
    creator: str
    note: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunNote:
    """That an MLflow run saw a view, kept for ever. A run notes a reference once."""

    run_id: str
    bucket: str
    name: str
    """The view's name within the run, as MLflow shows it (`run_notes.view_name`)."""
    reference: str
    """`snap://…` with its epoch."""
    started_at: int
    """Of the run; UTC milliseconds."""
    noted_at: int
    """UTC milliseconds."""
    digest: str = ""
    """Of the view; nothing until it has been computed."""
    objects: int | None = None
    bytes: int | None = None
    """Of all objects whose size is known."""
    query: str | None = None
    """The condition by which the view was narrowed, unless it speaks of identifying columns; it is kept in
    full with what it selected."""
    experiment: str = ""
    """MLflow's experiment id."""
    tracking: str = ""
    """MLflow's tracking URI, without credentials."""


@dataclass(frozen=True, slots=True)
class GoneVersion:
    """A version that a view shows and that has been removed from S3 for good since."""

    key: str
    version_id: str
    since: int
    """UTC milliseconds."""
    why: str
    """S3's name of the event, or that a complete listing lacked it."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A command that changed something: who, what, when, and how it ended."""

    time: int
    """UTC milliseconds."""
    actor: str
    action: str
    target: str
    outcome: str
    detail: str = ""


def watermarks_of(
    config: BucketConfig, caught_up: int | None = None, verified: Mapping[str, int] | None = None
) -> Watermarks:
    """A bucket's watermarks, from its configuration and from what workers and listings vouched for."""
    return Watermarks(
        caught_up=caught_up,
        verified=_undominated(verified or {}),
        baseline_ended=config.baseline_ended,
        enabled_at=config.enabled_at,
        disabled_at=config.disabled_at,
        settle_ms=config.settle_ms,
    )


def _undominated(verified: Mapping[str, int]) -> dict[str, int]:
    """Without what a later listing of a shorter prefix says too; the newest 32, as epochs carry them."""
    telling = {
        prefix: time
        for prefix, time in verified.items()
        if not any(prefix != p and prefix.startswith(p) and t >= time for p, t in verified.items())
    }
    return dict(sorted(telling.items(), key=lambda item: (-item[1], item[0]))[:32])
