"""After a fork each process reads by connections of its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from snapengine import View
from snapengine.devcloud import DevCloud
from tests.fsspec_house import House


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@contextmanager
def held_elsewhere(*locks: Any) -> Iterator[None]:
    """By another thread than this one, whose locks a forked process would take for its own."""
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(10)
        yield
    finally:
        leave.set()
        thread.join()


def _ask(view: View, rounds: int) -> None:
    for turn in range(rounds):
        for key, version in view.items():
            assert view.facts(version).size == version.size, f"{key} in round {turn}"
            assert view.read_bytes(key) == key.encode() * (version.size or 0), f"{key} in round {turn}"


def _in_child(view: View) -> None:
    _ask(view, 20)
    os._exit(0)


def test_parent_and_forked_children_ask_s3_at_once_and_each_gets_its_own_answers(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(cloud.environment(), tmp_path / "log.db", monkeypatch)
    for number, key in enumerate("abcdef", 1):
        house.put(key, key.encode() * 10_000 * number)
    view = house.view()
    before = house.engine.s3
    _ask(view, 1)
    with held_elsewhere(house.engine._lock):  # as if a client were being made
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=_in_child, args=(view,)) for _ in range(3)]
        for child in children:
            child.start()
    _ask(view, 20)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert house.engine.s3 is before, "the parent goes on with its own"


def _resolve(view: View, narrowed: View) -> None:
    assert narrowed._source.table(narrowed.ref, narrowed._epoch).num_rows == 1
    assert view.to_arrow().num_rows == view.source.view(view.bucket).to_arrow().num_rows == 6  # type: ignore[attr-defined]  # an engine
    os._exit(0)


def test_what_other_threads_were_at_when_a_process_forked_does_not_stop_the_child(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(cloud.environment(), tmp_path / "log.db", monkeypatch)
    house.put_all({key: key.encode() for key in "abcdef"})
    view, whole = house.view(), house.view()
    narrowed, equal = whole.select(["a"]), whole.select(["a"])
    assert equal._source == narrowed._source
    sources: list[Any] = [narrowed._source, equal._source]
    with held_elsewhere(
        view._rows._lock, house.engine._database._lock, *(source._lock for source in sources)
    ):
        children = [
            multiprocessing.get_context("fork").Process(target=_resolve, args=(view, one))
            for one in (narrowed, equal)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(20)
            code = child.exitcode
            child.kill()
            assert code == 0
    assert view.to_arrow().num_rows == 6, "the parent goes on"
