"""Rows from a key on, and listings, of a view that is read from an archive's files in many small ranges."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from readers.s3_listing import Listings, PageRequest
from snapengine import ranges, view_rows
from snapengine.archive import writing
from snapengine.archiving import checkpoints, making
from snapengine.views import View
from tests.archive_house import INSTANTS, KEYS, House, play, sqlite_house
from tests.seed import event
from tests.unit.test_s3_client_pages import entries

AFTER = ["", "ct/", *KEYS[1::4], "ct/05!", "\U0010ffff"]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """All but its last epoch is archived; ranges hold four rows."""
    for module, name, value in (
        (ranges, "ROWS_AT_ONCE", 4),
        (ranges, "GROUP_ROWS", 2),
        (writing, "ROW_GROUP_ROWS", 2),
        (making, "OBSERVATION_ROWS", 5),
        (checkpoints, "OBSERVATION_ROWS", 3),
        (checkpoints, "OBJECT_ROWS", 2),
        (view_rows, "FEW_ROWS", 0),
    ):
        assert isinstance(getattr(module, name), int)
        monkeypatch.setattr(module, name, value)
    house = sqlite_house(tmp_path)
    play(house)
    house.round(checkpoint_now=True)
    house.record(4000, [event(key, f"g-{key}", 3900) for key in KEYS[::3]])
    assert house.manifests().checkpoints
    return house


def views(house: House) -> list[View]:
    engine = house.engine()
    instants = [*INSTANTS[1::2], house.clock.now]
    found = [engine.view(house.bucket, at, prefix=prefix) for at in instants for prefix in ("", "ct/")]
    return [*found, engine.slice(house.bucket, INSTANTS[2], INSTANTS[-1])]


def test_the_rows_after_a_key_are_the_rest_of_all_rows(house: House) -> None:
    for view in views(house):
        assert view.rows_if_few() is None, "it is streamed"
        whole: list[dict[str, Any]] = view.to_arrow().to_pylist()
        again = house.engine().open_ref(view.reference)
        for prefix in ("", "ct/", "ct/0"):
            for after in AFTER:
                rows = [
                    row for batch in again.to_batches(prefix=prefix, after=after) for row in batch.to_pylist()
                ]
                assert rows == [r for r in whole if r["key"].startswith(prefix) and r["key"] > after]


def test_pages_from_an_archive_are_the_listing(house: House) -> None:
    for view in views(house):
        keys = set(view)
        for prefix, delimiter in (("", ""), ("", "/"), ("ct/0", ""), ("ct/", "0")):
            names: list[str] = []
            listings, after = Listings(view), ""
            for number in range(100):
                if number % 3 == 2:
                    listings.close()
                page = listings.page(PageRequest(prefix, delimiter, after, 3))
                names += sorted([row["key"] for row in page.objects] + page.prefixes)
                if page.last is None:
                    break
                after = page.last
            assert names == [name for name, _ in entries(keys, PageRequest(prefix, delimiter))]


def test_a_forked_process_goes_on_with_a_listing_though_its_threads_stayed_behind(house: House) -> None:
    view = house.engine().view(house.bucket)
    keys = list(iter(view))
    listings = Listings(view)
    page = listings.page(PageRequest(limit=2))
    assert page.last == keys[1]
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # the threads that read ahead would be waited for without end
        found = listings.page(PageRequest(after=keys[1])).objects
        os._exit(0 if [row["key"] for row in found] == keys[2:] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [row["key"] for row in listings.page(PageRequest(after=keys[1])).objects] == keys[2:]
