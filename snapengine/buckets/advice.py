"""PURE: what a bucket's own settings will do to its history, so that nobody finds out later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from snapengine.buckets import queues
from snapengine.buckets.facts import BucketFacts, wanted_extract_settings, wanted_settings

_ARCHIVED = {"GLACIER", "DEEP_ARCHIVE"}


def warnings_for(facts: BucketFacts) -> Iterator[str]:
    """One or two sentences each, the gravest first."""
    yield from _lifecycle(facts)
    yield from _replication(facts)
    if facts.object_lock:
        yield (
            f"Bucket {facts.bucket} has Object Lock: versioning can never be suspended, and locked versions "
            "cannot be removed. Good for history; mind the cost."
        )
    if facts.versioning != "Enabled":
        yield from _versioning(facts)


def expiring_rules(facts: BucketFacts) -> Iterator[Mapping[str, Any]]:
    """The enabled lifecycle rules that remove noncurrent versions."""
    for rule in facts.lifecycle:
        if rule.get("Status") == "Enabled" and rule.get("NoncurrentVersionExpiration"):
            yield rule


def rule_name(rule: Mapping[str, Any]) -> str:
    """A lifecycle rule's id, or that it has none."""
    return str(rule.get("ID", "without an id"))


def prefix_of(rule: Mapping[str, Any]) -> str:
    """Of the keys that a lifecycle rule applies to; it may ask for tags and sizes besides."""
    chosen = rule.get("Filter", {})
    chosen = chosen.get("And", chosen)
    return str(chosen.get("Prefix") or rule.get("Prefix") or "")


def _lifecycle(facts: BucketFacts) -> Iterator[str]:
    for rule in facts.lifecycle:
        if rule.get("Status") != "Enabled":
            continue
        name = f"Lifecycle rule {rule_name(rule)} of bucket {facts.bucket}"
        if expiration := rule.get("NoncurrentVersionExpiration"):
            yield (
                f"DATA LOSS AHEAD: {name} destroys versions {_when(expiration)}{_where(rule)}. Views of "
                "earlier times will list them, and their bytes will be gone. Disable the rule, or keep "
                "versions for as long as views must be readable."
            )
        transitions = [*rule.get("Transitions", ()), *rule.get("NoncurrentVersionTransitions", ())]
        archived = sorted({str(t.get("StorageClass")) for t in transitions} & _ARCHIVED)
        if archived:
            yield (
                f"{name} moves versions to {', '.join(archived)}{_where(rule)}: their bytes must be restored "
                "before they can be read."
            )


def _when(expiration: Mapping[str, Any]) -> str:
    days = expiration.get("NoncurrentDays")
    kept = expiration.get("NewerNoncurrentVersions")
    when = f"{days} days after they are overwritten or deleted" if days else "that are no longer current"
    return f"{when}, but for the newest {kept}" if kept else when


def _where(rule: Mapping[str, Any]) -> str:
    prefix = prefix_of(rule)
    return f" (keys below {prefix})" if prefix else ""


def _replication(facts: BucketFacts) -> Iterator[str]:
    if facts.replica is not None:
        yield (
            f"Bucket {facts.bucket} is a replication destination ({facts.replica!r} is a replica): replicas "
            "keep the version ids, and may keep the times, of their source. A view at T may show them before "
            "they had arrived here."
        )
    if facts.replicates_to:
        yield (
            f"Bucket {facts.bucket} is replicated to {', '.join(facts.replicates_to)}: removals of single "
            "versions are never replicated, so that bucket's history is not this one's."
        )


def _versioning(facts: BucketFacts) -> Iterator[str]:
    yield (
        f"With versioning, bucket {facts.bucket} keeps and is charged for every version that is overwritten "
        "or deleted. What was overwritten before today is not in the history."
    )
    expires = any(rule.get("Status") == "Enabled" and rule.get("Expiration") for rule in facts.lifecycle)
    if expires:
        yield (
            "Its lifecycle rules that expire objects will only add delete markers from now on: storage will "
            "not shrink any more."
        )


def unsupported(facts: BucketFacts) -> Iterator[str]:
    """What the queues' server, if it is not AWS's, leaves in the dark."""
    there = (facts.queue, facts.dead_letters, facts.extract_queue, facts.extract_dead_letters)
    settings = (*wanted_settings(facts), *wanted_extract_settings(facts))
    for queue, wanted in zip(there, settings, strict=True):
        if queue and (missing := queues.unreported(wanted, queue, real_aws=facts.real_aws)):
            yield (
                f"Queue {queue.name} is not on AWS, and its server does not report {', '.join(missing)}: "
                "whether it is in force is not known."
            )
