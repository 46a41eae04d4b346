"""Takes the place of `moto.s3.notifications`, whose events lack versions, sequencers and deletes."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_plus

from moto.s3.models import Notification
from moto.sns.models import sns_backends
from moto.sqs.models import sqs_backends

from snapengine.devcloud import context, records
from snapengine.devcloud.clock import EventClock
from snapengine.devcloud.sqs_backend import DevSQSBackend

if TYPE_CHECKING:
    from moto.s3.models import FakeBucket

logger = logging.getLogger(__name__)

_TAGGING_PUT = "s3:ObjectTagging:Put"


class Publisher:
    """Sends S3's messages to queues and topics.

    Called while the S3 lock is held and after the bucket has changed: so the order of the sequencers is
    the order of the changes, and no message tells of a change that a reader cannot see yet.
    """

    def __init__(self) -> None:
        self._clock = EventClock()

    def send_event(self, account_id: str, event_name: str, bucket: FakeBucket, key: Any) -> None:
        """Tell every matching destination; `key` is moto's object or delete marker. moto calls this too."""
        name = str(getattr(event_name, "value", event_name))
        if name == _TAGGING_PUT and not context.current().asks_for("tagging"):
            return  # moto also sets every upload's tags so; S3 tells of PutObjectTagging alone
        configuration = bucket.notification_configuration
        if configuration is None:
            return
        moment = self._clock.tick(not_before=key.last_modified)
        subject = _subject(name, bucket, key)
        for rule in (*configuration.queue, *configuration.topic):
            if _hears(rule, name, subject.key):
                message = records.event_message(name, subject, moment, rule.id, context.current())
                _deliver(account_id, rule.arn, message)

    def send_test_event(self, account_id: str, bucket: FakeBucket) -> None:
        """Tell every destination of a configuration that it has been chosen."""
        configuration = bucket.notification_configuration
        if configuration is None:
            return
        moment = self._clock.tick(not_before=bucket.creation_date)
        message = records.configuration_test_message(bucket.name, moment, context.current())
        for arn in dict.fromkeys(rule.arn for rule in (*configuration.queue, *configuration.topic)):
            _deliver(account_id, arn, message)


def _hears(rule: Notification, name: str, key: str) -> bool:
    """Whether a rule asks for this event of this key. A filter's value is form-encoded, as a key in an event
    is, which moto does not know: `date%3D1/` is the prefix `date=1/`."""
    filters = {
        each["Name"].lower(): unquote_plus(each["Value"])
        for each in rule.filters.get("S3Key", {}).get("FilterRule", ())
    }
    return (
        key.startswith(filters.get("prefix", ""))
        and key.endswith(filters.get("suffix", ""))
        and Notification(rule.arn, rule.events).matches(name, key)
    )


def _subject(name: str, bucket: FakeBucket, key: Any) -> records.Subject:
    # "versionId: ... otherwise null" says the guide of a bucket without versioning. Whether an event about
    # the null version of a bucket that has or had versioning says "null" or nothing is not documented;
    # we say "null", as the other interfaces do, and a consumer must take both alike.
    version_id = None if bucket.versioning_status is None else str(key.version_id)
    if name.startswith("s3:ObjectRemoved:"):
        return records.Subject(bucket.name, bucket.region_name, key.name, version_id)
    etag = key.etag.strip('"')
    return records.Subject(bucket.name, bucket.region_name, key.name, version_id, key.size, etag)


def _deliver(account_id: str, arn: str, message: dict[str, Any]) -> None:
    _, _, service, region, owner, name = arn.split(":", 5)
    body = json.dumps(message)
    try:
        if service == "sqs":
            queues = sqs_backends[owner or account_id][region]
            cast("DevSQSBackend", queues).deliver(name, body)
        else:
            sns_backends[owner or account_id][region].publish(arn=arn, message=body)
    except Exception:
        # S3 has no dead-letter queue: the write stands, and the event is lost.
        logger.warning("an event could not be delivered to %s, and is lost", arn, exc_info=True)
