"""Train on DICOM metadata, with a run that knows its data.

    export SNAPENGINE_STORE=dynamodb://snapengine MLFLOW_TRACKING_URI=http://mlflow:5000
    python examples/train_mlflow.py scans

Nothing here says "snapshot": the run notes the views that it opens. With `SNAPENGINE_AT=run:/<id>` the same
script trains on an earlier run's data.
"""

from __future__ import annotations

import sys

import mlflow
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import snapengine

FEATURES = ["Rows", "Columns", "BitsStored", "SamplesPerPixel"]


def train(bucket: str) -> str:
    """Tell CT images from others by the shape of their pixels; the run's id."""
    with mlflow.start_run() as run:
        view = snapengine.view(bucket, note="training")  # as this run began
        table = view.metadata(columns=["Modality", *FEATURES], where="Rows IS NOT NULL", missing=None)
        samples = table[FEATURES].astype("float64").fillna(0.0)
        labels = table["Modality"] == "CT"
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(samples, labels)
        mlflow.log_param("features", ",".join(FEATURES))
        mlflow.log_metric("objects", len(view))
        mlflow.log_metric("images", len(table))
        mlflow.log_metric("accuracy", model.score(samples, labels))
    return str(run.info.run_id)


if __name__ == "__main__":
    print(f"run:/{train(sys.argv[1])}")
