"""The log's protocol under lost replies, dead writers and races between cutters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from snapengine.archive.manifest import Listed, from_json
from snapengine.errors import BadData, Unreachable
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import Epoch, Observation, Watermarks
from snapengine.observation_codec import decode
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import Database
from snapengine.stores.sqlite_log import SQLiteLog
from snapengine.testing.archive_contract import archive_file
from snapengine.testing.store_contract import BUCKET, Backend, T, clock, config, entry, observation
from tests.contract.lossy import LossyStore


@pytest.fixture
def backend() -> Backend:
    database = Database(":memory:")
    store = SQLiteStore(database)
    store.put_config(config(streams=1))
    return Backend(SQLiteLog(database), store)


def logged(backend: Backend, epoch: Epoch) -> list[Observation]:
    return [
        o
        for stream, last in sorted(epoch.cover.items())
        for e in backend.store.entries(BUCKET, stream, 0, last)
        for o in decode(e.payload)
    ]


def writer(store: Any, name: str = "w") -> StreamWriter:
    return StreamWriter(store, name, clock)


async def cut(backend: Backend, now: Callable[[], int] = clock) -> Epoch:
    return await EpochCutter(backend.log, BUCKET, now).cut()


@pytest.mark.parametrize("step", ["put_entry", "put_by_key", "mark_done"])
@pytest.mark.parametrize("fault", ["before", "after"])
async def test_an_append_that_failed_anywhere_can_be_repeated_and_loses_nothing(
    backend: Backend, step: str, fault: str
) -> None:
    lossy = LossyStore(backend.log)
    lossy.fail(step, fault)
    w = writer(lossy)
    rows = [observation(1), observation(2)]
    with pytest.raises(Unreachable):
        await w.append(BUCKET, rows)
    await w.append(BUCKET, rows)
    epoch = await cut(backend)
    assert set(logged(backend, epoch)) == set(rows)
    assert set(backend.store.key_history(BUCKET, "k0001", epoch.cover)) == {rows[0]}


async def test_a_lost_reply_is_not_taken_for_another_writers_entry(backend: Backend) -> None:
    mine = entry(1, observation(1), nonce="mine")
    assert await backend.log.put_entry(mine)
    assert await backend.log.put_entry(mine)
    assert await backend.log.head(BUCKET, 0) == 1


async def test_a_delayed_put_that_lands_late_is_not_taken_for_the_next_batch(backend: Backend) -> None:
    # Batch X at number 1 is given up after a lost reply; batch Y, of the same writer, comes next.
    lossy = LossyStore(backend.log)
    lossy.fail("put_entry", "after")
    w = writer(lossy)
    with pytest.raises(Unreachable):
        await w.append(BUCKET, [observation(1)])
    (place,) = await w.append(BUCKET, [observation(2)])
    assert place.number == 2
    assert logged(backend, await cut(backend)) == [observation(1), observation(2)]


async def test_a_writer_that_slept_puts_its_entry_after_what_came_meanwhile(backend: Backend) -> None:
    sleeper, busy = writer(backend.log, "a"), writer(backend.log, "b")
    await sleeper.append(BUCKET, [observation(0)])
    for i in range(1, 6):
        await busy.append(BUCKET, [observation(i)])
    before = await cut(backend)
    (place,) = await sleeper.append(BUCKET, [observation(9)])
    assert place.number == 7
    assert logged(backend, before) == [observation(i) for i in range(6)]


async def test_a_long_batch_is_split_and_none_of_it_is_lost(backend: Backend) -> None:
    rows = [observation(i, key=f"{i:04d}" * 250) for i in range(1200)]
    places = await writer(backend.log).append(BUCKET, rows)
    assert len(places) > 2
    assert logged(backend, await cut(backend)) == rows


async def test_an_entry_that_no_packing_makes_small_is_still_under_dynamodb_s_limit(backend: Backend) -> None:
    noise = "".join(chr(0x4E00 + (i * 7919) % 20_000) for i in range(341))
    rows = [observation(i, key=f"{noise[i % 300 :]}{i}"[:341]) for i in range(500)]
    await writer(backend.log).append(BUCKET, rows)
    sizes = [len(e.payload) for e in backend.store.entries(BUCKET, 0, 0, await backend.log.head(BUCKET, 0))]
    assert max(sizes) <= 200_000


async def test_a_patient_cutter_stops_short_once_and_completes_the_second_time(backend: Backend) -> None:
    backend.store.put_config(config(streams=1, baseline_ended=T))
    await writer(backend.log).append(BUCKET, [observation(1)])
    cutter = EpochCutter(backend.log, BUCKET, clock)
    first = await cutter.cut(patient=True)
    assert first.watermarks == Watermarks(baseline_ended=T)
    await backend.log.put_entry(entry(2, observation(2)))  # its writer is at work, or dead
    backend.store.put_config(config(streams=1, baseline_ended=T + 9))
    assert await cutter.cut(patient=True) == first
    second = await cutter.cut(patient=True)
    assert second.cover == {0: 2}
    assert second.watermarks == Watermarks(baseline_ended=T + 9)
    assert backend.store.key_history(BUCKET, "k0002", second.cover) == [observation(2)]


async def test_an_epoch_cut_short_keeps_the_watermarks_of_the_one_before(backend: Backend) -> None:
    backend.store.put_config(config(streams=2))
    await backend.log.put_entry(entry(1, observation(1), stream=0))
    await backend.log.put_by_key(BUCKET, 0, 1, [observation(1)])
    await backend.log.mark_done(BUCKET, 0, 1)
    await backend.log.put_entry(entry(1, observation(2), stream=1))
    backend.store.put_config(config(streams=2, baseline_ended=T))
    epoch = await EpochCutter(backend.log, BUCKET, clock).cut(patient=True)
    assert epoch.cover == {0: 1, 1: 0}
    assert epoch.watermarks == Watermarks()


async def test_a_first_epoch_cut_short_tells_since_when_the_bucket_is_enabled_and_vouches_for_nothing(
    backend: Backend,
) -> None:
    backend.store.put_config(config(streams=2, enabled_at=T, settle_ms=5000, baseline_ended=T + 1))
    await backend.log.raise_caught_up(BUCKET, T + 2)
    await writer(backend.log).append(BUCKET, [observation(1)])
    stream = 1 if await backend.log.head(BUCKET, 0) else 0
    await backend.log.put_entry(entry(1, observation(2), stream=stream))
    epoch = await EpochCutter(backend.log, BUCKET, clock).cut(patient=True)
    assert epoch.watermarks == Watermarks(enabled_at=T, settle_ms=5000)


class RacingStore(LossyStore):
    """Somebody else cuts an epoch between this cutter's reads and its put."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend.log)
        self._backend = backend
        self.races = 2

    async def put_epoch(self, bucket: str, epoch: Epoch) -> bool:
        if self.races:
            self.races -= 1
            row = observation(100 + self.races)
            await writer(self._backend.log, "rival").append(BUCKET, [row])
            await cut(self._backend, lambda: T + 77)
            await writer(self._backend.log, "rival").append(BUCKET, [row._replace(key="more")])
        return await self._backend.log.put_epoch(bucket, epoch)


async def test_a_cutter_that_lost_the_race_reads_again_and_never_covers_less(backend: Backend) -> None:
    await writer(backend.log).append(BUCKET, [observation(1)])
    racing = RacingStore(backend)
    last = await EpochCutter(racing, BUCKET, clock).cut()
    epochs = [backend.store.epoch(BUCKET, n) for n in range(1, last.number + 1)]
    covers = [e.cover[0] for e in epochs if e]
    times = [e.time for e in epochs if e]
    assert racing.races == 0
    assert covers == sorted(covers)
    assert covers[-1] == 5
    assert times == sorted(set(times))


class GrowingStore(LossyStore):
    """The streams become more, and another cutter covers them, once this one has read how many there are."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend.log)
        self._backend = backend

    async def streams(self, bucket: str) -> int:
        count = await self._backend.log.streams(bucket)
        if count == 1:
            self._backend.store.put_config(config(streams=3))
            await self._backend.log.put_entry(entry(1, observation(2), stream=2))
            await cut(self._backend)
        return count


async def test_a_cutter_that_slept_while_the_streams_became_more_covers_no_less(backend: Backend) -> None:
    await writer(backend.log).append(BUCKET, [observation(1)])
    last = await EpochCutter(GrowingStore(backend), BUCKET, clock).cut()
    assert last.cover == {0: 1, 1: 0, 2: 1}
    assert [backend.store.epoch(BUCKET, n) for n in (1, 2)] == [last, None]


class RaisedMeanwhile(LossyStore):
    """Once this cutter has read a head, more is committed there, and workers say that they had caught up."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend.log)
        self._raised = False

    async def head(self, bucket: str, stream: int) -> int:
        head = int(await self._store.head(bucket, stream))
        if bucket == BUCKET and not self._raised:
            self._raised = True
            await writer(self._store).append(BUCKET, [observation(2)])
            await self._store.raise_caught_up(BUCKET, T + 5000)
        return head


async def test_an_epoch_claims_no_watermark_that_was_raised_after_its_heads_were_read(
    backend: Backend,
) -> None:
    await writer(backend.log).append(BUCKET, [observation(1)])
    first = await EpochCutter(RaisedMeanwhile(backend), BUCKET, clock).cut()
    assert (first.cover, first.watermarks.caught_up) == ({0: 1}, None)
    second = await cut(backend)
    assert (second.cover, second.watermarks.caught_up) == ({0: 2}, T + 5000)


async def test_streams_that_are_added_later_are_covered_from_then_on(backend: Backend) -> None:
    await writer(backend.log).append(BUCKET, [observation(1)])
    first = await cut(backend)
    backend.store.put_config(config(streams=3))
    second = await cut(backend)
    assert first.cover == {0: 1}
    assert second.cover == {0: 1, 1: 0, 2: 0}


@pytest.mark.parametrize("step", ["put_entry", "put_listed", "mark_done"])
@pytest.mark.parametrize("fault", ["before", "after"])
async def test_files_whose_append_failed_anywhere_can_be_appended_again(
    backend: Backend, step: str, fault: str
) -> None:
    lossy = LossyStore(backend.log)
    lossy.fail(step, fault)
    w = writer(lossy)
    with pytest.raises(Unreachable):
        await w.append_files(BUCKET, [archive_file()], 5)
    place = await w.append_files(BUCKET, [archive_file()], 5)
    epoch = await cut(backend)
    named = [e for e in backend.store.entries(BUCKET, 0, 0, epoch.cover[0]) if e.form == "files"]
    assert place.number == named[-1].number
    listed = [from_json(body) for body in backend.store.manifests(BUCKET)]
    assert listed == [Listed(0, e.number, (archive_file(),)) for e in named]


async def test_files_and_observations_take_their_numbers_from_one_stream(backend: Backend) -> None:
    w = writer(backend.log)
    await w.append(BUCKET, [observation(1)])
    files = await w.append_files(BUCKET, [archive_file()], 5)
    (rows,) = await w.append(BUCKET, [observation(2)])
    assert (files.number, rows.number) == (2, 3)
    epoch = await cut(backend)
    forms = [e.form for e in backend.store.entries(BUCKET, 0, 0, epoch.cover[0])]
    assert forms == ["rows", "files", "rows"]


async def test_a_patient_cutter_leaves_files_to_their_writer_at_first(backend: Backend) -> None:
    lossy = LossyStore(backend.log)
    lossy.fail("put_listed", "before")
    with pytest.raises(Unreachable):
        await writer(lossy).append_files(BUCKET, [archive_file()], 5)
    cutter = EpochCutter(backend.log, BUCKET, clock)
    assert (await cutter.cut(patient=True)).cover == {0: 0}
    assert backend.store.manifests(BUCKET) == []
    assert (await cutter.cut(patient=True)).cover == {0: 1}
    assert len(backend.store.manifests(BUCKET)) == 1


async def test_more_files_than_an_entry_can_name_are_refused_and_nothing_is_put(backend: Backend) -> None:
    files = [archive_file(number) for number in range(2_000)]
    with pytest.raises(BadData, match="2,000 files of bucket scans"):
        await writer(backend.log).append_files(BUCKET, files, 5)
    assert await backend.log.head(BUCKET, 0) == 0
