"""PURE: how long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Iterator


def delays(first: float = 0.5, most: float = 30.0) -> Iterator[float]:
    """Seconds, doubling from `first` up to `most`, each within half of itself: workers that failed together
    should not try again together."""
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.5)  # noqa: S311  # jitter, not a secret
        delay = min(delay * 2, most)
