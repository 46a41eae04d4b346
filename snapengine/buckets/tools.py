"""What these rooms need of an engine. `snapengine.engine.Engine` has it all."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from snapengine.archive.manifest import Archive
from snapengine.archive.roots import Root
from snapengine.archive.windows import Reader
from snapengine.model import Epoch
from snapengine.ports import Clock, LogReader, LogStore, Registry, RunNotes
from snapengine.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient


class Store(Registry, LogReader, RunNotes, Protocol):
    """The registry, the log to read, and what runs noted."""


class Tools(Protocol):
    """Settings, the clock, the log, and clients of AWS."""

    settings: Settings
    clock: Clock

    @property
    def store(self) -> Store: ...

    @property
    def s3(self) -> S3Client: ...

    @property
    def sqs(self) -> SQSClient: ...

    def archive(self, bucket: str, *, lately: Epoch | None = None) -> Archive:
        """The manifests of a bucket's archive."""
        ...

    def files(self, bucket: str) -> Reader:
        """The files of a bucket's archive."""
        ...

    def root(self, url: str) -> Root:
        """Where an archive is kept."""
        ...

    def client(self, service: Any) -> Any:
        """A boto3 client of its own."""
        ...

    def log(self) -> AbstractAsyncContextManager[LogStore]:
        """The log to write."""
        ...
