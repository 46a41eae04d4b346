"""HTTP/1.1 replies of known length over connections as a botocore client makes them, read without copies.

Source: RFC 9112. Only what S3 answers a GET of an object with is understood; any other reply is told by its
status alone, and its connection is closed.
"""

from __future__ import annotations

import io
import os
import re
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from urllib3.util import Timeout, wait_for_read

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD: Final = re.compile(rb"HTTP/1\.1 ([2-5]\d\d)(?: [^\r\n]*)?\r\n((?:" + _TOKEN + rb":[^\r\n]*\r\n)*)\r\n")
_LENGTH: Final = re.compile(r"\d{1,18}")
_MAX_HEAD: Final = 65_536
_BUFFER: Final = 16_384
_MAX_IDLE: Final = 64
_JUST: Final = 1.0
"""Seconds."""


class UnknownReply(Exception):
    """Not a reply that is understood here."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """By names in lower case; of several with one name, all, with commas between."""
    body: bytes | None = None
    """None where it was not read, or was read into the buffer that was given."""
    read: bool = False
    """Whether the body was read: the reply had the status and the length that were expected."""


class Connections:
    """Connections to one host: made as a pool of the client makes them, with its TLS and timeouts, and kept
    here for the next request. Several threads may use it, and so may a forked process: it makes its own."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._idle: deque[_Connection] = deque()
        self._owner = os.getpid()
        weakref.finalize(self, _close_all, self._idle)

    def get(self, request: bytes, status: int, length: int, into: memoryview | None = None) -> Reply:
        """Send a GET and read the reply, its body only if it has this status and this length in bytes; `into`
        has that length. Raises `OSError`, urllib3's `HTTPError` or `UnknownReply`; of the buffer any part may
        have been written then.

        A connection that a server has closed meanwhile is replaced, and the request sent once more: it reads.
        """
        kept = self._kept()
        if kept is not None:
            try:
                return self._over(kept, request, status, length, into)
            except _Closed:
                pass
        return self._over(_Connection(self._pool), request, status, length, into)

    def _over(
        self, connection: _Connection, request: bytes, status: int, length: int, into: memoryview | None
    ) -> Reply:
        usable = False
        try:
            reply, usable = connection.exchange(request, status, length, into)
        finally:
            if usable and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
            else:
                connection.close()
        return reply

    def _kept(self) -> _Connection | None:
        """The one that was used last and is still open. Those of the process that forked this one are its
        own, and its replies would come to both."""
        if self._owner != os.getpid():
            _close_all(self._idle)
            self._owner = os.getpid()
        while (connection := _last(self._idle)) is not None:
            if connection.silent():
                return connection
            connection.close()
        return None


def _last(idle: deque[_Connection]) -> _Connection | None:
    try:
        return idle.pop()
    except IndexError:  # another thread may have had the last one since anybody looked
        return None


def _close_all(idle: deque[_Connection]) -> None:
    while (connection := _last(idle)) is not None:
        connection.close()


class _Closed(ConnectionError):
    """By the server, before it answered."""


class _Connection:
    def __init__(self, pool: Any) -> None:
        self._made = pool._new_conn()  # as urllib3's own urlopen does
        self._made.connect()
        self._socket = self._made.sock
        self._socket.settimeout(Timeout.resolve_default_timeout(pool.timeout.read_timeout))
        self._received = _Received(self._socket)
        self._reader = io.BufferedReader(self._received, _BUFFER)
        self._consumed = 0
        self._used = 0.0

    def close(self) -> None:
        self._made.close()

    def silent(self) -> bool:
        """Nothing has come since the last reply; a closed connection has something to say. One that has just
        been used is not asked: if it is closed all the same, its request is sent once more."""
        return time.monotonic() - self._used < _JUST or not wait_for_read(self._socket, timeout=0.0)

    def exchange(
        self, request: bytes, status: int, length: int, into: memoryview | None
    ) -> tuple[Reply, bool]:
        """The reply, and whether the connection can be used again."""
        try:
            self._socket.sendall(request)
            head = self._head()
        except TimeoutError:
            raise
        except OSError as error:
            raise _Closed(str(error)) from error
        found = _HEAD.fullmatch(head)
        if found is None:
            raise UnknownReply(f"The reply begins with {head[:200]!r}.")
        headers = _headers_of(found[2])
        reply = Reply(int(found[1]), headers)
        told = headers.get("content-length", "")
        expected = _LENGTH.fullmatch(told) is not None and int(told) == length
        if reply.status != status or not expected or "transfer-encoding" in headers:
            return reply, False
        body = self._body(length, into)
        self._consumed += length
        usable = (
            self._received.count == self._consumed and "close" not in headers.get("connection", "").lower()
        )
        return Reply(reply.status, headers, body, read=True), usable

    def _head(self) -> bytes:
        """Up to the empty line, with it. Raises `_Closed` where nothing came."""
        waiting = self._reader.peek()
        if not waiting:
            raise _Closed("The server closed the connection before it answered.")
        end = waiting.find(b"\r\n\r\n")
        if end >= 0:
            head = self._reader.read(end + 4)
        else:  # in more than one piece
            head = b""
            while not head.endswith(b"\r\n\r\n") and len(head) < _MAX_HEAD:
                line = self._reader.readline(_MAX_HEAD)
                if not line:
                    raise ConnectionError("The server closed the connection within its reply's headers.")
                head += line
        self._consumed += len(head)
        return head

    def _body(self, length: int, into: memoryview | None) -> bytes | None:
        if into is None:
            body = self._reader.read(length)
            count = len(body)
        else:
            body = None
            count = self._reader.readinto(into)
        if count != length:
            raise ConnectionError(f"The server sent {count} bytes of {length}.")
        return body


def _headers_of(lines: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines.decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


class _Received(io.RawIOBase):
    """What comes over a socket, and how many bytes did."""

    def __init__(self, socket: Any) -> None:
        super().__init__()
        self._receive = socket.recv_into
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._receive(buffer)
        self.count += count
        return count
