"""The view that `read_throughput` reads: the bucket at T, by a log that holds what the filling did."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks._read_bucket import BUCKET, Filled, Put
from snapengine.engine import Engine
from snapengine.instants import to_datetime
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import CREATED, BucketConfig, Observation
from snapengine.observation_codec import MAX_ROWS
from snapengine.settings import Settings
from snapengine.views import View

_DELAY_MS: Final = 1_000
"""From enabling to the first event, and from the last to the epoch."""


@contextmanager
def view_at_t(filled: Filled, prefix: str) -> Iterator[View]:
    """Of the objects below a prefix; its rows are in memory."""
    with TemporaryDirectory() as folder:
        ended = filled.puts[-1].event_time + _DELAY_MS
        engine = Engine(Settings(store=f"sqlite:///{Path(folder)}/log.db"), clock=lambda: ended)
        engine.store.create()
        began = filled.puts[0].event_time - _DELAY_MS
        engine.store.put_config(
            BucketConfig(
                bucket=BUCKET,
                region="us-east-1",
                account="123456789012",
                enabled_at=began,
                baseline_started=began,
                baseline_ended=began,
            )
        )
        asyncio.run(_record(engine, [_event(put) for put in filled.puts]))
        view = engine.view(BUCKET, at=to_datetime(filled.at), prefix=prefix)
        view.to_arrow()
        yield view


async def _record(engine: Engine, events: list[Observation]) -> None:
    async with engine.log() as log:
        writer = StreamWriter(log, "worker", engine.clock)
        for start in range(0, len(events), MAX_ROWS):
            await writer.append(BUCKET, events[start : start + MAX_ROWS])
        await EpochCutter(log, BUCKET, engine.clock).cut()


def _event(put: Put) -> Observation:
    return Observation(
        kind=CREATED,
        key=put.key,
        version_id=put.version_id,
        event_time=put.event_time,
        sequencer=f"{put.event_time:018X}",
        size=put.size,
        etag=put.etag,
        event_name="ObjectCreated:Put",
    )
