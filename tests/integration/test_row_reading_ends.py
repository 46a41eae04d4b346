"""What is read beside a query, of what has changed since a checkpoint, ends with the query if that fails."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapengine.errors import UsageError
from snapengine.ranges import by_ranges
from tests.archive_house import INSTANTS, House, sqlite_house
from tests.integration.test_row_queries import play_with_rows
from tests.seed import T0

NAME = "snapengine-changes"


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = sqlite_house(tmp_path)
    play_with_rows(made)
    made.clock.now = T0 + 3_600_000
    made.round(checkpoint_now=True)
    return made


@pytest.fixture
def endless(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reading what has changed has ranges without end, until the test has."""
    over = threading.Event()

    def ranges(*given: Any, **how: Any) -> Iterator[Any]:
        (table, *_) = list(by_ranges(*given, **how))
        while not over.is_set():
            yield table.slice(0, 0)
            time.sleep(0.01)

    monkeypatch.setattr("snapengine.row_reading.by_ranges", ranges)
    yield
    over.set()


def ends(condition: Callable[[], bool]) -> bool:
    """Whether it comes to be within ten seconds."""
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def none_reads() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]


@pytest.mark.usefixtures("endless")
def test_a_query_that_fails_leaves_no_thread_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    view = house.engine().view(house.bucket)
    monkeypatch.setattr("metadata_extractors.querying._over_files", interrupted)
    with pytest.raises(KeyboardInterrupt) as failed:
        view.metadata(where="Modality = 'CT'", columns=["Modality"])
    assert ends(none_reads)
    assert failed.tb is not None  # all that the query held is still there


@pytest.mark.usefixtures("endless")
def test_what_nobody_asks_for_any_more_is_not_read_to_its_end(house: House) -> None:
    view = house.engine().view(house.bucket)
    joined = view.joined("dicom", identifying=False, columns=["Modality"])
    assert joined.files
    assert not none_reads()
    del joined
    gc.collect()
    assert ends(none_reads)


def test_a_condition_that_fails_leaves_no_thread_behind(house: House) -> None:
    with pytest.raises(UsageError, match="cannot be worked out"):
        house.engine().view(house.bucket, INSTANTS[-1]).metadata(
            where="CAST(Modality AS INTEGER) = 1", columns=["Modality"], missing="warn"
        )
    assert ends(none_reads)
