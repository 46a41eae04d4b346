"""Runs extractors in child processes that can be killed: no object harms the worker or the next object."""

from __future__ import annotations

import base64
import json
import queue
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event
from types import TracebackType
from typing import Any, Final, Self, get_args

import pyarrow as pa

from metadata_extractors.answers import Answer, Answers, values_of
from metadata_extractors.base import Extraction, Outcome
from metadata_extractors.limits import ExtractorSpec, Face, Limits, spec_of
from metadata_extractors.packs import NO_ANSWER, Asked, Told, believed, problems_of, written
from metadata_extractors.ranged import FIRST_BYTES, RangedReader
from metadata_extractors.spawning import spawned
from metadata_extractors.wire import (
    EXTRACT,
    FACTS,
    PACK,
    READ,
    READY,
    REFUSED,
    RESULT,
    SETUP,
    Closed,
    TooLate,
    TooMuch,
    Wire,
)
from snapengine.errors import TryAgain, UsageError

__all__ = ["ExtractorSpec", "Face", "Limits", "Sandbox", "Sandboxes", "spec_of"]

_START_SECONDS: Final = 60.0
_MOST_RESULT: Final = 8 * 1024 * 1024


class _Ended(Exception):
    """The child is no more; `again` if a fresh one may do better with the object."""

    def __init__(self, outcome: Outcome, problem: str, again: bool) -> None:
        super().__init__(problem)
        self.outcome = outcome
        self.again = again


class _ReadFailed(Exception):
    """The reader raised `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Sandbox:
    """One child process at a time, started when it is needed. Not for two threads at once: see `Sandboxes`.

    The parent reads S3 and passes bytes on; it believes nothing that a child says without looking.
    """

    def __init__(self, specs: Sequence[ExtractorSpec], limits: Limits | None = None) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self.limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Wire | None = None
        self._faces: dict[str, Face] = {}
        self._served = 0
        self._over = Event()
        self.started = 0
        """Children until now."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def faces(self) -> dict[str, Face]:
        """Version and schema of each extractor, by name. Raises `UsageError` if one cannot be made."""
        if not self._faces:
            self._ready()
        return self._faces

    def extract(self, name: str, reader: RangedReader) -> Extraction:
        """What the extractor finds; `failed` or `timeout` where it ends badly. What the reader raises (a
        version that is gone, S3 that does not answer) is raised here: it is not the extractor's doing.

        A child that dies of an object after it has served others is replaced, and the object tried once more:
        so an outcome does not depend on what came before.
        """
        if name not in self._specs:
            raise UsageError(f"This sandbox has no extractor {name!r}.")
        while True:
            used = self._served > 0 and self._process is not None
            wire = self._ready()
            try:
                return self._ask(wire, name, reader)
            except _Ended as ended:
                self.close()
                if self._over.is_set():
                    continue
                if not (ended.again and used):
                    return Extraction(ended.outcome, problems=(str(ended),))
            except _ReadFailed as failed:
                raise failed.error from None  # the child has said its word, and is as good as before
            except BaseException:
                self.close()
                raise

    def together(
        self, name: str, objects: Sequence[Asked], answers: Sequence[Answers]
    ) -> tuple[list[Told], pa.RecordBatch] | None:
        """What the extractor finds in several objects that share a message, and their values, a row each.
        None where something went wrong: any of them may be to blame, so that each has to be tried by itself.
        `packing.extract_pack` does so.
        """
        wire = self._ready()
        setting = {
            "extractor": name,
            "head_bytes": self._faces[name].head_bytes,
            "cpu_seconds": self.limits.cpu_seconds,
            "wall_seconds": self.limits.wall_seconds,
        }

        def answer(asked: bytes, told: bytes) -> tuple[bytes, bytes]:
            number = int.from_bytes(told[:4], "little") if len(told) >= 4 else len(answers)
            if number >= len(answers):
                raise TooMuch
            return answers[number].to(asked, told[4:])

        try:
            told = self._talk(wire, PACK, written(setting, objects), answer)
            found = believed(told, len(objects), self._faces[name].schema) if told else None
        except (Closed, TooLate, TooMuch, ValueError):
            self.close()
            return None
        except BaseException:
            self.close()
            raise
        self._served += len(objects)
        return found

    def close(self) -> None:
        """Ends the child, whatever it does."""
        process, wire = self._process, self._wire
        self._process = self._wire = None
        self._served = 0
        if process is not None and wire is not None:
            process.kill()
            process.wait()
            wire.close()

    def end(self) -> None:
        """Ends the child, now and for good; any thread may call it. Who waits for it gets `TryAgain`."""
        self._over.set()
        process = self._process
        if process is not None:
            process.kill()

    def _ready(self) -> Wire:
        if self._over.is_set():
            raise TryAgain("The extraction was ended.")
        if self._wire is not None and self._served < self.limits.objects:
            return self._wire
        self.close()
        self._process, self._wire = spawned()
        if self._over.is_set():  # meanwhile
            self._process.kill()
        wire = self._wire
        self.started += 1
        specs = [asdict(spec) for spec in self._specs.values()]
        setup = json.dumps({"extractors": specs, "memory_bytes": self.limits.memory_bytes}).encode()
        deadline = time.monotonic() + _START_SECONDS
        try:
            wire.send(SETUP, setup, deadline)
            kind, payload = wire.receive(_MOST_RESULT, deadline)
        except (Closed, TooLate, TooMuch):
            self.close()
            kind, payload = REFUSED, b""
        if kind != READY and self._over.is_set():
            raise TryAgain("The extraction was ended.")
        if kind != READY:
            raise UsageError(
                f"The extractors {', '.join(self._specs)} cannot be started in a child process. "
                "`metadata_extractors.registry.make_extractor` says why."
            )
        self._faces = {
            name: Face(
                told["version"],
                pa.ipc.read_schema(pa.py_buffer(base64.b64decode(told["schema"]))),
                min(max(int(told["head_bytes"]), 0), FIRST_BYTES),
            )
            for name, told in json.loads(payload).items()
        }
        return wire

    def _ask(self, wire: Wire, name: str, reader: RangedReader) -> Extraction:
        reader.begin_again()
        answers = Answers(reader, self.limits.header_bytes)
        task = {
            "extractor": name,
            "key": reader.key,
            "size": reader.size,
            "max_bytes": min(self.limits.header_bytes, reader.max_bytes),
            "cpu_seconds": self.limits.cpu_seconds,
            "wall_seconds": self.limits.wall_seconds,
        }
        try:
            told = self._talk(wire, EXTRACT, json.dumps(task).encode(), answers.to)
        except (Closed, TooLate, TooMuch) as why:
            if answers.failure is not None:
                raise answers.failure from None
            raise self._ended(why) from None
        self._served += 1
        if answers.failure is not None:
            raise _ReadFailed(answers.failure)
        return self._believed(told, name)

    def _talk(self, wire: Wire, kind: bytes, payload: bytes, answer: Answer) -> bytes:
        """Answers until the result comes. Time counts while the child works, not while S3 is read."""
        left = self.limits.wall_seconds + 1  # the child's own clock comes first
        while True:
            since = time.monotonic()
            wire.send(kind, payload, since + left)
            asked, told = wire.receive(_MOST_RESULT, since + left)
            left -= time.monotonic() - since
            if asked == RESULT:
                return told
            if asked not in {READ, FACTS}:
                raise TooMuch
            kind, payload = answer(asked, told)

    def _ended(self, why: Exception) -> _Ended:
        """How the child came to its end, as an outcome."""
        process = self._process
        if isinstance(why, TooLate) or process is None:
            return _Ended("timeout", f"took more than {self.limits.wall_seconds:g} s", again=False)
        if isinstance(why, TooMuch):
            return _Ended("failed", "the extractor's process said what it should not", again=False)
        try:
            number = -process.wait(5)
        except subprocess.TimeoutExpired:
            return _Ended("failed", "the extractor's process closed its pipes", again=True)
        if number == signal.SIGXCPU:
            text = f"took more than {self.limits.cpu_seconds:g} s of CPU time"
            return _Ended("timeout", text, again=False)
        if number == signal.SIGALRM:
            return _Ended("timeout", f"took more than {self.limits.wall_seconds:g} s", again=False)
        name = signal.Signals(number).name if number > 0 else f"exit code {-number}"
        return _Ended("failed", f"the extractor's process died ({name})", again=True)

    def _believed(self, told: bytes, name: str) -> Extraction:
        """The child's result, if it is one."""
        try:
            (length,) = struct.unpack_from("<I", told)
            head, row = json.loads(told[4 : 4 + length]), told[4 + length :]
            outcome, problems = head["outcome"], head["problems"]
            known = outcome in get_args(Outcome)
            problems = problems_of(problems)
            values = values_of(row, self._faces[name].schema) if row else {}
            spent = bool(head["spent"])
        except NO_ANSWER:
            known = False
        if not known:
            raise _Ended("failed", "the extractor's process said what it should not", again=False)
        if spent:
            raise _Ended("failed", problems[0], again=True)
        return Extraction(outcome, values, problems)


class Sandboxes:
    """So many children, each used by one thread at a time."""

    def __init__(self, count: int, specs: Sequence[ExtractorSpec], limits: Limits | None = None) -> None:
        self._all = [Sandbox(specs, limits) for _ in range(count)]
        self._free: queue.LifoQueue[Sandbox] = queue.LifoQueue()
        for sandbox in self._all:
            self._free.put(sandbox)

    @contextmanager
    def one(self) -> Iterator[Sandbox]:
        """A sandbox that nobody else has; waits for one."""
        sandbox = self._free.get()
        try:
            yield sandbox
        finally:
            self._free.put(sandbox)

    def close(self) -> None:
        """Ends the children. Nobody may have one then."""
        for sandbox in self._all:
            sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()
