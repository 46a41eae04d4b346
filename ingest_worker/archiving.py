"""Archiving beside the worker's own work: rounds on its buckets, their results and failures logged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ingest_worker.metrics import Metrics
from snapengine.archiving.run import ArchiveReport, archive_forever
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import Busy
from snapengine.workers import logs
from snapengine.workers.failures import plain


async def archive_rounds(
    tools: ArchiveTools,
    buckets: Callable[[], Sequence[str]],
    every: float,
    stop: asyncio.Event,
    metrics: Metrics,
) -> None:
    """Until told to stop. No failure ends it: the messages go on being consumed, and the next round comes."""
    busy: set[str] = set()

    def done(report: ArchiveReport) -> None:
        busy.discard(report.bucket)
        made = (report.segments, report.checkpoint, report.differential, report.compacted)
        if any((*made, report.let_go, report.swept)):
            logs.info("archived", **fields_of(report))

    def failed(bucket: str, error: Exception) -> None:
        error = plain(error)
        if isinstance(error, Busy):  # another worker does it: no failure, and told once
            if bucket not in busy:
                logs.info("archived-elsewhere", bucket=bucket)
            busy.add(bucket)
            return
        metrics.failed("archive")
        logs.warning("archive-failed", bucket=bucket, **logs.reason(error))

    await archive_forever(tools, buckets, every, stop, done=done, failed=failed)


def fields_of(report: ArchiveReport) -> dict[str, Any]:
    """What a log line says of a round."""
    return {name: value for name, value in asdict(report).items() if name not in {"root", "epoch_time"}}
