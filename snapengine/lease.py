"""Leases between processes: one `enable-bucket`, one archiver at a time. No answer rests on them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Self

from snapengine.errors import Busy, SnapEngineError
from snapengine.instants import render
from snapengine.ports import Clock, Registry

ENABLE = "enable"
"""The task of whoever changes a bucket's registration."""
LASTS_MS = 60_000
"""After its holder's last sign of life."""


class Lease:
    """A task on a bucket, taken on entering and given up on leaving. Renew it while at work.

    A holder on this machine whose process has ended is not waited for: after a kill the next run goes on
    at once.
    """

    def __init__(self, registry: Registry, bucket: str, task: str, clock: Clock) -> None:
        self._registry = registry
        self._bucket = bucket
        self._task = task
        self._clock = clock
        self._holder = f"{_here()}/{os.getpid()}/{token_hex(4)}"

    def renew(self) -> None:
        """Raises `Busy` if another process has it."""
        now = self._clock()
        other = self._acquire(now)
        if other is not None and _is_dead(other):
            other = self._acquire(now, regardless=True)
        if other is not None:
            raise Busy(
                f"Another process is at it: task {self._task} of bucket {self._bucket} is held by "
                f"{_in_words(other)}. Wait for it to end; if it was killed, its hold ends by "
                f"{render(now + LASTS_MS)}."
            )

    def _acquire(self, now: int, *, regardless: bool = False) -> str | None:
        lapsed = now + LASTS_MS + 1 if regardless else now
        return self._registry.acquire(self._bucket, self._task, self._holder, now + LASTS_MS, lapsed)

    def release(self) -> None:
        self._registry.release(self._bucket, self._task, self._holder)

    def __enter__(self) -> Self:
        self.renew()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except SnapEngineError:
            if error is None:
                raise


def _here() -> str:
    """The machine and, as containers may share its name, the space in which process ids count."""
    try:
        space = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        space = "-"
    return f"{socket.gethostname()}/{space}"


def _is_dead(holder: str) -> bool:
    """Whether a holder surely is a process of this machine that has ended."""
    place, _, process = holder.rpartition("/")[0].rpartition("/")
    if os.name != "posix" or place != _here() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _in_words(holder: str) -> str:
    parts = holder.split("/")
    return f"process {parts[2]} on {parts[0]}" if len(parts) == 4 else holder
