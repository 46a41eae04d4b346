"""A view as MLflow's dataset: out through a run's inputs, and back to the very same view."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.types import Schema

import snapengine
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.errors import DigestDiffers, NoSuchEpoch
from snapengine.model import RunNote
from snapengine.tracking.dataset import COLUMNS, SnapEngineSource, ViewDataset, dataset_of
from tests.seed import T0, enable, engine_at, event, record, removal

from_snapengine: Any = mlflow.data.from_snapengine  # type: ignore[attr-defined]  # by entry point


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> snapengine.Engine:
    """A bucket of three objects, in the table that this process uses."""
    engine = engine_at(tmp_path / "log.db")
    monkeypatch.setenv("SNAPENGINE_STORE", engine.settings.store)
    enable(engine)
    record(engine, [event("ct/a", "v1", 1, size=100), event("ct/b", "v2", 2), event("mr/c", "v3", 3)])
    return engine


def logged(dataset: ViewDataset, **options: Any) -> Any:
    """The input of a run that logs the dataset, as the tracking store gives it back."""
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, **options)
    inputs = mlflow.get_run(run.info.run_id).inputs
    assert inputs is not None
    (given,) = inputs.dataset_inputs
    return given


def test_a_view_comes_back_from_a_run_s_inputs(engine: snapengine.Engine, tracking: str) -> None:
    view = engine.view("scans", T0 + 2500, prefix="ct/")
    given = logged(from_snapengine(view), context="training").dataset
    assert given.name == "scans/ct/@2023-11-14T22:13:22.500Z~1"
    assert given.digest == view.digest().removeprefix("sha256:")[:32]
    assert given.source_type == "snapengine"
    assert json.loads(given.profile) == {"num_rows": 2, "bytes": 110}
    back = mlflow.data.get_source(given).load()
    assert back == view
    assert list(back.items()) == list(view.items())


def test_a_reference_will_do_and_a_name_of_one_s_own(engine: snapengine.Engine, tracking: str) -> None:
    view = engine.view("scans", T0 + 2500)
    given = logged(from_snapengine(view.reference, name="train", digest="abc")).dataset
    assert (given.name, given.digest) == ("train", "abc")
    assert mlflow.data.get_source(given).load() == view


def test_a_slice_of_all_versions_comes_back_as_one(engine: snapengine.Engine, tracking: str) -> None:
    record(engine, [event("ct/a", "v4", 4), removal("ct/b", "v2", 5)])
    view = engine.slice("scans", T0, T0 + 10_000, versions="all")
    given = logged(from_snapengine(view)).dataset
    assert [column["name"] for column in json.loads(given.schema)["mlflow_colspec"]][-1] == "became"
    back = mlflow.data.get_source(given).load()
    assert back == view
    assert back.to_arrow().equals(view.to_arrow())


def test_the_schema_is_in_mlflow_s_shape_and_that_of_a_view(engine: snapengine.Engine, tracking: str) -> None:
    dataset = from_snapengine(engine.view("scans", T0 + 2500))
    told = json.loads(dataset.to_dict()["schema"])["mlflow_colspec"]
    assert Schema.from_json(json.dumps(told)) == dataset.schema
    assert dataset.schema.input_names() == VIEW_SCHEMA.names
    of_arrow = {"string": "string", "int64": "long", "timestamp[ms, tz=UTC]": "datetime"}
    assert [(f.name, of_arrow[str(f.type)], not f.nullable) for f in VIEW_SCHEMA] == list(COLUMNS)


def test_what_was_noted_is_logged_with_its_exact_source(engine: snapengine.Engine) -> None:
    view = engine.view("scans", T0 + 2500)
    note = RunNote("r", "scans", "scans", view.reference, T0, T0, view.digest(), 2, 110)
    dataset = dataset_of(note)
    assert dataset.source.to_dict() == {"reference": view.reference, "digest": view.digest()}
    assert (dataset.name, dataset.digest) == ("scans", view.digest()[7:39])
    assert dataset.profile == {"num_rows": 2, "bytes": 110}


def test_a_source_whose_digest_is_another_now_is_not_given(engine: snapengine.Engine) -> None:
    view = engine.view("scans", T0 + 2500)
    with pytest.raises(DigestDiffers, match="it was noted with sha256:00"):
        SnapEngineSource(view.reference, "sha256:" + "0" * 64).load()
    with pytest.raises(NoSuchEpoch):
        SnapEngineSource(view.reference.replace("~1", "~99")).load()


def test_views_and_references_resolve_to_our_source_and_others_do_not(engine: snapengine.Engine) -> None:
    view = engine.view("scans", T0 + 2500)
    for raw in (view, view.reference):
        source = resolve_dataset_source(raw)
        assert isinstance(source, SnapEngineSource)
        assert source.reference == view.reference
    assert not SnapEngineSource._can_resolve("s3://scans/ct/a")
    assert not SnapEngineSource._can_resolve(replace(view.ref))


def test_mlflow_loads_nothing_heavy_for_it() -> None:
    code = (
        "import sys, mlflow.data.dataset, mlflow.data.dataset_source\n"
        "before = set(sys.modules)\n"
        "import snapengine.tracking.dataset\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert set(done.stdout.split()) & {"boto3", "botocore", "pyarrow", "duckdb", "sqlite3"} == set()
