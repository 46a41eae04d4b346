"""Where the state machine's log lives: on one event loop, with a fresh bucket for each history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

import aioboto3
import boto3
from botocore.config import Config

from snapengine.ports import LogStore
from snapengine.stores.dynamodb import DynamoDBStore
from snapengine.stores.dynamodb_log import DynamoDBLog
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import MEMORY, Database
from snapengine.stores.sqlite_log import SQLiteLog

T = TypeVar("T")
P = ParamSpec("P")
_names = count(1)


@dataclass(frozen=True)
class Site:
    """A log of a bucket of which nothing is known yet."""

    loop: asyncio.AbstractEventLoop
    log: LogStore
    store: DynamoDBStore | SQLiteStore
    bucket: str
    expire: Callable[[], None] = lambda: None
    """Remove what the table may remove by its time to live, all at once. SQLite has done so already."""

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)


Backend = Callable[[], AbstractContextManager[Site]]
"""Gives a site of its own to each history."""


class _AtOnce(ThreadPoolExecutor):
    """Runs what it is given where it is: a hop to a thread costs more than SQLite in memory."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # the future hands it on, as a thread's would
            future.set_exception(error)
        return future


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_AtOnce())
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@contextmanager
def sqlite() -> Iterator[Backend]:
    """A database in memory for each history."""
    with _loop() as loop:

        @contextmanager
        def site() -> Iterator[Site]:
            database = Database(MEMORY)
            yield Site(loop, SQLiteLog(database), SQLiteStore(database), "scans")

        yield site


@contextmanager
def dynamodb(url: str) -> Iterator[Backend]:
    """One table for all histories, each with a bucket of its own."""
    table = f"t{uuid4().hex}"
    client: Any = boto3.client("dynamodb", endpoint_url=url, config=Config(retries={"max_attempts": 2}))
    store = DynamoDBStore(client, table)
    store.create()
    with _loop() as loop, ExitStack() as stack:
        context = aioboto3.Session().client("dynamodb", endpoint_url=url)
        log_client = loop.run_until_complete(context.__aenter__())
        stack.callback(lambda: loop.run_until_complete(context.__aexit__(None, None, None)))
        log = DynamoDBLog(log_client, table)

        def expire() -> None:
            pages = client.get_paginator("scan").paginate(
                TableName=table,
                FilterExpression="attribute_exists(expires)",
                ProjectionExpression="PK, SK",
                ConsistentRead=True,
            )
            for item in [item for page in pages for item in page["Items"]]:
                client.delete_item(TableName=table, Key=item)

        @contextmanager
        def site() -> Iterator[Site]:
            yield Site(loop, log, store, f"scans-{next(_names)}", expire)

        yield site
