"""The contract that every store keeps. A backend joins by a fixture `backend`, and overrides nothing."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pytest

from snapengine.errors import BucketNotEnabled, LogDamaged
from snapengine.log import EpochCutter, StreamWriter, complete
from snapengine.model import (
    CREATED,
    VERSION_DELETED,
    AuditRecord,
    BucketConfig,
    Epoch,
    LogEntry,
    Observation,
    RunNote,
    Snapshot,
    Watermarks,
)
from snapengine.observation_codec import decode, encode
from snapengine.ports import LogReader, LogStore, Registry, RunNotes

BUCKET = "scans"
T = 1_700_000_000_000


class Store(LogReader, Registry, RunNotes, Protocol):
    """All synchronous ports; every backend has one object for the two."""


@dataclass
class Backend:
    """One backend, fresh, with `scans` registered and nothing in its log."""

    log: LogStore
    store: Store


def config(**changes: Any) -> BucketConfig:
    """A registered bucket with two streams."""
    base = BucketConfig(bucket=BUCKET, region="us-east-1", account="123456789012", streams=2)
    return replace(base, **changes)


def observation(number: int = 0, **changes: Any) -> Observation:
    """An observation of its own."""
    base = Observation(CREATED, f"k{number:04d}", f"v{number}", T + number, f"{number:016X}", 10, "e", None)
    return base._replace(**changes)


def entry(number: int, *observations: Observation, nonce: str = "n", stream: int = 0) -> LogEntry:
    """An entry of the log."""
    return LogEntry(BUCKET, stream, number, nonce, T, len(observations), encode(observations))


def run_note(**changes: Any) -> RunNote:
    """What run `r1` saw."""
    base = RunNote("r1", BUCKET, "scans", "snap://scans@…~1/", T, T + 1, "sha256:…", 3, 2**40)
    return replace(base, **changes)


def clock() -> int:
    return T


AWKWARD_KEYS = [
    "a", "/a", "a/", "a//b", "a/../b", "a::b", "a*", "[a]", "a?b", "a#b", "a%2Bb", "a+b", "~a", "é",
    "日本/😀", "a\x00b\x01", "x" * 1024, "é" * 512, "a#b#c", " ", "LOG#scans#0",
]  # fmt: skip


class StoreContract:
    """What every store must do; the sentences are the contract."""

    # Entries

    async def test_an_entry_is_had_back_as_it_was_put(self, backend: Backend) -> None:
        put = entry(1, observation(1), observation(2))
        assert await backend.log.put_entry(put)
        assert await backend.log.get_entry(BUCKET, 0, 1) == put
        assert list(backend.store.entries(BUCKET, 0, 0, 1)) == [put]
        assert decode(put.payload) == [observation(1), observation(2)]

    async def test_a_number_is_given_to_one_entry_only(self, backend: Backend) -> None:
        assert await backend.log.put_entry(entry(1, observation(1), nonce="mine"))
        assert not await backend.log.put_entry(entry(1, observation(2), nonce="theirs"))
        kept = await backend.log.get_entry(BUCKET, 0, 1)
        assert kept is not None
        assert decode(kept.payload) == [observation(1)]

    async def test_putting_an_entry_again_after_a_lost_reply_finds_it_there(self, backend: Backend) -> None:
        assert await backend.log.put_entry(entry(1, observation(1), nonce="mine"))
        assert await backend.log.put_entry(entry(1, observation(1), nonce="mine"))

    async def test_the_head_is_the_last_entry_of_its_own_stream(self, backend: Backend) -> None:
        assert await backend.log.head(BUCKET, 0) == 0
        await backend.log.put_entry(entry(1, observation(1)))
        await backend.log.put_entry(entry(2, observation(2)))
        await backend.log.put_entry(entry(1, observation(3), stream=1))
        assert await backend.log.head(BUCKET, 0) == 2
        assert await backend.log.head(BUCKET, 1) == 1
        assert await backend.log.head("scans#0", 0) == 0

    async def test_a_missing_entry_is_an_error_and_not_a_shorter_answer(self, backend: Backend) -> None:
        await backend.log.put_entry(entry(1, observation(1)))
        await backend.log.put_entry(entry(3, observation(3)))
        with pytest.raises(LogDamaged, match="Entry 2 of stream 0"):
            list(backend.store.entries(BUCKET, 0, 0, 3))
        with pytest.raises(LogDamaged, match="Entry 4"):
            list(backend.store.entries(BUCKET, 0, 2, 4))

    async def test_entries_are_read_from_after_one_to_another(self, backend: Backend) -> None:
        for number in range(1, 13):
            await backend.log.put_entry(entry(number, observation(number)))
        assert [e.number for e in backend.store.entries(BUCKET, 0, 3, 11)] == list(range(4, 12))
        assert list(backend.store.entries(BUCKET, 0, 5, 5)) == []

    # By-key items and DONE marks

    async def test_by_key_items_are_seen_by_epochs_that_cover_their_entry(self, backend: Backend) -> None:
        await backend.log.put_by_key(BUCKET, 1, 7, [observation(1)])
        assert backend.store.key_history(BUCKET, "k0001", {1: 7}) == [observation(1)]
        assert backend.store.key_history(BUCKET, "k0001", {1: 6, 0: 9}) == []
        assert backend.store.key_history(BUCKET, "k0001", {}) == []
        assert backend.store.key_history("other", "k0001", {1: 7}) == []

    async def test_writing_by_key_items_twice_gives_each_once(self, backend: Backend) -> None:
        for _ in range(2):
            await backend.log.put_by_key(BUCKET, 0, 1, [observation(1), observation(1), observation(2)])
        assert backend.store.key_history(BUCKET, "k0001", {0: 1}) == [observation(1)]

    async def test_observations_of_one_key_in_one_instant_are_all_kept(self, backend: Backend) -> None:
        twins = [observation(1), observation(1, sequencer="FF"), observation(1, kind=VERSION_DELETED)]
        await backend.log.put_by_key(BUCKET, 0, 1, twins)
        assert set(backend.store.key_history(BUCKET, "k0001", {0: 1})) == set(twins)

    async def test_every_key_that_s3_allows_is_had_back_to_the_letter(self, backend: Backend) -> None:
        rows = [
            observation(i, key=key, size=0 if i % 2 else None, etag=None, origin="baseline",
                        listing="l1", page_time=T, position=i, storage_class="GLACIER")
            for i, key in enumerate(AWKWARD_KEYS)
        ]  # fmt: skip
        await backend.log.put_entry(entry(1, *rows))
        await backend.log.put_by_key(BUCKET, 0, 1, rows)
        for row in rows:
            assert backend.store.key_history(BUCKET, row.key, {0: 1}) == [row]
        (kept,) = backend.store.entries(BUCKET, 0, 0, 1)
        assert decode(kept.payload) == rows

    async def test_more_by_key_items_than_a_batch_holds_are_all_written(self, backend: Backend) -> None:
        rows = [observation(i, key="one", version_id=f"v{i}") for i in range(130)]
        await backend.log.put_by_key(BUCKET, 0, 1, rows)
        assert sorted(backend.store.key_history(BUCKET, "one", {0: 1})) == sorted(rows)

    async def test_done_marks_are_told_within_a_range(self, backend: Backend) -> None:
        for number in (1, 2, 3, 4):
            await backend.log.put_entry(entry(number, observation(number)))
        for number in (1, 2, 4, 4):
            await backend.log.mark_done(BUCKET, 0, number)
        assert await backend.log.done(BUCKET, 0, 0, 4) == {1, 2, 4}
        assert await backend.log.done(BUCKET, 0, 1, 3) == {2}
        assert await backend.log.done(BUCKET, 1, 0, 4) == set()

    # Epochs

    async def test_an_epoch_is_had_back_by_number_by_time_and_as_the_newest(self, backend: Backend) -> None:
        assert await backend.log.newest_epoch(BUCKET) is None
        assert backend.store.newest_epoch(BUCKET) is None
        assert backend.store.epoch_at(BUCKET, T) is None
        marks = Watermarks(caught_up=T, baseline_ended=T - 1, verified={"": T, "é/#": T + 1})
        epochs = [Epoch(n, T + 10 * n, {0: n, 3: 2 * n}, marks) for n in range(1, 12)]
        for epoch in epochs:
            assert await backend.log.put_epoch(BUCKET, epoch)
        assert await backend.log.newest_epoch(BUCKET) == epochs[-1] == backend.store.newest_epoch(BUCKET)
        assert backend.store.epoch(BUCKET, 4) == epochs[3]
        assert backend.store.epoch(BUCKET, 99) is None
        assert backend.store.epoch_at(BUCKET, T + 9) is None
        for n in range(1, 12):
            assert backend.store.epoch_at(BUCKET, T + 10 * n) == epochs[n - 1]
            assert backend.store.epoch_at(BUCKET, T + 10 * n + 9) == epochs[n - 1]

    async def test_an_epoch_number_is_taken_once(self, backend: Backend) -> None:
        first = Epoch(1, T, {0: 1})
        assert await backend.log.put_epoch(BUCKET, first)
        assert not await backend.log.put_epoch(BUCKET, Epoch(1, T + 1, {0: 2}))
        assert backend.store.epoch(BUCKET, 1) == first

    # The protocol on top

    async def test_what_was_appended_is_in_the_log_and_by_key_at_the_next_epoch(
        self, backend: Backend
    ) -> None:
        rows = [observation(i) for i in range(60)]
        places = await StreamWriter(backend.log, "w", clock).append(BUCKET, rows + rows)
        epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
        stream = places[0].stream
        found = [
            o
            for e in backend.store.entries(BUCKET, stream, 0, epoch.cover[stream])
            for o in decode(e.payload)
        ]
        assert found == rows
        for row in rows[::20]:
            assert backend.store.key_history(BUCKET, row.key, epoch.cover) == [row]

    async def test_writers_on_one_stream_leave_no_gap_and_lose_nothing(self, backend: Backend) -> None:
        backend.store.put_config(config())
        writers = [StreamWriter(backend.log, f"w{i}", clock) for i in range(5)]
        await asyncio.gather(
            *(w.append(BUCKET, [observation(10 * i + j)]) for j in range(4) for i, w in enumerate(writers))
        )
        epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
        found = {
            o
            for stream, last in epoch.cover.items()
            for e in backend.store.entries(BUCKET, stream, 0, last)
            for o in decode(e.payload)
        }
        assert found == {observation(10 * i + j) for i in range(5) for j in range(4)}

    async def test_an_entry_whose_writer_died_is_completed_by_the_next_cutter(self, backend: Backend) -> None:
        await backend.log.put_entry(entry(1, observation(1)))
        epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
        assert epoch.cover[0] == 1
        assert backend.store.key_history(BUCKET, "k0001", epoch.cover) == [observation(1)]
        assert await backend.log.done(BUCKET, 0, 0, 1) == {1}

    async def test_items_of_a_writer_that_lost_its_number_are_never_seen(self, backend: Backend) -> None:
        # A writes by-key items for entry 1 without having it, and dies; B commits its own entry 1.
        theirs, mine = observation(1), observation(2)
        await backend.log.put_entry(entry(1, theirs, nonce="b"))
        assert not await backend.log.put_entry(entry(1, mine, nonce="a"))
        await complete(backend.log, entry(1, theirs, nonce="b"))
        epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
        assert backend.store.key_history(BUCKET, "k0002", epoch.cover) == []

    async def test_cutting_with_nothing_new_cuts_nothing(self, backend: Backend) -> None:
        await StreamWriter(backend.log, "w", clock).append(BUCKET, [observation(1)])
        cutter = EpochCutter(backend.log, BUCKET, clock)
        assert (await cutter.cut()).number == 1
        assert (await cutter.cut()).number == 1

    async def test_an_epoch_is_later_than_the_one_before_it_whatever_the_clock_says(
        self, backend: Backend
    ) -> None:
        writer = StreamWriter(backend.log, "w", clock)
        await writer.append(BUCKET, [observation(1)])
        first = await EpochCutter(backend.log, BUCKET, lambda: T + 500).cut()
        await writer.append(BUCKET, [observation(2)])
        second = await EpochCutter(backend.log, BUCKET, lambda: T).cut()
        assert (first.time, second.time) == (T + 500, T + 501)

    async def test_a_bucket_that_is_not_enabled_takes_no_observations(self, backend: Backend) -> None:
        with pytest.raises(BucketNotEnabled, match="snapengine enable-bucket other"):
            await StreamWriter(backend.log, "w", clock).append("other", [observation(1)])

    # The registry

    def test_creating_twice_does_nothing_the_second_time(self, backend: Backend) -> None:
        again = backend.store.create()
        assert [line for line in again if not line.startswith("WARNING: this endpoint does not offer")] == []
        backend.store.check()

    def test_a_bucket_s_configuration_is_had_back(self, backend: Backend) -> None:
        full = config(prefix="ct/", queue_url="https://q", enabled_at=T, assured=False, enabled=False)
        backend.store.put_config(full)
        assert backend.store.config(BUCKET) == full
        assert backend.store.config("other") is None
        backend.store.put_config(replace(full, bucket="another"))
        assert [c.bucket for c in backend.store.buckets()] == ["another", BUCKET]

    async def test_the_number_of_streams_only_grows(self, backend: Backend) -> None:
        backend.store.put_config(config(streams=4))
        with pytest.raises(ValueError, match="only grow"):
            backend.store.put_config(config(streams=2))
        assert await backend.log.streams(BUCKET) == 4

    async def test_an_epoch_s_watermarks_come_from_the_bucket_s_configuration(self, backend: Backend) -> None:
        backend.store.put_config(config(enabled_at=T, baseline_ended=T + 5))
        assert await backend.log.watermarks(BUCKET) == Watermarks(enabled_at=T, baseline_ended=T + 5)

    async def test_watermarks_never_go_back(self, backend: Backend) -> None:
        log = backend.log
        for time in (T + 5, T, T + 3):
            await log.raise_caught_up(BUCKET, time)
            await log.note_verified(BUCKET, "ct/", time + 100)
        await log.note_verified(BUCKET, "x" * 1024, T + 1)
        marks = await log.watermarks(BUCKET)
        assert marks.caught_up == T + 5
        assert marks.verified == {"ct/": T + 105, "x" * 1024: T + 1}
        await log.note_verified(BUCKET, "", T + 105)
        assert (await log.watermarks(BUCKET)).verified == {"": T + 105}
        with pytest.raises(BucketNotEnabled):
            await log.watermarks("other")

    def test_a_lease_has_one_holder_until_it_ends_or_is_given_back(self, backend: Backend) -> None:
        store = backend.store
        assert store.acquire(BUCKET, "baseline", "a", until=T + 10, now=T) is None
        assert store.acquire(BUCKET, "baseline", "b", until=T + 10, now=T) == "a"
        assert store.acquire(BUCKET, "enable", "b", until=T + 10, now=T) is None
        assert store.acquire(BUCKET, "baseline", "a", until=T + 20, now=T + 5) is None
        assert store.acquire(BUCKET, "baseline", "b", until=T + 40, now=T + 15) == "a"
        assert store.acquire(BUCKET, "baseline", "b", until=T + 40, now=T + 21) is None
        store.release(BUCKET, "baseline", "a")  # no longer a's to give back
        assert store.acquire(BUCKET, "baseline", "a", until=T + 50, now=T + 22) == "b"
        store.release(BUCKET, "baseline", "b")
        assert store.acquire(BUCKET, "baseline", "a", until=T + 50, now=T + 22) is None

    def test_progress_is_kept_until_it_is_cleared(self, backend: Backend) -> None:
        store = backend.store
        assert store.progress(BUCKET, "baseline") is None
        store.save_progress(BUCKET, "baseline", {"key": "é\x01", "pages": 3, "empty": ""})
        store.save_progress(BUCKET, "baseline", {"key": "é\x01", "pages": 4, "empty": ""})
        assert store.progress(BUCKET, "baseline") == {"key": "é\x01", "pages": 4, "empty": ""}
        store.clear_progress(BUCKET, "baseline")
        assert store.progress(BUCKET, "baseline") is None

    def test_a_snapshot_is_kept_until_it_is_deleted_and_its_name_is_taken_once(
        self, backend: Backend
    ) -> None:
        store = backend.store
        first = Snapshot(BUCKET, "nightly/é 1", "snap://scans@…", "sha256:…", T, "ann", "a note", {"k": "v"})
        assert store.put_snapshot(first)
        assert not store.put_snapshot(replace(first, digest="sha256:other"))
        assert store.put_snapshot(replace(first, name="another", labels={}))
        assert store.put_snapshot(replace(first, bucket="other"))
        assert store.snapshot(BUCKET, "nightly/é 1") == first
        assert store.snapshot(BUCKET, "none") is None
        assert [s.name for s in store.snapshots(BUCKET)] == ["another", "nightly/é 1"]
        assert store.delete_snapshot(BUCKET, "nightly/é 1")
        assert not store.delete_snapshot(BUCKET, "nightly/é 1")
        assert [s.name for s in store.snapshots(BUCKET)] == ["another"]

    # What runs saw

    def test_a_note_is_kept_once_for_its_run_and_reference_and_had_back_by_either(
        self, backend: Backend
    ) -> None:
        store = backend.store
        first = run_note(query="Modality = 'CT' -- é", experiment="7", tracking="http://mlflow")
        others = [run_note(reference="snap://scans@…~2/é"), run_note(run_id="r2"), run_note(bucket="other")]
        for note in (first, *others, first):
            assert store.put_note(note)
        assert store.notes_of_run("r1") == sorted(
            [first, others[0], others[2]], key=lambda note: (note.bucket, note.reference)
        )
        assert set(store.notes(BUCKET)) == {first, others[0], others[1]}
        assert list(store.notes("other")) == [others[2]]
        assert store.notes_of_run("r") == []
        assert list(store.notes("scan")) == []

    def test_a_note_s_digest_may_come_later_and_then_never_changes(self, backend: Backend) -> None:
        store, whole = backend.store, run_note()
        assert store.put_note(replace(whole, digest="", objects=None, bytes=None))
        assert store.put_note(whole)
        assert store.put_note(replace(whole, digest="", objects=None))
        assert store.put_note(whole)
        assert not store.put_note(replace(whole, digest="sha256:other"))
        assert store.notes_of_run("r1") == [whole] == list(store.notes(BUCKET))

    def test_the_processes_of_a_run_agree_on_the_first_epoch_told(self, backend: Backend) -> None:
        store = backend.store
        with ThreadPoolExecutor(4) as pool:
            told = list(pool.map(lambda n: store.agree_on_epoch("r1", BUCKET, T, n), range(1, 9)))
        assert len(set(told)) == 1
        assert told[0] in range(1, 9)
        assert store.agree_on_epoch("r1", BUCKET, T, 99) == told[0]
        assert store.agree_on_epoch("r1", BUCKET, T + 1, 99) == 99
        assert store.agree_on_epoch("r1", "other", T, 98) == 98
        assert store.agree_on_epoch("r2", BUCKET, T, 97) == 97
        assert store.notes_of_run("r1") == []

    def test_the_audit_log_is_in_order_of_time(self, backend: Backend) -> None:
        lines = [AuditRecord(T + i, "ann", "enable-bucket", BUCKET, "ok", f"d{i}") for i in range(3)]
        for line in (lines[2], lines[0], lines[1]):
            backend.store.append_audit(line)
        assert list(backend.store.audit_log()) == lines
        assert list(backend.store.audit_log(since=T + 1)) == lines[1:]
