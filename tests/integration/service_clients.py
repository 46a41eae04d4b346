"""Clients of real servers."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.servers import Endpoint
from tools import local_servers

ONCE = Config(retries={"total_max_attempts": 1})


def unused_name() -> str:
    """For a table, a queue or a bucket: the server may be shared, and outlive the test."""
    return f"services-{uuid.uuid4().hex}"


def session(endpoint: Endpoint) -> boto3.Session:
    settings = endpoint.environment()
    return boto3.Session(
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        region_name=settings["AWS_REGION"],
    )


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    """The HTTP status and the error code with which `call` is refused."""
    with pytest.raises(ClientError) as refused:
        call()
    response = refused.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def services(command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "tools/services.py", command],
        cwd=local_servers.ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
