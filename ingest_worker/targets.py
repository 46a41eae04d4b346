"""PURE: which queues to consume, from what was asked for and what the registry says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from snapengine.errors import BucketNotEnabled, UsageError
from snapengine.model import BucketConfig


class Target(NamedTuple):
    """A queue to consume."""

    url: str
    dead_letter_url: str | None
    """As the registry has it; None leaves it to the queue's own redrive policy."""
    buckets: tuple[str, ...]
    """Those registered with it."""
    vouches_for: tuple[str, ...]
    """Of these, the enabled: where it is empty, nothing of theirs is missing. A disabled bucket's changes are
    not sent to it any more."""
    required: bool
    """Asked for by name, so that its absence ends the worker; others come and go with their buckets."""


def targets(
    registered: Sequence[BucketConfig], buckets: Sequence[str], queue_urls: Sequence[str]
) -> dict[str, Target]:
    """By URL: the queues asked for by bucket or by URL, or all that the registry knows if none is asked for:
    a disabled bucket has one until it is empty and deleted, and what is left in it was sent before.

    Raises `BucketNotEnabled` and `UsageError` for a bucket asked for that has no queue to consume.
    """
    by_name = {config.bucket: config for config in registered}
    required = bool(buckets or queue_urls)
    if required:
        urls = [*queue_urls, *(_queue_of(bucket, by_name.get(bucket)) for bucket in buckets)]
    else:
        urls = [config.queue_url for config in registered if config.queue_url]
    return {url: _target(url, registered, required=required) for url in urls}


def _target(url: str, registered: Sequence[BucketConfig], *, required: bool) -> Target:
    served = [config for config in registered if config.queue_url == url]
    dead_letter_url = next((c.dead_letter_queue_url for c in served if c.dead_letter_queue_url), None)
    return Target(
        url,
        dead_letter_url,
        buckets=tuple(config.bucket for config in served),
        vouches_for=tuple(config.bucket for config in served if config.enabled),
        required=required,
    )


def _queue_of(bucket: str, config: BucketConfig | None) -> str:
    if config is None:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    if not config.queue_url:
        raise UsageError(
            f"Bucket {bucket} is registered without a queue. Name one with `--queue-url`, or run "
            f"`snapengine enable-bucket {bucket}` again."
        )
    return config.queue_url
