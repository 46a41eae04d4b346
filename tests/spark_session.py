"""A local Spark in a process of its own: one core, loopback only, ended with the test.

Run as a program it reads a JSON list of SQL statements from standard input and writes a list of rows for each
to standard output, as JSON. What Spark says goes to standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from signal import SIGKILL
from typing import Any

from tests.servers import ServiceUnavailable

SECONDS = 300
"""In which all statements must be done."""

_OPTIONS = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "512m",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.codegen.wholeStage": "false",  # compiling takes longer than these few rows
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.catalogImplementation": "in-memory",
}


def spark_rows(statements: Sequence[str], folder: Path) -> list[list[list[Any]]]:
    """The rows that each statement gives; `folder` is for what Spark writes meanwhile.

    Raises `ServiceUnavailable` where PySpark or Java is missing.
    """
    if find_spec("pyspark") is None:
        raise ServiceUnavailable(
            "PySpark is missing: .venv/bin/pip install --no-deps -r requirements-spark.txt"
        )
    if which("java") is None:
        raise ServiceUnavailable("Java is missing, which PySpark needs: install a JDK, 17 or later")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.spark_session", str(folder)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(folder / "local")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, said = process.communicate(json.dumps(statements), timeout=SECONDS)
    finally:
        _end(process)
    if process.returncode:
        raise AssertionError(f"Spark failed:\n{said[-4000:]}")
    results: list[list[list[Any]]] = json.loads(output)
    return results


def _end(process: subprocess.Popen[str]) -> None:
    """End it and its Java, which are a process group of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, SIGKILL)
    process.wait(10)


def _main(folder: Path) -> None:
    statements = json.load(sys.stdin)
    results = os.dup(1)
    os.dup2(2, 1)  # what Spark and Java print is not a result
    builder = import_module("pyspark.sql").SparkSession.builder.master("local[1]").appName("snapengine")
    for name, value in {**_OPTIONS, "spark.sql.warehouse.dir": str(folder / "warehouse")}.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        found = [[list(row) for row in spark.sql(statement).collect()] for statement in statements]
    finally:
        spark.stop()
    with os.fdopen(results, "w") as output:
        json.dump(found, output)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
