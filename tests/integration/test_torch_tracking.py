"""A DataLoader within an MLflow run: the run's notes are right, and workers add nothing to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

import snapengine
from snapengine.devcloud import DevCloud
from tests.mlflow_house import inputs_of, tags_of
from tests.torch_house import QUIET, NumberedBucket, need_torch, number_of

need_torch()

from torch.utils.data import DataLoader  # noqa: E402  # only where it is installed

pytestmark = [pytest.mark.usefixtures("tracking"), *QUIET]
COUNT = 7


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def bucket(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NumberedBucket:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    found = NumberedBucket(tmp_path, COUNT)
    monkeypatch.setenv("SNAPENGINE_STORE", found.store)
    monkeypatch.setenv("SNAPENGINE_CACHE", "off")
    return found


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("style", ["map", "iterable"])
def test_a_run_that_trains_with_workers_notes_its_view_once_and_exactly(
    bucket: NumberedBucket, context: str, style: str
) -> None:
    with mlflow.start_run() as run:
        view = snapengine.view(bucket.bucket)
        dataset = view.to_torch(number_of, style=style)
        for _ in range(2):
            loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=context)
            read = sorted(int(number) for batch in loader for number in batch)
            assert read == list(range(COUNT))
    assert view.ref.at == run.info.start_time
    (kept,) = bucket.engine().store.notes_of_run(run.info.run_id)
    assert (kept.reference, kept.digest, kept.objects) == (view.reference, view.digest(), COUNT)
    assert list(bucket.engine().store.notes(bucket.bucket)) == [kept]
    assert list(inputs_of(run)) == [bucket.bucket]
    assert sorted(tags_of(run)) == [f"snapengine.digest.{bucket.bucket}", f"snapengine.view.{bucket.bucket}"]
    assert len(mlflow.search_runs(output_format="list")) == 1, "no worker began a run of its own"


def test_a_run_s_data_is_read_again_by_its_id(bucket: NumberedBucket) -> None:
    with mlflow.start_run() as run:
        first = list(snapengine.view(bucket.bucket).to_torch(style="iterable", shuffle=True, seed=1))
    again = snapengine.view(bucket.bucket, at=f"run:/{run.info.run_id}")
    assert list(again.to_torch(style="iterable", shuffle=True, seed=1)) == first
