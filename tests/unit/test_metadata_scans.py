"""A condition fails a query only where it fails on a row that counts, and damage is told from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snapengine import Engine, View
from snapengine.errors import ArchiveDamaged, UsageError
from tests.rows_fake import FakeRows, rows_of
from tests.seed import enable, engine_at, event, record

KEYS = [f"ct/{n:03}" for n in range(30)]
CHANGED = ["ct/000", "ct/011", "ct/020"]
"""In the files these are of the version `stale`."""
NUMBER = "CAST(replace(version_id, 'v-ct/', '') AS INTEGER)"


@pytest.fixture
def view(tmp_path: Path) -> View:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(key, f"v-{key}", 10 + n) for n, key in enumerate(KEYS)])
    return Engine(engine.settings, clock=engine.clock).view("scans")


@pytest.fixture
def rows(view: View, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRows:
    told: dict[str, dict[str, Any]] = {
        key: {"Modality": "CT", "Rows": 512} for key in KEYS if key != "ct/004"
    }
    fake = FakeRows(rows_of(told), tmp_path)
    fake.changed = CHANGED
    return fake.into(monkeypatch)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("numbers", [False, True])
def test_a_row_that_does_not_count_any_more_fails_no_condition(view: View, numbers: bool) -> None:
    with pytest.warns(UserWarning, match="1 "):
        frame = view.metadata(where=f"{NUMBER} < 20", columns=["Modality"], numbers=numbers)
    assert frame["key"].tolist() == [key for key in KEYS[:20] if key != "ct/004"]
    counts = {name: frame.attrs[name] for name in ("matched", "unknown", "without_row")}
    assert counts == {"matched": 19, "unknown": 0, "without_row": 1}
    assert frame.attrs.get("not_matched") == (10 if numbers else None)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("numbers", [False, True])
def test_a_row_that_counts_fails_it_also_where_its_error_names_parquet(view: View, numbers: bool) -> None:
    with pytest.raises(UsageError, match="cannot be worked out for some row") as failed:
        view.metadata(where="CAST('Parquet' || key AS INTEGER) = 1", columns=["Modality"], numbers=numbers)
    assert "ct/" not in str(failed.value)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("options", "says"),
    [({"prefix": 5}, "prefix=5: it is text"), ({"workers": 0}, "not 0")],
)
def test_options_of_other_types_are_refused_with_their_names(
    view: View, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        view.metadata(where="Modality = 'CT'", **options)


@pytest.mark.usefixtures("rows")
def test_what_is_no_number_is_greater_than_every_number_as_the_docs_say(view: View) -> None:
    with pytest.warns(UserWarning, match="1 "):
        frames = [
            view.metadata(where=where, columns=["Modality"])
            for where in ("SQRT(-Rows) > 1e9", "SQRT(-Rows) > 1e9 AND NOT isnan(SQRT(-Rows))", "1 / 0 > Rows")
        ]
    assert [len(frame) for frame in frames] == [29, 0, 29]


@pytest.mark.parametrize("where", ["Modality = 'CT'", "CAST('x' || Modality AS INTEGER) = 1", None])
def test_a_file_that_cannot_be_read_is_told_as_damaged_whatever_the_condition(
    view: View, rows: FakeRows, monkeypatch: pytest.MonkeyPatch, where: str | None
) -> None:
    made = rows._files

    def torn(*given: Any) -> list[Path]:
        files = made(*given)
        data = bytearray(files[0].read_bytes())
        data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
        files[0].write_bytes(data)
        return files

    monkeypatch.setattr(rows, "_files", torn)
    with pytest.raises(ArchiveDamaged, match="cannot be read"):
        view.metadata(where=where, columns=["Modality"])
