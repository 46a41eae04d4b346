"""How far a queue is caught up: never past what is not committed, whoever has it and whatever dies."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_worker.consumer import Consumer
from ingest_worker.metrics import Metrics
from ingest_worker.queue_watch import QueueWatch, is_of
from ingest_worker.targets import targets
from ingest_worker.watermark import Reading, caught_up, instant_of_request, surely_ours, vouched
from snapengine.errors import NotFound, Unreachable
from snapengine.log import StreamWriter
from snapengine.testing.store_contract import BUCKET, T, config
from snapengine.workers.epochs import Epochs
from snapengine.workers.sqs import Backlog, Message
from tests.worker_fakes import NOT_JSON, FakeQueue, Gate, Lines, Store, body, gone, now, until

GOOD = Reading(taken=100.0, asked=T, visible=0, in_flight=0, delayed=0, ours=0, oldest=None, dead=0)


# One reading


def test_an_empty_queue_vouches_for_the_moment_before_it_was_asked() -> None:
    assert vouched(GOOD) == T


@pytest.mark.parametrize("what", ["visible", "in_flight", "delayed", "dead"])
def test_a_message_waiting_in_other_hands_delayed_or_dead_vouches_for_nothing(what: str) -> None:
    assert vouched(GOOD._replace(**{what: 1})) is None


def test_what_is_all_in_our_hands_vouches_up_to_its_oldest_message() -> None:
    assert vouched(GOOD._replace(in_flight=3, ours=3, oldest=T - 700)) == T - 700
    assert vouched(GOOD._replace(in_flight=3, ours=3, oldest=T + 5)) == T


def test_more_in_flight_than_in_our_hands_is_others_and_less_is_an_old_count() -> None:
    assert vouched(GOOD._replace(in_flight=3, ours=2, oldest=T)) is None
    assert vouched(GOOD._replace(in_flight=1, ours=2, oldest=T)) is None


def test_what_is_in_hand_holds_it_back_though_sqs_no_longer_counts_it() -> None:
    assert vouched(GOOD._replace(oldest=T - 700)) == T - 700


# Two readings


def test_one_reading_vouches_for_nothing_until_another_confirms_it_a_minute_later() -> None:
    later = GOOD._replace(asked=T + 60_000)
    assert caught_up([], later._replace(taken=160.0)) is None
    assert caught_up([GOOD], later._replace(taken=159.9)) is None
    assert caught_up([GOOD], later._replace(taken=160.0)) == T


def test_the_newest_that_is_old_enough_counts() -> None:
    readings = [GOOD._replace(taken=100.0 + 20 * n, asked=T + 20_000 * n) for n in range(6)]
    assert caught_up(readings[:-1], readings[-1]) == T + 40_000


def test_readings_in_between_do_not_matter() -> None:
    between = GOOD._replace(taken=130.0, visible=5, in_flight=5, dead=1)
    assert caught_up([GOOD, between], GOOD._replace(taken=161.0, asked=T + 61_000)) == T


def test_neither_the_first_nor_the_last_may_find_anything_amiss() -> None:
    last = GOOD._replace(taken=161.0, asked=T + 61_000)
    assert caught_up([GOOD._replace(dead=1)], last) is None
    assert caught_up([GOOD], last._replace(dead=1)) is None
    assert caught_up([GOOD], last._replace(visible=1)) is None


def test_an_old_message_that_turns_up_late_holds_back_what_was_vouched_for_before() -> None:
    last = GOOD._replace(taken=161.0, asked=T + 61_000, in_flight=1, ours=1, oldest=T - 500)
    assert caught_up([GOOD], last) == T - 500


# Whose messages they are


def test_only_messages_that_nobody_else_can_have_touched_are_surely_ours() -> None:
    messages = {name: Message(name, extended=50.0) for name in ("kept", "settled", "shared", "lapsed", "no")}
    messages["settled"].settled = True
    messages["shared"].shared = True
    messages["lapsed"].extended = 9.9
    messages["no"].extended = math.inf  # an extension that SQS refused for good
    before = {*messages.values(), Message("put down since", extended=50.0)}
    after = {*messages.values(), Message("come since", extended=50.0)}
    assert surely_ours(before, after, hidden_since=10.0) == 1


# Clocks


def test_the_instant_of_a_request_is_sqss_own_less_the_time_the_reply_took() -> None:
    date = "Tue, 14 Nov 2023 22:13:20 GMT"  # T
    assert instant_of_request(T + 9_000, 1.5, date) == T - 1_500


def test_of_two_clocks_the_one_that_is_behind_counts() -> None:
    assert instant_of_request(T - 3_600_000, 0.0, "Tue, 14 Nov 2023 22:13:20 GMT") == T - 3_600_000


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_without_a_date_our_clock_has_to_do(date: str | None) -> None:
    assert instant_of_request(T, 1.0, date) == T


# A simulated queue: any order of sends, receives, commits, deletions, stalls and crashes

VISIBILITY = 30
MAX_RECEIVES = 3


@dataclass
class Look:
    """A look under way: its steps are apart, so that anything may happen between them."""

    before: frozenset[Message]
    started: int
    reading: Reading | None = None


@dataclass
class SimulatedWorker:
    in_hand: set[Message] = field(default_factory=set)
    readings: list[Reading] = field(default_factory=list)
    look: Look | None = None


class Simulation:
    """A queue with exact counts, its dead-letter queue, and three workers. Its clock counts seconds, and it
    takes deletions and extensions by any receipt, however old: SQS may, or may not."""

    def __init__(self, confirm: float) -> None:
        self.confirm = confirm
        self.clock = 1_000
        self.sent: dict[str, int] = {}
        self.hidden_until: dict[str, int] = {}
        """Of those in the queue."""
        self.receives: dict[str, int] = {}
        self.dead: set[str] = set()
        self.cleared: set[str] = set()
        self.committed: set[str] = set()
        self.workers = [SimulatedWorker() for _ in range(3)]
        self.watermark = 0
        self.raises = 0

    def step(self, name: str, worker: int, choice: int) -> None:
        getattr(self, name)(self.workers[worker], choice)
        for message, sent in self.sent.items():
            known = message in self.committed or message in self.cleared
            assert known or sent * 1_000 >= self.watermark, f"{message}, sent at {sent}, is passed by"

    def send(self, _: SimulatedWorker, choice: int) -> None:
        message = f"m{len(self.sent)}"
        self.sent[message] = self.clock
        self.hidden_until[message] = 0
        self.receives[message] = 0

    def wait(self, _: SimulatedWorker, choice: int) -> None:
        self.clock += choice

    def receive(self, worker: SimulatedWorker, choice: int) -> None:
        for message in self._receive(1 + choice % 3):
            mine = Message(message, extended=self.clock, sent=self.sent[message] * 1_000)
            mine.shared = self.receives[message] > 1
            worker.in_hand.add(mine)

    def lose_a_reply(self, _: SimulatedWorker, choice: int) -> None:
        self._receive(1)

    def _receive(self, number: int) -> list[str]:
        found: list[str] = []
        for message, until_ in list(self.hidden_until.items()):
            if until_ > self.clock or len(found) == number:
                continue
            if self.receives[message] == MAX_RECEIVES:
                del self.hidden_until[message]
                self.dead.add(message)
                continue
            self.receives[message] += 1
            self.hidden_until[message] = self.clock + VISIBILITY
            found.append(message)
        return found

    def _one(self, worker: SimulatedWorker, choice: int, *, settled: bool) -> Message | None:
        those = sorted((m for m in worker.in_hand if m.settled == settled), key=lambda m: (m.id, m.extended))
        return those[choice % len(those)] if those else None

    def commit(self, worker: SimulatedWorker, choice: int) -> None:
        if message := self._one(worker, choice, settled=False):
            self.committed.add(message.id)
            message.settled = True

    def set_aside(self, worker: SimulatedWorker, choice: int) -> None:
        message = self._one(worker, choice, settled=False)
        if message and message.id not in self.committed:
            self.dead.add(message.id)
            message.settled = True

    def delete(self, worker: SimulatedWorker, choice: int) -> None:
        if message := self._one(worker, choice, settled=True):
            self.hidden_until.pop(message.id, None)

    def put_down(self, worker: SimulatedWorker, choice: int) -> None:
        if message := self._one(worker, choice, settled=True):
            worker.in_hand.remove(message)

    def leave(self, worker: SimulatedWorker, choice: int) -> None:
        if message := self._one(worker, choice, settled=False):
            worker.in_hand.remove(message)

    def extend(self, worker: SimulatedWorker, choice: int) -> None:
        message = self._one(worker, choice, settled=False)
        if message and message.id in self.hidden_until:
            message.shared = message.shared or self.clock - message.extended > VISIBILITY
            message.extended = self.clock
            self.hidden_until[message.id] = self.clock + VISIBILITY

    def crash(self, worker: SimulatedWorker, choice: int) -> None:
        worker.in_hand.clear()
        worker.readings.clear()
        worker.look = None

    def clear_the_dead(self, _: SimulatedWorker, choice: int) -> None:
        self.cleared |= self.dead
        self.dead.clear()

    def begin_look(self, worker: SimulatedWorker, choice: int) -> None:
        worker.look = Look(frozenset(worker.in_hand), self.clock)

    def count(self, worker: SimulatedWorker, choice: int) -> None:
        if not worker.look or worker.look.reading:
            return
        hidden = sum(until_ > self.clock for until_ in self.hidden_until.values())
        oldest = min((m.sent for m in worker.look.before | worker.in_hand), default=None)
        worker.look.reading = Reading(
            taken=worker.look.started,
            asked=worker.look.started * 1_000,
            visible=len(self.hidden_until) - hidden,
            in_flight=hidden,
            delayed=0,
            ours=surely_ours(worker.look.before, worker.in_hand, self.clock - 0.9 * VISIBILITY),
            oldest=oldest,
            dead=0,
        )

    def end_look(self, worker: SimulatedWorker, choice: int) -> None:
        if not worker.look or not worker.look.reading:
            return
        last = worker.look.reading._replace(dead=len(self.dead))
        instant = caught_up(worker.readings, last, confirm=self.confirm)
        worker.readings.append(last)
        worker.look = None
        if instant is not None and instant > self.watermark:
            self.watermark = instant
            self.raises += 1

    def whole_look(self, worker: SimulatedWorker, choice: int) -> None:
        self.begin_look(worker, choice)
        self.count(worker, choice)
        self.end_look(worker, choice)


STEPS = (
    ["send"] * 2
    + ["receive", "commit", "delete", "put_down"] * 12
    + ["wait"] * 4
    + ["begin_look", "count", "end_look", "whole_look", "whole_look", "clear_the_dead"] * 3
    + ["lose_a_reply", "set_aside", "leave", "extend", "crash"]
)


@given(
    st.sampled_from([0.0, 10.0]),
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.integers(0, 20)), max_size=80),
)
def test_the_watermark_never_passes_what_is_not_committed_in_the_shortest_of_histories(
    confirm: float, steps: list[tuple[str, int, int]]
) -> None:
    simulation = Simulation(confirm)
    for step in steps:
        simulation.step(*step)


def test_through_many_histories_the_watermark_rises_and_never_passes_what_is_not_committed() -> None:
    random, raises = Random(1), 0
    for number in range(1_200):
        simulation = Simulation(10.0 if number % 2 else 0.0)
        for _ in range(500):
            simulation.step(random.choice(STEPS), random.randrange(3), random.randrange(20))
        raises += simulation.raises
    assert raises > 1_000


# A queue, watched


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> Iterator[float]:
        while True:
            yield 0.01

    for module in ("snapengine.workers.consumer", "ingest_worker.writer", "snapengine.workers.epochs"):
        monkeypatch.setattr(f"{module}.delays", pauses)
    monkeypatch.setattr("ingest_worker.queue_watch.EVERY", 0.01)
    monkeypatch.setattr("ingest_worker.queue_watch.CONFIRM", 0.1)
    monkeypatch.setattr("ingest_worker.queue_watch.APART", 1)
    monkeypatch.setattr("snapengine.workers.epochs.PACE", 20)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


class Watched:
    """A worker on one queue: consumer, watch and epochs, as the worker puts them together."""

    def __init__(self, queue: FakeQueue, log: Any, *buckets: str, watched_log: Any = None) -> None:
        self.metrics = Metrics()
        self.buckets = buckets or (BUCKET,)
        self.epochs = Epochs(watched_log or log, now, self.metrics)
        writer = StreamWriter(log, "w", now)
        self.consumer = Consumer(queue, writer, now, self.metrics, self.epochs.note)
        self.watch = QueueWatch(
            queue,
            self.consumer,
            watched_log or log,
            now,
            self.metrics,
            lambda: self.buckets,
            self.epochs.note_raised,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each.run()) for each in (self.consumer, self.watch)]
        try:
            async with self.epochs.kept():
                yield
                self.consumer.stop()
                await asyncio.wait_for(tasks[0], 10)
        finally:
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)


def carried(store: Store, bucket: str = BUCKET) -> int:
    """The watermark of the newest epoch."""
    epoch = store.reader.newest_epoch(bucket)
    return (epoch.watermarks.caught_up if epoch else None) or 0


async def stays_below(store: Store, instant: int) -> None:
    """For long enough that it would have been passed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.5
    while loop.time() < end:
        assert carried(store) <= instant
        await asyncio.sleep(0.01)


async def test_an_idle_queues_watermark_rises_and_epochs_carry_it(store: Store) -> None:
    begun = now()
    each = Watched(FakeQueue(), store.log)
    async with each.running():
        await until(lambda: carried(store) >= begun)
        seen = carried(store)
        await until(lambda: carried(store) > seen)
        assert each.watch.behind() < 5


async def test_what_arrives_and_is_committed_is_passed_and_covered_by_that_epoch(store: Store) -> None:
    queue = FakeQueue(body("k1"))
    async with Watched(queue, store.log).running():
        queue.send(body("k2"))
        after = now()
        await until(lambda: carried(store) > after)
        assert sorted(o.key for o in store.observed()) == ["k1", "k2"]


async def test_it_is_raised_by_so_much_at_a_time_whoever_raised_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest_worker.queue_watch.APART", 10_000)
    each, raised = Watched(FakeQueue(), store.log), now() - 9_000
    await store.log.raise_caught_up(BUCKET, raised)
    async with each.running():
        await until(lambda: len(each.watch._readings) > 20)
        assert (await store.log.watermarks(BUCKET)).caught_up == raised
        assert 9 <= each.watch.behind() < 30
        monkeypatch.setattr("ingest_worker.queue_watch.APART", 5_000)
        await until(lambda: carried(store) > raised)


async def test_a_stalled_workers_messages_hold_it_until_another_has_committed_them(store: Store) -> None:
    queue = FakeQueue(body("k"), visibility=1)
    gate = Gate(store.log, "put_entry")
    stalled = Consumer(queue, StreamWriter(gate, "s", now), now, Metrics(), lambda _: None)
    sleeper = asyncio.create_task(stalled.run())
    await until(lambda: gate.waiting == 1)
    stalled.stop()  # it receives no more, extends nothing, and keeps what it has
    queue.faults["extend"] = gone(1_000)
    async with Watched(queue, store.log).running():
        await stays_below(store, queue.sent_at["m1"])
        await until(lambda: carried(store) > queue.sent_at["m1"])
        assert {o.key for o in store.observed()} == {"k"}
        gate.open()
        await asyncio.wait_for(sleeper, 10)


async def test_a_crashed_workers_messages_hold_it_until_another_has_committed_them(store: Store) -> None:
    queue = FakeQueue(body("k"), visibility=1)
    gate = Gate(store.log, "mark_done")
    crashing = Consumer(queue, StreamWriter(gate, "c", now), now, Metrics(), lambda _: None)
    task = asyncio.create_task(crashing.run())
    await until(lambda: gate.waiting == 1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    async with Watched(queue, store.log).running():
        await stays_below(store, queue.sent_at["m1"])
        await until(lambda: carried(store) > queue.sent_at["m1"])
        assert {o.key for o in store.observed()} == {"k"}


async def test_a_dead_letter_holds_it_until_the_queue_is_cleared(store: Store, lines: Lines) -> None:
    dead = FakeQueue()
    queue = FakeQueue(body("k"), NOT_JSON, dead_letter=dead)
    async with Watched(queue, store.log).running():
        await until(lambda: bool(dead.bodies) and bool(lines.of("watermark-held")))
        queue.send(body("later"))
        await stays_below(store, queue.sent_at["m2"])
        assert sorted(o.key for o in store.observed()) == ["k", "later"]
        dead.bodies.clear()
        await until(lambda: carried(store) > queue.sent_at["m3"])
    (held,) = lines.of("watermark-held")
    assert held["dead_letters"] == 1
    assert "dead-letter queue" in held["remedy"]
    assert len(lines.of("watermark-released")) == 1


async def test_while_the_store_takes_nothing_it_rises_to_the_oldest_message_in_hand_and_no_further(
    store: Store,
) -> None:
    gate = Gate(store.log, "put_entry")
    queue = FakeQueue()
    async with Watched(queue, gate, watched_log=store.log).running():
        await until(lambda: carried(store) > 0)
        await asyncio.sleep(0.2)
        queue.send(body("k"))
        sent = queue.sent_at["m1"]
        await until(lambda: gate.waiting == 1)
        await until(lambda: carried(store) == sent)
        await stays_below(store, sent)
        gate.open()
        await until(lambda: carried(store) > sent)
        assert {o.key for o in store.observed()} == {"k"}


async def test_a_message_that_nobody_can_commit_holds_it(store: Store) -> None:
    queue = FakeQueue(NOT_JSON)  # and there is no dead-letter queue
    async with Watched(queue, store.log).running():
        await stays_below(store, queue.sent_at["m1"])


async def test_a_dead_letter_queue_that_cannot_be_read_holds_it_and_is_reported_once(
    store: Store, lines: Lines
) -> None:
    dead = FakeQueue()
    dead.faults["backlog"] = [NotFound("There is no queue dead") for _ in range(5_000)]
    each = Watched(FakeQueue(dead_letter=dead), store.log)
    async with each.running():
        await stays_below(store, 0)
        labels = {"step": "watermark"}
        counted = each.metrics.registry.get_sample_value("snapengine_worker_failures_total", labels)
        assert counted
        assert counted > 2
        dead.faults.clear()
        await until(lambda: carried(store) > 0)
    assert [line["code"] for line in lines.of("watermark-failed")] == ["not-found"]


async def test_while_no_poll_is_answered_nothing_is_vouched_for(store: Store) -> None:
    queue = FakeQueue()
    queue.faults["receive"] = gone(100_000)
    async with Watched(queue, store.log).running():
        await stays_below(store, 0)
        queue.faults.clear()
        await until(lambda: carried(store) > 0)


async def test_a_bucket_that_cannot_be_raised_keeps_no_other_back(lines: Lines) -> None:
    store = Store("one", "two")
    async with Watched(FakeQueue(), store.log, "unknown", "one", "two").running():
        await until(lambda: carried(store, "one") > 0 and carried(store, "two") > 0)
    assert lines.of("watermark-failed")[0]["code"] == "bucket-not-enabled"


async def test_a_store_that_fails_is_tried_again(store: Store, lines: Lines) -> None:
    class Failing:
        times = 3

        async def raise_caught_up(self, bucket: str, to: int) -> None:
            self.times -= 1
            if self.times >= 0:
                raise Unreachable("no answer")
            await store.log.raise_caught_up(bucket, to)

        def __getattr__(self, name: str) -> Any:
            return getattr(store.log, name)

    async with Watched(FakeQueue(), store.log, watched_log=Failing()).running():
        await until(lambda: carried(store) > 0)
    assert len(lines.of("watermark-failed")) == 1


async def test_a_bucket_whose_queue_is_another_or_that_is_let_go_is_not_raised() -> None:
    store = Store("ours", "other")
    each = Watched(FakeQueue(), store.log, "ours")
    async with each.running():
        await until(lambda: carried(store, "ours") > 0)
        each.buckets = ()
        await asyncio.sleep(0.05)
        seen = carried(store, "ours")
        await asyncio.sleep(0.3)
        assert carried(store, "ours") == seen
        assert carried(store, "other") == 0
        assert each.watch.behind() == 0


async def test_a_message_that_comes_while_sqs_counts_holds_it_though_the_counts_lack_it(store: Store) -> None:
    class Late(FakeQueue):
        async def backlog(self) -> Backlog:
            each.consumer.in_hand.add(Message("m", sent=T))
            return Backlog(0, 0, 0, None)

    each = Watched(Late(), store.log)
    each.watch._readings.append(GOOD._replace(taken=-math.inf, asked=now()))
    await each.watch.look()
    assert (await store.log.watermarks(BUCKET)).caught_up == T


async def test_of_what_is_in_hand_it_is_known_when_it_was_sent_and_who_may_have_it_too(store: Store) -> None:
    queue = FakeQueue(body("new"), body("came before"))
    queue.received["m2"] = 1
    gate = Gate(store.log, "put_entry")
    each = Watched(queue, gate, watched_log=store.log)
    async with each.running():
        await until(lambda: gate.waiting == 1)
        found = {message.id: message for message in each.consumer.in_hand}
        assert {each: message.sent for each, message in found.items()} == queue.sent_at
        assert {each: message.shared for each, message in found.items()} == {"m1": False, "m2": True}
        assert not any(each.settled for each in found.values())
        queue.faults["delete"] = gone(1_000)
        gate.open()
        await until(lambda: all(each.settled for each in found.values()))
        queue.faults.clear()


async def test_a_message_whose_extension_came_too_late_may_be_in_other_hands(store: Store) -> None:
    queue = FakeQueue(body("k"), visibility=1)
    gate = Gate(store.log, "put_entry")
    each = Watched(queue, gate, watched_log=store.log)
    async with each.running():
        await until(lambda: gate.waiting == 1)
        (message,) = each.consumer.in_hand
        await until(lambda: queue.calls.count("extend") >= 2)
        assert [m.shared for m in each.consumer.in_hand] == [False]
        message.extended -= 1.5  # as if the process had slept
        calls = queue.calls.count("extend")
        await until(lambda: queue.calls.count("extend") > calls + 1)
        assert [m.shared for m in each.consumer.in_hand] == [True]
        gate.open()


def test_a_queue_vouches_for_the_enabled_buckets_that_are_registered_with_it() -> None:
    registered = [
        config(bucket="a", queue_url="q/shared"),
        config(bucket="b", queue_url="q/shared"),
        config(bucket="off", queue_url="q/shared", enabled=False),
        config(bucket="elsewhere", queue_url="q/other"),
    ]
    found = targets(registered, [], ["q/shared", "q/of-nobody"])
    assert found["q/shared"].vouches_for == ("a", "b")
    assert found["q/of-nobody"].vouches_for == ()


def test_a_registered_dead_letter_queue_is_known_by_its_arn() -> None:
    assert is_of("https://sqs.eu-central-1.amazonaws.com/123/dead", "arn:aws:sqs:eu-central-1:123:dead")
    assert not is_of("https://sqs.eu-central-1.amazonaws.com/123/dead", "arn:aws:sqs:eu-central-1:124:dead")
    assert not is_of("https://sqs.eu-central-1.amazonaws.com/123/dead", "arn:aws:sqs:eu-central-1:123:dead2")


async def test_where_sqs_and_the_registry_name_different_dead_letter_queues_both_count(store: Store) -> None:
    registered, of_policy = FakeQueue(), FakeQueue()

    class Two(FakeQueue):
        def another(self, url: str) -> FakeQueue:
            return {"url:dead": of_policy, "url:registered": registered}[url]

    queue = Two(dead_letter=of_policy)
    each = Watched(queue, store.log)
    each.consumer.dead_letter_url = "url:registered"
    registered.send("?")
    async with each.running():
        await stays_below(store, 0)
        of_policy.send("?")
        registered.bodies.clear()
        await stays_below(store, 0)
        of_policy.bodies.clear()
        await until(lambda: carried(store) > 0)
