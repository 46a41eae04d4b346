"""Narrowed views that several threads make at the same time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from snapengine import selections
from tests.archive_house import play, sqlite_house


def test_two_threads_that_choose_the_same_objects_at_once_both_have_the_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = sqlite_house(tmp_path)
    play(house)
    view = house.engine().view("scans")
    both_kept = Barrier(2, timeout=20)
    keep = selections.keep

    async def kept_by_both(*args: Any) -> None:
        await keep(*args)
        await asyncio.to_thread(both_kept.wait)

    monkeypatch.setattr(selections, "keep", kept_by_both)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(view.select, [["ct/03"], ["ct/03"]])
    assert one.reference == other.reference
    assert list(house.engine().open_ref(one.reference)) == ["ct/03"]
