"""What the extract worker counts, for Prometheus; every label is of bounded cardinality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, get_args

from prometheus_client import Histogram

from metadata_extractors.extracting import Row
from snapengine.workers.metrics import WorkerMetrics

Step = Literal["registry", "receive", "read", "commit", "delete", "visibility", "set-aside", "epoch"]
"""Where something can fail."""

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ExtractMetrics(WorkerMetrics):
    """One per process. Buckets and extractors are labels once rows of theirs were kept."""

    def __init__(self) -> None:
        super().__init__("snapengine_extract", get_args(Step))
        self.rows = self.counter("rows", "Rows committed.", "bucket", "extractor", "outcome")
        self.batches = self.counter("batches", "Batches of rows committed.")
        self.children = self.gauge("children_started", "Child processes started until now.")
        self.seconds = Histogram(
            "snapengine_extract_object_seconds",
            "How long one object took: reading it, and all its extractors.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def extracted(self, seconds: float) -> None:
        self.seconds.observe(seconds)

    def kept(self, bucket: str, rows: Sequence[Row]) -> None:
        self.batches.inc()
        for row in rows:
            self.rows.labels(bucket, row.extractor, row.outcome).inc()

    def watch_children(self, count: Callable[[], int]) -> None:
        self.children.set_function(count)
