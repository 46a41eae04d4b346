"""The package's face: what it names, what importing it costs, and that its wheel works elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import snapengine
from snapengine import errors

ROOT = Path(__file__).parents[2]
HEAVY = {"boto3", "pandas", "pyarrow", "duckdb", "torch", "typer", "mlflow", "pydicom", "moto"}


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=170, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_importing_snapengine_loads_nothing_heavy() -> None:
    loaded = run(sys.executable, "-c", "import snapengine, sys; print(*sys.modules)").split()
    assert "snapengine" in loaded
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()


def test_the_public_names_are_these() -> None:
    assert snapengine.__all__ == [
        "Completeness",
        "Diff",
        "Engine",
        "ObjectVersion",
        "Settings",
        "SnapEngineError",
        "SnapshotRef",
        "View",
        "metadata",
        "metadata_table",
        "open_ref",
        "slice",
        "view",
    ]
    assert all(getattr(snapengine, name).__doc__ for name in snapengine.__all__)


def test_every_error_has_one_root_a_code_of_its_own_and_a_place_in_the_tree() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SnapEngineError)
    ]
    codes = [kind.code for kind in kinds]
    assert not [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in kinds
    ]
    assert len(set(codes)) == len(codes) > 20
    assert all(kind.__name__ in str(errors.__doc__) for kind in kinds)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_built_wheel_installs_into_a_clean_environment_and_works_there(tmp_path: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    (wheel,) = tmp_path.glob("snapengine-*.whl")
    environment = tmp_path / "clean"
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "requirements.txt", wheel)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env["SNAPENGINE_STORE"] = f"sqlite:///{tmp_path}/log.db"
    command = environment / "bin" / "snapengine"
    for arguments in (["--version"], ["init"], ["status", "--json"]):
        done = subprocess.run(
            [command, *arguments],
            capture_output=True,
            text=True,
            env=env,
            timeout=60,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    script = (
        "import snapengine, ingest_worker.records, metadata_extractors.registry, readers, pathlib\n"
        "assert 'clean' in snapengine.__file__\n"
        "assert pathlib.Path(snapengine.__file__).with_name('py.typed').exists()\n"
        "try: snapengine.view('nobody')\n"
        "except snapengine.SnapEngineError as error: print(error.code)"
    )
    done = subprocess.run(
        [python, "-c", script], capture_output=True, text=True, env=env, timeout=60, cwd=tmp_path, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("bucket-not-enabled", 0), done.stderr
