"""What is committed becomes visible, and not by more epochs than needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from ingest_worker.metrics import Metrics
from snapengine.errors import Unreachable
from snapengine.log import EpochCutter, RowWriter, StreamWriter
from snapengine.metadata_rows import row_schema
from snapengine.ports import LogStore
from snapengine.testing.store_contract import BUCKET, entry, observation
from snapengine.workers.epochs import Epochs
from tests.contract.lossy import LossyStore
from tests.worker_fakes import Lines, Store, now, until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> Iterator[float]:
        while True:
            yield 0.01

    monkeypatch.setattr("snapengine.workers.epochs.delays", pauses)


@pytest.fixture
def store() -> Store:
    return Store()


def epochs_of(log: Any, **options: Any) -> Epochs:
    return Epochs(log, now, Metrics(), **options)


async def commit(log: LogStore, number: int, name: str = "w") -> list[Any]:
    return list(await StreamWriter(log, name, now).append(BUCKET, [observation(number)]))


def newest(store: Store) -> int:
    epoch = store.reader.newest_epoch(BUCKET)
    return epoch.number if epoch else 0


async def test_what_is_noted_is_covered_at_once_where_no_epoch_is_young(store: Store) -> None:
    epochs = epochs_of(store.log)
    epochs.note(await commit(store.log, 1))
    started = time.monotonic()
    await epochs.cover(BUCKET)
    assert store.observed() == [observation(1)]
    assert time.monotonic() - started < 0.9


async def test_epochs_are_a_second_apart(store: Store) -> None:
    epochs = epochs_of(store.log)
    for number in (1, 2):
        epochs.note(await commit(store.log, number))
        await epochs.cover(BUCKET)
    first, second = store.reader.epoch(BUCKET, 1), store.reader.epoch(BUCKET, 2)
    assert first
    assert second
    assert second.time - first.time >= 1_000
    assert newest(store) == 2


async def test_no_epoch_is_cut_for_what_anothers_epoch_covers(store: Store) -> None:
    epochs = epochs_of(store.log)
    epochs.note(await commit(store.log, 1))
    await EpochCutter(store.log, BUCKET, now).cut()
    await epochs.cover(BUCKET)
    assert newest(store) == 1


async def test_an_epoch_that_lies_ahead_of_our_clock_does_not_keep_us_from_cutting(store: Store) -> None:
    await commit(store.log, 1)
    await EpochCutter(store.log, BUCKET, lambda: now() + 3_600_000).cut()
    epochs = epochs_of(store.log)
    epochs.note(await commit(store.log, 2))
    await asyncio.wait_for(epochs.cover(BUCKET), 5)
    assert store.observed() == [observation(1), observation(2)]


async def test_an_entry_that_somebody_left_unfinished_before_ours_is_finished(store: Store) -> None:
    store = Store(streams=1)
    await store.log.put_entry(entry(1, observation(1)))
    epochs = epochs_of(store.log)
    epochs.note(await commit(store.log, 2))
    await epochs.cover(BUCKET)
    assert store.observed() == [observation(1), observation(2)]


async def test_within_what_is_noted_gets_covered_and_failures_are_tried_again(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(caplog)
    failing = Failing(store.log, times=3)
    epochs = epochs_of(failing)
    async with epochs.kept():
        epochs.note(await commit(store.log, 1))
        await until(lambda: store.observed() == [observation(1)])
        epochs.note(await commit(store.log, 2))
        await until(lambda: len(store.observed()) == 2)
    assert len(lines.of("epoch-failed")) == 3


class Failing:
    """A store whose first reads of the newest epoch fail."""

    def __init__(self, store: LogStore, times: int) -> None:
        self._store = store
        self._times = times

    async def newest_epoch(self, bucket: str) -> Any:
        self._times -= 1
        if self._times >= 0:
            raise Unreachable("no answer")
        return await self._store.newest_epoch(bucket)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_watched_bucket_is_swept_of_what_a_dead_worker_left(store: Store) -> None:
    await commit(store.log, 1, "done-but-not-covered")
    lossy = LossyStore(store.log)
    lossy.fail("put_by_key", "before")
    with pytest.raises(Unreachable):
        await commit(lossy, 2, "died")
    epochs = epochs_of(store.log, sweep=0.05)
    epochs.watch(BUCKET)
    async with epochs.kept():
        await until(lambda: len(store.observed()) == 2)


async def test_the_last_cut_covers_everything_and_waits_for_nobody(store: Store) -> None:
    epochs = epochs_of(store.log)
    await EpochCutter(store.log, BUCKET, now).cut()
    epochs.note(await commit(store.log, 1))
    started = time.monotonic()
    await epochs.cut_all()
    assert store.observed() == [observation(1)]
    assert time.monotonic() - started < 0.9


async def test_the_last_cut_reads_nothing_where_nothing_was_noted() -> None:
    epochs = epochs_of(Failing(Store().log, times=100))
    epochs.watch(BUCKET)
    await epochs.cut_all()
    with pytest.raises(Unreachable):
        await epochs.cut_all(everything=True)


async def test_several_workers_cutting_at_once_agree(store: Store) -> None:
    each = [epochs_of(store.log) for _ in range(4)]
    for number, epochs in enumerate(each):
        epochs.note(await commit(store.log, number, f"w{number}"))
    await asyncio.gather(*(epochs.cover(BUCKET) for epochs in each))
    assert sorted(store.observed()) == sorted(observation(number) for number in range(4))


async def test_rows_of_metadata_that_are_noted_are_covered_and_observations_do_not_pass_for_them(
    store: Store,
) -> None:
    epochs = epochs_of(store.log)
    for number in range(3):  # the streams of observations are ahead of those of rows
        await commit(store.log, number)
    await EpochCutter(store.log, BUCKET, now).cut()
    writer = RowWriter(store.log, "w", now)
    epochs.note(await writer.append(BUCKET, "x", rows_of_metadata()))
    await epochs.cover(BUCKET)
    epoch = store.reader.newest_epoch(BUCKET)
    assert epoch
    assert list(epoch.rows.values()) == [1]
    before = epoch.number
    await epochs.cover(BUCKET)
    assert newest(store) == before


def rows_of_metadata() -> pa.Table:
    row = {
        "key": "k",
        "version_id": "v",
        "extractor_version": "1",
        "outcome": "ok",
        "extracted_at": 0,
        "Column": 1,
    }
    return pa.Table.from_pylist([row], schema=row_schema(pa.schema([pa.field("Column", pa.int64())])))
