"""Workers that are killed at every step they have, and put to sleep; and servers that go away under load."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from typing import Protocol

from benchmarks._faults_history import History, Load
from benchmarks._faults_judge import References, Verdict, judge
from benchmarks._faults_process import Strike
from benchmarks._faults_stage import VISIBILITY, Running, Stage, Stuck, environment_of, wait_until
from benchmarks._faults_tally import Tally, strikes
from tools.local_servers import Endpoint, Server

STEPS = ("receive", "commit", "by key", "done", "epoch", "delete")
SELDOM = ("extend", "set aside", "read", "look at the queue", "any")
ASLEEP_AT = (
    Strike("commit"),  # numbered, stamped and signed, and not sent
    Strike("epoch"),
    Strike("delete"),
    Strike("by key"),
    Strike("receive", "after"),
    Strike("done"),
    Strike("commit", "after"),
)
REACHED_WITHIN = 10.0
"""Seconds for a process to come to the step at which it is to be struck."""
IN_STOCK = 40
"""Messages that the queue should hold when a worker starts."""
LONG_TRIES = 5
VIEWS = 12
"""Of each bucket, compared at the end."""


def kill_workers(
    endpoints: Sequence[Endpoint], folder: Path, *, kills: int, pauses: int, long_pause: float, seed: int
) -> tuple[Tally, Verdict]:
    """Two workers at a time on one queue, killed again and again, while three others sleep now and then, and
    one from the beginning to the end, for `long_pause` seconds at least."""
    with environment_of(*endpoints) as environment:
        stage = Stage(environment, folder)
        try:
            return _Killing(stage, seed).run(kills, pauses, long_pause)
        finally:
            stage.close()


class _Killing:
    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._seed = seed
        self._tally = Tally()
        self._malformed: set[str] = set()
        self._lock = Lock()
        self._begun = 0
        self._histories = [
            History(f"bucket-{number}", seed + number, versioned=number > 0) for number in range(4)
        ]
        for history in self._histories:
            stage.enable(history.bucket)
        self._load = Load(self._histories, stage.send, seed)
        self._references = References(stage.make_engine, seed)
        self._chance = random.Random(seed)

    def run(self, kills: int, pauses: int, long_pause: float) -> tuple[Tally, Verdict]:
        planned = strikes(STEPS, SELDOM, self._seed)
        asleep_at = iter(list(islice(_in_turn(ASLEEP_AT), pauses)))
        over = Event()
        with ThreadPoolExecutor(6) as pool:
            longest = pool.submit(self._sleep_long, long_pause, over)
            try:
                lanes = [pool.submit(self._kill, planned, kills) for _ in range(2)]
                beds = [pool.submit(self._sleep, asleep_at) for _ in range(3)]
                for lane in lanes:
                    lane.result()
                other = self._stage.worker()  # so that those who sleep are not alone
                for bed in beds:
                    bed.result()
            finally:
                over.set()
            longest.result()
            other.stop()
        self._load.rest()
        self._stage.recover()
        return self._tally, self._judge()

    def _kill(self, planned: Iterator[Strike], kills: int) -> None:
        while True:
            with self._lock:
                if self._tally.kills.total() + self._begun >= kills or self._tally.missed > kills:
                    return
                self._begun += 1
                strike = next(planned)
            self._supply(strike)
            process = self._stage.worker(_made_to_come(strike))
            fell = self._await(process, strike, lambda running: running.ended(0.05))
            if fell and not process.killed:
                raise Stuck(f"A worker ended by itself. {process.last_words()}")
            process.end()
            with self._lock:
                self._begun -= 1
            if fell:
                self._tally.killed(strike)
            else:
                self._tally.missed += 1
            if self._chance.random() < 0.3:
                self._references.take(self._chance.choice(self._histories))

    def _supply(self, strike: Strike) -> None:
        if self._stage.visible() < IN_STOCK:
            self._load.more(IN_STOCK)
        self._supply_what_cannot_be_read(strike)

    def _supply_what_cannot_be_read(self, strike: Strike) -> None:
        if strike.step == "set aside":
            with self._lock:
                body = f'{{"Records": [{{"not": "an event", "number": {len(self._malformed)}'
                self._malformed.add(body)
            self._stage.send([body])

    def _await(self, process: Running, strike: Strike, reached: _Reached) -> bool:
        """Whether the process comes to its step; it is given more to do meanwhile."""
        started = time.monotonic()
        more_at = started + 1
        while not reached(process):
            now = time.monotonic()
            if now > started + REACHED_WITHIN or process.ended():
                return process.ended()
            if now > more_at:
                self._load.more(10)
                self._supply_what_cannot_be_read(strike)  # another may have taken the last one
                more_at = now + 1
        return True

    def _sleep(self, asleep_at: Iterator[Strike]) -> None:
        while True:
            with self._lock:
                strike = next(asleep_at, None)
            if strike is None:
                return
            process = self._put_to_sleep(strike)
            if process is None:
                continue
            before = self._epochs()
            time.sleep(VISIBILITY + 1)
            self._wake(process, before)
            self._tally.slept()

    def _sleep_long(self, seconds: float, over: Event) -> None:
        """One worker with a commit stamped, signed and not sent, which goes on after so many seconds, and
        not before all else is `over`: what is left of the time by then, the others have some work."""
        asleep = (self._put_to_sleep(Strike("commit")) for _ in range(LONG_TRIES))
        process = next((process for process in asleep if process is not None), None)
        if process is None:
            raise Stuck("No worker came to a commit to be put to sleep for long.")
        began, before = time.monotonic(), self._epochs()
        over.wait()
        while (left := began + seconds - time.monotonic()) > 0:
            self._load.more(10)
            time.sleep(min(2.0, left))
        self._tally.slept_long(time.monotonic() - began)
        self._wake(process, before)

    def _put_to_sleep(self, strike: Strike) -> Running | None:
        """A worker that was stopped there; none if it did not come to it in time."""
        self._supply(strike)
        process = self._stage.worker(replace(strike, signal=signal.SIGSTOP))
        if self._await(process, strike, _asleep):
            return process
        process.end()
        self._tally.missed += 1
        return None

    def _wake(self, process: Running, before: list[int]) -> None:
        """When its messages have been given to others and every bucket has a newer epoch than `before`. Then
        it goes on a while, and is ended."""
        late = time.monotonic() + 10

        def others_went_on() -> bool:
            newer = all(now > then for now, then in zip(self._epochs(), before, strict=True))
            return newer or time.monotonic() > late

        wait_until(others_went_on, "others had cut epochs")
        process.send(signal.SIGCONT)
        process.ended(1.0)
        process.stop()

    def _epochs(self) -> list[int]:
        found = [self._stage.engine.store.newest_epoch(history.bucket) for history in self._histories]
        return [epoch.number if epoch else 0 for epoch in found]

    def _judge(self) -> Verdict:
        tally, load = self._tally, self._load
        tally.duplicates, tally.reorderings = load.duplicates, load.reorderings
        tally.messages = load.messages + len(self._malformed)
        verdict = _judged(self._stage, self._histories, self._references, self._seed)
        dead = self._stage.dead()
        verdict.lost += len(self._malformed - dead)
        verdict.invented += len(dead - self._malformed)
        if dead != self._malformed:
            verdict.note("What cannot be read is not what is in the dead-letter queue.")
        return verdict


class _Reached(Protocol):
    def __call__(self, process: Running, /) -> bool: ...


def _asleep(process: Running) -> bool:
    time.sleep(0.02)
    return process.asleep()


def _made_to_come(strike: Strike) -> Strike:
    """Visibility is only extended where a commit takes long."""
    return replace(strike, slow=("commit", 0.8 * VISIBILITY)) if strike.step == "extend" else strike


def _in_turn(strikes_: Sequence[Strike]) -> Iterator[Strike]:
    while True:
        yield from strikes_


def _judged(stage: Stage, histories: Sequence[History], references: References, seed: int) -> Verdict:
    verdict = references.again()
    engine = stage.make_engine()
    for history in histories:
        verdict.add(judge(engine, history, VIEWS, seed))
    return verdict


# Servers


def restart_servers(
    table: Server, queue: Server, folder: Path, *, rounds: int, seed: int
) -> tuple[Tally, Verdict]:
    """The table's server, then the queue's, end under load and come back; in turns by SIGTERM and by SIGKILL.

    Both keep their data on disk. Two workers go on as they are all the while.
    """
    with environment_of(table, queue) as environment:
        stage = Stage(environment, folder)
        try:
            return _restart(stage, table, queue, rounds, seed)
        finally:
            stage.close()


def _restart(stage: Stage, table: Server, queue: Server, rounds: int, seed: int) -> tuple[Tally, Verdict]:
    tally = Tally()
    histories = [History(f"bucket-{number}", seed + 100 + number, keys=12) for number in range(2)]
    for history in histories:
        stage.enable(history.bucket)
    load = Load(histories, stage.send, seed)
    references = References(stage.make_engine, seed)
    workers = [stage.worker() for _ in range(2)]
    load.more(10)
    store = stage.make_engine().store
    wait_until(lambda: store.newest_epoch(histories[0].bucket) is not None, "an epoch was cut", 60)
    for number in range(rounds):
        for server in (table, queue):
            references.take(histories[number % 2])
            with ThreadPoolExecutor(1) as pool:
                loading = pool.submit(_keep_loading, load)
                time.sleep(0.3)
                server.stop() if number % 2 else server.kill()
                time.sleep(1.0)  # long enough for calls to fail, and to be tried again
                server.start()
                loading.result()
            tally.outages += 1
            tally.restarts += 1
    for worker in workers:
        if worker.ended():
            raise RuntimeError(f"A worker did not outlive an outage. {worker.last_words()}")
    load.rest()
    wait_until(lambda: stage.in_queue() == 0, "the queue was empty", 120)
    for worker in workers:
        worker.stop()
    stage.recover()
    tally.duplicates, tally.reorderings, tally.messages = load.duplicates, load.reorderings, load.messages
    return tally, _judged(stage, histories, references, seed)


def _keep_loading(load: Load) -> None:
    for _ in range(5):
        load.more(6)
        time.sleep(0.3)
