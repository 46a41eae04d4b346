"""The sampler of map-style datasets: each rank's share of the rows, shuffled by seed, and resumable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from readers.sampling import Place, Progress, Sampling, Shard, checked_epoch
from readers.torch_import import torch
from readers.torch_ranks import Ranks, ranks_here


class ViewSampler(torch.utils.data.Sampler[int]):
    """Row numbers for a `DataLoader`'s `sampler=`. It runs in the process of the loader, not in its workers.

    Over all ranks each row comes once an epoch, no more and no less (`even=True`: all ranks have as many, and
    fewer rows than there are ranks are left out). `set_epoch` before each epoch gives another order. With
    torchdata's `StatefulDataLoader` its state is part of the loader's.
    """

    def __init__(self, sampling: Sampling, ranks: Ranks | None = None) -> None:
        """`ranks`: by default, what the process finds whenever it is asked."""
        self._sampling = sampling
        self._ranks = ranks
        self._progress = Progress(sampling)
        self.epoch = 0

    @property
    def _shard(self) -> Shard:
        return Shard(*(self._ranks or ranks_here()))

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order the next iteration has. Raises `UsageError` for what is no number from 0."""
        self.epoch = checked_epoch(epoch)
        self._progress.turn(self.epoch)

    def __len__(self) -> int:
        """How many rows of an epoch are this rank's."""
        return len(self._sampling.places(self._shard))

    def __iter__(self) -> Iterator[int]:
        return self._numbers(self._progress.begin(self.epoch), self._shard)

    def _numbers(self, place: Place, shard: Shard) -> Iterator[int]:
        for number in self._sampling.rows(place.epoch, shard)[place.taken :].tolist():
            place.taken += 1
            yield number

    def state_dict(self) -> dict[str, Any]:
        """Where the newest iteration is: plain values."""
        return self._progress.state(self.epoch, self._shard)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next iteration go on there. Raises `UsageError` for a state of something else."""
        self.epoch = self._progress.load(state_dict, self._shard, self.epoch)
