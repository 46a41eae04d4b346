"""Notes are made in threads, and training forks (PyTorch's loaders do): a fork waits until no lock is held.

A forked process has the locks that other threads held, and not the threads that would free them. What notes
read is what training reads too: the view, the table. So they are made inside a gate, which a fork shuts.
"""

from __future__ import annotations

import os
from threading import Condition, get_ident


class Gate:
    """Inside it are threads that may hold locks which a forked process needs. Never nested."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside: set[int] = set()
        self._forks = 0

    def __enter__(self) -> None:
        with self._changed:
            while self._forks:
                self._changed.wait()
            self._inside.add(get_ident())

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside.discard(get_ident())
            self._changed.notify_all()

    def give_way(self) -> None:
        """From inside, where no lock is held: let a fork that waits go first."""
        if self._forks:
            self.__exit__()
            self.__enter__()

    def before_fork(self) -> None:
        """Wait until no other thread is inside, and let none in until the fork is done."""
        self._changed.acquire()
        self._forks += 1
        while self._inside - {get_ident()}:
            self._changed.wait()

    def after_fork(self) -> None:
        """In the parent."""
        self._forks -= 1
        self._changed.notify_all()
        self._changed.release()

    def in_child(self) -> None:
        """Nobody is inside: the threads stayed behind."""
        self._changed = Condition()
        self._inside = set()
        self._forks = 0


GATE = Gate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=GATE.before_fork, after_in_parent=GATE.after_fork, after_in_child=GATE.in_child
    )
