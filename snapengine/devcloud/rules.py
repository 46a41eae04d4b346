"""PURE: which notification configurations S3 refuses.

The rules are in the S3 User Guide, "Configuring event notifications using object key name filtering".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

# The element of the request's XML that holds each kind of rule, and the one within it that names the target.
_KINDS = {
    "QueueConfiguration": "Queue",
    "TopicConfiguration": "Topic",
    "CloudFunctionConfiguration": "CloudFunction",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a configuration; `events` keep their `s3:` prefix and may end in `:*`."""

    rule_id: str | None
    target: str
    events: tuple[str, ...]
    prefix: str
    suffix: str

    def overlaps(self, other: Rule) -> bool:
        """Whether some event on some key would match both. An absent filter matches every key."""
        return (
            any(_same_event(mine, theirs) for mine in self.events for theirs in other.events)
            and (self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix))
            and (self.suffix.endswith(other.suffix) or other.suffix.endswith(self.suffix))
        )


def _same_event(one: str, other: str) -> bool:
    if one.endswith(":*"):
        one, other = other, one
    return one == other or (other.endswith(":*") and one.startswith(other[:-1]))


def rules_of(configuration: Mapping[str, Any]) -> list[Rule]:
    """The rules of a PutBucketNotificationConfiguration, as moto has parsed its XML."""
    return [
        _rule(item, str(item[target]))
        for kind, target in _KINDS.items()
        for item in configuration.get(kind) or ()
    ]


def _rule(item: Mapping[str, Any], target: str) -> Rule:
    filters = (item.get("Filter") or {}).get("S3Key", {}).get("FilterRule", ())
    values = {each["Name"].lower(): each["Value"] for each in filters}
    return Rule(
        item.get("Id"), target, tuple(item["Event"]), values.get("prefix", ""), values.get("suffix", "")
    )


def objection(rules: Sequence[Rule]) -> str | None:
    """Why S3 would refuse these rules together, in its words; None if it would take them."""
    named = [rule.rule_id for rule in rules if rule.rule_id]
    if len(named) != len(set(named)):
        return "Same ID used for multiple configurations. IDs must be unique."
    if any(rule.target.endswith(".fifo") for rule in rules):
        return "FIFO SQS queues and FIFO SNS topics are not supported as destinations."
    if any(one.overlaps(other) for one, other in combinations(rules, 2)):
        return (
            "Configuration is ambiguously defined. Cannot have overlapping suffixes in two rules "
            "if the prefixes are overlapping for the same event type."
        )
    return None
