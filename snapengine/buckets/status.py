"""What is on, how far behind it is, and what somebody has changed: each as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snapengine.buckets.advice import warnings_for
from snapengine.buckets.facts import BucketFacts, extracts, rule_stands
from snapengine.buckets.plan import drift, not_assured
from snapengine.buckets.queue_age import OldestAges
from snapengine.buckets.queues import QueueFacts
from snapengine.buckets.reading import read_facts
from snapengine.buckets.refusals import out_of_reach
from snapengine.buckets.threatened import ThreatenedRuns, threatened_runs
from snapengine.buckets.tools import Tools
from snapengine.completeness import settled_until, verified_since
from snapengine.errors import BucketNotEnabled, BucketUnknown, SnapEngineError
from snapengine.lease import LASTS_MS
from snapengine.model import BASELINE, BucketConfig, Watermarks


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """SQS's own counts, which are approximate."""

    url: str
    visible: int
    """Waiting to be received."""
    in_flight: int
    """Received, and not deleted yet."""
    delayed: int
    oldest_age_seconds: int | None
    """Of the oldest message in it, by CloudWatch's last figure; None where there is none, as for a queue that
    has long been empty, or one that is not on AWS."""


@dataclass(frozen=True, slots=True)
class ExtractionStatus:
    """What waits for `snapengine extract-worker`."""

    extractors: tuple[str, ...]
    """None: it has been ended, and its queues are not deleted yet."""
    columns: Mapping[str, tuple[str, ...]]
    """By extractor, those beside its usual ones."""
    queue: QueueStatus | None
    """Its messages name up to 20 versions each. None if it is gone or could not be read."""
    dead_letters: int | None
    """Messages set aside."""


@dataclass(frozen=True, slots=True)
class BaselineStatus:
    """The first listing of all versions; instants in UTC milliseconds."""

    state: str
    """`not started`, `running` (heard of within the last minute), `stopped` (run `enable-bucket` again) or
    `ended`."""
    versions: int | None
    """Listed so far; None where it is not running."""
    markers: int | None
    started: int | None
    ended: int | None


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """What the archive's manifests say; instants in UTC milliseconds."""

    root: str
    epoch: int
    """Up to which all is archived; 0 where nothing is."""
    archived_until: int | None
    """That epoch's time."""
    segments: int
    checkpoints: int
    newest_checkpoint: int | None
    """Its instant: views of it and after begin there."""
    observations: int
    files: int
    bytes: int
    keep_days: int | None
    """After so many days what is archived leaves the table."""


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """All that `status` says of one bucket; instants in UTC milliseconds."""

    bucket: str
    enabled: bool
    prefix: str
    region: str
    account: str
    versioning: str | None
    """`Enabled`, `Suspended` or `off`; None if it could not be read."""
    rule_present: bool | None
    """Our notification rule, as it should be; None if it could not be read."""
    drift: tuple[str, ...]
    """What somebody has changed since the bucket was enabled, a phrase each."""
    queue: QueueStatus | None
    dead_letters: int | None
    """Messages set aside."""
    extraction: ExtractionStatus | None
    """None where no metadata is extracted."""
    baseline: BaselineStatus
    enabled_at: int | None
    trusted_since: int | None
    """History is complete from here on: the end of the baseline. Earlier instants show what survived."""
    assured: bool
    epoch: int | None
    """The newest epoch's number."""
    epoch_time: int | None
    caught_up: int | None
    """All events before it have been taken in, as far as that can be known."""
    behind_ms: int | None
    """Now less `caught_up`."""
    settled_until: int | None
    """Views up to here are settled, once a reconcile has ended: `caught_up` less the settle time."""
    verified_since: int | None
    """Views of instants before it are verified: the begin of the newest complete listing of all that is
    watched."""
    archive: ArchiveStatus | None
    """None where there is none."""
    threatened_runs: ThreatenedRuns | None
    """None where no lifecycle rule removes noncurrent versions, or the rules could not be read."""
    warnings: tuple[str, ...]
    errors: tuple[str, ...]
    """What could not be read, and why."""


def all_statuses(engine: Tools) -> list[BucketStatus]:
    """Of every bucket that was ever enabled. One that cannot be read does not hide the others."""
    engine.store.check()
    ages = OldestAges(engine)
    return [_status(engine, config, ages) for config in engine.store.buckets()]


def bucket_status(engine: Tools, bucket: str) -> BucketStatus:
    """Raises `BucketNotEnabled` for a bucket that never was enabled. What AWS refuses is in `errors`."""
    engine.store.check()
    config = engine.store.config(bucket)
    if config is None:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    return _status(engine, config, OldestAges(engine))


def _status(engine: Tools, config: BucketConfig, oldest: OldestAges) -> BucketStatus:
    errors: list[str] = []
    changed: list[str] = []
    facts = None
    queues_read = False
    try:
        facts = read_facts(engine, config.bucket, unread=errors)
        queues_read = not errors
        if unreadable := out_of_reach(facts):
            errors.append(unreadable)
            facts = None
    except BucketUnknown as error:
        changed.append(f"the bucket is gone: {error}")
    except SnapEngineError as error:
        errors.append(str(error))
    changed += drift(facts, queues_read=queues_read) if facts else []
    warnings = list(warnings_for(facts)) if facts else []
    threatened = threatened_runs(engine, facts, warnings) if facts else None
    if not config.assured and config.baseline_started is not None:
        warnings += not_assured(config, config.baseline_started)
    ages = _ages(oldest, facts, warnings)
    epoch = engine.store.newest_epoch(config.bucket)
    marks = epoch.watermarks if epoch else Watermarks()
    caught_up = marks.caught_up
    dead = facts.dead_letters if facts else None
    return BucketStatus(
        bucket=config.bucket,
        enabled=config.enabled,
        prefix=config.prefix,
        region=config.region,
        account=config.account,
        versioning=facts.versioning if facts else None,
        rule_present=rule_stands(facts, config.prefix) if facts and queues_read else None,
        drift=tuple(changed),
        queue=_queue(facts.queue, ages) if facts and facts.queue else None,
        dead_letters=dead.messages if dead else None,
        extraction=_extraction(config, facts, ages),
        baseline=_baseline(engine, config),
        enabled_at=config.enabled_at,
        trusted_since=config.baseline_ended,
        assured=config.assured,
        epoch=epoch.number if epoch else None,
        epoch_time=epoch.time if epoch else None,
        caught_up=caught_up,
        behind_ms=max(0, engine.clock() - caught_up) if caught_up is not None else None,
        settled_until=settled_until(marks),
        verified_since=verified_since(config.prefix, marks),
        archive=_archive(engine, config),
        threatened_runs=threatened,
        warnings=tuple(warnings),
        errors=tuple(errors),
    )


def _ages(oldest: OldestAges, facts: BucketFacts | None, warnings: list[str]) -> dict[str, int]:
    """By queue name. That they cannot be known is no error: all else of the status is."""
    there = [queue.name for queue in (facts.queue, facts.extract_queue) if queue] if facts else []
    if facts is None or not facts.real_aws or not there:
        return {}
    try:
        return oldest.of(there)
    except SnapEngineError as error:
        warnings.append(f"How long messages have been waiting is not known: {error}")
        return {}


def _queue(queue: QueueFacts, ages: Mapping[str, int]) -> QueueStatus:
    counts = queue.attributes
    return QueueStatus(
        url=queue.url,
        visible=int(counts.get("ApproximateNumberOfMessages", 0)),
        in_flight=int(counts.get("ApproximateNumberOfMessagesNotVisible", 0)),
        delayed=int(counts.get("ApproximateNumberOfMessagesDelayed", 0)),
        oldest_age_seconds=ages.get(queue.name),
    )


def _extraction(
    config: BucketConfig, facts: BucketFacts | None, ages: Mapping[str, int]
) -> ExtractionStatus | None:
    if not extracts(config):
        return None
    queue = facts.extract_queue if facts else None
    dead = facts.extract_dead_letters if facts else None
    return ExtractionStatus(
        config.extractors,
        config.extractor_columns,
        _queue(queue, ages) if queue else None,
        dead.messages if dead else None,
    )


def _baseline(engine: Tools, config: BucketConfig) -> BaselineStatus:
    if config.baseline_ended is not None:
        return BaselineStatus("ended", None, None, config.baseline_started, config.baseline_ended)
    saved = engine.store.progress(config.bucket, BASELINE)
    if saved is None:
        return BaselineStatus("not started", None, None, None, None)
    alive = int(saved.get("saved_at", 0)) > engine.clock() - LASTS_MS
    return BaselineStatus(
        "running" if alive else "stopped",
        int(saved["versions"]),
        int(saved["markers"]),
        int(saved["started"]) or None,
        None,
    )


def _archive(engine: Tools, config: BucketConfig) -> ArchiveStatus | None:
    if config.archive is None:
        return None
    archive = engine.archive(config.bucket)
    last = max(archive.segments, key=lambda s: s.last, default=None)
    files = [file for manifest in archive.standing for file in manifest.files]
    return ArchiveStatus(
        root=config.archive,
        epoch=last.last if last else 0,
        archived_until=last.last_time if last else None,
        segments=len(archive.segments),
        checkpoints=len(archive.checkpoints),
        newest_checkpoint=max((c.at for c in archive.checkpoints), default=None),
        observations=sum(s.rows for s in archive.segments),
        files=len(files),
        bytes=sum(file.size for file in files),
        keep_days=config.keep_days,
    )
