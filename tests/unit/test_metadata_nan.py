"""What is not a number is chosen or not for its value alone, and not for where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapengine import Engine, View
from tests.rows_fake import FakeRows, rows_of
from tests.seed import enable, engine_at, event, record

THICKNESS = {"a": 1.0, "b": float("nan"), "c": 2.0, "e": None}


@pytest.fixture
def view(tmp_path: Path) -> View:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(key, f"v-{key}", 10 + n) for n, key in enumerate(THICKNESS)])
    return Engine(engine.settings, clock=engine.clock).view("scans")


@pytest.mark.parametrize("files", [False, True], ids=["from the log", "from files"])
@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("SliceThickness > 5", "b"),
        ("SliceThickness <> 1", "bc"),
        ("SliceThickness = 'nan'", "b"),
        ("isnan(SliceThickness)", "b"),
        ("NOT isnan(SliceThickness)", "ac"),
        ("SliceThickness < 5", "ac"),
        ("SliceThickness BETWEEN 1 AND 3", "ac"),
    ],
)
def test_not_a_number_is_greater_than_every_number_wherever_it_is_read(
    view: View,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    where: str,
    chosen: str,
    files: bool,
) -> None:
    told = {key: {"Modality": "CT", "SliceThickness": value} for key, value in THICKNESS.items()}
    rows = rows_of(told, ["Modality", "SliceThickness"])
    FakeRows(rows, tmp_path if files else None).into(monkeypatch)
    found = view.metadata(where=where, columns=["SliceThickness"])
    assert "".join(found["key"]) == chosen
    assert (found.attrs["matched"], found.attrs["unknown"]) == (len(chosen), 1)
