"""The policies in docs/enable-bucket.md allow each call that the commands make, and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from aiobotocore.client import AioBaseClient
from botocore.client import BaseClient

from snapengine import Engine
from snapengine.buckets.asking import iam_action
from snapengine.cli.main import run
from snapengine.devcloud import DevCloud

TEXT = (Path(__file__).parents[2] / "docs" / "enable-bucket.md").read_text(encoding="utf-8")
NEEDS_NO_PERMISSION = {"sts:GetCallerIdentity"}
NOT_SEEN_HERE = {"sqs:SetQueueAttributes", "sqs:TagQueue", "cloudwatch:GetMetricData"}
"""For a queue that somebody changed; CreateQueue with tags needs the second, says AWS; the third is asked
of AWS alone."""


def allowed(heading: str) -> set[str]:
    """The actions of the policy below a heading."""
    section = TEXT.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    (block,) = re.findall(r"^```json\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    actions: set[str] = set()
    for statement in json.loads(block)["Statement"]:
        action = statement["Action"]
        actions |= {action} if isinstance(action, str) else set(action)
    return actions


class Calls:
    """The IAM actions of the calls that are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.actions: set[str] = set()
        clients: tuple[Any, Any] = (BaseClient, AioBaseClient)
        blocking, asynchronous = (client._make_api_call for client in clients)

        def call(client: Any, operation: str, params: Any) -> Any:
            self._note(client, operation, params)
            return blocking(client, operation, params)

        async def call_async(client: Any, operation: str, params: Any) -> Any:
            self._note(client, operation, params)
            return await asynchronous(client, operation, params)

        monkeypatch.setattr(BaseClient, "_make_api_call", call)
        monkeypatch.setattr(AioBaseClient, "_make_api_call", call_async)

    def _note(self, client: Any, operation: str, params: Any) -> None:
        service = client.meta.service_model.service_name
        if service in {"dynamodb", "sqs"}:
            self.actions.add(f"{service}:{operation}")
        elif operation in {"GetObject", "HeadObject"}:
            self.actions.add("s3:GetObjectVersion" if "VersionId" in params else "s3:GetObject")
        else:
            self.actions.add(iam_action(operation))

    def taken(self) -> set[str]:
        """What was called since the last time."""
        taken, self.actions = self.actions - NEEDS_NO_PERMISSION, set()
        return taken


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


def test_the_policies_allow_what_the_commands_call_and_no_more(
    cloud: DevCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SNAPENGINE_STORE", f"dynamodb://t-{uuid4().hex}")
    s3: Any = boto3.client("s3", **cloud.client_arguments())
    bucket = f"b-{uuid4().hex[:12]}"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert run(["init"]) == 0

    calls = Calls(monkeypatch)
    assert run(["enable-bucket", bucket, "--extract", "dicom", "--yes", "--no-wait"]) == 0
    assert run(["reconcile", bucket]) == 0
    assert run(["snapshot", "create", bucket, "one"]) == 0
    writing = calls.taken()

    target = str(tmp_path / "k")
    assert run(["get", bucket, "k", "--at", "snapshot:one", "-o", target]) == 0
    assert run(["verify", bucket, "--snapshot", "one", "--bytes"]) == 0
    assert run(["ls", bucket]) == 0
    reading = calls.taken()

    assert run(["snapshot", "delete", bucket, "one", "--confirm", "one"]) == 0
    config = Engine().store.config(bucket)
    assert config is not None
    boto3.client("sqs", **cloud.client_arguments()).purge_queue(QueueUrl=str(config.queue_url))
    calls.taken()
    assert run(["disable-bucket", bucket, "--yes", "--no-wait"]) == 0
    writing |= calls.taken()

    assert writing == allowed("To enable, disable and reconcile") - NOT_SEEN_HERE
    assert reading == allowed("Readers") - {"s3:ListBucket", "kms:Decrypt"}
