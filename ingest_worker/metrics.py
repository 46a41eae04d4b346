"""What the worker counts, for Prometheus: a registry of its own, and every label of bounded cardinality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, get_args

from prometheus_client import Histogram

from ingest_worker.envelopes import TEST_EVENT
from snapengine.model import Observation
from snapengine.workers.metrics import WorkerMetrics

Step = Literal[
    "registry",
    "receive",
    "commit",
    "hand-off",
    "delete",
    "visibility",
    "set-aside",
    "epoch",
    "watermark",
    "archive",
]
"""Where something can fail."""

MAX_TYPES: Final = 50
"""Event types that are counted by name; types are whatever the queue was sent, so the rest are `other`."""

_FLUSH_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics(WorkerMetrics):
    """One per process. Buckets are labels only once something was committed for them."""

    def __init__(self) -> None:
        super().__init__("snapengine_worker", get_args(Step))
        self.tests = self.counter("test_events", "Test events that S3 sent.")
        self.observations = self.counter("observations", "Observations committed.", "bucket")
        self.duplicates = self.counter("duplicates", "Of these, the same again within some 50,000.")
        self.handed_off = self.counter("handed_off", "Created versions handed to extraction.", "bucket")
        self.batches = self.counter("batches", "Batches committed.")
        self.lag = self.gauge(
            "lag_seconds", "When the last batch was committed: how long ago its newest event was.", "bucket"
        )
        self.behind = self.gauge(
            "behind_seconds", "How far the lowest caught-up watermark of its buckets lies in the past."
        )
        self.flush = Histogram(
            "snapengine_worker_flush_seconds",
            "How long the commit of a batch took.",
            buckets=_FLUSH_SECONDS,
            registry=self.registry,
        )
        self._unknown = self.counter("unknown_types", "Events that tell of no fact.", "type")
        self._types: set[str] = set()

    def no_fact(self, event_type: str) -> None:
        """A record that holds no observation."""
        if event_type == TEST_EVENT:
            self.tests.inc()
            return
        if event_type not in self._types:
            if len(self._types) >= MAX_TYPES:
                event_type = "other"
            self._types.add(event_type)
        self._unknown.labels(event_type).inc()

    def committed(self, bucket: str, observations: Sequence[Observation], duplicates: int, now: int) -> None:
        """A batch, at least one observation, committed at `now` (UTC milliseconds)."""
        self.batches.inc()
        self.observations.labels(bucket).inc(len(observations))
        self.duplicates.inc(duplicates)
        newest = max(o.event_time for o in observations)
        self.lag.labels(bucket).set(max(0, now - newest) / 1000)

    def watch_behind(self, seconds: Callable[[], float]) -> None:
        self.behind.set_function(seconds)
