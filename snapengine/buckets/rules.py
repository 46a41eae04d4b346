"""PURE: a bucket's notification configuration, as the API's dict: our rule in it, and everybody else's.

A bucket has one configuration, and a PUT replaces all of it: what is not ours goes back as it came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, unquote_plus

RULE_ID = "snapengine"
EVENTS = ("s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*")
"""`ObjectRemoved:*` leaves out what lifecycle rules remove."""

MAX_RULES = 100
"""S3's limit for a bucket."""

Notification = Mapping[str, Any]
"""As `get_bucket_notification_configuration` returns it, without `ResponseMetadata`."""

_TARGETS = {
    "QueueConfigurations": ("queue", "QueueArn"),
    "TopicConfigurations": ("topic", "TopicArn"),
    "LambdaFunctionConfigurations": ("function", "LambdaFunctionArn"),
}
_SAFE = "/!-_.*'()"
"""What needs no percent-encoding in a filter, letters and digits aside: S3 User Guide, "Safe characters"."""

KNOWN_ELEMENTS = frozenset(
    {
        *(
            "EventBridgeConfiguration",
            "QueueConfiguration",
            "TopicConfiguration",
            "CloudFunctionConfiguration",
        ),
        *("Id", "Queue", "Topic", "CloudFunction", "Event"),
        *("Filter", "S3Key", "FilterRule", "Name", "Value"),
    }
)
"""The XML that the SDK keeps when it reads a configuration; it drops any other without a word."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, whatever it sends to."""

    name: str
    """Its id, or its target where it has none."""
    target: str
    events: tuple[str, ...]
    prefix: str
    """Decoded."""
    suffix: str
    ours: bool

    def overlaps(self, other: Rule) -> bool:
        """Whether S3 would refuse the two in one configuration: an event type in common, and prefixes and
        suffixes that one key could match. Source: S3 User Guide, "Configuring event notifications using
        object key name filtering"."""
        return (
            any(_same_type(mine, theirs) for mine in self.events for theirs in other.events)
            and (self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix))
            and (self.suffix.endswith(other.suffix) or other.suffix.endswith(self.suffix))
        )


def _same_type(one: str, other: str) -> bool:
    return (
        one == other
        or (one.endswith("*") and other.startswith(one[:-1]))
        or (other.endswith("*") and one.startswith(other[:-1]))
    )


def rules_of(notification: Notification) -> Iterator[Rule]:
    """All rules, ours too."""
    for kind, (word, field) in _TARGETS.items():
        for item in notification.get(kind, ()):
            arn = str(item[field])
            filters = {
                str(rule["Name"]).lower(): unquote_plus(str(rule.get("Value", "")))
                for rule in item.get("Filter", {}).get("Key", {}).get("FilterRules", ())
            }
            yield Rule(
                name=str(item.get("Id") or f"without an id, to {arn}"),
                target=f"{word} {arn}",
                events=tuple(item["Events"]),
                prefix=filters.get("prefix", ""),
                suffix=filters.get("suffix", ""),
                ours=_is_ours(kind, item),
            )


def _is_ours(kind: str, item: Mapping[str, Any]) -> bool:
    return kind == "QueueConfigurations" and item.get("Id") == RULE_ID


def wanted_rule(queue_arn: str, prefix: str) -> dict[str, Any]:
    """Our rule in the API's form. A filter's value is form-encoded, as keys are in events: a prefix
    `date=1/` written as it is would match nothing."""
    rule: dict[str, Any] = {"Id": RULE_ID, "QueueArn": queue_arn, "Events": list(EVENTS)}
    if prefix:
        value = quote_plus(prefix, safe=_SAFE)
        rule["Filter"] = {"Key": {"FilterRules": [{"Name": "prefix", "Value": value}]}}
    return rule


def our_rule(notification: Notification) -> dict[str, Any] | None:
    """The rule with our id, as it stands."""
    for item in notification.get("QueueConfigurations", ()):
        if _is_ours("QueueConfigurations", item):
            return dict(item)
    return None


def same_rule(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two rules mean the same, whatever the order of their events and the case of filter names."""
    return one is not None and other is not None and _meaning(one) == _meaning(other)


def _meaning(item: Mapping[str, Any]) -> object:
    (rule,) = rules_of({"QueueConfigurations": [item]})
    return (item["QueueArn"], frozenset(rule.events), rule.prefix, rule.suffix)


def merged(notification: Notification, rule: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration with our rule as given (None: without it), and all else as it is."""
    queues = [item for item in notification.get("QueueConfigurations", ()) if item.get("Id") != RULE_ID]
    if rule is not None:
        queues.append(dict(rule))
    rest = {name: value for name, value in notification.items() if name != "QueueConfigurations"}
    return {**rest, **({"QueueConfigurations": queues} if queues else {})}


def lost(before: Notification, after: Notification) -> list[str]:
    """What of everybody else's in `before` is not in `after` exactly as it was, as JSON text; EventBridge
    too. What somebody has added since is no loss."""
    there = set(_foreign(after))
    return [text for text in _foreign(before) if text not in there]


def _foreign(notification: Notification) -> list[str]:
    others = merged(notification, None)
    return [
        json.dumps({kind: item}, sort_keys=True)
        for kind, value in sorted(others.items())
        for item in (value if isinstance(value, Sequence) else [value])
    ]


def overlapping(notification: Notification, prefix: str) -> list[Rule]:
    """Everybody else's rules beside which S3 would not take ours."""
    ours = Rule(RULE_ID, "", EVENTS, prefix, "", ours=True)
    return [rule for rule in rules_of(notification) if not rule.ours and rule.overlaps(ours)]
