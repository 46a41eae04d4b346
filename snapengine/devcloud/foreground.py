"""The embedded cloud as a command: it prints how to reach it, and stays until it is told to end."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from snapengine.devcloud.cloud import DevCloud


def serve(port: int, announce: Callable[[str], None]) -> None:
    """Run a cloud on `port` (0: any that is free) until SIGINT or SIGTERM, then end it and return.

    Once it is ready, `announce` gets one `export NAME=value` line for each variable, quoted for a shell.
    It should flush: whoever started the command waits for these lines. Call it from the main thread, the
    only one that Python lets handle signals. Raises `Busy` if the port is taken.
    """
    with _told_to_end() as told, DevCloud(port=port) as cloud:
        for line in export_lines(cloud.environment()):
            announce(line)
        told.wait()


def export_lines(environment: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]


@contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    told = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, lambda *_: told.set()) for each in signals}
    try:
        yield told
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
