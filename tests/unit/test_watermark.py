"""How far a queue is caught up: never past what is not committed, whoever has it and whatever dies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_worker.watermark import Reading, caught_up, instant_of_request, surely_ours, vouched
from snapengine.testing.store_contract import T
from snapengine.workers.sqs import Message

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
