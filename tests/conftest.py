"""What all tests share: no AWS settings of the machine leak in, and nothing leaves loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from snapengine import bulkfold

pytest_plugins = ["tests.mlflow_fixtures", "tests.server_fixtures"]

_KEPT = {"SNAPENGINE_TEST_DYNAMODB", "SNAPENGINE_TEST_SQS", "SNAPENGINE_TEST_S3"}


@pytest.fixture(autouse=True, scope="session")
def _none_are_few() -> Iterator[None]:
    """Small histories are folded as large ones are."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bulkfold, "FEW", 0)
        yield


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts from fake credentials, one region, and no endpoint."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "SNAPENGINE_")) and name not in _KEPT:
            monkeypatch.delenv(name)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps the environment that it was made in
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
