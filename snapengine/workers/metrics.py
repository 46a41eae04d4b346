"""What every worker counts, for Prometheus: a registry of its own, and every label of bounded cardinality."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class WorkerMetrics:
    """One per process. `prefix` begins the names, and `steps` are where something can fail."""

    def __init__(self, prefix: str, steps: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        self._prefix = prefix
        self.received = self.counter("messages_received", "Messages received, each time they come.")
        self.left = self.counter("messages_left", "Messages left in the queue, to come again.")
        self.malformed = self.counter("messages_malformed", "Messages that can't be parsed.")
        self.set_aside = self.counter("messages_set_aside", "Messages sent on to the dead-letter queue.")
        self.deleted = self.counter("messages_deleted", "Messages deleted from their queue.")
        self.epochs = self.counter("epochs", "Epochs cut.", "bucket")
        self.in_flight = self.gauge("in_flight_messages", "Messages received and not yet dealt with.")
        failures = self.counter("failures", "What failed, each time.", "step")
        self._failures = {step: failures.labels(step) for step in steps}

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{self._prefix}_{name}", text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{self._prefix}_{name}", text, labels, registry=self.registry)

    def failed(self, step: str) -> None:
        self._failures[step].inc()

    def watch_in_flight(self, count: Callable[[], int]) -> None:
        self.in_flight.set_function(count)

    def text(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
