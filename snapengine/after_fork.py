"""A forked process has locks and connections of its own: of shared ones it would wait, or read, amiss."""

from __future__ import annotations

import os
from threading import RLock
from typing import Any
from weakref import ref

_owners: dict[int, tuple[ref[Any], tuple[str, ...]]] = {}
"""By identity: equal owners have locks of their own."""


def lock_of(owner: Any, *clients: str) -> Any:
    """An `RLock` for the owner, kept as its `_lock`. In a process that is forked it is a new one, as another
    thread may have held it; and of the owner's cached properties these `clients` are computed again."""
    known = id(owner)
    _owners[known] = (ref(owner, lambda _: _owners.pop(known, None)), clients)
    return RLock()


def _in_child() -> None:
    for found, clients in list(_owners.values()):
        if (owner := found()) is None:
            continue
        owner._lock = RLock()
        for name in clients:
            vars(owner).pop(name, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
