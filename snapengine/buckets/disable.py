"""Takes back what `enable-bucket` set up outside the log. The log, and the bucket's versions, stay.

First the registration says that the bucket is disabled, so that no worker vouches for it any longer; then
our rule goes; the queues last, and only when nothing is left in them that a worker could still take. The
extractors stay registered, as the prefix does: a bucket that is enabled again has them again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from snapengine.buckets import queues, rules
from snapengine.buckets.clock import ServerClock
from snapengine.buckets.notification import Pause, set_rule
from snapengine.buckets.plan import RULE_SETTLES_MS
from snapengine.buckets.queue_changes import delete_if_empty
from snapengine.buckets.queues import QueueFacts
from snapengine.buckets.reading import read_notification, read_queue
from snapengine.buckets.steps import DeleteQueue, Deregister, RemoveRule, Step
from snapengine.buckets.tools import Tools
from snapengine.errors import BucketNotEnabled, BucketUnknown
from snapengine.lease import ENABLE, Lease
from snapengine.log import EpochCutter
from snapengine.model import BucketConfig

TASK = "disable"
_REMOVED = "rule_removed_at"
_TICK = 5.0
_AGAIN = "Disable the bucket again when it is empty."


@dataclass(frozen=True, slots=True)
class DisablePlan:
    """What would be done; no steps: there is nothing to do."""

    bucket: str
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "bucket": self.bucket,
            "steps": [{"step": step.code, **asdict(step)} for step in self.steps],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True)
class Disabled:
    """What was done, and what was left."""

    bucket: str
    steps: tuple[Step, ...]
    kept: tuple[str, ...] = ()
    """What stays for now and why, one sentence each; another `disable-bucket` goes on with it."""


def make_disable_plan(
    config: BucketConfig, rule: object | None, found: Sequence[QueueFacts | None], store: str
) -> DisablePlan:
    """PURE: what to take back, given our rule as it stands and the queues that were found, in the order in
    which they may go."""
    steps: list[Step] = []
    warnings: list[str] = []
    if config.enabled:
        steps.append(Deregister("mark the bucket as disabled; its history stays"))
    if rule is not None:
        steps.append(
            RemoveRule(f"remove the notification rule `{rules.RULE_ID}`, and keep all others as they are")
        )
    for queue in filter(None, found):
        tag = queue.tags.get(queues.STORE_TAG)
        if tag is not None and tag != queues.store_tag(store):
            warnings.append(f"Queue {queue.name} feeds another log, {tag}, and is left alone.")
            continue
        steps.append(DeleteQueue(f"delete queue {queue.name}, once it is empty", queue.name))
        if queue.messages:
            warnings.append(f"{queues.still_holds(queue)} {_AGAIN}")
    if steps:
        warnings.append(
            f"Versioning of bucket {config.bucket} stays on, and so do its versions. Changes made while the "
            "bucket is disabled will not be in its history."
        )
    return DisablePlan(config.bucket, tuple(steps), tuple(warnings))


def plan_disable(engine: Tools, bucket: str) -> DisablePlan:
    """What `disable-bucket` would do. Changes nothing. Raises `BucketNotEnabled` for a bucket that never
    was enabled, and what S3 and SQS raise; a bucket that is no more can be disabled too."""
    engine.store.check()
    config = engine.store.config(bucket)
    if config is None:
        raise BucketNotEnabled(f"Bucket {bucket} was never enabled in {engine.settings.store}.")
    try:
        notification, _ = read_notification(engine, bucket, config.account)
    except BucketUnknown:
        notification = {}
    found = [read_queue(engine, name) for name in queues.queue_names(bucket).values()]
    return make_disable_plan(config, rules.our_rule(notification), found, engine.settings.store)


async def disable(
    engine: Tools,
    plan: DisablePlan,
    *,
    wait: bool = True,
    on_step: Callable[[Step], None] | None = None,
    on_wait: Callable[[float], None] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    pause: Pause = time.sleep,
) -> Disabled:
    """Do what the plan says. Safe to repeat after a stop at any point.

    With `wait`, the queues go no sooner than 5 minutes after the rule was seen gone (`on_wait` hears the
    seconds left), as S3 may still send for so long. A queue with messages is kept for the worker.
    """
    done: list[Step] = []
    kept: list[str] = []
    clock = ServerClock()
    lease = Lease(engine.store, plan.bucket, ENABLE, engine.clock)
    if not plan.steps:
        return Disabled(plan.bucket, ())
    await asyncio.to_thread(lease.renew)
    try:
        for step in plan.steps:
            if on_step:
                on_step(step)
            if isinstance(step, DeleteQueue):
                if wait:
                    await _wait(engine, plan.bucket, lease, clock, on_wait, sleep)
                    wait = False  # once is enough for all queues
                forget = partial(_forget_queue, engine, plan.bucket, step.name)
                left = await asyncio.to_thread(delete_if_empty, engine, step.name, before=forget)
                if left:
                    kept.append(f"{left} {_AGAIN}")
                    break  # a queue's dead letters stay with it, and so does what it feeds
            else:
                await asyncio.to_thread(_take_back, engine, plan.bucket, step, clock, pause)
            done.append(step)
        async with engine.log() as log:  # so that views say that the recording has ended
            await EpochCutter(log, plan.bucket, engine.clock).cut()
        if not kept:
            await asyncio.to_thread(_forget_queues, engine, plan.bucket)
    finally:
        await asyncio.to_thread(lease.release)
    return Disabled(plan.bucket, tuple(done), tuple(kept))


def _take_back(engine: Tools, bucket: str, step: Step, clock: ServerClock, pause: Pause) -> None:
    config = engine.store.config(bucket)
    if config is None:
        return
    if isinstance(step, Deregister):
        engine.store.put_config(replace(config, enabled=False, disabled_at=engine.clock()))
    elif isinstance(step, RemoveRule):
        gone = set_rule(engine, bucket, config.account, None, clock=clock, pause=pause)
        engine.store.save_progress(bucket, TASK, {_REMOVED: gone})


async def _wait(
    engine: Tools,
    bucket: str,
    lease: Lease,
    clock: ServerClock,
    on_wait: Callable[[float], None] | None,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    noted = await asyncio.to_thread(engine.store.progress, bucket, TASK) or {}
    due = int(noted.get(_REMOVED, 0)) + RULE_SETTLES_MS
    left = (due - clock.not_after(clock.now())) / 1000
    while left > 0:
        if on_wait:
            on_wait(left)
        await sleep(min(left, _TICK))
        left -= _TICK
        await asyncio.to_thread(lease.renew)


def _forget_queue(engine: Tools, bucket: str, name: str) -> None:
    """Before the event queue goes: stopped in between, no worker of this log would take what another log's
    queue of that name holds later."""
    config = engine.store.config(bucket)
    if config is not None and not config.enabled and name == queues.queue_name(bucket):
        engine.store.put_config(replace(config, queue_url=None, queue_arn=None))


def _forget_queues(engine: Tools, bucket: str) -> None:
    config = engine.store.config(bucket)
    if config is not None and not config.enabled:
        engine.store.put_config(
            replace(
                config,
                queue_url=None,
                queue_arn=None,
                dead_letter_queue_url=None,
                extract_queue_url=None,
                extract_queue_arn=None,
                extract_dead_letter_queue_url=None,
            )
        )
    engine.store.clear_progress(bucket, TASK)
