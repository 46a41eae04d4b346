"""How old the oldest message of a queue is, which SQS tells to CloudWatch alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from snapengine.buckets.asking import asking
from snapengine.buckets.tools import Tools
from snapengine.errors import SnapEngineError

LOOK_BACK: Final = timedelta(minutes=15)
"""SQS sends a figure each minute, some minutes late at most; none for a queue that has long been idle.
Source: SQS Developer Guide, "Available CloudWatch metrics for Amazon SQS"."""


class OldestAges:
    """Asks CloudWatch, queues of several buckets after each other, until it is known not to answer."""

    def __init__(self, engine: Tools) -> None:
        self._engine = engine
        self._failed: SnapEngineError | None = None

    @cached_property
    def _client(self) -> Any:
        return self._engine.client("cloudwatch")

    def of(self, names: Sequence[str]) -> dict[str, int]:
        """Seconds by queue name, as of the last figure; a queue of which there is none is left out.

        The age is of the oldest message that is not deleted, in flight or not. Raises `PermissionMissing`, as
        `cloudwatch:GetMetricData` is its own permission, and what else CloudWatch's client raises as ours;
        after that the same again, without having asked: an endpoint that does not answer takes its time.
        """
        if self._failed is not None:
            raise self._failed
        try:
            return self._asked(names)
        except SnapEngineError as error:
            self._failed = error
            raise

    def _asked(self, names: Sequence[str]) -> dict[str, int]:
        now = datetime.fromtimestamp(self._engine.clock() / 1000, UTC)
        with asking("Amazon CloudWatch"):
            reply = self._client.get_metric_data(
                MetricDataQueries=[_query(f"q{number}", name) for number, name in enumerate(names)],
                StartTime=now - LOOK_BACK,
                EndTime=now,
                ScanBy="TimestampDescending",
            )
        return {
            names[int(result["Id"][1:])]: int(result["Values"][0])
            for result in reply["MetricDataResults"]
            if result["Values"]
        }


def _query(query_id: str, name: str) -> dict[str, Any]:
    metric = {
        "Namespace": "AWS/SQS",
        "MetricName": "ApproximateAgeOfOldestMessage",
        "Dimensions": [{"Name": "QueueName", "Value": name}],
    }
    return {"Id": query_id, "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Maximum"}}
