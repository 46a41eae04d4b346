"""A baseline and a reconcile of a real S3 server, killed at every step they have; events lost on the way.

A plain client does things to the bucket all the while, also between two kills. Before the baseline nothing is
told of; from then on until the reconcile begins a tenth of the events is lost.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

from benchmarks._faults_history import REMOVED, Shown
from benchmarks._faults_judge import References, Verdict, covered, said, shown, told
from benchmarks._faults_process import Strike, When, baseline, reconcile
from benchmarks._faults_stage import Stage, Stuck, environment_of
from benchmarks._faults_tally import Tally
from snapengine.engine import wall_clock
from snapengine.model import CREATED, Epoch, Observation
from tests.plain_client import User, listed, shown_now
from tests.recorder import Event, message
from tools.local_servers import Endpoint

PAGE = 7
"""Versions and markers a page."""
LOST = 0.1
MOMENTS: tuple[When, ...] = ("before", "after", "during")
BASELINE_EARLY = ("page", "commit", "by key", "done", "lease", "progress")
BASELINE_LATE = ("register", "epoch", "end of progress", "end of lease")
RECONCILE_EARLY = ("page", "epoch", "commit", "by key", "done", "lease", "progress", "read")
RECONCILE_LATE = ("watermark", "end of progress", "end of lease")
EVERY_PAGE = {"page", "lease", "progress"}
"""Steps that come with each page."""


def kill_listings(
    endpoints: Sequence[Endpoint], folder: Path, *, kills: int, seed: int
) -> tuple[Tally, Verdict]:
    """Bucket after bucket, until so many have been killed."""
    tally, verdict = Tally(), Verdict()
    with environment_of(*endpoints) as environment:
        stage = Stage(environment, folder)
        plans = _Plans(seed)
        try:
            for number in range(kills):  # at least one a bucket
                if tally.kills.total() >= kills:
                    break
                site = _Site(stage, tally, seed + number, kills)
                verdict.add(site.run(plans))
        finally:
            stage.close()
    return tally, verdict


class _Plans:
    """Where to strike: some early steps, and in the end the late ones, each before and after; in turns."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        # A reconcile stores what it finds only now and then: it has to get far to have something to lose.
        self._baseline = self._deal(BASELINE_EARLY, (1, 1, 2)), self._deal(BASELINE_LATE, (1,))
        self._reconcile = self._deal(RECONCILE_EARLY, (1, 4, 8)), self._deal(RECONCILE_LATE, (1,))

    def _deal(self, steps: Sequence[str], pages: Sequence[int]) -> Iterator[Strike]:
        while True:
            for when in MOMENTS:
                for step in steps:
                    yield Strike(step, when, self._chance.choice(pages) if step in EVERY_PAGE else 1)

    def baseline(self) -> list[Strike]:
        early, late = self._baseline
        return [*(next(early) for _ in range(5)), *(next(late) for _ in range(3))]

    def reconcile(self) -> list[Strike]:
        early, late = self._reconcile
        return [*(next(early) for _ in range(5)), *(next(late) for _ in range(2))]


class _Site:
    """One bucket on the server, from its first object to the verdict."""

    def __init__(self, stage: Stage, tally: Tally, seed: int, kills: int) -> None:
        self._stage = stage
        self._tally = tally
        self._kills = kills
        self._chance = random.Random(seed)
        self.bucket = f"faults-{token_hex(6)}"
        self._s3: Any = stage.engine.client("s3")
        self._s3.create_bucket(Bucket=self.bucket)
        self._s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})
        self._user = User(self._s3, self.bucket, seed)
        self._pasts: list[tuple[int, Shown]] = []
        self._told: list[Event] = []
        """Events that were sent, in any order."""
        self._heard = 0
        """Events that are no more to be told: sent, or lost."""
        self._lost: list[Event] = []
        self._references = References(stage.make_engine, seed)

    def run(self, plans: _Plans) -> Verdict:
        self._act(50)
        self._heard = len(self._events)
        now = wall_clock()
        self._stage.enable(self.bucket, enabled_at=now)
        self._struck(baseline, plans.baseline())
        ended = self._stage.engine.store.config(self.bucket)
        assert ended is not None
        assert ended.baseline_ended is not None
        self._act(40)
        self._tell(lose=LOST)
        self._stage.recover()
        time.sleep(1.1)  # S3 tells the time by seconds: now its clock is past the last event for certain
        begun = wall_clock()
        self._struck(reconcile, plans.reconcile())
        self._act(5)
        self._tell(lose=0.0)
        self._stage.recover()
        return self._judge(ended.baseline_ended, begun)

    @property
    def _events(self) -> list[Event]:
        return self._user.recorder.events

    def _act(self, times: int) -> None:
        for _ in range(times):
            self._user.act()
            self._pasts.append((self._events[-1].time, shown_now(self._s3, self.bucket)))

    def _tell(self, *, lose: float) -> None:
        """Send what was not sent yet, in any order and some of it twice; or lose it."""
        fresh = self._events[self._heard :]
        self._heard = len(self._events)
        count = round(lose * len(fresh))
        lost = set(self._chance.sample(range(len(fresh)), count))
        self._lost += [event for number, event in enumerate(fresh) if number in lost]
        kept = [event for number, event in enumerate(fresh) if number not in lost]
        self._told += kept
        again = [event for event in kept if self._chance.random() < 0.1]
        bodies = [message(event) for event in kept + again]
        self._chance.shuffle(bodies)
        self._stage.send(bodies)
        self._tally.losses += count
        self._tally.duplicates += len(again)
        self._tally.messages += len(bodies)

    def _struck(self, target: Callable[..., None], strikes: Sequence[Strike]) -> None:
        """Run a listing, strike it, and run it again, until it ends in good order.

        Each time that it does, all that there was when its first run began must be known.
        """
        begun = len(self._events)
        for strike in [*strikes, None]:
            if strike and self._tally.kills.total() >= self._kills:
                continue
            process = self._stage.start(target, strike, self.bucket, PAGE)
            if not process.ended(60):
                raise Stuck(f"A listing did not end. {process.last_words()}")
            if process.killed:
                assert strike is not None
                self._tally.killed(strike)
                self._act(2)
                self._take_a_reference()
                continue
            process.finish(0)  # raises if it failed
            self._judge_listing(begun)
            if strike is None or target is baseline:  # what has been taken is not taken again
                return
            self._tally.missed += 1
            self._act(6)
            self._tell(lose=0.5)
            begun = len(self._events)

    def _take_a_reference(self) -> None:
        engine = self._stage.engine
        if (epoch := engine.store.newest_epoch(self.bucket)) is not None:
            at = self._chance.choice(self._pasts)[0]
            self._references.keep(engine.view(self.bucket, at, epoch=epoch.number))

    # The verdict

    def _judge_listing(self, begun: int) -> None:
        """What had come to be before the event of that number, and what has not changed since."""
        verdict, engine = self._references.verdict, self._stage.engine
        epoch = engine.store.newest_epoch(self.bucket)
        assert epoch is not None
        made = {(event.key, event.version_id) for event in self._events[:begun]}
        rows = listed(self._s3, self.bucket)
        existing = {(key, row.version_id) for key, of_key in rows.items() for row in of_key}
        known = {
            (o.key, o.version_id) for o in covered(engine, self.bucket, epoch) if o.kind != "VersionDeleted"
        }
        if unknown := (existing & made) - known:
            verdict.lost += len(unknown)
            verdict.note(f"{self.bucket}~{epoch.number}: its listing left out {unknown}.")
        quiet = {event.key for event in self._events} - {event.key for event in self._events[begun:]}
        found = shown(engine.view(self.bucket, epoch=epoch.number))
        truth = shown_now(self._s3, self.bucket)
        self._compare(verdict, _of(found, quiet), _of(truth, quiet), "the end of a listing")

    def _judge(self, baseline_ended: int, reconcile_begun: int) -> Verdict:
        verdict = self._references.again()
        engine = self._stage.make_engine()
        epoch = engine.store.newest_epoch(self.bucket)
        assert epoch is not None
        observations = covered(engine, self.bucket, epoch)
        self._judge_observations(verdict, observations, epoch)
        now = engine.view(self.bucket, epoch=epoch.number)
        whole = {event.key for event in self._events} - {event.key for event in self._lost}
        self._compare(verdict, shown(now), shown_now(self._s3, self.bucket), "now")
        for at, truth in self._pasts:
            if at < baseline_ended:
                continue  # what was made and removed while nobody listened was never known
            found = shown(engine.view(self.bucket, at, epoch=epoch.number))
            self._compare(verdict, _of(found, whole), _of(truth, whole), str(at))
        level = engine.view(self.bucket, reconcile_begun - 1200, epoch=epoch.number).completeness.level
        if level != "verified":
            verdict.wrong += 1
            verdict.note(f"After its reconcile {self.bucket} is {level}.")
        return verdict

    def _compare(self, verdict: Verdict, found: Shown, truth: Shown, when: str) -> None:
        verdict.views += 1
        if found != truth:
            verdict.wrong += 1
            verdict.note(f"{self.bucket} at {when}: shows {found}, was {truth}.")

    def _judge_observations(
        self, verdict: Verdict, observations: Sequence[Observation], epoch: Epoch
    ) -> None:
        """Every event told is there; every entry that exists is known; nothing else is there."""
        events = {said(o) for o in observations if o.origin == "event"}
        truth = set(map(told, self._told))
        known = {(o.key, o.version_id) for o in observations if o.kind != "VersionDeleted"}
        rows = listed(self._s3, self.bucket)
        existing = {(key, row.version_id) for key, of_key in rows.items() for row in of_key}
        verdict.lost += len(truth - events) + len(existing - known)
        verdict.invented += len(events - truth)
        made = {(e.key, e.version_id): e for e in self._events if e.name != REMOVED}
        gone = {(e.key, e.version_id) for e in self._events if e.name == REMOVED}
        strange = [o for o in observations if o.origin != "event" and not _is_true(o, made, gone)]
        verdict.invented += len(strange)
        verdict.repeated += len(observations) - len(set(observations))
        if truth - events or existing - known or events - truth or strange:
            verdict.note(
                f"{self.bucket}~{epoch.number}: lost {truth - events} and {existing - known}, "
                f"invented {events - truth} and {strange}."
            )


def _is_true(o: Observation, made: dict[tuple[str, str], Event], gone: set[tuple[str, str]]) -> bool:
    """Whether what a listing is said to have shown, or not to have shown, was so."""
    of = o.key, o.version_id
    if o.kind == "VersionDeleted":
        return of in gone
    event = made.get(of)
    if event is None or not event.time - 60_000 <= o.event_time <= event.time:
        return False
    if o.kind == CREATED:
        return (o.size, o.etag) == (event.size, event.etag)
    return event.name.endswith(":DeleteMarkerCreated")


def _of(found: Shown, keys: set[str]) -> Shown:
    return {key: row for key, row in found.items() if key in keys}
