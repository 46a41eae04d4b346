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
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from metadata_extractors.base import BudgetSpent, Extraction, Extractor, ObjectFacts
from metadata_extractors.packs import Asked, answered, batch_of, kept, read
from metadata_extractors.ranged import FIRST_BYTES, RangedReader, extract_from
from metadata_extractors.wire import DATA, EXTRACT, FACTS, PACK, READ, READY, RESULT, SETUP, Closed, Wire
from snapengine.extractor_check import checked
from snapengine.further_columns import Widened, extractor_of, further_of

_MOST: Final = 64 * 1024 * 1024
_CHILD_OUTCOMES: Final = frozenset({"ok", "partial", "not_matched", "timeout", "failed"})

_DENIED: Final = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename",
    "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.kill",
    "shutil.", "ctypes.", "pty.", "webbrowser.", "urllib.", "http.", "ftplib.", "sqlite3.",
)  # fmt: skip


class _Asking:
    """The parent as the source of bytes. The clock stands still while it reads."""

    def __init__(
        self, wire: Wire, seconds: float, place: bytes = b"", head: bytes = b"", known: int = 0
    ) -> None:
        """`place`: which of a pack it is. What it has of its first `known` bytes is in `head`."""
        self._wire = wire
        self._place = place
        self._head = head
        self._known = known
        self._left = seconds
        self._since = 0.0

    def start(self) -> None:
        self._since = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, max(self._left, 0.001))

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._left -= time.monotonic() - self._since

    def read(self, start: int, end: int) -> bytes:
        if end <= self._known:
            return self._head[start:end]
        return self._ask(READ, struct.pack("<QQ", start, end))

    def facts(self) -> ObjectFacts | None:
        told = json.loads(self._ask(FACTS, b""))
        return None if told is None else ObjectFacts(**told)

    def _ask(self, kind: bytes, payload: bytes) -> bytes:
        self.stop()
        self._wire.send(kind, self._place + payload)
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
        told = {name: _face(extractors[name], schema) for name, schema in schemas.items()}
        _lock(setup["memory_bytes"])
        wire.send(READY, json.dumps(told).encode())
        while True:
            kind, payload = wire.receive(_MOST)
            if kind == PACK:
                setting, objects = read(payload)
                extractor, shape = extractors[setting["extractor"]], shapes[setting["extractor"]]
                result = _of_pack(extractor, shape, setting, objects, wire)
                wire.send(RESULT, result)
                continue
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
    found: dict[str, Extractor] = {}
    for spec in specs:
        module, _, name = spec["target"].partition(":")
        factory = getattr(importlib.import_module(module), name)
        use = spec["name"]
        further = further_of(use)
        extractor = Widened(factory, further) if further else factory(spec["columns"])
        found[use] = checked(extractor, extractor_of(use))
    return found


def _face(extractor: Extractor, schema: pa.Schema) -> dict[str, object]:
    return {
        "version": extractor.version,
        "schema": base64.b64encode(schema.serialize().to_pybytes()).decode(),
        "head_bytes": int(getattr(extractor, "head_bytes", FIRST_BYTES)),
    }


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


def _of_pack(
    extractor: Extractor,
    shape: pa.StructType,
    setting: Mapping[str, Any],
    objects: Sequence[Asked],
    wire: Wire,
) -> bytes:
    """Each object with limits of its own. Of what fails nothing more is told, for the parent asks again; and
    nothing of any where the rows are none of the schema."""
    found: list[Extraction] = []
    for number, one in enumerate(objects):
        place = number.to_bytes(4, "little")
        asking = _Asking(wire, setting["wall_seconds"], place, one.head, setting["head_bytes"])
        _limit_cpu(setting["cpu_seconds"])
        asking.start()
        try:
            reader = RangedReader(asking.read, one.size, one.key, asking.facts, max_bytes=one.max_bytes)
            each = extract_from(extractor, reader)
            if each.outcome not in _CHILD_OUTCOMES:
                each = Extraction("failed")
            values = kept(each.values) if each.outcome in {"ok", "partial"} else {}
            found.append(Extraction(each.outcome, values, tuple(map(str, each.problems))))
        except BaseException:  # noqa: BLE001  # the parent asks again, and then it is told
            found.append(Extraction("failed"))
        asking.stop()
    try:
        rows = batch_of([each.values for each in found], shape).serialize().to_pybytes()
        return answered(found, rows)
    except BaseException:  # noqa: BLE001  # as above
        return b""


def _row(values: Mapping[str, object], shape: pa.StructType) -> bytes:
    """One row as an Arrow record batch, without its schema. Raises where a value is none of its type."""
    found: bytes = batch_of([values], shape).serialize().to_pybytes()
    return found


if __name__ == "__main__":
    main()
