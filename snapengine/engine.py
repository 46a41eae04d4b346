"""The composition root: settings to an engine. The only place that builds AWS clients and opens stores."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from pydantic import ValidationError

from snapengine.errors import UsageError
from snapengine.ports import Clock, LogStore
from snapengine.settings import Settings
from snapengine.stores.aws_errors import translated
from snapengine.stores.dynamodb import DynamoDBStore
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import MEMORY, Database

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

_OPTIONS: dict[str, Any] = {
    "retries": {"mode": "standard", "max_attempts": 6},
    "connect_timeout": 5,
    "read_timeout": 60,
    "max_pool_connections": 32,
    "user_agent_extra": "snapengine",
}


def wall_clock() -> int:
    """UTC milliseconds now."""
    return time.time_ns() // 1_000_000


def load_settings(**given: Any) -> Settings:
    """Settings from environment and file. Raises `UsageError` that names each wrong one."""
    try:
        return Settings(**given)
    except ValidationError as error:
        wrong = "; ".join(
            f"SNAPENGINE_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()
        )
        raise UsageError(f"Wrong settings. {wrong}. See docs/settings.md.") from None


class Engine:
    """Everything a process needs of snapengine, built when it is first used. Thread-safe; picklable."""

    def __init__(self, settings: Settings | None = None, *, clock: Clock = wall_clock) -> None:
        self.settings = settings or load_settings()
        self.clock = clock
        self._lock = RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.settings.store == f"sqlite:///{MEMORY}":
            raise UsageError("An engine whose log is in memory cannot go to another process.")
        return (Engine, (self.settings,))

    @cached_property
    def store(self) -> DynamoDBStore | SQLiteStore:
        """The log to read, and the registry."""
        scheme, _, rest = self.settings.store.partition("://")
        if scheme == "sqlite":
            return SQLiteStore(self._database)
        return DynamoDBStore(self.client("dynamodb"), rest)

    @cached_property
    def _database(self) -> Database:
        return Database(self.settings.store.removeprefix("sqlite:///"))

    @asynccontextmanager
    async def log(self) -> AsyncIterator[LogStore]:
        """The log to write."""
        scheme, _, rest = self.settings.store.partition("://")
        if scheme == "sqlite":
            from snapengine.stores.sqlite_log import SQLiteLog

            yield SQLiteLog(self._database)
            return
        from snapengine.stores.dynamodb_log import DynamoDBLog

        async with self.async_client("dynamodb") as client:
            yield DynamoDBLog(client, rest)

    def async_client(self, service: Any) -> Any:
        """An aioboto3 client, as an asynchronous context manager."""
        import aioboto3
        from aiobotocore.config import AioConfig

        with translated(service):
            return aioboto3.Session().client(service, config=AioConfig(**_OPTIONS))

    def client(self, service: Any) -> Any:
        """A boto3 client of its own. Raises `UsageError` without a region."""
        with self._lock, translated(service):
            return boto3.session.Session().client(service, config=Config(**_OPTIONS))

    @cached_property
    def s3(self) -> S3Client:
        return self.client("s3")  # type: ignore[no-any-return]  # boto3 types clients by literal name

    @cached_property
    def sqs(self) -> SQSClient:
        return self.client("sqs")  # type: ignore[no-any-return]  # boto3 types clients by literal name
