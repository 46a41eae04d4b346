"""The views that `snap://` paths name, each opened once: as known at one epoch in a process."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import Any, Final
from uuid import uuid4

import snapengine
from readers.fsspec_lookup import Keys
from readers.fsspec_paths import is_relative, reference_of
from snapengine.engine import wall_clock
from snapengine.instants import render, to_millis
from snapengine.reference import parse_reference
from snapengine.tracking.active import SeveralRuns, active_run
from snapengine.views import View

_KEPT: Final = 8
"""Views that a process keeps with their rows; of others it remembers the epoch."""


@dataclass
class _Shared:
    """What one engine has opened in this process."""

    pinned: dict[tuple[str, str], str] = field(default_factory=dict)
    """By reference as it was written and level: the same with the epoch that it was resolved at."""
    keys: OrderedDict[tuple[Any, ...], Keys] = field(default_factory=OrderedDict)


class Opening:
    """The views of one filesystem. Thread-safe."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self._now = wall_clock()
        self._keys: dict[tuple[str | None, str], Keys] = {}
        self._carried: dict[str, View] = {}
        """By authority, what came along from another process."""
        self._pinned: dict[str, str] = {}
        self.token = uuid4().hex

    def __getstate__(self) -> dict[str, Any]:
        opened = {authority: keys.view for (_, authority), keys in list(self._keys.items())}
        state = {name: vars(self)[name] for name in ("options", "_now", "_pinned", "token")}
        return state | {"_keys": {}, "_carried": self._carried | opened}

    def forget(self) -> None:
        """Resolve anew what is asked for from now on, in all of this process; `now` is now."""
        self._now = wall_clock()
        self._keys, self._carried, self._pinned = {}, {}, {}
        with _LOCK:
            _shared.pop(snapengine._engine(), None)

    def keys(self, authority: str) -> Keys:
        """Of the view that `BUCKET@TIME` names. Raises what `snapengine.open_ref` raises, and `UsageError`
        for a slice of all versions."""
        run = _run()
        found = self._keys.get((run, authority))
        if found is None:
            with _opening(authority, self.options["require"]):
                found = self._keys.get((run, authority)) or self._open(authority, run)
                self._keys[run, authority] = found
        return found

    def _open(self, authority: str, run: str | None) -> Keys:
        if (view := self._carried.get(authority)) is not None:
            return Keys(view if run is None else self._view(view.reference))
        reference = reference_of(authority)
        absolute = _absolute(reference, self._now)
        if absolute != reference:
            keys = Keys(self._view(self._pinned.get(authority, absolute)))
            self._pinned[authority] = keys.view.reference
            return keys
        return self._open_shared(reference, run)

    def _open_shared(self, reference: str, run: str | None) -> Keys:
        level = self.options["require"]
        name = (run, reference, level, self.options["note"])
        with _LOCK:
            engine = snapengine._engine()
            if engine not in _shared:
                _shared.clear()
            shared = _shared.setdefault(engine, _Shared())
            keys = shared.keys.get(name)
        if keys is None:
            keys = Keys(self._view(shared.pinned.get((reference, level), reference)))
        with _LOCK:
            shared.pinned[reference, level] = keys.view.reference
            shared.keys[name] = keys
            shared.keys.move_to_end(name)
            if len(shared.keys) > _KEPT:
                shared.keys.popitem(last=False)
        return keys

    def _view(self, reference: str) -> View:
        return snapengine.open_ref(reference, **self.options)


def _absolute(reference: str, now: int) -> str:
    """PURE. The same with instants for `now` and look-backs, counted from `now` (UTC milliseconds)."""
    parsed = parse_reference(reference)
    times = [time for time in (parsed.start, parsed.at) if time is not None]
    if not any(is_relative(time) for time in times):
        return reference
    written = "..".join(render(to_millis(time, now=now)) if is_relative(time) else time for time in times)
    epoch = "" if parsed.epoch is None else f"~{parsed.epoch}"
    return f"snap://{parsed.bucket}@{written}{epoch}{'~all' if parsed.all_versions else ''}/{parsed.prefix}"


def _run() -> str | None:
    """The active MLflow run: each notes for itself what it sees."""
    try:
        run = active_run()
    except SeveralRuns:
        return None
    return None if run is None else run.run_id


_shared: dict[Any, _Shared] = {}
"""By engine: that of the environment as it is. Views hold theirs, so a former one is let go by hand."""
_LOCK = Lock()
"""Held for moments."""
_locks: dict[tuple[str, str], RLock] = {}
"""Held while a view is opened, so that several threads open it once; others open others meanwhile."""


def _opening(authority: str, level: str) -> RLock:
    with _LOCK:
        return _locks.setdefault((authority, level), RLock())


def _in_child() -> None:
    """A forked process: the epochs stay; other threads may have held the locks."""
    global _LOCK  # noqa: PLW0603  # a lock that is held for ever can only be replaced
    _LOCK = Lock()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
