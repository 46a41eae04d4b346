"""A bucket's history as Hypothesis makes it up: the model bucket, the log's writers, and views, all at once.

Things are done to the model bucket; its events are lost, held back, shuffled and repeated; writers append
them to shared streams, and fail, sleep and die at it; baselines and reconciles run meanwhile; epochs are
cut; and views are taken at any instant and epoch. What views promise is checked (`checks.py`) of each.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import wraps
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BucketConfig, Epoch, Observation
from snapengine.testing.model_bucket import ModelBucket, Versioning
from tests.stateful.archive_steps import ROOT, Archiver, SiteEngine
from tests.stateful.backends import Backend
from tests.stateful.checks import Checks
from tests.stateful.faults import STEPS, Doing, Fault, FaultyStore
from tests.stateful.listings import Baseline, Listing, Reconcile

START = 1_700_000_000_000
KEYS = ("a", "ct/1", "ct/é")
WORKERS = 3

VERSIONINGS: tuple[Versioning, ...] = ("enabled", "enabled", "suspended", "off")

Deed = tuple[str, str, str, int, int, bool]
"""What is done, to which key, with which content, which version, after how many ms; whether it is told."""

DEEDS = (
    *("put",) * 5,
    *("begin upload", "complete upload") * 2,
    *("delete",) * 3,
    *("remove",) * 3,
    "expire",
    "expire noncurrent",
    "switch",
)
WAITS = (0, 0, 0, 1, 1, 40, 300, 700, 1000, 2500, 60_000, 43_200_000)


def _deeds(keys: st.SearchStrategy[str], waits: Sequence[int], least: int) -> st.SearchStrategy[list[Deed]]:
    deed = st.tuples(
        st.sampled_from(DEEDS),
        keys,
        st.sampled_from("abc"),
        st.integers(0, 5),
        st.sampled_from(waits),
        st.sampled_from([True, True, True, False]),
    )
    return st.lists(deed, min_size=least, max_size=8)


deeds = _deeds(st.sampled_from(KEYS), WAITS, 1)
burst = st.sampled_from(KEYS).flatmap(lambda key: _deeds(st.just(key), (0, 0, 1, 300, 700), 3))
"""One key, over and over, within a few seconds."""
then = st.sampled_from(["", "", "take", "take and cut"])
faults = st.none() | st.builds(
    Fault, st.sampled_from(STEPS), st.sampled_from(["before", "after", "late", "sleep", "sleep"])
)
cutter_faults = st.none() | st.builds(
    Fault, st.just("put_epoch"), st.sampled_from(["before", "after", "sleep"])
)
picks = st.lists(st.integers(0, 1 << 10), min_size=1, max_size=12)
many = st.integers(0, 1 << 16)


def step(**drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """A rule that is counted."""

    def counted(act: Callable[..., None]) -> Any:
        @wraps(act)
        def wrapped(self: History, **values: Any) -> None:
            self.tally[act.__name__] += 1
            act(self, **values)

        decorate: Any = rule(**drawn)  # type: ignore[call-overload]  # its keywords are the rule's own
        return decorate(wrapped)

    return counted


def histories_on(
    backend: Backend, tally: Counter[str], held: Counter[str], kind: type[History] | None = None
) -> type[History]:
    """Histories (of that kind) whose log is in that backend; the counters get all of theirs."""

    class OnBackend(kind or History):  # type: ignore[misc]  # either is a history
        def __init__(self) -> None:
            super().__init__(backend, tally, held)

    OnBackend.__name__ = History.__name__
    return OnBackend


class Writer:
    """A worker, or a cutter, with its own way to the log."""

    def __init__(self, site_log: Any) -> None:
        self.store = FaultyStore(site_log)
        self.doing: Doing[Any] | None = None
        self.in_hand: Sequence[Observation] = ()


class History(RuleBasedStateMachine):
    """The rules."""

    def __init__(self, backend: Backend, tally: Counter[str], held: Counter[str]) -> None:
        super().__init__()
        self.tally = tally
        """Of the steps taken, by rule."""
        self.held = held
        """Of what was really checked, by promise."""
        self._open = ExitStack()
        self.site = self._open.enter_context(backend())
        self.queue: list[Observation] = []
        """Events that S3 has sent and no worker has acknowledged."""
        self.delivered: list[Observation] = []
        """Acknowledged; SQS may still deliver them again."""
        self.listing: Listing | None = None
        self.baseline_taken = False
        self._listings = 0
        self.streams_made = 2

    @initialize(
        versioning=st.sampled_from(VERSIONINGS),
        lossless=st.booleans(),
        before=st.lists(deeds, max_size=2),
    )
    def enable(self, versioning: Versioning, lossless: bool, before: list[list[Deed]]) -> None:
        """The bucket may have had a life before it was enabled, of which no event tells."""
        self.bucket = ModelBucket(versioning, START)
        for deed in (deed for some in before for deed in some):
            self._do(deed)
        self.bucket.now += 1000
        self.lossless = lossless
        self._sent = len(self.bucket.events)
        self.site.store.put_config(
            BucketConfig(
                self.site.bucket,
                "us-east-1",
                "123456789012",
                streams=2,
                enabled_at=self.bucket.now,
                settle_ms=1000,
                archive=ROOT,
            )
        )
        log = self.site.log
        self.workers = [Writer(log) for _ in range(WORKERS)]
        self.streams = [StreamWriter(w.store, f"worker-{i}", self._clock) for i, w in enumerate(self.workers)]
        self.cutters = [Writer(log), Writer(log)]
        self.cuts = [
            EpochCutter(self.cutters[0].store, self.site.bucket, self._clock),
            EpochCutter(self.cutters[1].store, self.site.bucket, lambda: self.bucket.now - 5000),
        ]
        self.engine = SiteEngine(self.site, self._clock)
        self.archiver = Archiver(self.site, self.engine)
        self.checks = Checks(self.site, self.engine, self.archiver.told_by, self.bucket, KEYS, self.held)

    def _clock(self) -> int:
        return self.bucket.now

    # What is done to the bucket, and what becomes of the events

    @step(some=deeds, then=then)
    def something_is_done(self, some: list[Deed], then: str) -> None:
        self._do_all(some, then)

    @step(some=burst, then=then)
    def much_is_done_to_one_key(self, some: list[Deed], then: str) -> None:
        self._do_all(some, then)

    def _do_all(self, some: list[Deed], then: str) -> None:
        """What is told may reach a worker at once."""
        for deed in some:
            self._do(deed)
            told = self.bucket.events[self._sent :]
            self._sent = len(self.bucket.events)
            if deed[-1] or self.lossless:
                self.queue += told
        if "take" in then and self.queue:
            self._take(0, list(self.queue), None)
        if "cut" in then:
            self._cut()

    def _do(self, deed: Deed) -> None:
        what, key, content, which, wait, _ = deed
        bucket = self.bucket
        bucket.now += wait
        acts: dict[str, Callable[[], None]] = {
            "put": lambda: bucket.put(key, content),
            "begin upload": lambda: bucket.begin_upload(key),
            "complete upload": lambda: bucket.complete_upload(content),
            "delete": lambda: bucket.delete(key),
            "remove": lambda: bucket.remove(key, which),
            "expire": lambda: bucket.expire(key),
            "expire noncurrent": lambda: bucket.expire_noncurrent(key),
            "switch": bucket.switch,
        }
        acts[what]()

    # Workers

    @precondition(lambda self: self.queue or self.delivered)
    @step(which=st.integers(0, WORKERS - 1), chosen=picks, fault=faults)
    def a_worker_takes_messages(self, which: int, chosen: list[int], fault: Fault | None) -> None:
        """In any order, each perhaps several times, and perhaps once more after it was acknowledged."""
        pool = self.queue + self.delivered[-3:]
        self._take(which, [pool[pick % len(pool)] for pick in chosen], fault)

    @precondition(lambda self: self.queue)
    @step(which=st.integers(0, WORKERS - 1), fault=faults)
    def a_worker_takes_all_there_is(self, which: int, fault: Fault | None) -> None:
        self._take(which, list(self.queue), fault)

    def _take(self, which: int, messages: list[Observation], fault: Fault | None) -> None:
        worker = self.workers[which]
        if worker.doing is not None:
            return
        worker.in_hand = messages
        worker.store.strike(fault)
        self.checks.attempted.update(messages)
        append = self.streams[which].append(self.site.bucket, messages)
        worker.doing = Doing(self.site.loop, worker.store, append)
        self._acknowledge(worker)

    def _acknowledge(self, worker: Writer) -> None:
        if worker.doing is None or not worker.doing.ended:
            return
        if worker.doing.result() is not None:
            for observation in dict.fromkeys(worker.in_hand):
                if observation in self.queue:
                    self.queue.remove(observation)
                    self.delivered.append(observation)
            self.checks.committed.update(worker.in_hand)
            if self.lossless and not self.queue:  # only then is it true
                self.site.run(self.site.log.raise_caught_up(self.site.bucket, self.bucket.now))
        worker.doing = None

    @precondition(lambda self: any(w.doing for w in (*self.workers, *self.cutters)))
    @step(pick=many, dies=st.booleans())
    def a_sleeper_wakes(self, pick: int, dies: bool) -> None:
        """Or dies, and its messages are delivered again."""
        asleep = [w for w in (*self.workers, *self.cutters) if w.doing]
        writer = asleep[pick % len(asleep)]
        assert writer.doing is not None
        if dies:
            writer.doing.kill()
            writer.doing = None
            if writer in self.workers:  # another takes its place, who knows nothing of its streams
                which = self.workers.index(writer)
                self.streams[which] = StreamWriter(writer.store, f"worker-{which}", self._clock)
            return
        writer.doing.wake()
        if writer in self.workers:
            self._acknowledge(writer)
        else:
            writer.doing = None

    @precondition(lambda self: any(w.store.late for w in self.workers))
    @step(pick=many)
    def a_put_lands_late(self, pick: int) -> None:
        entries = [(w, e) for w in self.workers for e in w.store.late]
        worker, entry = entries[pick % len(entries)]
        worker.store.late.remove(entry)
        self.site.run(self.site.log.put_entry(entry))

    def _reconfigure(self, **changes: Any) -> None:
        config = self.site.store.config(self.site.bucket)
        assert config is not None
        self.site.store.put_config(replace(config, **changes))

    # Epochs

    @step(which=st.integers(0, 1), patient=st.booleans(), fault=cutter_faults, streams=st.integers(2, 3))
    def an_epoch_is_cut(self, which: int, patient: bool, fault: Fault | None, streams: int) -> None:
        """The log may have got another stream just before."""
        cutter = self.cutters[which]
        if cutter.doing is not None:
            return
        if streams > self.streams_made:
            self.streams_made = streams
            self._reconfigure(streams=streams)
        owed = set(self.checks.committed)
        cutter.store.strike(fault)
        cutter.doing = Doing(self.site.loop, cutter.store, self.cuts[which].cut(patient=patient))
        if not cutter.doing.ended:
            return
        epoch, cutter.doing = cutter.doing.result(), None
        self.checks.new_epochs()
        if epoch is not None and not patient:
            self.checks.an_epoch_covers_all_that_was_committed_before(epoch, owed)

    def _cut(self) -> Epoch:
        owed = set(self.checks.committed)
        epoch = self.site.run(EpochCutter(self.site.log, self.site.bucket, self._clock).cut())
        self.checks.new_epochs()
        self.checks.an_epoch_covers_all_that_was_committed_before(epoch, owed)
        return epoch

    # Listings

    @precondition(lambda self: self.listing is None)
    @step(page_size=st.sampled_from([1, 2, 3, 100]), behind=st.sampled_from([0, 0, 1, 400, 1000]))
    def a_listing_begins(self, page_size: int, behind: int) -> None:
        self._begin_listing(page_size, behind)

    def _begin_listing(self, page_size: int, behind: int, *, in_files: bool = False) -> None:
        """The first is the baseline."""
        self._listings += 1
        name = f"listing-{self._listings}"
        writer = StreamWriter(self.site.log, name, self._clock)

        self._unlisted: list[Observation] = []
        self._in_files = StreamWriter(self.site.log, name, self._clock) if in_files else None

        def commit(observations: Sequence[Observation]) -> None:
            if self._in_files is not None:
                self._unlisted += observations
                return
            self.checks.attempted.update(observations)
            self.site.run(writer.append(self.site.bucket, observations))
            self.checks.committed.update(observations)

        known = self.checks.known(self._cut().number)
        if self.baseline_taken:
            self.listing = Reconcile(name, self.bucket, commit, known, page_size=page_size, behind=behind)
        else:
            self.listing = Baseline(name, self.bucket, commit, page_size=page_size, behind=behind)

    @precondition(lambda self: self.listing is not None)
    @step(steps=st.integers(1, 4), wait=st.sampled_from([0, 1, 300, 2000]))
    def a_listing_goes_on(self, steps: int, wait: int) -> None:
        for _ in range(steps):
            if self.listing is not None:
                self.bucket.now += wait
                self._list_on(self.listing)

    def _list_on(self, listing: Listing) -> None:
        listing.go_on()
        if not listing.ended:
            return
        assert listing.begun is not None
        self.listing = None
        if self._in_files is not None and self._unlisted:
            self.checks.attempted.update(self._unlisted)
            self.archiver.append_files(self._in_files, self._unlisted)
            self.checks.committed.update(self._unlisted)
        if isinstance(listing, Baseline):
            self.baseline_taken = True
            self._reconfigure(baseline_started=listing.begun, baseline_ended=listing.ended_at)
        else:
            self.site.run(self.site.log.note_verified(self.site.bucket, "", listing.begun))
        self.checks.listing_ended(listing, self._cut().number)

    @step(page_size=st.sampled_from([1, 3, 100]), wait=st.sampled_from([0, 1, 1000, 3000]))
    def the_bucket_is_listed_while_nothing_happens(self, page_size: int, wait: int) -> None:
        self.bucket.now += wait
        if self.listing is None:
            self._begin_listing(page_size, 0)
        while self.listing is not None:
            self._list_on(self.listing)

    # Views

    @precondition(lambda self: self.checks.epochs)
    @step(at=many, epoch=many, prefix=st.sampled_from(["", "", "ct/"]))
    def a_view_is_taken(self, at: int, epoch: int, prefix: str) -> None:
        """And the past gone through at the same epoch, key by key."""
        self.checks.take_view(at, epoch, prefix)
        self.checks.every_instant(epoch)

    @precondition(lambda self: self.checks.epochs)
    @step(start=many, end=many, epoch=many, prefix=st.sampled_from(["", "ct/"]))
    def a_slice_is_taken(self, start: int, end: int, epoch: int, prefix: str) -> None:
        self.checks.take_slice(start, end, epoch, prefix)

    @precondition(lambda self: self.checks.epochs)
    @step(first=many, second=many)
    def two_views_are_compared(self, first: int, second: int) -> None:
        """And a third, taken long ago, is resolved again."""
        self.checks.compare(first, second)
        self.checks.resolve_again(first)

    # The end

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and hasattr(self, "checks"):
                self._settle()
        finally:
            for writer in (*getattr(self, "workers", ()), *getattr(self, "cutters", ())):
                if writer.doing is not None:
                    writer.doing.kill()
            self._open.close()

    def _settle(self) -> None:
        """Everything that is on its way arrives, and every promise is checked once more."""
        for writer in (*self.workers, *self.cutters):
            if writer.doing is not None:
                writer.doing.wake()
                writer.doing = None
            writer.store.strike(None)
        for entry in [entry for worker in self.workers for entry in worker.store.late]:
            self.site.run(self.site.log.put_entry(entry))
        if self.queue:
            self.checks.attempted.update(self.queue)
            self.site.run(self.streams[0].append(self.site.bucket, self.queue))
            self.checks.committed.update(self.queue)
        while self.listing is not None:
            self._list_on(self.listing)
        self._cut()
        if self.lossless:
            self._catch_up()
        self.checks.all_at_the_end()

    def _catch_up(self) -> None:
        """After a first reconcile workers read all that there is, and say so."""
        while not self.baseline_taken or not self.checks.reconciled():
            self.the_bucket_is_listed_while_nothing_happens(page_size=100, wait=0)
        self.bucket.now += 5000
        self._do_all([("put", KEYS[0], "a", 0, 0, True)], "take and cut")
        now = self.bucket.now
        self.bucket.now += 5000
        self.site.run(self.site.log.raise_caught_up(self.site.bucket, self.bucket.now))
        self.checks.take_view_at(now, self._cut().number)
