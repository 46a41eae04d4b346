"""The bucket of `archive_house`, which lives on round by round, while the archiver makes differentials."""

from __future__ import annotations

from typing import Any

import pytest

from snapengine import Engine
from snapengine.archive.manifest import Archive, Differential
from snapengine.archiving import policy
from snapengine.model import Observation
from snapengine.resolver import resolve
from tests.archive_house import House, absent, listed
from tests.seed import T0, event, marker, removal

STEP = 1000
"""Seconds from one epoch to the next."""
ROWS = 12
"""Observations of each."""


def eager(patch: pytest.MonkeyPatch, *, share: float = 3.5) -> None:
    """Differentials are due from the first epoch on, checkpoints when as much came as `share` says."""
    patch.setattr(policy, "LEAST", ROWS - 1)
    patch.setattr(policy, "SHARE", share)


def second(step: int) -> int:
    """When an epoch is cut, after T0."""
    return 4000 + STEP * step


def happened(step: int) -> list[Observation]:
    """Puts, and keys that come and go; told in time, late, and by a listing; in every other step what was put
    or deleted in the one before is removed. The last ones are later than the instant of a checkpoint at that
    epoch."""
    at, few = second(step) - 600, [f"ct/{(3 * step + n) % 12:02d}" for n in range(3)]
    put, undone = f"p{step}-mr/1", f"p{step - 1}-mr/1"
    rows = [
        *(event(key, f"p{step}-{key}", at + n) for n, key in enumerate(few)),
        removal("é", f"m{step - 1}", at + 10) if step % 2 else marker("é", f"m{step}", at + 10),
        removal("mr/1", undone, at + 20) if step % 2 else event("mr/1", put, at + 20),
        event(f"new/{step:02d}", f"n{step}", at + 30),
        removal(f"new/{step - 1:02d}", f"n{step - 1}", at + 31),
        event(f"ct/{(3 * step + 5) % 12:02d}", f"o{step}", at - 900),
        event(f"ct/{(3 * step - 2) % 12:02d}", f"q{step}", at - 1050),
        event("late", f"l{step}", at + 400),
        listed("日本/😀", f"r{step}", at + 100, at + 450, 0, f"R{step}"),
        absent(few[0], f"p{step}-{few[0]}", at + 500),
    ]
    return [_in_order(o) if o.sequencer else o for o in rows]


def _in_order(told: Observation) -> Observation:
    """Of a key, what is told late comes before what has a later time, as it does in S3."""
    return told._replace(sequencer=f"{2**40 + told.event_time - T0:018X}")


def live_on(house: House, step: int) -> None:
    rows = happened(step)
    assert len(rows) == ROWS
    house.record(second(step), rows)


def without_archive(house: House) -> Engine:
    """Of a table that nothing has left: all is read from the log."""
    engine = house.engine()
    engine.archive = lambda *_, **__: Archive()  # type: ignore[method-assign]  # it has none
    return engine


def instants(step: int) -> list[int]:
    """Around what happened by a step, and around the instants of checkpoints and differentials."""
    seconds = [1300, *(second(n) + by for n in range(step + 1) for by in (-600, -585, -569, -300, -100, 0))]
    return [T0 + 1000 * s + by for s in seconds for by in (-1, 0)]


def answers(engine: Engine, instants: list[int], epochs: list[int]) -> dict[Any, Any]:
    """Views whole and below a prefix, with some columns, look-ups, slices and differences."""
    found: dict[Any, Any] = {}
    for number in epochs:
        last = None
        for place, at in enumerate(instants):
            view = engine.view("scans", at, epoch=number)
            found[number, at] = view.digest()
            if place % 4:
                continue
            for prefix in ("ct/0", "new/", "none"):
                found[number, at, prefix] = engine.view("scans", at, prefix=prefix, epoch=number).digest()
            few = [dict(row) for batch in view.to_batches(["size", "key"]) for row in batch.to_pylist()]
            found[number, at, "columns"] = few
            found[number, at, "keys"] = [view.get(key) for key in ("é", "mr/1", "ct/03")]
            some = resolve(engine, view.ref, view._epoch, only=["ct/03", "mr/1", "new/01", "é"])
            found[number, at, "only"] = some.to_pylist()
            if last is not None:
                found[number, at, "diff"] = list(last.diff(view))
                for versions in ("last", "all"):
                    part = engine.slice("scans", last.ref.at, at, versions=versions, epoch=number)
                    found[number, at, versions] = part.digest()
            last = view
    return found


def newest_differential(house: House) -> Differential:
    return max(house.manifests().differentials, key=lambda one: one.epoch)
