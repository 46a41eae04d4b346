"""What a round of archiving says of rows of metadata, and which errors it does not pass over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snapengine.cli.main import run
from snapengine.errors import BadData, LogDamaged, SchemaTooNew
from tests.archive_house import INSTANTS, House, play, sqlite_house
from tests.integration.test_row_queries import FIRST, append, rows_of
from tests.seed import T0


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    made = sqlite_house(tmp_path)
    play(made)
    made.clock.now = T0 + 3_600_000
    monkeypatch.setenv("SNAPENGINE_STORE", made.store)
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", made.archive)
    monkeypatch.setenv("SNAPENGINE_CACHE", "off")
    return made


def extract(house: House) -> None:
    """Append four rows."""
    versions = list(house.engine().view("scans", INSTANTS[-1]).versions())[:4]
    append(house, rows_of(versions, FIRST, 5000))


def test_rows_are_told_beside_observations_and_alone(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(house)
    assert run(["archive", "scans"]) == 0
    assert "71 observations and 4 rows of metadata in 1 new segment" in capsys.readouterr().out
    extract(house)
    assert run(["archive", "scans"]) == 0
    assert "  4 rows of metadata in 1 new segment" in capsys.readouterr().out
    extract(house)
    assert run(["archive", "scans", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["observations"], told["rows"]) == (0, 4)


@pytest.mark.parametrize("error", [LogDamaged, SchemaTooNew])
def test_a_damaged_log_or_a_newer_format_leaves_no_checkpoint_without_metadata(
    house: House, monkeypatch: pytest.MonkeyPatch, error: type[BadData]
) -> None:
    def fails(*_: Any) -> Any:
        raise error("of the test")

    extract(house)
    monkeypatch.setattr("snapengine.archiving.live_rows._of_extractor", fails)
    with pytest.raises(error, match="of the test"):
        house.round(checkpoint_now=True)
    assert not house.manifests().checkpoints


def test_versions_of_an_extractor_that_contradict_each_other_leave_it_out_with_a_warning(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        raise BadData("Rows is of two types.")

    extract(house)
    monkeypatch.setattr("snapengine.archiving.live_rows._of_extractor", fails)
    house.round(checkpoint_now=True)
    assert "no metadata of extractor dicom: Rows is of two types." in caplog.text
    assert not house.manifests().checkpoints[-1].extractors
