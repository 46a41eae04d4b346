"""A bucket with a life of its own, its log and its archive, made by the project's own code from a seed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TypeVar

from snapengine import Engine, Settings
from snapengine.archiving.run import archive_bucket
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BucketConfig, Epoch, Observation
from snapengine.observation_codec import decode
from snapengine.ports import LogStore
from snapengine.testing.model_bucket import ModelBucket, Versioning
from tests.stateful.listings import Baseline, Listing, Reconcile

T = TypeVar("T")
START = 1_700_000_000_000
BUCKET = "scans"
WAITS = (0, 1, 40, 300, 700, 1000, 2500, 20_000)
DEEDS = (*("put",) * 6, *("upload",) * 2, *("delete",) * 3, *("remove",) * 3, "expire", "expire noncurrent")


class ArchivedBucket:
    """What S3 does, what workers and listings write down of it, and the archive of that."""

    def __init__(
        self, folder: Path, seed: int, versioning: Versioning = "enabled", keys: int = 150, start: int = START
    ) -> None:
        self.random = Random(seed)
        self.s3 = ModelBucket(versioning, start)
        self.keys = [f"ct/{'é' if number % 7 == 0 else ''}{number:04d}.dcm" for number in range(keys)]
        self.root = folder / "archive"
        settings = Settings(store=f"sqlite:///{folder}/log.db", archive=f"file://{self.root}", cache="off")
        self.engine = Engine(settings, clock=lambda: self.s3.now)
        self.engine.store.create()
        self.engine.store.put_config(
            BucketConfig(BUCKET, "us-east-1", "123456789012", streams=2, enabled_at=start)
        )
        self._sent = 0
        self._held: list[Observation] = []
        self._listings = 0

    def run(self, work: Callable[[LogStore], Awaitable[T]]) -> T:
        async def act() -> T:
            async with self.engine.log() as log:
                return await work(log)

        return asyncio.run(act())

    # What happens

    def deeds(self, count: int, waits: Sequence[int] = WAITS) -> None:
        """Things done to keys at random, some of them over and over."""
        for _ in range(count):
            key = self.random.choice(self.keys[: self.random.choice([5, len(self.keys), len(self.keys)])])
            content, which = self.random.choice("abc"), self.random.randrange(6)
            self.s3.now += self.random.choice(waits)
            match self.random.choice(DEEDS):
                case "put":
                    self.s3.put(key, content)
                case "upload":
                    self.s3.begin_upload(key)
                    self.s3.now += self.random.choice(waits)
                    self.s3.complete_upload(content)
                case "delete":
                    self.s3.delete(key)
                case "remove":
                    self.s3.remove(key, which)
                case "expire":
                    self.s3.expire(key)
                case _:
                    self.s3.expire_noncurrent(key)

    def write(self, *, lost: float = 0.0) -> None:
        """A worker commits what S3 told, in any order, some late, some twice, and some never."""
        told = [event for event in self.s3.events[self._sent :] if self.random.random() >= lost]
        self._sent = len(self.s3.events)
        self._held += told
        self.random.shuffle(self._held)
        late = len(self._held) // 8
        taken, self._held = self._held[late:], self._held[:late]
        self._commit("worker", [*taken, *self.random.sample(taken, len(taken) // 10)])

    def forget(self) -> None:
        """What S3 told so far never comes."""
        self._sent = len(self.s3.events)

    def cut(self) -> Epoch:
        self.s3.now += 1
        epoch = self.run(lambda log: EpochCutter(log, BUCKET, self.engine.clock).cut())
        assert epoch is not None
        return epoch

    def take_listing(self, *, page_size: int = 40) -> None:
        """A complete listing, with deeds in between; the first is the baseline."""
        self._listings += 1
        name = f"listing-{self._listings}"

        def commit(observations: Sequence[Observation]) -> None:
            self._commit(name, observations)

        listing: Listing
        config = self.engine.store.config(BUCKET)
        assert config is not None
        if config.baseline_ended is None:
            listing = Baseline(name, self.s3, commit, page_size=page_size, behind=300)
        else:
            listing = Reconcile(name, self.s3, commit, self._known(), page_size=page_size, behind=300)
        for _ in range(1000):
            listing.go_on()
            if listing.ended:
                break
            self.deeds(2)
        assert listing.ended
        assert listing.begun is not None
        if isinstance(listing, Baseline):
            config = self.engine.store.config(BUCKET)  # the archive may have been noted meanwhile
            assert config is not None
            self.engine.store.put_config(
                replace(config, baseline_started=listing.begun, baseline_ended=listing.ended_at)
            )
        else:
            begun = listing.begun
            self.run(lambda log: log.note_verified(BUCKET, "", begun))

    def _known(self) -> dict[str, list[Observation]]:
        epoch, found = self.cut(), dict[str, list[Observation]]()
        for stream, last in epoch.cover.items():
            for entry in self.engine.store.entries(BUCKET, stream, 0, last):
                for observation in decode(entry.payload):
                    found.setdefault(observation.key, []).append(observation)
        return found

    def _commit(self, writer: str, observations: Sequence[Observation]) -> None:
        def work(log: LogStore) -> Awaitable[object]:
            return StreamWriter(log, writer, self.engine.clock).append(BUCKET, observations)

        if observations:
            self.run(work)

    # The archive

    def archive(self, *, checkpoint: bool = False) -> None:
        """A round: segments, a checkpoint, compaction, whose shorter segments stay for an hour."""
        asyncio.run(archive_bucket(self.engine, BUCKET, checkpoint_now=checkpoint))
