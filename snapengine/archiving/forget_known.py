"""Which keys were ever observed: one that never was is rather mistyped than forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from snapengine.model import Epoch, SnapshotRef
from snapengine.ranges import Sources
from snapengine.resolver import key_history, observed_ranges

_LOOK_UPS: Final = 64
"""So many keys are rather looked up one by one than found by reading all observations."""


def never_observed(sources: Sources, bucket: str, epoch: Epoch, keys: Sequence[str]) -> list[str]:
    """Of the keys those of which the epoch knows no version and no marker, present or past, in order."""
    wanted = sorted(set(keys))
    if len(wanted) <= _LOOK_UPS:
        return [key for key in wanted if not key_history(sources, bucket, key, epoch)]
    ref = SnapshotRef(bucket, "", epoch.time, epoch.number)
    seen: set[str] = set()
    for table in observed_ranges(sources, ref, epoch, only=wanted):
        seen.update(table["key"].unique().to_pylist())
    return [key for key in wanted if key not in seen]
