"""The HTTP server under the embedded cloud: threads, kept connections, loopback only.

werkzeug's own closes every connection after one reply, which costs a client more than the request does.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from io import BytesIO
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import ThreadedWSGIServer

from snapengine.devcloud import context
from snapengine.errors import Busy

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
READY_PATH = "/_devcloud/ready"


class Dispatcher(DomainDispatcherApplication):
    """moto's applications; S3 and DynamoDB serve one request at a time.

    moto checks a condition and then writes, with no lock between: two conditional writes could both
    succeed. SQS must not wait its turn like this, for a long poll would keep everybody out; it has its own.
    """

    def __init__(self, identity: str) -> None:
        super().__init__(create_backend_app)
        self._identity = identity
        self._backends: dict[str | None, Any] = {}
        self._turns = {"s3": threading.RLock(), "dynamodb": threading.RLock()}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == READY_PATH:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [self._identity.encode()]
        application = self.get_application(environ)
        with self._turns.get(getattr(application, "service", ""), nullcontext()):
            return [b"".join(application(environ, start_response))]

    def get_backend_for_host(self, host: str | None) -> Any:
        # moto reads a directory of hundreds of names for each request, a third of a small one's cost.
        if host not in self._backends:
            self._backends[host] = super().get_backend_for_host(host)
        return self._backends[host]

    def is_identified_by(self, reply: bytes) -> bool:
        """Whether a reply to `READY_PATH` came from this server, and not from another on the same port."""
        return reply == self._identity.encode()

    @contextmanager
    def standstill(self) -> Iterator[None]:
        """No request to S3 or DynamoDB is under way inside."""
        with ExitStack() as stack:
            for turn in self._turns.values():
                stack.enter_context(turn)
            yield


class Handler(MotoRequestHandler):
    """One connection. The whole request is read before it is served, and the reply goes out in one write."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        environ = self.make_environ()
        body = self._body(environ)
        if body is None:
            self.close_connection = True  # the client left in the middle: S3 stores no half of an object
            return
        environ["wsgi.input"] = BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        request = context.enter(environ)
        started: list[Any] = []

        written: list[bytes] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], _: Any = None, /
        ) -> Callable[[bytes], object]:
            started[:] = [status, headers]
            return written.append

        try:
            written.extend(self.server.app(environ, start_response))
            content = b"".join(written)
            status, headers = started
        except Exception:
            logger.exception("%s %s could not be served", self.command, self.path)
            status, headers, content = "500 Internal Server Error", [], b""
        self._reply(status, headers, content, request)

    def _body(self, environ: dict[str, Any]) -> bytes | None:
        if environ.get("wsgi.input_terminated"):
            return bytes(environ["wsgi.input"].read())
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = self.rfile.read(length)
        return body if len(body) == length else None

    def _reply(
        self, status: str, headers: list[tuple[str, str]], content: bytes, request: context.CurrentRequest
    ) -> None:
        without_body = self.command == "HEAD" or status[:3] in ("204", "304")
        names = (
            {"date", "server", "connection"}
            if without_body
            else {"date", "server", "connection", "content-length"}
        )
        lines = [f"HTTP/1.1 {status}", f"Date: {self.date_time_string()}", "Server: snapengine-devcloud"]
        lines += [f"{name}: {value}" for name, value in headers if name.lower() not in names]
        lines += [f"x-amz-request-id: {request.request_id}", f"x-amz-id-2: {request.host_id}"]
        if not without_body:
            lines.append(f"Content-Length: {len(content)}")
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
        self.wfile.write(head if without_body else head + content)

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - the name in werkzeug's signature
        logger.log(logging.WARNING if type == "error" else logging.DEBUG, message, *args)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: werkzeug's line for each request costs as much as a small request."""


class LoopbackServer(ThreadedWSGIServer):
    """Listens on 127.0.0.1 from its construction; `serve_forever` in a thread, then `stop`."""

    def __init__(self, port: int, dispatcher: Dispatcher) -> None:
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        with _listening(port) as listener:
            super().__init__(LOOPBACK, port, dispatcher, Handler, fd=listener.fileno())

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        logger.debug("a connection ended badly", exc_info=True)

    def stop(self, timeout: float = 5.0) -> None:
        """Accept no more, and end every kept connection; wait at most `timeout` seconds for their threads."""
        self.shutdown()
        end = time.monotonic() + timeout
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            while self._connections and time.monotonic() < end:
                self._changed.wait(end - time.monotonic())


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, port), backlog=128)
    except OSError as error:
        raise Busy(
            f"The embedded cloud cannot listen on {LOOPBACK}:{port}: {error.strerror}. "
            "Choose another port, or 0 for any that is free."
        ) from error
