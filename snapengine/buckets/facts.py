"""PURE: what was read of a bucket, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from snapengine.buckets import queues, rules
from snapengine.buckets.queues import QueueFacts
from snapengine.model import BucketConfig

GAP = "gap"
"""The note that events may have been missed, and that all is to be listed again."""

Versioning = Literal["off", "Enabled", "Suspended"]


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """What was read of a bucket, its queues and its registration."""

    bucket: str
    account: str
    """The caller's: the queues are made there."""
    queue_region: str
    region: str = ""
    """The bucket's."""
    partition: str = "aws"
    real_aws: bool = True
    """False for an endpoint of another server than AWS's."""
    owned_by_caller: bool = True
    versioning: Versioning = "off"
    mfa_delete: bool = False
    notification: Mapping[str, Any] = field(default_factory=dict)
    unknown_elements: tuple[str, ...] = ()
    """XML of the notification configuration that the SDK would drop."""
    lifecycle: tuple[Mapping[str, Any], ...] = ()
    object_lock: bool = False
    replicates_to: tuple[str, ...] = ()
    """The buckets that this one is replicated to."""
    replica: str | None = None
    """A key of this bucket that is a replica, if one was found among the few looked at."""
    queue: QueueFacts | None = None
    dead_letters: QueueFacts | None = None
    extract_queue: QueueFacts | None = None
    """Read only where extraction is on or asked for."""
    extract_dead_letters: QueueFacts | None = None
    config: BucketConfig | None = None
    unfinished: bool = False
    """An earlier run was stopped after it had found that events may have been missed."""
    store: str = ""
    """The log's address."""
    archived_here: tuple[str, ...] = ()
    """The buckets whose archives are in this one."""
    archive: str | None = None
    """Where this bucket's archive is or would be; None if no place is named."""
    archive_refused: str | None = None
    """Why it cannot be there."""


def is_directory_bucket(bucket: str) -> bool:
    """By its name, which ends so for these alone. Source: S3 User Guide, "Directory bucket naming rules"."""
    return bucket.endswith("--x-s3")


def queue_arns(facts: BucketFacts) -> tuple[str, str]:
    """Of the event queue and of its dead-letter queue: as they are, or as they will be."""
    return _arn(facts, "queue"), _arn(facts, "dead_letters")


def _arn(facts: BucketFacts, field_name: str) -> str:
    queue: QueueFacts | None = getattr(facts, field_name)
    if queue is not None:
        return queue.arn
    name = queues.queue_names(facts.bucket)[field_name]
    return queues.queue_arn(facts.partition, facts.queue_region, facts.account, name)


def extracts(config: BucketConfig | None) -> bool:
    """Whether a bucket has queues of extraction, or should have."""
    return config is not None and bool(
        config.extractors or config.extract_queue_url or config.extract_dead_letter_queue_url
    )


def wanted_settings(facts: BucketFacts) -> tuple[dict[str, str], dict[str, str]]:
    """The attributes of the event queue and of its dead-letter queue."""
    event, dead = queue_arns(facts)
    return (
        queues.queue_settings(
            arn=event,
            dead_letter_arn=dead,
            bucket=facts.bucket,
            partition=facts.partition,
            account=facts.account,
        ),
        queues.dead_letter_settings(source_arn=event),
    )


def wanted_extract_settings(facts: BucketFacts) -> tuple[dict[str, str], dict[str, str]]:
    """The attributes of the extraction queue and of its dead-letter queue."""
    arn = _arn(facts, "extract_queue")
    settings = queues.extract_settings(
        arn=arn,
        dead_letter_arn=_arn(facts, "extract_dead_letters"),
        partition=facts.partition,
        account=facts.account,
    )
    return settings, queues.dead_letter_settings(source_arn=arn)


def settings_of(facts: BucketFacts, name: str) -> dict[str, str]:
    """The attributes of the bucket's queue of that name."""
    names = queues.queue_names(facts.bucket).values()
    return dict(zip(names, (*wanted_settings(facts), *wanted_extract_settings(facts)), strict=True))[name]


def rule_stands(facts: BucketFacts, prefix: str) -> bool:
    """Whether our rule is there and as it should be."""
    wanted = rules.wanted_rule(queue_arns(facts)[0], prefix)
    return rules.same_rule(rules.our_rule(facts.notification), wanted)
