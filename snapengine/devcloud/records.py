"""PURE: the messages that S3 sends about a bucket.

The form is that of "Event message structure" in the Amazon S3 User Guide
(notification-content-structure), version 2.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

from snapengine.devcloud.clock import Moment
from snapengine.devcloud.context import CurrentRequest

EVENT_VERSION = "2.6"
PRINCIPAL = "AWS:AIDACKCEVSQ6C2EXAMPLE"


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about. `size` (bytes) and `etag` (without quotes) are None where S3 sends neither."""

    bucket: str
    region: str
    key: str
    version_id: str | None
    size: int | None = None
    etag: str | None = None


def encode_key(key: str) -> str:
    """A key as S3 writes it into an event: form-encoded (a space is `+`), but with `/` left alone."""
    return quote_plus(key, safe="/")


def event_message(
    name: str, subject: Subject, moment: Moment, rule_id: str, request: CurrentRequest
) -> dict[str, Any]:
    """One event, as the body of one message: S3 never packs two records together.

    `name` comes with its `s3:` prefix, as in a bucket's configuration, and goes without, as in an event.
    """
    described: dict[str, Any] = {"key": encode_key(subject.key)}
    if subject.size is not None:
        described["size"] = subject.size
    if subject.etag is not None:
        described["eTag"] = subject.etag
    if subject.version_id is not None:
        described["versionId"] = subject.version_id
    if name.startswith(("s3:ObjectCreated:", "s3:ObjectRemoved:")):
        described["sequencer"] = moment.sequencer  # the guide: on creates and deletes only
    record = {
        "eventVersion": EVENT_VERSION,
        "eventSource": "aws:s3",
        "awsRegion": subject.region,
        "eventTime": moment.text,
        "eventName": name.removeprefix("s3:"),
        "userIdentity": {"principalId": PRINCIPAL},
        "requestParameters": {"sourceIPAddress": request.source_address},
        "responseElements": {"x-amz-request-id": request.request_id, "x-amz-id-2": request.host_id},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": rule_id,
            "bucket": {
                "name": subject.bucket,
                "ownerIdentity": {"principalId": PRINCIPAL.removeprefix("AWS:")},
                "arn": f"arn:aws:s3:::{subject.bucket}",
            },
            "object": described,
        },
    }
    return {"Records": [record]}


def configuration_test_message(bucket: str, moment: Moment, request: CurrentRequest) -> dict[str, Any]:
    """What S3 sends to each destination when a configuration is put: no `Records`, and never asked for."""
    return {
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": moment.text,
        "Bucket": bucket,
        "RequestId": request.request_id,
        "HostId": request.host_id,
    }
