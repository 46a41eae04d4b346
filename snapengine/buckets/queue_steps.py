"""PURE: the step that makes a queue, or sets right one that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from snapengine.buckets import queues
from snapengine.buckets.facts import BucketFacts
from snapengine.buckets.queues import QueueFacts
from snapengine.buckets.steps import MakeQueue, SetQueue, Step


def one_queue(
    facts: BucketFacts, queue: QueueFacts | None, name: str, settings: Mapping[str, str], purpose: str
) -> Iterator[Step]:
    """None if it is as it should be."""
    if queue is None:
        yield MakeQueue(f"create queue {name} {purpose}", name)
        return
    changes = queues.differences(settings, queue, real_aws=facts.real_aws)
    untagged = queues.STORE_TAG not in queue.tags
    if changes:
        # All of them, as some servers forget those that a call does not name.
        whole = {**settings, **changes}
        yield SetQueue(f"set {', '.join(sorted(changes))} of queue {name} right", name, whole, tag=untagged)
    elif untagged:
        yield SetQueue(f"tag queue {name} as this log's", name, {}, tag=True)
