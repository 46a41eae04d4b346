"""Our side of `view_vs_listing`: the table, the log, and views of it that are asked for cold."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest.mock import patch

import aiobotocore.httpsession
import botocore.httpsession
import pyarrow as pa
from moto.server import ThreadedMotoServer

from benchmarks._dynamodb import dynamodb_local
from benchmarks._listing_history import Answer, Row
from benchmarks._listing_server import CountingSeaweedFs
from benchmarks.harness import Unavailable, timed, undisturbed
from snapengine.digest import digest
from snapengine.engine import Engine
from snapengine.settings import Settings
from tools.local_servers import HOST

_VIEW = """\
import sys, snapengine
view = snapengine.view(sys.argv[1], int(sys.argv[2]))
view.to_arrow()
print(view.digest())
"""


@contextmanager
def table_server(endpoint_url: str | None) -> Iterator[str]:
    """Within, there is a DynamoDB; its name: DynamoDB Local, or moto where this machine has no Java."""
    with ExitStack() as stack:
        try:
            stack.enter_context(dynamodb_local(endpoint_url))
        except Unavailable:
            if endpoint_url:
                raise
            stack.enter_context(_moto())
            yield "moto"
        else:
            yield "DynamoDB Local"


@contextmanager
def _moto() -> Iterator[None]:
    server = ThreadedMotoServer(HOST, 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with dynamodb_local(f"http://{host}:{port}"):
            yield
    finally:
        server.stop()


@dataclass(frozen=True, slots=True)
class Seen:
    """One cold view: what it cost, and what it said."""

    to_arrow: float
    """Seconds, from nothing: the engine and its clients are made within."""
    digest: float
    """Seconds from then on."""
    s3_requests: int
    dynamodb_requests: int
    answer: Answer
    said: str
    """The digest."""

    @property
    def seconds(self) -> float:
        return self.to_arrow + self.digest


def look(server: CountingSeaweedFs, store: str, bucket: str, at: int) -> Seen:
    """A view at `at` (UTC milliseconds) by an engine that knows nothing yet."""
    before = server.requests()
    with counting() as count, undisturbed():
        started = time.perf_counter()
        view = Engine(Settings(store=store, cache="off")).view(bucket, at)
        table = view.to_arrow()
        listed = time.perf_counter()
        said = view.digest()
        ended = time.perf_counter()
    s3 = server.requests() - before
    return Seen(listed - started, ended - listed, s3, count.dynamodb, answer_of(table), said)


def look_from_a_new_process(store: str, bucket: str, at: int, expected: str) -> float:
    """Seconds of a whole Python process, its imports included, that prints the digest. Raises for another."""
    said = ""

    def run() -> None:
        nonlocal said
        command = [sys.executable, "-c", _VIEW, bucket, str(at)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout

    with patch.dict("os.environ", SNAPENGINE_STORE=store, SNAPENGINE_CACHE="off"):
        seconds = timed(run)
    if said.strip() != expected:
        raise AssertionError(f"another process gave the digest {said.strip()}, and not {expected}")
    return seconds


def answer_of(table: pa.Table) -> Answer:
    columns = (table[name].to_pylist() for name in ("key", "version_id", "size", "etag"))
    return {key: Row(*rest) for key, *rest in zip(*columns, strict=True)}


def digest_of(answer: Answer) -> str:
    """By the rows, one by one."""
    rows = sorted(answer.items(), key=lambda item: item[0].encode())
    return digest((key, row.version_id or "", row.etag, row.size) for key, row in rows)


class Count:
    """Requests that left this process."""

    dynamodb = 0


@contextmanager
def counting() -> Iterator[Count]:
    """Within, requests to DynamoDB are counted: all go through one of two methods."""
    count = Count()
    send_async = aiobotocore.httpsession.AIOHTTPSession.send
    send_sync = botocore.httpsession.URLLib3Session.send

    def see(request: Any) -> None:
        target = request.headers.get("X-Amz-Target", b"")
        name = target.decode() if isinstance(target, bytes) else target
        count.dynamodb += name.startswith("DynamoDB")

    @wraps(send_async)
    async def counted_async(self: Any, request: Any) -> Any:
        see(request)
        return await send_async(self, request)

    @wraps(send_sync)
    def counted_sync(self: Any, request: Any) -> Any:
        see(request)
        return send_sync(self, request)

    with (
        patch.object(aiobotocore.httpsession.AIOHTTPSession, "send", counted_async),
        patch.object(botocore.httpsession.URLLib3Session, "send", counted_sync),
    ):
        yield count
