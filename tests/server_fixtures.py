"""Session-wide real servers, and what happens to a test where one cannot run. A plugin of tests/conftest.py.

A fixture gives an `Endpoint`, not the process: a server that other tests share is not theirs to stop. A test
that stops, kills or restarts a server starts its own, with `tests.servers`.
"""

import os
from collections.abc import Generator, Iterator
from typing import NoReturn

import pytest

from tests import servers
from tests.servers import Endpoint, ServiceUnavailable


@pytest.fixture(scope="session")
def dynamodb_local_server() -> Iterator[Endpoint]:
    """DynamoDB Local, with its data in memory."""
    if running := servers.already_running("DYNAMODB"):
        yield running
        return
    with servers.dynamodb_local() as server:
        yield server


@pytest.fixture(scope="session")
def elasticmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    if running := servers.already_running("SQS"):
        yield running
        return
    with servers.elasticmq(tmp_path_factory.mktemp("elasticmq")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    if running := servers.already_running("S3"):
        yield running
        return
    with servers.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Generator[None, object, object]:
    try:
        return (yield)
    except ServiceUnavailable as missing:
        skip_or_fail(missing)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    try:
        return (yield)
    except ServiceUnavailable as missing:
        skip_or_fail(missing)


def skip_or_fail(missing: ServiceUnavailable) -> NoReturn:
    """In CI (CI=true) a missing server is a failure: there, a skip would go unseen."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have the real servers: {missing}", pytrace=False)
    pytest.skip(str(missing))
