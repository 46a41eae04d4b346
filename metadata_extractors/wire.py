"""Messages over a pair of pipes: with deadlines and limits, so that nobody waits or holds without end."""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Final

SETUP: Final = b"S"
READY: Final = b"Y"
EXTRACT: Final = b"E"
PACK: Final = b"P"
READ: Final = b"R"
FACTS: Final = b"F"
DATA: Final = b"D"
REFUSED: Final = b"N"
RESULT: Final = b"V"

_HEAD: Final = struct.Struct("<cI")
_CHUNK: Final = 1024 * 1024


class Closed(Exception):
    """The other side is gone."""


class TooLate(Exception):
    """The deadline is past."""


class TooMuch(Exception):
    """The other side announces more than it may send."""


class Wire:
    """One side's ends. A deadline is an instant of `time.monotonic`, in seconds; without one it waits."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        os.set_blocking(incoming, False)
        os.set_blocking(outgoing, False)

    def send(self, kind: bytes, payload: bytes = b"", deadline: float | None = None) -> None:
        left = memoryview(_HEAD.pack(kind, len(payload)) + payload)
        while left:
            self._wait(self._outgoing, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._outgoing, left[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise Closed from error

    def receive(self, most: int, deadline: float | None = None) -> tuple[bytes, bytes]:
        """The kind of a message and its payload, of at most `most` bytes."""
        kind, length = _HEAD.unpack(self._exactly(_HEAD.size, deadline))
        if length > most:
            raise TooMuch
        return kind, self._exactly(length, deadline)

    def close(self) -> None:
        os.close(self._incoming)
        os.close(self._outgoing)

    def _exactly(self, length: int, deadline: float | None) -> bytes:
        found = bytearray()
        while len(found) < length:
            self._wait(self._incoming, select.POLLIN, deadline)
            try:
                more = os.read(self._incoming, min(length - len(found), _CHUNK))
            except BlockingIOError:
                continue
            if not more:
                raise Closed
            found += more
        return bytes(found)

    @staticmethod
    def _wait(descriptor: int, event: int, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(left):
            raise TooLate
