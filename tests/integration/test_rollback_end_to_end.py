"""By the commands alone: events, worker, rollback, worker; then a view of now is as the view of then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from snapengine import Engine, View
from snapengine.devcloud import DevCloud
from tests.export_house import AWKWARD, MIB
from tests.integration.test_caught_up import QUICK
from tests.worker_house import starting, wait_until

PATIENCE = 120
"""Seconds: on a machine with much else to do, a process alone takes ten to begin."""


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


def settle_at_once(bucket: str) -> None:
    """The usual two minutes are more than a test can wait for."""
    store = Engine().store
    config = store.config(bucket)
    assert config
    store.put_config(replace(config, settle_ms=0))


def snapengine(cloud: DevCloud, *arguments: str, code: int = 0) -> str:
    """What the command wrote; of one that failed the error."""
    done = subprocess.run(
        [sys.executable, "-m", "snapengine", *arguments],
        env=cloud.environment(),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def data(view: View) -> dict[str, tuple[str | None, int | None]]:
    return {key: (version.etag, version.size) for key, version in view.items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_view_of_now_equals_the_view_of_then_once_the_worker_has_heard_of_the_rollback(
    cloud: DevCloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    s3: Any = boto3.client("s3")
    bucket = f"scans-{uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="null", Body=b"written before versioning")
    snapengine(cloud, "init")
    snapengine(cloud, "enable-bucket", bucket, "--yes", "--no-wait")
    settle_at_once(bucket)
    for key in AWKWARD:
        s3.put_object(Bucket=bucket, Key=key, Body=b"old " + key.encode())
    in_parts(s3, bucket, "parts", b"a" * 5 * MIB, b"b")
    environment = {**os.environ, **cloud.environment()}
    with starting(environment, tmp_path) as start:
        start("--no-http", prelude=QUICK)
        wait_until(lambda: len(Engine().view(bucket)) == len(AWKWARD) + 2, PATIENCE)
        then = Engine().view(bucket)
        time.sleep(0.01)
        for key in ("null", *AWKWARD[::2]):
            s3.put_object(Bucket=bucket, Key=key, Body=b"new " + key.encode())
        for key in ("parts", *AWKWARD[1::2]):
            s3.delete_object(Bucket=bucket, Key=key)
        s3.put_object(Bucket=bucket, Key="late", Body=b"not there then")
        patience = ("--timeout", str(PATIENCE))
        back = ("rollback", bucket, "--at", str(then.ref.at), "--yes", "--json", *patience)
        refused = snapengine(cloud, *back, code=1)
        assert "snapengine reconcile" in refused, "no listing was compared with the log since it was enabled"
        snapengine(cloud, "reconcile", bucket)
        done = json.loads(snapengine(cloud, *back).splitlines()[-1])
        assert (done["copied"], done["marked"]) == (len(AWKWARD) + 2, 1)
        wait_until(lambda: data(Engine().view(bucket)) == data(then), PATIENCE)
        now = Engine().view(bucket)
        assert now.digest() != then.digest(), "versions are others"
        assert now.read_bytes("a//b") == then.read_bytes("a//b") == b"old a//b"
        plan = json.loads(snapengine(cloud, *back).splitlines()[0])
        assert (plan["copy"], plan["mark"], plan["equal"]) == (0, 0, len(AWKWARD) + 2)
        assert data(Engine().view(bucket, then.ref.at)) == data(then), "the past is as it was"


def in_parts(s3: Any, bucket: str, key: str, *bodies: bytes) -> None:
    upload = {"Bucket": bucket, "Key": key}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    parts = [
        {"PartNumber": number, "ETag": s3.upload_part(**upload, PartNumber=number, Body=body)["ETag"]}
        for number, body in enumerate(bodies, 1)
    ]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
