"""From a PUT to a row, by the commands alone: event, worker, extraction queue, extract worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.row_reading import joined
from tests.dicom_files import dicom


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


def snapengine(cloud: DevCloud, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "snapengine", *arguments],
        env=cloud.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_lands_has_a_row_as_of_its_time_and_an_overwrite_has_its_own(
    cloud: DevCloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    s3: Any = boto3.client("s3")
    bucket = f"scans-{uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="earlier", Body=dicom(Modality="OT", PatientName="Doe^Jane"))
    snapengine(cloud, "init")
    snapengine(cloud, "enable-bucket", bucket, "--yes", "--no-wait", "--extract", "dicom,object")
    s3.put_object(Bucket=bucket, Key="a", Body=dicom(Modality="CT"), Tagging="study=7")
    work = ("worker", "--once", "--no-http"), ("extract-worker", "--once", "--no-http", "--processes", "1")
    for each in work:
        snapengine(cloud, *each)
    engine = Engine()
    before = engine.view(bucket)
    s3.put_object(Bucket=bucket, Key="a", Body=dicom(Modality="MR"))
    for each in work:
        snapengine(cloud, *each)
    told = json.loads(snapengine(cloud, "extract", bucket, "--json", "--processes", "1"))
    assert (told["objects"], told["had_rows"]) == (2, 1)
    assert modalities(engine, before) == {"earlier": None, "a": "CT"}
    assert modalities(engine, engine.view(bucket)) == {"earlier": "OT", "a": "MR"}


def modalities(engine: Engine, view: Any) -> dict[str, str]:
    epoch = engine.store.epoch(view.bucket, view.epoch)
    assert epoch
    rows = joined(engine, view.ref, epoch, "dicom", identifying=False)
    assert not rows.files
    return {row["key"]: row["Modality"] for batch in rows.batches() for row in batch.to_pylist()}
