"""The process that runs extractors over hostile bytes: `python -m metadata_extractors.child`, by `sandbox`.

It has no credentials, and asks its parent for every byte. What it may use is limited by the kernel; an audit
hook keeps Python code from files, sockets and processes. That is a second fence, not a wall against machine
code that an exploit brings: who fears that runs the worker in a container without rights.
"""

from __future__ import annotations

import base64
import importlib
import json
import math
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from metadata_extractors.base import BudgetSpent, Extraction, Extractor, ObjectFacts
from metadata_extractors.ranged import RangedReader, extract_from
from metadata_extractors.registry import checked
from metadata_extractors.wire import DATA, EXTRACT, FACTS, READ, READY, RESULT, SETUP, Closed, Wire

_MOST: Final = 64 * 1024 * 1024
_CHILD_OUTCOMES: Final = frozenset({"ok", "partial", "not_matched", "timeout", "failed"})

_DENIED: Final = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename",
    "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.kill",
    "shutil.", "ctypes.", "pty.", "webbrowser.", "urllib.", "http.", "ftplib.", "sqlite3.",
)  # fmt: skip


class _Asking:
    """The parent as the source of bytes. The clock stands still while it reads."""

    def __init__(self, wire: Wire, seconds: float) -> None:
        self._wire = wire
        self._left = seconds
        self._since = 0.0

    def start(self) -> None:
        self._since = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, max(self._left, 0.001))

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._left -= time.monotonic() - self._since

    def read(self, start: int, end: int) -> bytes:
        return self._ask(READ, struct.pack("<QQ", start, end))

    def facts(self) -> ObjectFacts | None:
        told = json.loads(self._ask(FACTS, b""))
        return None if told is None else ObjectFacts(**told)

    def _ask(self, kind: bytes, payload: bytes) -> bytes:
        self.stop()
        self._wire.send(kind, payload)
        answer, data = self._wire.receive(_MOST)
        self.start()
        if answer != DATA:
            raise BudgetSpent("the parent reads no more of this object")
        return data


def main() -> None:
    """Until the parent closes its end."""
    wire = _own_wire()
    try:
        kind, payload = wire.receive(_MOST)
        assert kind == SETUP  # noqa: S101  # our own parent
        setup = json.loads(payload)
        extractors = _made(setup["extractors"])
        schemas = {name: extractor.schema for name, extractor in extractors.items()}
        shapes = {name: pa.struct(list(schema)) for name, schema in schemas.items()}
        told = {name: _face(extractors[name].version, schema) for name, schema in schemas.items()}
        _lock(setup["memory_bytes"])
        wire.send(READY, json.dumps(told).encode())
        while True:
            kind, payload = wire.receive(_MOST)
            assert kind == EXTRACT  # noqa: S101  # as above
            task = json.loads(payload)
            asking = _Asking(wire, task["wall_seconds"])
            _limit_cpu(task["cpu_seconds"])
            asking.start()
            name = task["extractor"]
            result = _result(extractors[name], shapes[name], task, asking, setup["memory_bytes"])
            asking.stop()
            wire.send(RESULT, result)
    except Closed:
        return


def _own_wire() -> Wire:
    """The pipes that came as standard input and output; what extractors print goes nowhere."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    return Wire(incoming, outgoing)


def _made(specs: list[dict[str, Any]]) -> dict[str, Extractor]:
    found = {}
    for spec in specs:
        module, _, name = spec["target"].partition(":")
        factory = getattr(importlib.import_module(module), name)
        found[spec["name"]] = checked(factory(spec["columns"]), spec["name"])
    return found


def _face(version: str, schema: pa.Schema) -> dict[str, str]:
    return {"version": version, "schema": base64.b64encode(schema.serialize().to_pybytes()).decode()}


def _lock(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    readable = tuple(
        {os.path.realpath(path) + os.sep for path in (*sys.path, sys.prefix, sys.base_prefix) if path}
    )

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            if isinstance(path, int):
                return
            written = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if written or not os.path.realpath(os.fsdecode(path)).startswith(readable):
                raise PermissionError("extractors open no files")
        elif event.startswith(_DENIED):
            raise PermissionError(f"extractors do no {event}")

    sys.addaudithook(audit)


def _limit_cpu(seconds: float) -> None:
    """So many more than were used until now. The kernel ends the process at the soft limit (SIGXCPU)."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), hard))


def _result(
    extractor: Extractor, shape: pa.StructType, task: Mapping[str, Any], asking: _Asking, memory_bytes: int
) -> bytes:
    reader = RangedReader(asking.read, task["size"], task["key"], asking.facts, max_bytes=task["max_bytes"])
    spent = False
    row = b""
    try:
        found = extract_from(extractor, reader)
        if found.outcome not in _CHILD_OUTCOMES:
            found = Extraction("failed", problems=("the extractor gives an outcome that there is not",))
        if found.outcome in {"ok", "partial"}:
            row = _row(found.values, shape)
    except (MemoryError, pa.ArrowMemoryError):
        spent = True
        found = Extraction("failed", problems=(f"needs more than {memory_bytes // 2**20} MiB of memory",))
    except BudgetSpent:
        found = Extraction("failed", problems=("the header costs more bytes or requests than allowed",))
    except BaseException as error:  # noqa: BLE001  # the next object must go on; texts may hold values
        found = Extraction("failed", problems=(f"the extractor raised {type(error).__name__}",))
    head = {"outcome": found.outcome, "problems": list(map(str, found.problems)), "spent": spent}
    told = json.dumps(head).encode()
    return struct.pack("<I", len(told)) + told + row


def _row(values: Mapping[str, object], shape: pa.StructType) -> bytes:
    """One row as an Arrow record batch, without its schema. Raises where a value is none of its type."""
    one = pa.array([dict(values)], shape)  # in one go: several times quicker than column by column
    found: bytes = pa.RecordBatch.from_struct_array(one).serialize().to_pybytes()
    return found


if __name__ == "__main__":
    main()
