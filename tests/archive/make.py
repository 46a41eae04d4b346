"""Makes a golden archive: `python -m tests.archive.make FOLDER`, once for each format. What is there is kept.

The archive of each format that was ever released stays in the tests, as `format-<n>`: readers must give of it
what they gave when it was made. So this is no part of a test; it says where the files came from.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from snapengine import Engine, Settings
from snapengine.archiving.registry import keep_registry
from snapengine.archiving.run import archive_bucket
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import (
    BASELINE,
    CREATED,
    MARKER_CREATED,
    RECONCILE,
    VERSION_DELETED,
    BucketConfig,
    Kind,
    Observation,
    Snapshot,
)

T0 = 1_700_000_000_000
"""2023-11-14T22:13:20Z; all times below are seconds after it."""
BUCKET = "scans"


def event(key: str, version: str, seconds: int, kind: Kind = CREATED) -> Observation:
    created = kind == CREATED
    names = {
        CREATED: "ObjectCreated:Put",
        MARKER_CREATED: "ObjectRemoved:DeleteMarkerCreated",
        VERSION_DELETED: "ObjectRemoved:Delete",
    }
    return Observation(
        kind=kind,
        key=key,
        version_id=version,
        event_time=T0 + seconds * 1000 + 7,
        sequencer=f"00{seconds:08X}",
        size=seconds if created else None,
        etag=f"etag-{seconds}" if created else None,
        event_name=names[kind],
    )


def listed(key: str, version: str, seconds: int, position: int) -> Observation:
    """By the baseline, whose only page was asked for at 10 s."""
    return Observation(
        kind=CREATED,
        key=key,
        version_id=version,
        event_time=T0 + seconds * 1000,
        size=-seconds,
        etag=f"etag{seconds}",
        storage_class="STANDARD" if position else "GLACIER",
        origin=BASELINE,
        listing="baseline-1",
        page_time=T0 + 10_000,
        position=position,
    )


def absent(key: str, version: str, seconds: int) -> Observation:
    """Proved by a page of a reconcile."""
    at = T0 + seconds * 1000
    return Observation(
        VERSION_DELETED, key, version, at, origin=RECONCILE, listing="reconcile-1", page_time=at
    )


FIRST = [
    (
        20,
        [
            listed("ct/before.dcm", "old", -1000, 0),
            listed("ct/null.dcm", "null", -900, 1),
            listed("ct/é.dcm", "e2", -500, 2),
            listed("ct/é.dcm", "e1", -600, 3),
        ],
    ),
    (
        110,
        [
            event("ct/new.dcm", "n1", 60),
            event("ct/before.dcm", "b2", 75),
            event("ct/lost.dcm", "l1", 78),
            event("ct/marked.dcm", "m1", 80),
            event("ct/removed.dcm", "r1", 85),
            event("ct/marked.dcm", "mark", 90, MARKER_CREATED),
            event("ct/removed.dcm", "r2", 95),
            event("ct/removed.dcm", "r2", 100, VERSION_DELETED),
        ],
    ),
]
"""The first segment: for each epoch its time and what it covers."""

SECOND = [
    (
        420,
        [
            event("ct/late.dcm", "late", 65),
            event("ct/new.dcm", "n1", 60),
            event("ct/null.dcm", "null", 400),
        ],
    ),
    (920, [event("ct/new.dcm", "n2", 900), event("ct/é.dcm", "e2", 910, VERSION_DELETED)]),
    (1100, [absent("ct/lost.dcm", "l1", 1000), event("ct/newest.dcm", "w1", 1080)]),
]
"""The second; a checkpoint follows, whose instant is 800 s."""

THIRD = [
    (1500, [event("ct/last.dcm", "z1", 1400), event("ct/before.dcm", "b2", 1410, VERSION_DELETED)]),
]
"""The third, later than the checkpoint."""


def make(folder: Path) -> None:
    """Fill the folder, which must not be there yet."""
    if folder.exists():
        raise SystemExit(f"{folder} is there already, and is kept as it is.")
    now = T0
    with TemporaryDirectory() as work:
        settings = Settings(
            store=f"sqlite:///{work}/log.db", archive=f"file://{folder.resolve()}", cache="off"
        )
        engine = Engine(settings, clock=lambda: now)
        engine.store.create()
        ended = T0 + 20_000
        engine.store.put_config(
            BucketConfig(
                BUCKET,
                "eu-central-1",
                "123456789012",
                enabled_at=T0,
                baseline_started=T0 + 10_000,
                baseline_ended=ended,
            )
        )

        async def record(epochs: Sequence[tuple[int, Sequence[Observation]]]) -> None:
            nonlocal now
            async with engine.log() as log:
                for seconds, observations in epochs:
                    now = T0 + seconds * 1000
                    await StreamWriter(log, "golden", engine.clock).append(BUCKET, observations)
                    await EpochCutter(log, BUCKET, engine.clock).cut()

        asyncio.run(record(FIRST))
        asyncio.run(archive_bucket(engine, BUCKET, checkpoints=False, compaction=False))
        asyncio.run(record(SECOND))
        view = engine.view(BUCKET, T0 + 300_000, epoch=5)
        engine.store.put_snapshot(
            Snapshot(BUCKET, "run-1", view.reference, view.digest(), now, "golden", labels={"task": "ct"})
        )
        asyncio.run(archive_bucket(engine, BUCKET, checkpoint_now=True, compaction=False))
        asyncio.run(record(THIRD))
        asyncio.run(archive_bucket(engine, BUCKET, checkpoints=False, compaction=False))
        config = engine.store.config(BUCKET)
        assert config is not None
        engine.store.put_config(replace(config, archive="file:///archive"))  # where it was made tells nothing
        root = engine.root(f"file://{folder.resolve()}")
        keep_registry(engine.store, root, BUCKET, engine.archive(BUCKET).last_epoch)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
