"""Random histories against the model bucket, over each store. `make test-long` plays twenty times as many.

Where a history breaks a promise, Hypothesis shortens it as far as it can and prints it as a few calls: such a
story goes into a unit test of its own before anything is mended.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from moto.server import ThreadedMotoServer

from snapengine import changed_objects, ranges, resolver
from snapengine.archive import reading, writing
from snapengine.archiving import checkpoints, compaction, making
from tests.servers import Endpoint
from tests.stateful.archived import ArchivedHistory, LettingGoHistory
from tests.stateful.backends import Backend, dynamodb, sqlite
from tests.stateful.checks import Checks
from tests.stateful.history import History, histories_on

LONG = os.environ.get("SNAPENGINE_TEST_LONG") == "1"
"""Read here, as each test starts with an environment of its own. A long run is another one every time; a
short one plays the same histories until the machine's code changes."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if LONG else 600)]
STEPS = 50
"""In one history at most."""

Report = Callable[[str, object], None]


def play(
    backend: Backend, histories: int, *, kind: type[History] | None = None
) -> tuple[Counter[str], Counter[str]]:
    """Play so many histories (of that kind); returns the steps taken, by rule, and what was really checked,
    by promise."""
    tally: Counter[str] = Counter()
    held: Counter[str] = Counter()
    profile = settings(
        max_examples=histories,
        stateful_step_count=STEPS,
        derandomize=not LONG,
        database=None,
        deadline=None,
        print_blob=LONG,
        phases=[Phase.generate] if os.environ.get("NOSHRINK") else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(histories_on(backend, tally, held, kind), settings=profile)
    return tally, held


def say(report: Report, tally: Counter[str], held: Counter[str]) -> None:
    """Into the test's report, and where `-rP` or `-s` shows it."""
    report("steps", tally.total())
    print(f"{tally.total():,} steps:", dict(tally.most_common()))
    print("checked:", dict(held.most_common()))


def test_on_sqlite(record_property: Report) -> None:
    with sqlite() as backend:
        tally, held = play(backend, 5500 if LONG else 300)
    say(record_property, tally, held)
    assert tally.total() >= (200_000 if LONG else 10_000)
    assert min(held[promise] for promise in Checks.promises()) >= 20, held


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups, files and ranges of a few rows, so that a few keys are many of each."""
    for module, name, value in (
        (ranges, "ROWS_AT_ONCE", 4),
        (ranges, "GROUP_ROWS", 2),
        (resolver, "_HISTORIES_AT_ONCE", 1),
        (changed_objects, "RANGE_ROWS", 4),
        (writing, "ROW_GROUP_ROWS", 2),
        (making, "OBSERVATION_ROWS", 5),
        (making, "RANGE_ROWS", 4),
        (checkpoints, "OBSERVATION_ROWS", 3),
        (checkpoints, "OBJECT_ROWS", 2),
        (compaction, "OBSERVATION_ROWS", 5),
        (reading, "SMALL", 0),
        (reading, "TINY", 0),
    ):
        assert isinstance(getattr(module, name), int)
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("small_files")
def test_on_sqlite_with_an_archive(record_property: Report) -> None:
    with sqlite() as backend:
        tally, held = play(backend, 3000 if LONG else 240, kind=ArchivedHistory)
    say(record_property, tally, held)
    assert tally.total() >= (70_000 if LONG else 4_000)
    for work in ("checkpoints", "differentials", "dropped checkpoints", "compactions", "let go"):
        assert held[work] >= 20, held


@pytest.fixture
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_on_moto(moto_url: str, record_property: Report) -> None:
    with dynamodb(moto_url) as backend:
        tally, held = play(backend, 200 if LONG else 12)
    say(record_property, tally, held)
    assert tally.total() >= (5_000 if LONG else 250)


@pytest.mark.services
@pytest.mark.xdist_group("dynamodb-local")
def test_on_dynamodb_local(dynamodb_local_server: Endpoint, record_property: Report) -> None:
    with dynamodb(dynamodb_local_server.endpoint_url) as backend:
        tally, held = play(backend, 200 if LONG else 12)
    say(record_property, tally, held)
    assert tally.total() >= (5_000 if LONG else 250)


@pytest.mark.services
@pytest.mark.xdist_group("dynamodb-local")
@pytest.mark.usefixtures("small_files")
def test_on_dynamodb_local_with_an_archive(dynamodb_local_server: Endpoint, record_property: Report) -> None:
    with dynamodb(dynamodb_local_server.endpoint_url) as backend:
        tally, held = play(backend, 200 if LONG else 12, kind=LettingGoHistory)
    say(record_property, tally, held)
    assert tally.total() >= (4_000 if LONG else 250)
    for work in ("checkpoints", "differentials", "compactions", "let go"):
        assert held[work] >= 1, held
