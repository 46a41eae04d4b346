"""Starts the process that extractors run in, without credentials or settings."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from typing import Final

from metadata_extractors.wire import Wire

_KEPT_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
_ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""Address space is what is limited, and every thread's stack and arena takes of it."""
_PIPE_BYTES: Final = 1024 * 1024
"""A pack goes through without a change of process for each 64 KiB."""


def spawned() -> tuple[subprocess.Popen[bytes], Wire]:
    """`metadata_extractors.child`, and this side's ends of its pipes. Raises `OSError`."""
    child_in, outgoing = os.pipe()
    incoming, child_out = os.pipe()
    try:
        _widen(outgoing)
        process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-m", "metadata_extractors.child"],
            stdin=child_in,
            stdout=child_out,
            stderr=subprocess.DEVNULL,  # what libraries print may hold values
            env=_environment(),
            start_new_session=True,  # a Ctrl-C is the parent's to handle
        )
    except OSError:
        os.close(outgoing)
        os.close(incoming)
        raise
    finally:
        os.close(child_in)
        os.close(child_out)
    return process, Wire(incoming, outgoing)


def _widen(pipe: int) -> None:
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
        with suppress(OSError):  # beyond what this user may have: it is as good, and slower
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _environment() -> dict[str, str]:
    """No credentials, no settings; the parent's search path, for what is installed there."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    path = os.pathsep.join(os.path.realpath(entry) for entry in sys.path)
    return kept | _ONE_THREAD | {"PYTHONPATH": path}
