"""docs/guarantees.md names tests; each of them must be there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_guarantees_name_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "guarantees.md").read_text()))
    code = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "snapengine" / "testing").glob("*.py")]
    defined = {name for file in code for name in re.findall(r"def (test_\w+)\(", file.read_text())}
    assert len(named) > 20
    assert named - defined == set()
