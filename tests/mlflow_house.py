"""What tests of tracking share: MLflow at a tracking store for a while, and what a run carries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow

_UNSET: Any = None


@contextmanager
def tracked_at(uri: str) -> Iterator[str]:
    """While inside, MLflow tracks there; no run is active before or after."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("tests")
    try:
        yield uri
    finally:
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.set_tracking_uri(_UNSET)


def tags_of(run: Any) -> dict[str, str]:
    """Ours of a run's tags, as the tracking store has them."""
    tags = mlflow.MlflowClient().get_run(run.info.run_id).data.tags
    return {key: value for key, value in tags.items() if key.startswith("snapengine.")}


def inputs_of(run: Any) -> dict[str, Any]:
    """The inputs of a run by the names of their datasets, as the tracking store has them."""
    inputs = mlflow.MlflowClient().get_run(run.info.run_id).inputs
    found = inputs.dataset_inputs if inputs else []
    by_name = {given.dataset.name: given for given in found}
    assert len(by_name) == len(found)
    return by_name


def input_tags_of(given: Any) -> dict[str, str]:
    return {tag.key: tag.value for tag in given.tags}
