"""How a worker's command begins: the extra that it needs, the writer's name, logs and signals."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from snapengine.errors import UsageError
from snapengine.workers import logs
from snapengine.workers.signals import Runs, run_until_told


@contextmanager
def importing_a_worker() -> Iterator[None]:
    """Import it within. Raises `UsageError` that says what to install where a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The worker needs {error.name}: install its extra, `pip install 'snapengine[worker]'`."
        ) from error


def writer_name() -> str:
    """One that no other writer has: of host, process and chance."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def run_worker(make: Callable[[], Runs]) -> None:
    """Make it, with logs as JSON lines on stderr, and run it until it ends or is told to."""
    logs.configure()
    asyncio.run(run_until_told(make()))
