"""Changes our rule in a bucket's notification configuration, and nothing else of it.

S3 takes the configuration as a whole and knows no condition, so a change that somebody else makes between
our reading and our writing would be undone. The two calls are made back to back, and what is read back
afterwards is compared with what was there before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from snapengine.aws_errors import code_of
from snapengine.buckets import rules
from snapengine.buckets.asking import asking
from snapengine.buckets.clock import ServerClock
from snapengine.buckets.reading import notification_at
from snapengine.buckets.refusals import unknown_elements
from snapengine.buckets.tools import Tools
from snapengine.errors import Refused, SnapEngineError

Pause = Callable[[float], None]
"""Sleeps for so many seconds."""

_PUTS = 3
_LOOKS = 5
_LOOK_AFTER = 1.0
_UNREADY = 8
"""Tries while the queue's policy takes effect, which SQS says may last a minute."""


def set_rule(
    engine: Tools,
    bucket: str,
    account: str,
    rule: Mapping[str, Any] | None,
    *,
    clock: ServerClock,
    pause: Pause = time.sleep,
) -> int:
    """Put our rule as given (None: take it out), and read it back.

    Returns the instant by S3's clock (UTC milliseconds) when it was seen to stand. Safe to repeat after a
    lost reply. Raises `Refused` where S3 will not have the rule, and `SnapEngineError` where somebody else's
    rules are not as they were, with what they were.
    """
    original: dict[str, Any] | None = None
    for _ in range(_PUTS):
        before, unknown, _time = notification_at(engine, bucket, account, clock)
        original = before if original is None else original
        if unknown:
            raise Refused(unknown_elements(bucket, unknown))
        wanted = rules.merged(before, rule)
        if before != wanted:
            _put(engine, bucket, account, wanted, pause)
        for look in range(_LOOKS):
            if look:
                pause(_LOOK_AFTER)  # a bucket's configuration is eventually consistent
            after, _, seen = notification_at(engine, bucket, account, clock)
            missing = rules.lost(original, after)
            if _is_there(after, rule) and not missing:
                return seen
        if _is_there(after, rule):
            raise SnapEngineError(
                f"While our rule was changed, other notifications of bucket {bucket} changed too, by "
                f"somebody else or by S3. They were: {'; '.join(missing)}. Check them, and put back what is "
                "missing."
            )
    raise SnapEngineError(
        f"Somebody else keeps changing the notifications of bucket {bucket}: our rule was put {_PUTS} times "
        "and is not as it was put. Find out who (Terraform, CDK?), then try again."
    )


def _is_there(notification: Mapping[str, Any], rule: Mapping[str, Any] | None) -> bool:
    standing = rules.our_rule(notification)
    return standing is None if rule is None else rules.same_rule(standing, rule)


def _put(engine: Tools, bucket: str, account: str, wanted: dict[str, Any], pause: Pause) -> None:
    s3: Any = engine.s3
    with asking(f"bucket {bucket}"):
        for attempt in range(_UNREADY):
            try:
                s3.put_bucket_notification_configuration(
                    Bucket=bucket, NotificationConfiguration=wanted, ExpectedBucketOwner=account
                )
            except ClientError as error:
                if code_of(error) != "InvalidArgument":
                    raise
                said = error.response["Error"].get("Message", "")
                # "Unable to validate the following destination configurations"
                if "validate" in said and attempt + 1 < _UNREADY:
                    pause(2.0 * (attempt + 1))
                    continue
                raise Refused(
                    f"S3 will not have the notification rule for bucket {bucket}: {said}. If it names a "
                    "destination that is not ours, repair or remove that rule first."
                ) from error
            else:
                return
