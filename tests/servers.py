"""Real servers for a test: started on entry, ended on exit, and restarted or killed in between at will.

The data directory is the caller's and stays. Each raises `ServiceUnavailable` where the machine lacks what
the server needs; `tests.server_fixtures` makes a skip of it, or in CI a failure.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.local_servers import DynamoDbLocal, ElasticMq, Endpoint, SeaweedFs, Server, ServiceUnavailable

__all__ = [
    "Endpoint",
    "Server",
    "ServiceUnavailable",
    "already_running",
    "dynamodb_local",
    "elasticmq",
    "seaweedfs",
]


@contextmanager
def dynamodb_local(data_dir: Path | None = None) -> Iterator[Server]:
    """DynamoDB Local; without a directory its data are in memory, and gone after a restart."""
    with DynamoDbLocal(data_dir) as server:
        yield server


@contextmanager
def elasticmq(data_dir: Path) -> Iterator[Server]:
    """ElasticMQ (SQS), persisting queues and messages."""
    with ElasticMq(data_dir) as server:
        yield server


@contextmanager
def seaweedfs(data_dir: Path) -> Iterator[Server]:
    """SeaweedFS (S3), which takes `Server.environment`'s credentials only."""
    with SeaweedFs(data_dir) as server:
        yield server


def already_running(service: str) -> Endpoint | None:
    """The server that `make services` started, where its export lines are in the environment."""
    url = os.environ.get(f"SNAPENGINE_TEST_{service}")
    return Endpoint(service, url) if url else None
