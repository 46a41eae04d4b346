"""PURE: why a bucket cannot be enabled as it stands, and the ways out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from snapengine.buckets import queues, rules
from snapengine.buckets.facts import BucketFacts, is_directory_bucket


def refusals_of(facts: BucketFacts, prefix: str, baseline: str = "auto") -> Iterator[str]:
    """A sentence or two each; none if the bucket can be enabled for keys below `prefix`."""
    bucket = facts.bucket
    if reason := out_of_reach(facts):
        yield reason
        return
    if facts.unknown_elements:
        yield unknown_elements(bucket, facts.unknown_elements)
    if len(prefix.encode()) > 1024:
        yield "The prefix is longer than an S3 key can be: 1,024 bytes of UTF-8."
    if facts.mfa_delete and facts.versioning != "Enabled":
        yield (
            f"Bucket {bucket} has MFA delete, so only the root user with an MFA device can switch versioning "
            "on. Do so first."
        )
    yield from _overlap(facts, prefix)
    yield from _other_store(facts)
    yield from _archives(facts, baseline)


def out_of_reach(facts: BucketFacts) -> str | None:
    """Why the bucket could not be read further from here, or None."""
    bucket = facts.bucket
    if is_directory_bucket(bucket):
        return (
            f"{bucket} is a directory bucket: S3 gives these neither versions nor notifications. "
            "Use a general purpose bucket."
        )
    if bucket.endswith(("-s3alias", "--ol-s3")):
        return f"{bucket} is the alias of an access point. Give the name of its bucket."
    if not facts.owned_by_caller:
        return (
            f"Bucket {bucket} does not belong to account {facts.account}. "
            "Use credentials of the account that owns it."
        )
    if facts.region != facts.queue_region:
        return (
            f"Bucket {bucket} is in {facts.region}, and its queue would be in {facts.queue_region}; S3 "
            f"notifies queues of its own region only. Set AWS_REGION={facts.region}."
        )
    return None


def unknown_elements(bucket: str, names: Sequence[str]) -> str:
    """Why a configuration cannot be changed that the SDK does not fully understand."""
    return (
        f"The notifications of bucket {bucket} hold {', '.join(names)}, which this AWS SDK does not know and "
        "would drop. Upgrade boto3, then try again."
    )


def _overlap(facts: BucketFacts, prefix: str) -> Iterator[str]:
    for rule in rules.overlapping(facts.notification, prefix):
        keys = f"prefix {rule.prefix!r}, suffix {rule.suffix!r}" if rule.prefix or rule.suffix else "all keys"
        yield (
            f"Bucket {facts.bucket} already has rule {rule.name} ({', '.join(rule.events)}; {keys}; to "
            f"{rule.target}), and S3 takes no two rules for the same events on the same keys. Ways out: "
            f"{_apart(rule, prefix)}; have its target fed by EventBridge instead, "
            "which gets every event without a rule; or send both through one SNS topic."
        )
    others = sum(1 for rule in rules.rules_of(facts.notification) if not rule.ours)
    if others >= rules.MAX_RULES:
        yield (
            f"Bucket {facts.bucket} has {others} notification rules, and S3 allows {rules.MAX_RULES}. "
            "Remove one."
        )


def _apart(rule: rules.Rule, prefix: str) -> str:
    """How the two rules can have keys of their own. Ours has no suffix, so that only prefixes tell them
    apart, and the one without a prefix has to be given one."""
    if prefix:
        narrow = "narrow that rule to a prefix beside ours"
        return f"{narrow}; watch other keys with --prefix" if rule.prefix else narrow
    if rule.prefix:
        return "watch other keys with --prefix"
    return "narrow that rule to a prefix, and watch another with --prefix"


def _other_store(facts: BucketFacts) -> Iterator[str]:
    feeding: dict[str, list[str]] = {}
    there = (facts.queue, facts.dead_letters, facts.extract_queue, facts.extract_dead_letters)
    for queue in filter(None, there):
        tag = queue.tags.get(queues.STORE_TAG)
        if tag is not None and tag != queues.store_tag(facts.store):
            feeding.setdefault(tag, []).append(queue.name)
    for tag, names in feeding.items():
        yield (
            f"Queue {' with '.join(names)} feeds another log, {tag}: two workers on one queue would each "
            "miss what the other takes. Disable the bucket there first, or remove the tag "
            f"{queues.STORE_TAG} of {'each' if len(names) > 1 else 'the queue'} if that log is no more."
        )


def _archives(facts: BucketFacts, baseline: str) -> Iterator[str]:
    if facts.archived_here:
        yield (
            f"Bucket {facts.bucket} holds the archive of {', '.join(facts.archived_here)}: its files would "
            "be recorded and archived again, without end. Watch other buckets only, and keep archives in "
            "one that is not watched."
        )
    if baseline == "log":
        return
    if facts.archive_refused is not None:
        yield facts.archive_refused
    elif baseline == "parquet" and facts.archive is None:
        yield (
            "A baseline goes into Parquet files only where there is a place for an archive. Set "
            "SNAPENGINE_ARCHIVE, or leave --baseline out."
        )


def refusal_text(refusals: Sequence[str]) -> str:
    """All of them, as the message of one error."""
    return " ".join(refusals) + " Nothing was changed."
