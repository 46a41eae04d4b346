"""PURE: what `enable-bucket` would change, from what was read of a bucket. No step is planned twice.

The queues come first, then the rule, and versioning last, as it alone cannot be undone: where AWS denies
one of them, all before it can be taken back.
"""

from __future__ import annotations

from collections.abc import Iterator

from snapengine.buckets import extraction, queues, rules
from snapengine.buckets.advice import unsupported, warnings_for
from snapengine.buckets.facts import BucketFacts, rule_stands, wanted_settings
from snapengine.buckets.queue_steps import one_queue
from snapengine.buckets.refusals import refusals_of
from snapengine.buckets.steps import (
    Plan,
    PutRule,
    Register,
    Step,
    SwitchVersioningOn,
    TakeBaseline,
    Wanted,
)
from snapengine.model import BucketConfig

RULE_SETTLES_MS = 5 * 60_000
"""How long S3 may take to apply a notification configuration."""
VERSIONING_SETTLES_MS = 15 * 60_000
"""How long AWS asks to wait after versioning is first switched on."""


def make_plan(facts: BucketFacts, wanted: Wanted) -> Plan:
    """What to do so that the bucket is enabled as wanted."""
    config = facts.config
    prefix = wanted.prefix if wanted.prefix is not None else (config.prefix if config else "")
    if refusals := tuple(refusals_of(facts, prefix, wanted.baseline)):
        return Plan(facts.bucket, prefix, wanted, refusals=refusals)
    gap = gap_since(facts, prefix)
    changes = [
        *_queue_steps(facts),
        *extraction.queue_steps(facts, wanted),
        *_rule_step(facts, prefix),
        *_versioning_step(facts),
        *_register_step(facts, prefix, gap, wanted),
        *extraction.registration_steps(facts, wanted),
    ]
    if config is None or config.baseline_ended is None or any(_lists_again(step) for step in changes):
        below = f" below {prefix}" if prefix else ""
        changes.append(TakeBaseline(f"list every version and delete marker{below} once, the baseline"))
    return Plan(
        facts.bucket,
        prefix,
        wanted,
        tuple(changes),
        (
            *warnings_for(facts),
            *unsupported(facts),
            *_change_warnings(facts, prefix, gap),
            *extraction.extraction_warnings(facts, wanted),
        ),
    )


def _lists_again(step: Step) -> bool:
    return isinstance(step, Register) and step.again


def wait_until(config: BucketConfig) -> int:
    """When the baseline may begin, UTC milliseconds by S3's clock; 0 if the bucket is not registered yet."""
    rule = config.enabled_at + RULE_SETTLES_MS if config.enabled_at is not None else 0
    switched = config.versioning_enabled_at
    return max(rule, switched + VERSIONING_SETTLES_MS if switched is not None else 0)


def gap_since(facts: BucketFacts, prefix: str) -> str | None:
    """Why events may have been missed since the bucket was enabled, or are about to be asked for only now;
    None if history goes on."""
    config = facts.config
    if config is None or not config.enabled:
        return "the bucket was not enabled"
    if config.enabled_at is None or facts.unfinished:
        return "an earlier run was stopped before its end"
    if not prefix.startswith(config.prefix):
        return f"keys outside {config.prefix} were not watched"
    if facts.queue is None:
        return "the queue was gone"
    if not rule_stands(facts, config.prefix) and not rule_stands(facts, prefix):
        return "our notification rule was missing or changed"
    if "Policy" in queues.differences(wanted_settings(facts)[0], facts.queue, real_aws=facts.real_aws):
        return "the queue's policy kept S3 from sending"
    return None


def _queue_steps(facts: BucketFacts) -> Iterator[Step]:
    # The dead-letter queue first: the other's redrive policy names it.
    event, dead = wanted_settings(facts)
    yield from one_queue(
        facts, facts.dead_letters, queues.dead_letter_name(facts.bucket), dead, "for messages that fail"
    )
    purpose = "for S3's events: kept 14 days, encrypted (SSE-SQS), open to this bucket of this account only"
    yield from one_queue(facts, facts.queue, queues.queue_name(facts.bucket), event, purpose)


def _rule_step(facts: BucketFacts, prefix: str) -> Iterator[Step]:
    if rule_stands(facts, prefix):
        return
    keys = f"keys below {prefix}" if prefix else "all keys"
    verb = "change" if rules.our_rule(facts.notification) else "add"
    yield PutRule(
        f"{verb} the notification rule `{rules.RULE_ID}` ({keys}: creations, removals, lifecycle "
        "expirations) and keep everything else of the bucket's notifications",
        prefix,
    )


def _versioning_step(facts: BucketFacts) -> Iterator[Step]:
    if facts.versioning != "Enabled":
        was = "suspended" if facts.versioning == "Suspended" else "off"
        yield SwitchVersioningOn(f"switch versioning on (it is {was})")


def _register_step(facts: BucketFacts, prefix: str, gap: str | None, wanted: Wanted) -> Iterator[Step]:
    config = facts.config
    if gap is not None:
        words = "register the bucket" if config is None else f"register the bucket anew, as {gap}"
        yield Register(words, prefix, anew=True, again=True)
    elif config is not None and config.baseline_ended is not None and wanted.wait and not config.assured:
        words = "have the baseline taken again, as the last one did not wait for AWS's settings to settle"
        yield Register(words, prefix, anew=False, again=True)
    elif config is not None and (
        facts.versioning != "Enabled"
        or (config.prefix, config.rule_id, config.queue_arn)
        != (prefix, rules.RULE_ID, facts.queue.arn if facts.queue else None)
        or (config.dead_letter_queue_url != (facts.dead_letters.url if facts.dead_letters else None))
    ):
        yield Register("bring the registration up to date", prefix, anew=False, again=False)


def _change_warnings(facts: BucketFacts, prefix: str, gap: str | None) -> Iterator[str]:
    config = facts.config
    if config is None:
        return
    if config.enabled and gap is not None:
        yield (
            f"Changes may have been missed, as {gap}. The baseline finds versions and markers, not removals: "
            f"run `snapengine reconcile {facts.bucket}` after it."
        )
    if not config.prefix.startswith(prefix):
        yield (
            f"Only keys below {prefix} are watched from now on, no longer all below "
            f"{config.prefix or 'no prefix'}: "
            "views of the others stay as they were."
        )


def drift(facts: BucketFacts, *, queues_read: bool = True) -> list[str]:
    """What somebody has changed since the bucket was enabled, in words; empty if it is as it was left.
    Where the queues could not be read, nothing is said of them, nor of the rule's details."""
    config = facts.config
    if config is None or not config.enabled:
        return []
    found: list[str] = []
    if rules.our_rule(facts.notification) is None:
        found.append(f"the notification rule `{rules.RULE_ID}` is gone: changes are missed")
    elif queues_read and not rule_stands(facts, config.prefix):
        found.append(f"the notification rule `{rules.RULE_ID}` was changed: changes may be missed")
    if facts.versioning != "Enabled":
        found.append(f"versioning is {facts.versioning.lower()}: what is overwritten is lost")
    if not queues_read:
        return found
    pairs = (("queue", facts.queue), ("dead-letter queue", facts.dead_letters))
    for (word, queue), settings in zip(pairs, wanted_settings(facts), strict=True):
        if queue is None:
            found.append(f"the {word} is gone")
        elif changes := queues.differences(settings, queue, real_aws=facts.real_aws):
            found.append(f"{', '.join(sorted(changes))} of the {word} is not as it was set")
    return [*found, *extraction.extraction_drift(facts)]


def not_assured(config: BucketConfig, began: int) -> list[str]:
    """What a baseline begun at `began` (UTC milliseconds, S3's clock) cannot vouch for."""
    found: list[str] = []
    if config.enabled_at is not None and began < config.enabled_at + RULE_SETTLES_MS:
        found.append(
            "S3 may take 5 minutes to apply a notification rule, and the baseline did not wait for that: "
            "changes made meanwhile may be missing."
        )
    switched = config.versioning_enabled_at
    if switched is not None and began < switched + VERSIONING_SETTLES_MS:
        found.append(
            "AWS asks to wait 15 minutes after versioning is switched on, and the baseline did not: "
            "objects overwritten meanwhile may have kept no earlier version."
        )
    return found
