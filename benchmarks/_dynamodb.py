"""DynamoDB Local for a benchmark, and a fresh table in it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from secrets import token_hex

from benchmarks.harness import Unavailable
from snapengine.engine import Engine
from snapengine.errors import Unreachable
from snapengine.model import BucketConfig
from snapengine.settings import Settings
from tools.local_servers import DynamoDbLocal, Endpoint, ServiceFailed, ServiceUnavailable

BUCKET = "scans"


def add_endpoint_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--endpoint-url",
        default=os.environ.get("SNAPENGINE_TEST_DYNAMODB"),
        help="a DynamoDB Local that runs already (default: $SNAPENGINE_TEST_DYNAMODB, else one is started)",
    )


@contextmanager
def dynamodb_local(endpoint_url: str | None) -> Iterator[None]:
    """Within, engines of this process use DynamoDB Local, with made-up credentials: never an account."""
    with ExitStack() as stack:
        if endpoint_url:
            endpoint = Endpoint("DYNAMODB", endpoint_url)
        else:
            try:
                endpoint = stack.enter_context(DynamoDbLocal())
            except (ServiceUnavailable, ServiceFailed) as problem:
                raise Unavailable(
                    f"DynamoDB Local does not run: {problem}. Or give --endpoint-url."
                ) from problem
        stack.enter_context(_environment(endpoint.environment()))
        yield


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def fresh_table() -> Iterator[Engine]:
    """An engine over a table of its own, in which `BUCKET` has one stream; the table goes afterwards."""
    table = f"benchmark-{token_hex(6)}"
    engine = Engine(Settings(store=f"dynamodb://{table}"))
    try:
        engine.store.create()
    except Unreachable as problem:
        raise Unavailable(str(problem)) from problem
    engine.store.put_config(
        BucketConfig(bucket=BUCKET, region="us-east-1", account="123456789012", streams=1)
    )
    try:
        yield engine
    finally:
        client = engine.client("dynamodb")
        client.update_table(TableName=table, DeletionProtectionEnabled=False)
        client.delete_table(TableName=table)


def table_of(engine: Engine) -> str:
    """The name of an engine's table."""
    return engine.settings.store.removeprefix("dynamodb://")
