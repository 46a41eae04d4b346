"""Objects that wait for a thread: whichever comes free takes several at once, as many as wait for it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

from metadata_extractors.extracting import Extractors, Row
from metadata_extractors.packs import PACK_OBJECTS
from snapengine.errors import TryAgain
from snapengine.extraction_tasks import Task


class Done(NamedTuple):
    """An object's rows, and how long it took."""

    rows: list[Row]
    seconds: float


class _Waiting(NamedTuple):
    task: Task
    done: Future[Done | None]


class Lines:
    """A line for each choice of extractors, before `count` threads."""

    def __init__(self, extractors: Extractors, count: int) -> None:
        self._extractors = extractors
        self._count = count
        self._lock = Lock()
        self._waiting: dict[tuple[str, ...], deque[_Waiting]] = {}

    def join(
        self, task: Task, names: Sequence[str], pool: ThreadPoolExecutor, ending: Callable[[], bool]
    ) -> Future[Done | None]:
        """The object's rows, extracted by a thread of the pool in company of others; None where it has to be
        tried by itself. The future raises what `Extractors.pack` says of it; once `ending`, `TryAgain`.
        """
        one = _Waiting(task, Future())
        with self._lock:
            self._waiting.setdefault(tuple(names), deque()).append(one)
        pool.submit(self._serve, tuple(names), ending)
        return one.done

    def _serve(self, names: tuple[str, ...], ending: Callable[[], bool]) -> None:
        """Called once for each that waits: those that others were taken with find nothing left to do."""
        some = self._taken(names)
        if not some:
            return
        if ending():
            for each in some:
                each.done.set_exception(TryAgain("Stopping."))
            return
        started = time.monotonic()
        try:
            found = self._extractors.pack([each.task for each in some], names, ending)
        except BaseException as error:  # noqa: BLE001  # those who wait raise it
            for each in some:
                each.done.set_exception(error)
            return
        seconds = (time.monotonic() - started) / len(some)
        for each, rows in zip(some, found, strict=True):
            if isinstance(rows, Exception):
                each.done.set_exception(rows)
            else:
                each.done.set_result(None if rows is None else Done(rows, seconds))

    def _taken(self, names: tuple[str, ...]) -> list[_Waiting]:
        """The next of the line: a fair share for each thread, and no more than go into a pack."""
        with self._lock:
            line = self._waiting[names]
            most = min(PACK_OBJECTS, math.ceil(len(line) / self._count))
            some: list[_Waiting] = []
            while line and len(some) < most:
                one = line.popleft()
                if one.done.set_running_or_notify_cancel():
                    some.append(one)
            return some
