"""Where torch is not installed: order, shards and states work, and a dataset says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ABSENT = "import sys; sys.modules['torch'] = None\n"
ORDER = """
from readers.sampling import Progress, Sampling, Shard
assert sorted(Sampling("snap://b@now/", 9, True, 1).rows(0, Shard())) == list(range(9))
print("fine")
"""
DATASET = """
import snapengine
from snapengine.errors import UsageError
from tests.seed import enable, engine_at, event, record
from pathlib import Path
engine = engine_at(Path(sys.argv[1]))
enable(engine)
record(engine, [event("a", "v1", 1)])
for style in ("map", "iterable"):
    try:
        engine.view("scans").to_torch(style=style)
    except UsageError as error:
        print(error)
"""


def said(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", ABSENT + program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_order_and_shards_need_no_torch() -> None:
    assert said(ORDER) == "fine\n"


def test_a_dataset_says_that_torch_is_missing_and_how_to_have_it(tmp_path: Path) -> None:
    lines = said(DATASET, str(tmp_path / "log.db")).splitlines()
    assert len(lines) == 2
    assert all("torch is not installed" in line and "snapengine[torch]" in line for line in lines)
