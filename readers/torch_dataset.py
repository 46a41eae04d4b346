"""torch datasets over a view: version-pinned, sharded over ranks and workers, shuffled by seed, resumable.

    dataset = snapengine.view("scans", prefix="ct/").to_torch(decode, style="iterable", shuffle=True)
    loader = StatefulDataLoader(dataset, batch_size=32, num_workers=4)

A view is resolved once, where the dataset is made; workers and ranks that it is passed on to resolve nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from operator import index
from typing import Any, Literal, TypedDict, Unpack

from readers.sampling import Place, Progress, Sampling, Shard, check_view, checked_epoch, view_state
from readers.tensor_cache import TensorSnapshot, hear_of_forgotten, transform_of
from readers.torch_import import torch
from readers.torch_ranks import Carried, Ranks, chosen, ranks_here, shard_of
from readers.torch_reading import Decode, Sample, SampleReader
from readers.torch_rows import ViewRows
from readers.torch_sampler import ViewSampler
from snapengine import View
from snapengine.errors import UsageError

__all__ = ["Sample", "ViewDataset", "ViewIterableDataset", "ViewSampler", "dataset_of"]


class CacheOptions(TypedDict, total=False):
    """Of both styles."""

    cache: bool
    """Keep decoded samples on the local disk for the next epoch and the next run: tensor snapshots."""
    decode_version: str | None
    """What `decode` declares: another one whenever it gives other samples. None: its attribute `version`."""


class OrderOptions(TypedDict, total=False):
    """Of the iterable style, and of `ViewDataset.sampler`."""

    shuffle: bool
    """In an order that `seed` and the epoch decide; else in key order."""
    seed: int
    even: bool
    """Leave out the last `count % world_size` objects of an epoch's order, so that all ranks have as many."""
    rank: int | None
    """With `world_size`; None: by `torch.distributed`, else by `RANK` and `WORLD_SIZE`, else alone."""
    world_size: int | None


class Options(CacheOptions, OrderOptions, total=False):
    """Of `View.to_torch`."""


def dataset_of(
    view: View,
    decode: Decode | None = None,
    *,
    style: Literal["map", "iterable"] = "map",
    **options: Unpack[Options],
) -> ViewDataset | ViewIterableDataset:
    """What `view.to_torch` gives. Raises `UsageError` for options that the style does not have."""
    made: Any = {"map": ViewDataset, "iterable": ViewIterableDataset}.get(style)
    if made is None:
        raise UsageError(f"style={style!r}: it is 'map' or 'iterable'.")
    known = {*CacheOptions.__annotations__, *(OrderOptions.__annotations__ if style == "iterable" else ())}
    if wrong := sorted(options.keys() - known):
        if style == "map" and set(wrong) <= set(OrderOptions.__annotations__):
            raise UsageError(
                f"The order of a map-style dataset is its sampler's: give {', '.join(wrong)} to it, as in "
                "DataLoader(dataset, sampler=dataset.sampler(shuffle=True, seed=0))."
            )
        raise UsageError(
            f"to_torch has no option {', '.join(wrong)}; style={style!r} has {', '.join(sorted(known))}."
        )
    dataset: ViewDataset | ViewIterableDataset = made(view, decode, **options)
    return dataset


class _Objects:
    """The objects of a view as samples: what both styles have."""

    def __init__(self, view: View, decode: Decode | None, cache: bool, decode_version: str | None) -> None:
        if decode is not None and not callable(decode):
            raise UsageError(f"decode={decode!r}: it is a function of key and bytes, or None.")
        if not isinstance(cache, bool):
            raise UsageError(
                f"cache={cache!r}: it is True or False; SNAPENGINE_TENSOR_CACHE names the folder."
            )
        transform = transform_of(decode, decode_version) if cache else None
        self.rows = ViewRows(view)
        snapshot = None
        if transform is not None:
            table: Any = view.source
            hear_of_forgotten(table, view.bucket)
            snapshot = TensorSnapshot(table.settings, view.bucket, self.rows.digest(), transform)
        self.reader = SampleReader(self.rows, decode, snapshot)


class ViewDataset(torch.utils.data.Dataset[Any]):
    """The view's objects by number, from 0 in key order: map-style.

    An item is what `decode(key, data)` makes of an object, or without it a `Sample(key, data)`. A
    `DataLoader` reads the objects of a batch at once. Reading raises `VersionGone`, `VersionArchived`, ...;
    of a worker's error the loader raises the same class, with the worker's traceback.
    """

    def __init__(self, view: View, decode: Decode | None = None, **options: Unpack[CacheOptions]) -> None:
        """Resolves the view. Raises `UsageError` for a slice of all versions, and for `cache` without a
        declared version."""
        self._reference = view.reference
        self._objects = _Objects(view, decode, options.get("cache", False), options.get("decode_version"))

    @property
    def view(self) -> View:
        return self._objects.rows.view

    def __len__(self) -> int:
        return len(self._objects.rows)

    def __getitem__(self, number: int) -> Any:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """The items of these numbers, in their order, read at once. Raises `IndexError`."""
        rows = self._objects.rows
        from_start = [number + len(rows) if number < 0 else number for number in map(index, numbers)]
        return list(self._objects.reader.samples(rows.versions(from_start)))

    def state_dict(self) -> dict[str, Any]:
        """Which view it is over. How far a loader has come is its sampler's to know."""
        return view_state(self._reference)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises `UsageError` for a state of another view: whatever sampler goes on from it, its numbers are
        of other objects."""
        check_view(state_dict, self._reference)

    def sampler(self, **options: Unpack[OrderOptions]) -> ViewSampler:
        """For a `DataLoader`'s `sampler=`: this rank's share of the rows, in order or shuffled by seed."""
        sampling = _sampling(self._reference, len(self), options)
        return ViewSampler(sampling, chosen(options.get("rank"), options.get("world_size")))


class ViewIterableDataset(torch.utils.data.IterableDataset[Any]):
    """The view's objects one after the other: iterable-style, read ahead, sharded by itself.

    Over all ranks and workers each object comes once an epoch. `set_epoch` before each epoch gives another
    order, also to workers that persist. Items and errors are those of `ViewDataset`. With torchdata's
    `StatefulDataLoader` its state is part of the loader's; resuming takes as many ranks and workers.
    """

    def __init__(self, view: View, decode: Decode | None = None, **options: Unpack[Options]) -> None:
        """Resolves the view. Raises `UsageError` for a slice of all versions, and for `cache` without a
        declared version."""
        self._objects = _Objects(view, decode, options.get("cache", False), options.get("decode_version"))
        self._sampling = _sampling(view.reference, len(self._objects.rows), options)
        self._chosen = chosen(options.get("rank"), options.get("world_size"))
        self._carried: Carried | None = None
        self._progress = Progress(self._sampling)
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it so

    def __getstate__(self) -> dict[str, Any]:
        # In a worker torch.distributed is not initialised: it has the rank of the process that started it.
        return self.__dict__ | {"_carried": Carried(os.getpid(), self._ranks())}

    @property
    def view(self) -> View:
        return self._objects.rows.view

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order the next iteration has. Raises `UsageError` for what is no number from 0."""
        self._epoch.fill_(checked_epoch(epoch))
        self._progress.turn(self.epoch)

    def __len__(self) -> int:
        """How many objects of an epoch are this rank's."""
        return len(self._sampling.places(Shard(*self._ranks())))

    def __iter__(self) -> Iterator[Any]:
        return self._samples(self._progress.begin(self.epoch), self._shard())

    def _samples(self, place: Place, shard: Shard) -> Iterator[Any]:
        numbers = self._sampling.rows(place.epoch, shard)[place.taken :]
        for sample in self._objects.reader.samples(self._objects.rows.each(numbers)):
            place.taken += 1
            yield sample

    def state_dict(self) -> dict[str, Any]:
        """Where the newest iteration of this process is: plain values. Of what workers read only a
        `StatefulDataLoader` knows."""
        return self._progress.state(self.epoch, self._shard())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next iteration go on there. Raises `UsageError` for a state of something else."""
        epoch = self._progress.load(state_dict, self._shard(), self.epoch)
        if epoch != self.epoch:  # workers share it
            self._epoch.fill_(epoch)

    def _ranks(self) -> Ranks:
        if self._chosen is not None:
            return self._chosen
        if self._carried is not None and self._carried.by_my_loader:
            return self._carried.ranks
        return ranks_here()

    def _shard(self) -> Shard:
        return shard_of(self._ranks())


def _sampling(reference: str, count: int, options: OrderOptions | Options) -> Sampling:
    shuffle, seed, even = options.get("shuffle", False), options.get("seed", 0), options.get("even", False)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UsageError(f"seed={seed!r}: it is a whole number.")
    return Sampling(reference, count, bool(shuffle), seed, bool(even))
