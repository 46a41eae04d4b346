"""MLflow for tests: a tracking store of its own for each test. MLflow itself is loaded by those who ask."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_tracking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's SQLite database, with an experiment and no run: making one takes a second."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").create_experiment("tests")
    return path


@pytest.fixture
def tracking(empty_tracking: Path, tmp_path: Path) -> Iterator[str]:
    """The URI of a tracking store that nothing else uses; it is MLflow's while the test runs."""
    from tests.mlflow_house import tracked_at

    path = tmp_path / "mlflow.db"
    shutil.copy(empty_tracking, path)
    with tracked_at(f"sqlite:///{path}") as uri:
        yield uri
