"""A rank of a training, as `torchrun` starts it: `python -m tests.torch_training FOLDER STYLE [STOP]`.

It writes each batch's keys to `FOLDER/taken-RANK`, and its loader's state every third step. With STOP it
stops there, until it is killed. Ranks share the view that rank 0 opens; who resolves it says so in a file.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snapengine import Engine, Settings, View

EPOCH = 4
BATCH = 2
EVERY = 3
"""Steps from one saved state to the next."""
WORKERS = 3


class CountingEngine(Engine):
    """Writes a line whenever it resolves a view; pickles as what it is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (CountingEngine, (self.settings,))

    def _count(self, what: str) -> None:
        with Path(os.environ["TRAINING_FOLDER"], "resolved").open("a") as file:
            file.write(f"{what} {os.getpid()}\n")

    def table(self, *given: Any, **options: Any) -> Any:
        self._count("table")
        return super().table(*given, **options)

    def batches(self, *given: Any, **options: Any) -> Any:
        self._count("batches")
        return super().batches(*given, **options)

    def version(self, *given: Any, **options: Any) -> Any:
        self._count("version")
        return super().version(*given, **options)


def decode(key: str, data: bytes) -> str:
    """The key, if these are its bytes."""
    assert data.split()[0].decode() == key.removeprefix("ct/")
    return key


def shared_view(folder: Path, rank: int) -> View:
    """Opened by rank 0 alone: the others are given it, rows and all."""
    import torch.distributed as dist

    box: list[View | None] = [None]
    if rank == 0:
        engine = CountingEngine(Settings(store=os.environ["TRAINING_STORE"], cache="off"))
        state = saved(folder, rank)
        reference = state["view"] if state else None
        view = engine.open_ref(reference) if reference else engine.view(os.environ["TRAINING_BUCKET"])
        view.rows_if_few()
        box = [view]
    dist.broadcast_object_list(box)
    (view_here,) = box
    assert view_here is not None
    return view_here


def saved(folder: Path, rank: int) -> Any:
    import torch

    path = folder / f"state-{rank}"
    return torch.load(path, weights_only=True) if path.exists() else None


def loader_of(view: View, style: str) -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    options: dict[str, Any] = {
        "batch_size": BATCH,
        "num_workers": WORKERS,
        "multiprocessing_context": "spawn",
    }
    if style == "iterable":
        dataset = view.to_torch(decode, style="iterable", shuffle=True, seed=11)
        dataset.set_epoch(EPOCH)
        return StatefulDataLoader(dataset, **options)
    dataset = view.to_torch(decode)
    sampler = dataset.sampler(shuffle=True, seed=11)
    sampler.set_epoch(EPOCH)
    return StatefulDataLoader(dataset, sampler=sampler, **options)


def steps(loader: Any, before: Any) -> Iterator[tuple[int, list[str]]]:
    first = 1
    if before is not None:
        loader.load_state_dict(before["loader"])
        first = before["step"] + 1
    yield from enumerate(loader, first)


def main(folder: Path, style: str, stop: int | None) -> None:
    import torch
    import torch.distributed as dist

    rank = int(os.environ["RANK"])
    dist.init_process_group(
        "gloo", init_method=f"file://{os.environ['TRAINING_MEETING']}", rank=rank, world_size=2
    )
    view = shared_view(folder, rank)
    loader = loader_of(view, style)
    for step, keys in steps(loader, saved(folder, rank)):
        with (folder / f"taken-{rank}").open("a") as file:
            file.write(json.dumps([step, keys]) + "\n")
        if step % EVERY == 0:
            partial = folder / f"partial-{rank}"
            torch.save({"view": view.reference, "loader": loader.state_dict(), "step": step}, partial)
            partial.replace(folder / f"state-{rank}")
        if step == stop:
            (folder / f"stopped-{rank}").touch()
            time.sleep(120)
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
