"""Connections read the replies that are expected, and are used again where nothing speaks against it."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from snapengine.stores.connections import Connections, UnknownReply

GET = b"GET /k HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag:\t"e" \r\n\r\n'


class Scripted:
    """A server that answers the requests over each connection with its pieces, then closes it: one list of
    replies for each connection, one sequence of pieces for each reply."""

    def __init__(
        self, *connections: Sequence[Sequence[bytes | threading.Event]], identity: Path | None = None
    ) -> None:
        """`identity`: a certificate and its key, with which it speaks TLS."""
        self._identity = identity
        self.requests: list[int] = []
        """The number of the connection over which each came."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, args=[connections])
        self._thread.start()
        port = self._listener.getsockname()[1]
        timeout = urllib3.Timeout(connect=2.0, read=0.5)
        self.pool = (
            urllib3.HTTPConnectionPool("127.0.0.1", port, timeout=timeout)
            if identity is None
            else urllib3.HTTPSConnectionPool("127.0.0.1", port, timeout=timeout, ca_certs=str(identity))
        )
        self.connections = Connections(self.pool)

    def _serve(self, connections: Sequence[Sequence[Sequence[bytes | threading.Event]]]) -> None:
        for number, replies in enumerate(connections):
            accepted, _ = self._listener.accept()
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._identity is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self._identity)
                try:
                    accepted = context.wrap_socket(accepted, server_side=True)
                except ssl.SSLError:
                    continue
            with accepted:
                for pieces in replies:
                    received = b""
                    while not received.endswith(b"\r\n\r\n"):
                        received += accepted.recv(1) or b"\r\n\r\n"
                    if received == b"\r\n\r\n":
                        break
                    self.requests.append(number)
                    for piece in pieces:
                        if isinstance(piece, threading.Event):
                            piece.wait(5)
                        else:
                            accepted.sendall(piece)

    def close(self) -> None:
        self._listener.close()
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.fixture
def scripted() -> Iterator[type[Scripted]]:
    made: list[Scripted] = []

    class Kept(Scripted):
        def __init__(
            self, *connections: Sequence[Sequence[bytes | threading.Event]], identity: Path | None = None
        ) -> None:
            super().__init__(*connections, identity=identity)
            made.append(self)

    yield Kept
    for server in made:
        del server.connections
        server.close()


def identity_at(path: Path) -> Path:
    """A certificate for 127.0.0.1 that it signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
    return path


def test_replies_come_over_tls_whose_certificate_is_known(scripted: type[Scripted], tmp_path: Path) -> None:
    body = bytes(range(256)) * 1000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 256000\r\n\r\n"
    server = scripted([[head, body], [head + body]], identity=identity_at(tmp_path / "server.pem"))
    assert server.connections.get(GET, 200, len(body)).body == body
    buffer = bytearray(len(body))
    assert server.connections.get(GET, 200, len(body), memoryview(buffer)).read
    assert bytes(buffer) == body
    assert server.requests == [0, 0]


def test_nothing_is_asked_of_a_server_whose_certificate_is_not_known(
    scripted: type[Scripted], tmp_path: Path
) -> None:
    server = scripted([[OK, b"bytes"]], identity=identity_at(tmp_path / "server.pem"))
    vars(server.pool)["ca_certs"] = str(identity_at(tmp_path / "other.pem"))
    with pytest.raises((urllib3.exceptions.HTTPError, OSError)):
        server.connections.get(GET, 200, 5)
    assert server.requests == []


@pytest.mark.parametrize("step", [1, 3, 40, 1000])
def test_a_reply_is_read_in_whatever_pieces_it_comes(scripted: type[Scripted], step: int) -> None:
    whole = OK + b"bytes"
    server = scripted([[whole[at : at + step] for at in range(0, len(whole), step)]])
    reply = server.connections.get(GET, 200, 5)
    assert (reply.status, reply.body, reply.read) == (200, b"bytes", True)
    assert reply.headers == {"content-length": "5", "etag": '"e"'}


def test_a_body_is_read_into_a_buffer(scripted: type[Scripted]) -> None:
    size = 200_000
    server = scripted([[b"HTTP/1.1 206 \r\ncontent-length: 200000\r\n\r\n", b"x" * size]])
    buffer = bytearray(size)
    reply = server.connections.get(GET, 206, size, memoryview(buffer))
    assert reply.read
    assert reply.body is None
    assert bytes(buffer) == b"x" * size


def test_a_connection_is_used_again(scripted: type[Scripted]) -> None:
    server = scripted([[OK, b"first"], [OK, b"again"]])
    assert [server.connections.get(GET, 200, 5).body for _ in range(2)] == [b"first", b"again"]
    assert server.requests == [0, 0]


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nbytes",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbytes!",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nbytes",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nbytes",
        b"HTTP/1.1 200 OK\r\n\r\nbytes",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbytes\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbytes\r\n0\r\n\r\n",
    ],
)
def test_another_status_or_length_is_told_and_its_connection_closed(
    scripted: type[Scripted], reply: bytes
) -> None:
    server = scripted([[reply], [OK, b"never"]], [[OK, b"bytes"]])
    assert not server.connections.get(GET, 200, 5).read
    assert server.connections.get(GET, 200, 5).body == b"bytes"
    assert server.requests == [0, 1]


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nbytes",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"bytes",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\r\n\r\nbytes",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n folded: 1\r\n\r\nbytes",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nbytes",
        b"\r\n\r\n" + OK + b"bytes",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\nbytes",
    ],
)
def test_what_is_no_reply_is_refused(scripted: type[Scripted], reply: bytes) -> None:
    server = scripted([[reply]])
    with pytest.raises((UnknownReply, ConnectionError)):
        server.connections.get(GET, 200, 5)


@pytest.mark.parametrize("reply", [OK + b"byt", OK, OK[:20], b""])
def test_a_server_that_closes_too_early_is_an_error(scripted: type[Scripted], reply: bytes) -> None:
    server = scripted([[reply]])
    with pytest.raises(ConnectionError):
        server.connections.get(GET, 200, 5)


def test_a_server_that_is_silent_is_a_timeout(scripted: type[Scripted]) -> None:
    tried = threading.Event()
    server = scripted([[OK, tried]])
    try:
        with pytest.raises(TimeoutError):
            server.connections.get(GET, 200, 5)
    finally:
        tried.set()


def test_a_connection_that_was_closed_meanwhile_is_replaced(scripted: type[Scripted]) -> None:
    server = scripted([[OK, b"first"]], [[OK, b"again"]])
    assert [server.connections.get(GET, 200, 5).body for _ in range(2)] == [b"first", b"again"]
    assert server.requests == [0, 1]


def test_a_connection_with_more_than_the_reply_is_not_used_again(scripted: type[Scripted]) -> None:
    server = scripted([[OK + b"first" + OK + b"wrong"], [OK, b"never"]], [[OK, b"again"]])
    assert [server.connections.get(GET, 200, 5).body for _ in range(2)] == [b"first", b"again"]
    assert server.requests == [0, 1]


def test_a_server_that_says_that_it_closes_is_believed(scripted: type[Scripted]) -> None:
    closing = OK.replace(b"ETag", b"Connection: Close\r\nETag")
    server = scripted([[closing, b"first"], [OK, b"never"]], [[OK, b"again"]])
    assert [server.connections.get(GET, 200, 5).body for _ in range(2)] == [b"first", b"again"]
    assert server.requests == [0, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_makes_connections_of_its_own(scripted: type[Scripted]) -> None:
    server = scripted([[OK, b"first"], [OK, b"other"]], [[OK, b"child"]])
    assert server.connections.get(GET, 200, 5).body == b"first"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if server.connections.get(GET, 200, 5).body == b"child" else 1)
        finally:
            os._exit(2)
    assert server.connections.get(GET, 200, 5).body == b"other"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert server.requests == [0, 0, 1]
