"""Observations put straight into a log, so that a test can start from a history."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from snapengine import Engine, Settings
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import (
    CREATED,
    MARKER_CREATED,
    VERSION_DELETED,
    BucketConfig,
    Epoch,
    Kind,
    Observation,
)

ACCOUNT = "123456789012"
T0 = 1_700_000_000_000
"""2023-11-14T22:13:20Z; the histories of tests start here."""

_sequence = count(1)


def engine_at(path: Path, now: int = T0 + 86_400_000) -> Engine:
    """An engine on a fresh SQLite file whose clock stands still at `now`."""
    engine = Engine(Settings(store=f"sqlite:///{path}"), clock=lambda: now)
    engine.store.create()
    return engine


def enable(engine: Engine, bucket: str = "scans", prefix: str = "", baseline_ended: int | None = T0) -> None:
    """Register a bucket as `enable-bucket` does, with a baseline that has ended."""
    engine.store.put_config(
        BucketConfig(
            bucket=bucket,
            region="us-east-1",
            account=ACCOUNT,
            prefix=prefix,
            enabled_at=T0,
            baseline_started=baseline_ended,
            baseline_ended=baseline_ended,
        )
    )


def event(
    key: str, version: str, seconds: float, kind: Kind = CREATED, size: int = 10, etag: str | None = None
) -> Observation:
    """An event `seconds` after T0; events made later have later sequencers."""
    created = kind == CREATED
    return Observation(
        kind=kind,
        key=key,
        version_id=version,
        event_time=T0 + round(seconds * 1000),
        sequencer=f"{next(_sequence):018X}",
        size=size if created else None,
        etag=(etag or f"etag-{version}") if created else None,
        event_name={
            CREATED: "ObjectCreated:Put",
            MARKER_CREATED: "ObjectRemoved:DeleteMarkerCreated",
            VERSION_DELETED: "ObjectRemoved:Delete",
        }[kind],
    )


def marker(key: str, version: str, seconds: float) -> Observation:
    return event(key, version, seconds, MARKER_CREATED)


def removal(key: str, version: str, seconds: float) -> Observation:
    return event(key, version, seconds, VERSION_DELETED)


def record(engine: Engine, observations: Iterable[Observation], bucket: str = "scans") -> Epoch:
    """Commit observations and cut an epoch."""

    async def run() -> Epoch:
        async with engine.log() as log:
            await StreamWriter(log, "seed", engine.clock).append(bucket, list(observations))
            return await EpochCutter(log, bucket, engine.clock).cut()

    return asyncio.run(run())
