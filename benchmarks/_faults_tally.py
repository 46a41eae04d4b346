"""What was done to the processes and the servers, counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from threading import Lock

from benchmarks._faults_process import Strike, When


@dataclass(slots=True)
class Tally:
    """Of one part of the run, or of all."""

    kills: Counter[str] = field(default_factory=Counter)
    """By step and moment, such as `commit after`."""
    missed: int = 0
    """Strikes that never fell, as it did not come to their step in time."""
    restarts: int = 0
    """Processes that were started after one like it had been killed, and servers after they had ended."""
    pauses: int = 0
    longest: float = 0.0
    """Seconds of the longest pause."""
    outages: int = 0
    duplicates: int = 0
    reorderings: int = 0
    losses: int = 0
    messages: int = 0
    _lock: Lock = field(default_factory=Lock)

    def killed(self, strike: Strike) -> None:
        with self._lock:
            self.kills[f"{strike.step} {strike.when}"] += 1
            self.restarts += 1  # whoever kills starts another

    def slept(self) -> None:
        with self._lock:
            self.pauses += 1

    def slept_long(self, seconds: float) -> None:
        with self._lock:
            self.pauses += 1
            self.longest = max(self.longest, seconds)

    def add(self, other: Tally) -> None:
        self.kills += other.kills
        self.longest = max(self.longest, other.longest)
        for name in (
            "missed",
            "restarts",
            "pauses",
            "outages",
            "duplicates",
            "reorderings",
            "losses",
            "messages",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))


MOMENTS: tuple[When, ...] = ("before", "after", "during")


def strikes(first: Sequence[str], then: Sequence[str], seed: int) -> Iterator[Strike]:
    """Without end: each of the `first` steps before and after, then every step at every moment, again and
    again, later and later in the process's life."""
    chance = random.Random(seed)
    opening = list(product(first, MOMENTS[:2]))
    every = [pair for pair in product([*first, *then], MOMENTS) if pair not in opening]
    chance.shuffle(every)
    nth = 1
    while True:
        for step, when in [*opening, *every]:
            yield Strike(step, when, chance.randint(1, nth))
        nth = 4
