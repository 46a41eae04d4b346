"""A forked process makes its own connections: two that share one would read each other's replies."""

from __future__ import annotations

import os
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

_owners: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()


def lock_of(owner: Any, *clients: str) -> Any:
    """An `RLock` for the owner, kept as its `_lock`. In a process that is forked it is a new one, as another
    thread may have held it; and of the owner's cached properties these `clients` are computed again."""
    _owners[owner] = clients
    return RLock()


def _in_child() -> None:
    for owner, clients in list(_owners.items()):
        owner._lock = RLock()
        for name in clients:
            vars(owner).pop(name, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
