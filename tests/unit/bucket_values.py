"""Made-up buckets as `enable-bucket` would read them, for the tests of its plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snapengine.buckets import queues, rules
from snapengine.buckets.facts import BucketFacts, wanted_settings
from snapengine.buckets.queues import QueueFacts
from snapengine.buckets.steps import Plan
from snapengine.model import BucketConfig

ACCOUNT = "111122223333"
STORE = "dynamodb://snapengine"
T = 1_800_000_000_000
MINUTE = 60_000

NEW = BucketFacts("scans", ACCOUNT, "eu-central-1", region="eu-central-1", store=STORE)


def enabled(prefix: str = "", **changes: Any) -> BucketFacts:
    """A bucket as it stands when `enable-bucket` has ended."""
    names = queues.queue_name("scans"), queues.dead_letter_name("scans")
    made = [
        QueueFacts(name, f"https://sqs/{name}", queues.queue_arn("aws", "eu-central-1", ACCOUNT, name), {})
        for name in names
    ]
    facts = replace(NEW, queue=made[0], dead_letters=made[1])
    tags = {queues.STORE_TAG: queues.store_tag(STORE)}
    queue, dead = (
        replace(queue, attributes=settings, tags=tags)
        for queue, settings in zip(made, wanted_settings(facts), strict=True)
    )
    config = BucketConfig(
        bucket="scans",
        region="eu-central-1",
        account=ACCOUNT,
        prefix=prefix,
        queue_url=queue.url,
        queue_arn=queue.arn,
        dead_letter_queue_url=dead.url,
        rule_id=rules.RULE_ID,
        enabled_at=T,
        baseline_started=T + 15 * MINUTE,
        baseline_ended=T + 16 * MINUTE,
    )
    facts = replace(
        facts,
        versioning="Enabled",
        notification={"QueueConfigurations": [rules.wanted_rule(queue.arn, prefix)]},
        queue=queue,
        dead_letters=dead,
        config=config,
    )
    return replace(facts, **changes)


def codes(plan: Plan) -> list[str]:
    return [step.code for step in plan.steps]


def foreign(
    kind: str = "QueueConfigurations", *, events: tuple[str, ...] = ("s3:ObjectCreated:*",), **filters: str
) -> dict[str, Any]:
    field = {
        "QueueConfigurations": "QueueArn",
        "TopicConfigurations": "TopicArn",
        "LambdaFunctionConfigurations": "LambdaFunctionArn",
    }[kind]
    rule: dict[str, Any] = {"Id": "thumbnails", field: "arn:aws:x:::theirs", "Events": list(events)}
    if filters:
        names = [{"Name": name.capitalize(), "Value": value} for name, value in filters.items()]
        rule["Filter"] = {"Key": {"FilterRules": names}}
    return {kind: [rule]}
