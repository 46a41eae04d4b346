"""MLflow for tests: a tracking store of its own for each test. MLflow itself is loaded by those who ask."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapengine import Engine
from tests.mlflow_server import MlflowServer
from tests.seed import enable, event, record


@pytest.fixture(scope="session")
def empty_tracking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's SQLite database, with an experiment and no run: making one takes a second."""
    import mlflow

    folder = tmp_path_factory.mktemp("mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    client.create_experiment("tests", artifact_location=str(folder / "artifacts"))
    return folder / "mlflow.db"


@pytest.fixture
def tracking(empty_tracking: Path, tmp_path: Path) -> Iterator[str]:
    """The URI of a tracking store that nothing else uses; it is MLflow's while the test runs."""
    from tests.mlflow_house import tracked_at

    path = tmp_path / "mlflow.db"
    shutil.copy(empty_tracking, path)
    with tracked_at(f"sqlite:///{path}") as uri:
        yield uri


@pytest.fixture
def tracked_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """`scans` with three objects, in the table that this process uses, by the clock of the day."""
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path}/log.db")
    engine = Engine()
    engine.store.create()
    enable(engine)
    record(engine, [event("ct/a", "v1", 1, size=100), event("ct/b", "v2", 2), event("mr/c", "v3", 3)])
    return engine


@pytest.fixture
def mlflow_server(tmp_path: Path, empty_tracking: Path) -> Iterator[MlflowServer]:
    """A server of its own for the test."""
    shutil.copy(empty_tracking, tmp_path / "server.db")
    server = MlflowServer(tmp_path)
    server.start()
    yield server
    server.stop()
