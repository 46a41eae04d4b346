"""Carries out a plan: step by step, each safe to repeat, taking back what it made where AWS denies a step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from snapengine.buckets import queues, rules
from snapengine.buckets.advice import unsupported
from snapengine.buckets.asking import asking
from snapengine.buckets.baseline import BaselineProgress, BaselineReport, run_baseline
from snapengine.buckets.clock import ServerClock
from snapengine.buckets.extraction import STILL_HOLDS
from snapengine.buckets.facts import GAP, BucketFacts, queue_arns, settings_of
from snapengine.buckets.further import check_extractors, checked_columns
from snapengine.buckets.listing import PAGE_SIZE
from snapengine.buckets.notification import Pause, set_rule
from snapengine.buckets.plan import make_plan
from snapengine.buckets.queue_changes import create_queue, delete_if_empty, delete_queue, set_queue
from snapengine.buckets.reading import read_facts, read_queue
from snapengine.buckets.refusals import refusal_text
from snapengine.buckets.running import Sleep
from snapengine.buckets.steps import (
    DeleteQueue,
    MakeQueue,
    Plan,
    PutRule,
    Register,
    SetExtraction,
    SetQueue,
    Step,
    SwitchVersioningOn,
    TakeBaseline,
    Wanted,
)
from snapengine.buckets.tools import Tools
from snapengine.errors import BucketNotEnabled, PermissionMissing, Refused, SnapEngineError
from snapengine.lease import ENABLE, Lease
from snapengine.model import BASELINE, BucketConfig

_SWITCHED = "versioning_switched_on"


@dataclass(frozen=True, slots=True)
class Enabled:
    """What was done."""

    bucket: str
    steps: tuple[Step, ...]
    """Those carried out, without the baseline, which is `run_baseline`'s."""
    config: BucketConfig
    warnings: tuple[str, ...] = ()
    """What turned up while it was done."""


def plan_enable(engine: Tools, bucket: str, wanted: Wanted | None = None) -> Plan:
    """What `enable-bucket` would do. Changes nothing. Raises as `read_facts`, and `UsageError` for extractors
    that are not installed or cannot be used, and columns that they do not know; a plan may hold refusals."""
    wanted = wanted or Wanted()
    check_extractors(wanted.extract or ())
    if wanted.columns:
        columns = {name: checked_columns(name, further) for name, further in wanted.columns.items()}
        wanted = replace(wanted, columns=columns)
    return make_plan(_read_facts(engine, bucket, wanted), wanted)


def _read_facts(engine: Tools, bucket: str, wanted: Wanted) -> BucketFacts:
    return read_facts(engine, bucket, extraction=wanted.extract is not None)


def carry_out(
    engine: Tools,
    plan: Plan,
    *,
    on_step: Callable[[Step], None] | None = None,
    pause: Pause = time.sleep,
) -> Enabled:
    """Do what a plan says, but for the baseline. Safe to repeat after a stop at any point.

    The bucket is read again first, under a lease (`Busy` if somebody else has it): what has been done since
    the plan was made is left out, and if more would have to be done, nothing is. Raises `Refused` with the
    plan's refusals, and `PermissionMissing` after taking back what this run had made.
    """
    if plan.refusals:
        raise Refused(refusal_text(plan.refusals))
    shown = [step for step in plan.steps if not isinstance(step, TakeBaseline)]
    if not shown:
        return Enabled(plan.bucket, (), _registered(engine, plan.bucket))
    engine.store.check()
    with Lease(engine.store, plan.bucket, ENABLE, engine.clock) as lease:
        facts = _read_facts(engine, plan.bucket, plan.wanted)
        now = make_plan(facts, replace(plan.wanted, prefix=plan.prefix))
        if now.refusals:
            raise Refused(refusal_text(now.refusals))
        steps = [step for step in now.steps if not isinstance(step, TakeBaseline)]
        if any(step not in shown for step in steps):
            raise Refused(
                f"Bucket {plan.bucket} has changed since the plan was made. Nothing was changed; look at the "
                "plan again."
            )
        work = _Work(engine, facts, plan.wanted, lease, pause)
        work.begin(steps)
        for step in steps:
            if on_step:
                on_step(step)
            work.do(step)
        work.warnings += unsupported(work.facts)
    return Enabled(plan.bucket, tuple(steps), _registered(engine, plan.bucket), tuple(work.warnings))


def _registered(engine: Tools, bucket: str) -> BucketConfig:
    config = engine.store.config(bucket)
    if config is None:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    return config


async def enable_bucket(
    engine: Tools,
    plan: Plan,
    *,
    on_step: Callable[[Step], None] | None = None,
    on_baseline: Callable[[BaselineProgress], None] | None = None,
    page_size: int = PAGE_SIZE,
    sleep: Sleep = asyncio.sleep,
    pause: Pause = time.sleep,
) -> tuple[Enabled, BaselineReport]:
    """All that a plan says: `carry_out`, and then `run_baseline`. `on_step` is called from a thread."""
    done = await asyncio.to_thread(carry_out, engine, plan, on_step=on_step, pause=pause)
    if on_step:
        for step in plan.steps:
            if isinstance(step, TakeBaseline):
                on_step(step)
    report = await run_baseline(
        engine,
        plan.bucket,
        wait=plan.wanted.wait,
        into=plan.wanted.baseline,
        progress=on_baseline,
        page_size=page_size,
        sleep=sleep,
    )
    return done, report


@dataclass(slots=True)
class _Work:
    """One run: what it is doing, and how to take it back."""

    engine: Tools
    facts: BucketFacts
    wanted: Wanted
    lease: Lease
    pause: Pause
    warnings: list[str] = field(default_factory=list)
    undo: list[tuple[str, Callable[[], object]]] = field(default_factory=list)
    clock: ServerClock = field(default_factory=ServerClock)
    rule_seen: int | None = None

    def begin(self, steps: Sequence[Step]) -> None:
        """Note that history has a gap before the cause is repaired: a run that is stopped in between would
        leave nothing to see of it."""
        if self.facts.config is not None and any(isinstance(s, Register) and s.anew for s in steps):
            was = self._noted()
            self._note(GAP, 1)
            if GAP not in was:
                self.undo.append(
                    ("a note", lambda: self.engine.store.save_progress(self.facts.bucket, ENABLE, was))
                )

    def do(self, step: Step) -> None:
        self.lease.renew()
        try:
            match step:
                case MakeQueue():
                    self._make_queue(step)
                case SetQueue():
                    self._set_queue(step)
                case PutRule():
                    self._put_rule(step.prefix)
                case SwitchVersioningOn():
                    self._switch_versioning_on()
                case Register():
                    self._register(step)
                case SetExtraction():
                    self._register_extraction(step.extractors, step.columns)
                case DeleteQueue():
                    self._delete_queue(step.name)
        except Refused as error:
            raise self._taken_back(error) from error

    def _make_queue(self, step: MakeQueue) -> None:
        settings = settings_of(self.facts, step.name)
        self.undo.append((f"queue {step.name}", lambda: delete_queue(self.engine, step.name)))
        self.warnings += create_queue(self.engine, step.name, settings, self._pause)
        self._look_at(step.name)

    def _set_queue(self, step: SetQueue) -> None:
        queue = read_queue(self.engine, step.name)
        if queue is not None and step.attributes:
            before = {name: queue.attributes.get(name, "") for name in step.attributes}
            self.undo.append(
                (
                    f"the attributes of queue {step.name}",
                    lambda: set_queue(self.engine, step.name, before, tag=False),
                )
            )
        self.warnings += set_queue(self.engine, step.name, step.attributes, tag=step.tag)
        self._look_at(step.name)

    def _look_at(self, name: str) -> None:
        # Where the server is not AWS's, a queue's ARN need not be what we would have called it.
        found: Any = {
            field: read_queue(self.engine, name)
            for field, known in queues.queue_names(self.facts.bucket).items()
            if known == name
        }
        self.facts = replace(self.facts, **found)

    def _delete_queue(self, name: str) -> None:
        """Extraction has been ended: a queue that stays does no harm, and nothing is taken back for it."""
        try:
            kept = delete_if_empty(self.engine, name)
        except Refused as error:
            self.warnings.append(f"Queue {name} could not be deleted, and stays: {error}")
            return
        if kept:
            self.warnings.append(f"{kept} {STILL_HOLDS}")
        self._look_at(name)
        config = self.engine.store.config(self.facts.bucket)
        if config is not None:
            self._register_extraction(config.extractors, config.extractor_columns)

    def _register_extraction(
        self, extractors: tuple[str, ...], columns: Mapping[str, tuple[str, ...]]
    ) -> None:
        queue, dead = self.facts.extract_queue, self.facts.extract_dead_letters
        self.engine.store.put_config(
            replace(
                _registered(self.engine, self.facts.bucket),
                extractors=extractors,
                extractor_columns=columns,
                extract_queue_url=queue.url if queue else None,
                extract_queue_arn=queue.arn if queue else None,
                extract_dead_letter_queue_url=dead.url if dead else None,
            )
        )

    def _put_rule(self, prefix: str) -> None:
        before = rules.our_rule(self.facts.notification)
        self.undo.append(("the notification rule", lambda: self._set_rule(before)))
        self.rule_seen = self._set_rule(rules.wanted_rule(queue_arns(self.facts)[0], prefix))

    def _set_rule(self, rule: Mapping[str, Any] | None) -> int:
        bucket, account = self.facts.bucket, self.facts.account
        return set_rule(self.engine, bucket, account, rule, clock=self.clock, pause=self._pause)

    def _switch_versioning_on(self) -> None:
        # Noted before too: a run that is stopped between the two must not forget what to wait for.
        self._note(_SWITCHED, self.clock.about(self.clock.now()))
        bucket = self.facts.bucket
        sent = self.clock.now()
        with asking(f"bucket {bucket}"):
            reply = self.engine.s3.put_bucket_versioning(
                Bucket=bucket,
                VersioningConfiguration={"Status": "Enabled"},
                ExpectedBucketOwner=self.facts.account,
            )
        self.clock.heard(reply, sent)
        self._note(_SWITCHED, self.clock.about(self.clock.now()))

    def _register(self, step: Register) -> None:
        facts, old = self.facts, self.facts.config
        streams = self.wanted.streams or self.engine.settings.streams
        config = old or BucketConfig(
            facts.bucket, facts.region, facts.account, streams=streams, assured=self.wanted.wait
        )
        switched = self._noted().get(_SWITCHED)
        config = replace(
            config,
            region=facts.region,
            account=facts.account,
            prefix=step.prefix,
            queue_url=facts.queue.url if facts.queue else None,
            queue_arn=facts.queue.arn if facts.queue else None,
            dead_letter_queue_url=facts.dead_letters.url if facts.dead_letters else None,
            rule_id=rules.RULE_ID,
            enabled=True,
            disabled_at=None,
            enabled_at=self._rule_seen(step.prefix) if step.anew else config.enabled_at,
            versioning_enabled_at=int(switched) if switched else config.versioning_enabled_at,
        )
        if step.again:
            self.engine.store.clear_progress(facts.bucket, BASELINE)
            config = replace(config, baseline_started=None, baseline_ended=None, assured=self.wanted.wait)
        self.engine.store.put_config(config)
        self.engine.store.clear_progress(facts.bucket, ENABLE)

    def _rule_seen(self, prefix: str) -> int:
        """When our rule stood, by S3's clock: read again where an earlier run had put it."""
        if self.rule_seen is None:
            self.rule_seen = self._set_rule(rules.wanted_rule(queue_arns(self.facts)[0], prefix))
        return self.rule_seen

    def _noted(self) -> dict[str, str | int]:
        return self.engine.store.progress(self.facts.bucket, ENABLE) or {}

    def _note(self, name: str, value: str | int) -> None:
        self.engine.store.save_progress(self.facts.bucket, ENABLE, {**self._noted(), name: value})

    def _pause(self, seconds: float) -> None:
        self.lease.renew()
        self.pause(seconds)

    def _taken_back(self, error: Refused) -> Refused:
        """Undo what this run has done, the last first; the error, saying so."""
        left: list[str] = []
        for what, undo in reversed(self.undo):
            try:
                undo()
            except SnapEngineError:
                left.append(what)
        outcome = (
            f"What this run had changed could not all be taken back: {', '.join(left)} is left."
            if left
            else "Nothing is left changed."
        )
        message = f"{error} {outcome}"
        if isinstance(error, PermissionMissing):
            return PermissionMissing(message, error.action)
        return type(error)(message)
