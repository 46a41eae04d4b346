"""PURE: the queues of a bucket: their names, their settings, and what differs from them."""

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

EXTRACT_VISIBILITY_SECONDS = 15 * 60
"""For how long a message of the extraction queue is one worker's; it names up to 20 objects."""
EXTRACT_MAX_RECEIVES = 5
"""Fewer tries than an event has: each may take a worker minutes."""

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
    return _hashed_name(bucket, 40)


def dead_letter_name(bucket: str) -> str:
    """At most 80 characters."""
    return f"{queue_name(bucket)}-dead"


def extract_queue_name(bucket: str) -> str:
    """At most 75 characters. Its capital letter keeps it apart from every bucket's event queue; names that
    would be too long get a hash."""
    name = queue_name(bucket)
    return f"{name if len(name) <= _ROOM else _hashed_name(bucket, 38)}-Extract"


def extract_dead_letter_name(bucket: str) -> str:
    """At most 80 characters."""
    return f"{extract_queue_name(bucket)}-dead"


_ROOM = 80 - len("-Extract-dead")


def _hashed_name(bucket: str, kept: int) -> str:
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", bucket)[:kept]
    return f"snapengine-{clean}_H{blake2b(bucket.encode(), digest_size=8).hexdigest()}"


def queue_names(bucket: str) -> dict[str, str]:
    """Of all a bucket's queues, by the field of `BucketFacts` that has what was read of each."""
    return {
        "queue": queue_name(bucket),
        "dead_letters": dead_letter_name(bucket),
        "extract_queue": extract_queue_name(bucket),
        "extract_dead_letters": extract_dead_letter_name(bucket),
    }


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


def extract_settings(*, arn: str, dead_letter_arn: str, partition: str, account: str) -> dict[str, str]:
    """The extraction queue's attributes: it is for its own account alone, as IAM there allows."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "SnapengineExtraction",
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:{partition}:iam::{account}:root"},
                "Action": "sqs:*",
                "Resource": arn,
            }
        ],
    }
    redrive = {"deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": EXTRACT_MAX_RECEIVES}
    return {
        **_common(),
        "ReceiveMessageWaitTimeSeconds": "20",
        "VisibilityTimeout": str(EXTRACT_VISIBILITY_SECONDS),
        "RedrivePolicy": _json(redrive),
        "Policy": _json(policy),
    }


def dead_letter_settings(*, source_arn: str) -> dict[str, str]:
    """A dead-letter queue's attributes: only the queue that it serves may put messages there."""
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


def still_holds(queue: QueueFacts) -> str:
    """Why a queue is not deleted, one sentence."""
    return f"Queue {queue.name} holds about {queue.messages} messages and is kept for the worker to take."


def store_tag(store: str) -> str:
    """A log's address in the characters that tags may have."""
    return re.sub(r"[^\w .:/=+@-]", "_", store)[:256]
