"""What the files' footers prove of all rows is not looked for in them; whatever they leave open is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from metadata_extractors import querying
from snapengine import Engine, View
from tests.rows_fake import FakeRows, rows_of
from tests.seed import enable, engine_at, event, record

KEYS = [f"ct/{n:03}" for n in range(30)]
CT = "Modality = 'CT' AND Rows >= 512"


@pytest.fixture
def view(tmp_path: Path) -> View:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(key, f"v-{key}", 10 + n) for n, key in enumerate(KEYS)])
    return Engine(engine.settings, clock=engine.clock).view("scans")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The conditions of which the files were looked through for what is neither chosen nor ruled out."""
    found: list[str] = []
    left_over = querying._left_over

    def noted(text: str) -> str:
        found.append(text)
        return left_over(text)

    monkeypatch.setattr(querying, "_left_over", noted)
    return found


Rewrite = Callable[[Path], None]


@pytest.fixture
def kept(view: View, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., FakeRows]:
    """Files in which every third key is MR, all have 512 Rows, and the outcome is `ok`."""

    def keep(rewrite: Rewrite | None = None, **told: dict[str, Any]) -> FakeRows:
        usual = {key: {"Modality": "MR" if n % 3 else "CT", "Rows": 512} for n, key in enumerate(KEYS)}
        fake = FakeRows(
            rows_of({key: {**values, **told.get(key[3:], {})} for key, values in usual.items()}), tmp_path
        )
        made = fake._files

        def files(*given: Any) -> list[Path]:
            paths = made(*given)
            if rewrite is not None:
                rewrite(paths[1])
            return paths

        monkeypatch.setattr(fake, "_files", files)
        return fake.into(monkeypatch)

    return keep


def counts(view: View, where: str | None) -> tuple[int, int, dict[str, int]]:
    table = view.metadata(where=where, columns=["Modality"])
    return len(table), table.attrs["unknown"], table.attrs["outcomes"]


@pytest.mark.parametrize(
    ("where", "matched"),
    [(CT, 10), (None, 30), ("NOT (Modality = 'CT')", 20), ("Rows IN (1, 512)", 30), ("Rows > 512", 0)],
)
def test_what_the_footers_prove_is_not_looked_for(
    view: View, kept: Callable[..., FakeRows], looks: list[str], where: str | None, matched: int
) -> None:
    kept()
    assert counts(view, where) == (matched, 0, {})
    assert looks == []


def test_a_changed_row_is_counted_whatever_the_footers_prove(
    view: View, kept: Callable[..., FakeRows], looks: list[str]
) -> None:
    rows = kept(**{"003": {"Rows": 600}, "006": {"Rows": 600}})
    rows.changed = ["ct/003", "ct/005"]
    assert counts(view, "Rows > 512") == (2, 0, {})
    assert looks == []


@pytest.mark.parametrize(
    ("where", "matched", "unknown"),
    [
        ("NULLIF(Rows, 512) > 1", 0, 30),
        ("CASE WHEN Modality = 'CT' THEN true END", 10, 20),
        ("TRY(Rows % 0) = 1", 0, 30),
        ("TRY_CAST(Modality AS INTEGER) = 1", 0, 30),
        ("Modality IN ('CT', NULL)", 10, 20),
        ("Rows + 1 > 2", 30, 0),
    ],
)
def test_a_condition_that_may_be_null_of_any_values_is_looked_for(
    view: View, kept: Callable[..., FakeRows], looks: list[str], where: str, matched: int, unknown: int
) -> None:
    kept()
    assert counts(view, where) == (matched, unknown, {})
    assert looks


def test_a_null_in_a_column_of_the_condition_is_unknown(
    view: View, kept: Callable[..., FakeRows], looks: list[str]
) -> None:
    kept(**{"011": {"Rows": None}, "012": {"Rows": None}})
    assert counts(view, "Rows >= 512 OR Modality = 'CT'") == (29, 1, {})
    assert looks
    looks.clear()
    assert counts(view, "Modality = 'CT'") == (10, 0, {})
    assert looks == []  # no other column matters


def test_an_outcome_that_is_not_usual_is_counted(
    view: View, kept: Callable[..., FakeRows], looks: list[str]
) -> None:
    kept(**{"009": {"outcome": "failed"}, "010": {"outcome": "not_matched"}})
    assert counts(view, CT) == (10, 0, {"failed": 1})
    assert looks


def test_an_object_of_which_the_files_have_no_row_is_counted(
    view: View, kept: Callable[..., FakeRows], looks: list[str]
) -> None:
    rows = kept()
    assert rows.rows is not None
    rows.rows = rows.rows.slice(1)
    with pytest.warns(UserWarning, match="1 of the objects"):
        assert counts(view, CT) == (9, 0, {})
    assert looks


def test_files_without_statistics_are_looked_through(
    view: View, kept: Callable[..., FakeRows], looks: list[str]
) -> None:
    kept(lambda path: pq.write_table(pq.read_table(path), path, write_statistics=["Modality", "outcome"]))
    assert counts(view, CT) == (10, 0, {})
    assert looks


def test_a_file_that_lacks_the_column_has_nulls_there(
    view: View, kept: Callable[..., FakeRows], looks: list[str]
) -> None:
    kept(lambda path: pq.write_table(pq.read_table(path).drop_columns(["Rows"]), path))
    assert counts(view, "Rows > 1 OR Modality = 'CT'") == (25, 5, {})
    assert looks


def test_all_numbers_are_counted_in_the_files(
    view: View, kept: Callable[..., FakeRows], looks: list[str]
) -> None:
    kept()
    table = view.metadata(where=CT, columns=["Modality"], numbers=True)
    assert (len(table), table.attrs["not_matched"], table.attrs["outcomes"]) == (10, 20, {"ok": 30})
