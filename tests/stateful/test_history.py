"""Random histories against the model bucket, over each store. `make test-long` makes many more."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.backends import Backend, sqlite
from tests.stateful.history import histories_on

LONG = os.environ.get("SNAPENGINE_TEST_LONG") == "1"


def play(backend: Backend, **options: Any) -> None:
    tally: Counter[str] = Counter()
    held: Counter[str] = Counter()
    profile = settings(
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        **options,
    )
    run_state_machine_as_test(histories_on(backend, tally, held), settings=profile)
    print(tally.total(), tally, held)


def test_sqlite() -> None:
    with sqlite() as backend:
        play(backend, max_examples=250, stateful_step_count=50, derandomize=True)
