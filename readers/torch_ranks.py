"""Which share of the samples is this process's: its rank among the training's, and its worker's number."""

from __future__ import annotations

import multiprocessing
import os
from typing import NamedTuple

from readers.sampling import Shard, checked
from readers.torch_import import torch
from snapengine.errors import UsageError


class Ranks(NamedTuple):
    """A process of a distributed training."""

    rank: int
    world_size: int


def ranks_here() -> Ranks:
    """By `torch.distributed`, once it is initialised; else by `RANK` and `WORLD_SIZE`, which `torchrun` sets;
    else alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    told = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if told == (None, None):
        return Ranks(0, 1)
    try:
        found = Ranks(*(int(text or "") for text in told))
    except ValueError:
        raise UsageError(
            f"RANK={told[0]} and WORLD_SIZE={told[1]} do not say which rank this is. Set both, or neither."
        ) from None
    return of_shard(checked(Shard(*found)))


def of_shard(shard: Shard) -> Ranks:
    return Ranks(shard.rank, shard.world_size)


def chosen(rank: int | None, world_size: int | None) -> Ranks | None:
    """What was asked for by both; None where neither is given. Raises `UsageError`."""
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise UsageError("Give both `rank` and `world_size`, or neither.")
    return of_shard(checked(Shard(rank, world_size)))


class Carried(NamedTuple):
    """What a process says of itself to the workers that it starts: they find neither rank by themselves."""

    process: int
    ranks: Ranks

    @property
    def by_my_loader(self) -> bool:
        """Whether this is a worker of a DataLoader, and of the very process that said it: what was said by
        another rank, which passed a dataset on, is not for this one's workers."""
        parent = multiprocessing.parent_process()
        in_worker = torch.utils.data.get_worker_info() is not None
        return in_worker and parent is not None and parent.pid == self.process


def shard_of(ranks: Ranks) -> Shard:
    """The share of this process or, in a worker of a DataLoader, the worker's."""
    info = torch.utils.data.get_worker_info()
    return Shard(*ranks) if info is None else Shard(*ranks, info.id, info.num_workers)
