"""docs/mlflow.md runs as it stands, its policy lets notes be made and no more, and the example trains."""

from __future__ import annotations

import io
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest

import snapengine
from snapengine.cli.main import run as command
from snapengine.devcloud import DevCloud
from snapengine.stores import dynamodb_codec as codec
from snapengine.tracking import views
from tests.dicom_files import WHEEL
from tests.iam import Request, decide
from tests.mlflow_house import inputs_of, tags_of
from tests.seed import enable, event, record, removal

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "mlflow.md").read_text()
EXAMPLE = ROOT / "examples" / "train_mlflow.py"
IMAGES = ["CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm", "rtplan.dcm", "ExplVR_BigEnd.dcm"]


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking: str) -> Iterator[snapengine.Engine]:
    """A bucket `scans` of real DICOM files, watched for a while."""
    with DevCloud() as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path}/log.db")
        s3: Any = boto3.client("s3", **cloud.client_arguments())
        s3.create_bucket(Bucket="scans")
        s3.put_bucket_versioning(Bucket="scans", VersioningConfiguration={"Status": "Enabled"})
        engine = snapengine.Engine()
        engine.store.create()
        enable(engine)
        landed = []
        for number, name in enumerate(IMAGES):
            body = (WHEEL / "test_files" / name).read_bytes()
            reply = s3.put_object(Bucket="scans", Key=f"ct/{name}", Body=io.BytesIO(body))
            etag = reply["ETag"].strip('"')
            landed.append(event(f"ct/{name}", reply["VersionId"], number, size=len(body), etag=etag))
        record(engine, landed)
        yield engine


def test_the_page_runs_as_it_stands(scans: snapengine.Engine) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)  # noqa: S102  # our own page
    kept = views(names["run_id"])
    assert names["view"].reference in {each.reference for each in kept}
    assert [each.query for each in kept if each.query] == ["Modality = 'CT'"]
    assert len(kept) == 3


def test_every_tag_that_the_page_names_is_one_that_runs_carry(
    scans: snapengine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENGINE_TRACK", "scans,s3://x")
    with mlflow.start_run() as run:
        snapengine.view("scans").where("Modality = 'CT'", missing=None)
    carried = {re.sub(r"^(snapengine\.(view|digest|query))\..*", r"\1", tag) for tag in tags_of(run)}
    named = {
        tag.rstrip(".")
        for tag in re.findall(r"`(snapengine\.(?:at|buckets|ignored|view|digest|query))\b", PAGE)
    }
    assert carried == named


def test_the_example_trains_on_real_metadata_and_again_on_the_same_data(
    scans: snapengine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = runpy.run_path(str(EXAMPLE))["train"]
    first = train("scans")
    record(scans, [removal("ct/MR_small.dcm", scans.view("scans")["ct/MR_small.dcm"].version_id, 60)])
    second = train("scans")
    monkeypatch.setenv("SNAPENGINE_AT", f"run:/{first}")
    third = train("scans")
    runs = [mlflow.get_run(run_id) for run_id in (first, second, third)]
    figures = [run.data.metrics for run in runs]
    assert [f["objects"] for f in figures] == [6, 5, 6]
    assert figures[0] == figures[2]
    assert 0.5 <= figures[0]["accuracy"] <= 1
    digests = [inputs_of(run)["scans"].dataset.digest for run in runs]
    assert digests[0] == digests[2] != digests[1]
    assert command(["diff", f"run:/{first}", f"run:/{second}"]) == 0
    assert command(["verify", f"run:/{first}", "--bytes"]) == 0


def test_a_role_that_may_read_may_note_by_the_policy_and_do_nothing_else() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    statement = json.loads(block)
    policy = {"Version": "2012-10-17", "Statement": [statement]}

    def may(action: str, *partitions: str) -> bool:
        context = {"dynamodb:LeadingKeys": partitions} if partitions else {}
        return decide([policy], Request(action, statement["Resource"], context)) == "allowed"

    for action in ("dynamodb:PutItem", "dynamodb:GetItem", "dynamodb:Query"):
        assert may(action, codec.run_key("a"))
        assert may(action, codec.runs_key("scans"))
        for key in (codec.log_key("scans", 0), codec.snapshot_key("RUN#"), codec.identifying_key("scans", 0)):
            assert not may(action, key)
        assert not may(action)
    assert not may("dynamodb:DeleteItem", codec.run_key("a"))
