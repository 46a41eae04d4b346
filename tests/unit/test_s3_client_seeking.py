"""Rows of a real engine from any key on: what is asked for again is what a reader had not yet seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapengine.model import SnapshotRef
from tests.seed import enable, engine_at, event, marker, record, removal

KEYS = ["", "a", "b/1", "b/2", "b/2\U0001f600", "b/\uffff", "c", "é"]


@pytest.mark.parametrize("prefix", ["", "b/", "b/2", "x"])
@pytest.mark.parametrize("after", KEYS)
def test_an_engine_gives_the_rows_after_a_key_as_it_gives_them_all(
    tmp_path: Path, prefix: str, after: str
) -> None:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(key, f"v-{key}", 1) for key in KEYS[1:]])
    record(engine, [marker("b/1", "m", 2), event("b/2", "v2", 2), event("a", "x", 2), removal("a", "x", 3)])
    view = engine.view("scans", prefix=prefix)
    ref = SnapshotRef("scans", prefix, view.ref.at, view.epoch)
    found = [v for batch in engine.batches(ref, view._epoch) for v in batch["version_id"].to_pylist()]
    if after > prefix and not after.startswith(prefix):
        rest = view.to_batches(["version_id"], after=after)
    else:
        rest = engine.batches(ref, view._epoch, ["version_id"], after)
    later = [version.version_id for version in view.versions() if version.key > after]
    assert [v for batch in rest for v in batch["version_id"].to_pylist()] == later
    assert found[len(found) - len(later) :] == later
    narrowed = view.select([*view]) if view else view
    kept = narrowed.to_batches(["version_id"], after=after)
    assert [v for batch in kept for v in batch["version_id"].to_pylist()] == later
