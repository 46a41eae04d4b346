"""SIGTERM and SIGINT: an orderly end, and an end in any case."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Final, Protocol

from snapengine.workers import logs

LAST_RESORT: Final = 25.0
"""Seconds after the signal. A worker ends itself before; but a thread that hangs in a call to the store would
keep the interpreter from ending."""


class Runs(Protocol):
    """A worker."""

    async def run(self, stop: asyncio.Event) -> None: ...


async def run_until_told(worker: Runs) -> None:
    """Run, and stop on SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    watchdog = threading.Timer(LAST_RESORT, _end_at_once)
    watchdog.daemon = True

    def told() -> None:
        if not stop.is_set():
            stop.set()
            watchdog.start()

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, told)
    await worker.run(stop)


def _end_at_once() -> None:
    logs.error("ended-by-force", reason="A call did not return. What was in hand comes again.")
    os._exit(1)
