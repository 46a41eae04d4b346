"""What MLflow is told of a note: a run's tags, and an input dataset. Each may be told again."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from snapengine.model import RunNote
from snapengine.run_notes import input_tags, run_tags
from snapengine.tracking.dataset import dataset_of


def tell_tags(uri: str, note: RunNote) -> None:
    """Raises `mlflow.exceptions.MlflowException`, and what a tracking store raises."""
    tags = [RunTag(key, value) for key, value in run_tags(note).items()]
    MlflowClient(tracking_uri=uri).log_batch(note.run_id, tags=tags)


def tell_tag(uri: str, run_id: str, key: str, value: str) -> None:
    """The same errors."""
    MlflowClient(tracking_uri=uri).set_tag(run_id, key, value)


def tell_input(uri: str, note: RunNote, context: str | None = None) -> None:
    """The same errors. Of one dataset MLflow keeps one context a run: the first."""
    tags = input_tags(note) | ({MLFLOW_DATASET_CONTEXT: context} if context else {})
    logged = DatasetInput(
        Dataset(**dataset_of(note).to_dict()),
        [InputTag(key, value) for key, value in tags.items()],
    )
    MlflowClient(tracking_uri=uri).log_inputs(note.run_id, [logged])
