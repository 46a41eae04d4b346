"""The HTTP request that the current thread is serving, for those who run beneath moto's own layers."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4


def _request_id() -> str:
    return uuid4().hex[:16].upper()


@dataclass(frozen=True, slots=True)
class CurrentRequest:
    """A request's WSGI environment, and the two ids by which S3's replies and events name it."""

    environ: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = field(default_factory=_request_id)
    host_id: str = field(default_factory=lambda: uuid4().hex + uuid4().hex)

    @property
    def source_address(self) -> str:
        return str(self.environ.get("REMOTE_ADDR", "127.0.0.1"))

    def asks_for(self, subresource: str) -> bool:
        """Whether the query string names a subresource, such as `?tagging`."""
        return subresource in parse_qs(self.environ.get("QUERY_STRING", ""), keep_blank_values=True)

    def header(self, name: str) -> str:
        return str(self.environ.get("HTTP_" + name.upper().replace("-", "_"), ""))

    def client_has_left(self) -> bool:
        """Whether the connection was closed while we were making the reply."""
        connection = self.environ.get("werkzeug.socket")
        if connection is None:
            return False
        try:
            return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
        except BlockingIOError:
            return False
        except OSError:
            return True


_current: ContextVar[CurrentRequest | None] = ContextVar("snapengine_devcloud_request", default=None)


def enter(environ: Mapping[str, Any]) -> CurrentRequest:
    """Start serving a request on this thread; it stands until the next one begins."""
    request = CurrentRequest(environ)
    _current.set(request)
    return request


def current() -> CurrentRequest:
    """The request being served, or an empty one where a change comes from none."""
    return _current.get() or CurrentRequest()
