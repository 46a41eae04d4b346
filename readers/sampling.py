"""PURE: which rows of a view each rank and worker takes in an epoch, in which order, and from where on again.

Nothing here knows torch. The order is of our own making, of 64-bit integers alone, so that it is the same
with every version of every library: a training that was stopped a year ago goes on with the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from snapengine.errors import UsageError

Numbers = npt.NDArray[np.int64]
"""Row numbers, from 0 in key order."""

STATE: Final = 1
"""The form of a state; a later one gets another number."""

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class Shard(NamedTuple):
    """One of those who share a view's rows: a rank, or a worker of a rank."""

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    workers: int = 1

    @property
    def number(self) -> int:
        """From 0; workers of one rank are `world_size` apart."""
        return self.rank + self.world_size * self.worker

    @property
    def of(self) -> int:
        return self.world_size * self.workers


def checked(shard: Shard) -> Shard:
    """The shard, if there can be one. Raises `UsageError`."""
    for one, of, what in ((shard.rank, shard.world_size, "rank"), (shard.worker, shard.workers, "worker")):
        if not 0 <= one < of:
            raise UsageError(f"There is no {what} {one} of {of}: they count from 0.")
    return shard


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the rows of one view are gone through. Each epoch has every row once, over all shards together."""

    reference: str
    """Of the view, `snap://…` with its epoch."""
    count: int
    """Its rows."""
    shuffle: bool = False
    """False: in key order, in every epoch."""
    seed: int = 0
    even: bool = False
    """Leave out the last `count % world_size` rows of an epoch's order, so that all ranks have as many."""

    def rows(self, epoch: int, shard: Shard) -> Numbers:
        """The shard's row numbers, in the order of that epoch. Takes 16 bytes a row of the view, where it is
        shuffled, while it is made."""
        places = self.places(shard)
        if not self.shuffle:
            return np.arange(places.start, places.stop, places.step, dtype=np.int64)
        return shuffled(self.count, self.seed, epoch)[places.start : places.stop : places.step].copy()

    def places(self, shard: Shard) -> range:
        """Where in an epoch's order the shard's rows stand: every `of`-th."""
        checked(shard)
        end = self.count - self.count % shard.world_size if self.even else self.count
        return range(shard.number, end, shard.of)

    def state(self, epoch: int, shard: Shard, taken: int) -> dict[str, Any]:
        """Plain values: the shard has given `taken` of its rows of that epoch."""
        return {
            "state": STATE,
            "view": self.reference,
            "count": self.count,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "even": self.even,
            "shard": "/".join(map(str, shard)),
            "epoch": epoch,
            "taken": taken,
        }

    def resumed(self, state: Any, shard: Shard) -> tuple[int, int]:
        """The epoch of a state, and how many of its rows the shard has given already.

        Raises `UsageError` where the state is of another view, order or shard: going on from it would leave
        samples out, or give them twice.
        """
        check_view(state, self.reference)
        expected = self.state(0, shard, 0)
        differs = [
            name for name in expected if name not in {"epoch", "taken"} and state.get(name) != expected[name]
        ]
        if differs:
            told = ", ".join(
                f"{name}={state.get(name)!r} there and {expected[name]!r} here" for name in differs
            )
            raise UsageError(
                f"The state does not fit this dataset: {told} (a shard is rank, of how many, "
                "worker, of how many). Go on with as many ranks and workers, and the same order."
            )
        epoch, taken = state.get("epoch"), state.get("taken")
        if (
            not isinstance(epoch, int)
            or not isinstance(taken, int)
            or taken not in range(len(self.places(shard)) + 1)
        ):
            raise UsageError(
                f"The state says that {taken!r} rows of epoch {epoch!r} were taken: it is damaged."
            )
        return epoch, taken


def view_state(reference: str) -> dict[str, Any]:
    """The state of what has none but the view that it is over."""
    return {"state": STATE, "view": reference}


def check_view(state: Any, reference: str) -> None:
    """Raises `UsageError` for a state of another view, and for what is none."""
    if not isinstance(state, Mapping) or state.get("state") != STATE:
        raise UsageError("This is no state of a dataset over a view, or one of a newer snapengine.")
    if state.get("view") != reference:
        raise UsageError(
            f"The state is of {state.get('view')}, and this dataset is over {reference}: open that view "
            "again with `snapengine.open_ref`, and make the dataset over it."
        )


@dataclass(slots=True)
class Place:
    """How far a shard has come in an epoch."""

    epoch: int
    taken: int = 0
    ended: bool = False
    """By a state that was taken at the epoch's end: nothing is left of it."""


class Progress:
    """Where the newest iteration of one shard is, and where the next one is to go on."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._newest = Place(0)
        self._pending: Place | None = None

    def begin(self, epoch: int) -> Place:
        """The place of a new iteration, which keeps it up to date; a loaded one, if it is of that epoch.

        What was loaded at an epoch's end leaves nothing for one iteration, whatever epoch is set: loaders
        make one of it before they begin the next epoch's.
        """
        pending, self._pending = self._pending, None
        goes_on = pending is not None and (pending.ended or pending.epoch == epoch)
        self._newest = pending if pending is not None and goes_on else Place(epoch)
        return self._newest

    def turn(self, epoch: int) -> None:
        """The next iteration is to be of that epoch: what was loaded at another one's end is over."""
        if self._pending is not None and self._pending.ended and self._pending.epoch != epoch:
            self._pending = None
        if self._newest.ended and self._newest.epoch != epoch:
            self._newest = Place(epoch)

    def state(self, epoch: int, shard: Shard) -> dict[str, Any]:
        """Of the newest iteration, if it is of that epoch; else of its beginning."""
        place = self._pending or self._newest
        if place.ended:
            return self._sampling.state(place.epoch, shard, place.taken)
        return self._sampling.state(epoch, shard, place.taken if place.epoch == epoch else 0)

    def load(self, state: Any, shard: Shard, epoch: int = 0) -> int:
        """Have the next iteration of the state's epoch go on there; the epoch that is then to be set. That is
        the state's; but after the state's end a later one that is set already, as a loader loads its state
        only when it is iterated. Raises `UsageError`."""
        found, taken = self._sampling.resumed(state, shard)
        ended = taken == len(self._sampling.places(shard))
        self._pending = Place(found, taken, ended)
        return max(found, epoch) if ended else found


def checked_epoch(epoch: int) -> int:
    """Raises `UsageError` for what is no number from 0."""
    try:
        number = int(epoch)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if isinstance(epoch, bool) or number != epoch or number < 0:
        raise UsageError(f"set_epoch({epoch!r}): epochs are numbers from 0.")
    return number


def shuffled(count: int, seed: int, epoch: int) -> Numbers:
    """The numbers below `count` in an order that seed and epoch alone decide.

    They are sorted by SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014),
    whose values of one stream all differ.
    """
    start = int.from_bytes(sha256(f"{seed}/{epoch}".encode()).digest()[:8], "big")
    keys = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        keys *= _GOLDEN
        keys += np.uint64(start)
        for shift, factor in _MIX:
            keys ^= keys >> np.uint64(shift)
            keys *= np.uint64(factor)
        keys ^= keys >> np.uint64(31)
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)
