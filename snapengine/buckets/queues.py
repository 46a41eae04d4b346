"""PURE: the two queues of a bucket: their names, their settings, and what differs from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

RETENTION_SECONDS = 14 * 24 * 3600
"""SQS's greatest: how long a stopped worker loses nothing."""
MAX_MESSAGE_BYTES = 1024 * 1024
"""SQS's greatest. An event has up to 64 KB; one that is over the queue's limit is lost."""
MAX_RECEIVES = 10
"""After so many failed tries a message is set aside in the dead-letter queue."""

STORE_TAG = "snapengine-store"
"""Which log the queue feeds: two workers on one queue would each miss what the other takes."""

_MODERN = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_JSON_ATTRIBUTES = {"Policy", "RedrivePolicy", "RedriveAllowPolicy"}


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A queue as SQS describes it."""

    name: str
    url: str
    arn: str
    attributes: Mapping[str, str]
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def messages(self) -> int:
        """About how many are in it: waiting, in flight, or delayed."""
        return sum(
            int(self.attributes.get(f"ApproximateNumberOfMessages{which}", 0))
            for which in ("", "NotVisible", "Delayed")
        )


def queue_name(bucket: str) -> str:
    """At most 75 letters, digits, `-` and `_`, and never the same for two buckets, dead letters included.

    Dots become underscores, which buckets made since 2018 do not have. Older names, and those that end in
    `-dead`, which is the dead-letter queues' ending, get a hash behind an `H`, which they do not have.
    """
    if _MODERN.fullmatch(bucket) and not bucket.endswith("-dead"):
        return f"snapengine-{bucket.replace('.', '_')}"
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", bucket)[:40]
    return f"snapengine-{clean}_H{blake2b(bucket.encode(), digest_size=8).hexdigest()}"


def dead_letter_name(bucket: str) -> str:
    """At most 80 characters."""
    return f"{queue_name(bucket)}-dead"


def queue_arn(partition: str, region: str, account: str, name: str) -> str:
    return f"arn:{partition}:sqs:{region}:{account}:{name}"


def bucket_arn(partition: str, bucket: str) -> str:
    return f"arn:{partition}:s3:::{bucket}"


def queue_settings(
    *, arn: str, dead_letter_arn: str, bucket: str, partition: str, account: str
) -> dict[str, str]:
    """The event queue's attributes: only S3, only for this bucket of this account, may send to it."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "SnapengineEvents",
                "Effect": "Allow",
                "Principal": {"Service": "s3.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": arn,
                "Condition": {
                    "ArnEquals": {"aws:SourceArn": bucket_arn(partition, bucket)},
                    "StringEquals": {"aws:SourceAccount": account},
                },
            }
        ],
    }
    return {
        **_common(),
        "ReceiveMessageWaitTimeSeconds": "20",
        "RedrivePolicy": _json({"deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": MAX_RECEIVES}),
        "Policy": _json(policy),
    }


def dead_letter_settings(*, source_arn: str) -> dict[str, str]:
    """The dead-letter queue's attributes: only the event queue may put messages there."""
    allow = {"redrivePermission": "byQueue", "sourceQueueArns": [source_arn]}
    return {**_common(), "RedriveAllowPolicy": _json(allow)}


def _common() -> dict[str, str]:
    # SSE-SQS rather than KMS: S3 needs no grant for it, and no key's loss can stop delivery.
    return {
        "MessageRetentionPeriod": str(RETENTION_SECONDS),
        "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
        "SqsManagedSseEnabled": "true",
    }


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def differences(wanted: Mapping[str, str], queue: QueueFacts, *, real_aws: bool) -> dict[str, str]:
    """The attributes to set. What another server than AWS never reports cannot be told from what it lacks:
    it is left to `unreported`."""
    there = queue.attributes
    hidden = unreported(wanted, queue, real_aws=real_aws)
    found = {
        name: value
        for name, value in wanted.items()
        if name not in hidden and _value(name, there.get(name)) != _value(name, value)
    }
    if there.get("KmsMasterKeyId"):  # SQS allows one of the two encryptions
        found |= {"KmsMasterKeyId": "", "SqsManagedSseEnabled": "true"}
    return found


def unreported(wanted: Mapping[str, str], queue: QueueFacts, *, real_aws: bool) -> list[str]:
    """The attributes that this server, which is not AWS, does not report. Policies are left out of a reply
    where there are none, too; but a queue with our tag was given them."""
    given = set() if STORE_TAG in queue.tags else {"Policy", "RedrivePolicy"}
    return [] if real_aws else sorted(wanted.keys() - queue.attributes.keys() - given)


def _value(name: str, text: str | None) -> Any:
    if text and name in _JSON_ATTRIBUTES:
        try:
            value = json.loads(text)
        except ValueError:
            return text
        if name == "RedrivePolicy" and isinstance(value, dict) and "maxReceiveCount" in value:
            value["maxReceiveCount"] = int(value["maxReceiveCount"])  # some servers give it as text
        return value
    return text.lower() if text in {"True", "False"} else text


def store_tag(store: str) -> str:
    """A log's address in the characters that tags may have."""
    return re.sub(r"[^\w .:/=+@-]", "_", store)[:256]
