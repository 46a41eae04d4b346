"""Neither the worker nor the Lambda touches a table that a newer snapengine has set up."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from ingest_worker.lambda_handler import Environment
from ingest_worker.worker import Options, Worker
from snapengine import Engine
from snapengine.errors import SchemaTooNew
from snapengine.stores.sqlite_database import SCHEMA_VERSION
from tests.seed import enable, engine_at


class Context:
    """An invocation with plenty of time."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    with sqlite3.connect(tmp_path / "log.db") as raw:
        raw.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    raw.close()
    return engine


async def test_a_worker_ends_before_it_receives_anything(engine: Engine) -> None:
    worker = Worker(engine, Options(name="w", http_port=None))
    with pytest.raises(SchemaTooNew, match="Upgrade"):
        await worker.run(asyncio.Event())


def test_a_lambda_acknowledges_nothing(engine: Engine) -> None:
    environment = Environment(engine)
    with pytest.raises(SchemaTooNew):
        environment.handle([{"messageId": "1", "body": "{}"}], Context())
    environment._loop.close()  # Lambda never does; a test must
