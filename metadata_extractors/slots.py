"""A place for one thread and its child, which knows the extractors that were asked for until now."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

from metadata_extractors.limits import Limits, spec_of
from metadata_extractors.sandbox import Sandbox
from snapengine.errors import TryAgain


class Slot:
    """A child for one thread at a time."""

    def __init__(self, limits: Limits, columns: Sequence[str] | None = None) -> None:
        self._limits = limits
        self._columns = columns
        self._names: tuple[str, ...] = ()
        self._sandbox: Sandbox | None = None
        self._started = 0
        self._over = Event()

    @property
    def started(self) -> int:
        return self._started + (self._sandbox.started if self._sandbox else 0)

    def sandbox(self, names: Sequence[str]) -> Sandbox:
        """One that has these extractors, and those that were asked for before."""
        if self._sandbox is None or not set(names) <= set(self._names):
            wanted = tuple(dict.fromkeys((*self._names, *names)))
            if self._over.is_set():
                raise TryAgain("The extraction was ended.")
            fresh = Sandbox([spec_of(name, self._columns) for name in wanted], self._limits)
            _ = fresh.faces  # one that cannot be started replaces none that can
            self.close()
            self._sandbox, self._names = fresh, wanted
            if self._over.is_set():  # meanwhile
                fresh.end()
        return self._sandbox

    def end(self) -> None:
        self._over.set()
        sandbox = self._sandbox
        if sandbox is not None:
            sandbox.end()

    def close(self) -> None:
        if self._sandbox is not None:
            self._started += self._sandbox.started
            self._sandbox.close()
            self._sandbox = None
