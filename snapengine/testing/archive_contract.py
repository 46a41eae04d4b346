"""What every store must do for the archive: manifests, entries that name files, stubs, letting go, gaps."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from snapengine.archive.manifest import ArchiveFile, Listed, files_to_payload, from_json
from snapengine.errors import LogDamaged
from snapengine.log import EpochCutter, StreamWriter, complete
from snapengine.model import Epoch, LogEntry, Observation
from snapengine.testing.store_contract import BUCKET, Backend, T, clock, config, entry, observation

NEVER = 4_102_444_800_000
"""The year 2100, UTC milliseconds."""


def file_entry(number: int, *files: ArchiveFile, nonce: str = "n", stream: int = 0) -> LogEntry:
    """An entry that names Parquet files."""
    payload = files_to_payload(list(files))
    return LogEntry(BUCKET, stream, number, nonce, T, sum(f.rows for f in files), payload, "files")


def archive_file(number: int = 1) -> ArchiveFile:
    return ArchiveFile(f"scans/listed/l1/part-{number}-é.parquet", "regular", 5, 900, "a" * 64, 90, "b" * 64)


def stub(number: int, stream: int = 0) -> LogEntry:
    return LogEntry(BUCKET, stream, number, "n", T, 500, b"", "stub")


def incompressible(size: int, seed: int = 0) -> str:
    """Text of `size` bytes that packs to half of them."""
    return random.Random(seed).randbytes(size // 2).hex()  # noqa: S311  # the same in every run


class ArchiveContract:
    """Joins `StoreContract`, with the same fixture."""

    # Manifests

    def test_manifests_are_had_back_to_the_letter_and_of_their_bucket_only(self, backend: Backend) -> None:
        bodies = {f"SEGMENT#{i}": text for i, text in enumerate(["{}", "é日本😀\x00" * 9, "x" * 2_000_000])}
        assert backend.store.manifests(BUCKET) == []
        for name, body in bodies.items():
            assert backend.store.put_manifest(BUCKET, name, body)
        assert backend.store.put_manifest("other", "SEGMENT#1", "theirs")
        assert sorted(backend.store.manifests(BUCKET)) == sorted(bodies.values())
        assert backend.store.manifests("other") == ["theirs"]

    def test_more_manifests_than_one_answer_holds_are_all_had_back(self, backend: Backend) -> None:
        bodies = [incompressible(400_000, seed) for seed in range(8)]
        for number, body in enumerate(bodies):
            assert backend.store.put_manifest(BUCKET, f"SEGMENT#{number}", body)
        assert backend.store.manifests(BUCKET) == bodies

    def test_a_manifest_s_name_is_given_once(self, backend: Backend) -> None:
        assert backend.store.put_manifest(BUCKET, "SEGMENT#1", "mine")
        assert not backend.store.put_manifest(BUCKET, "SEGMENT#1", "theirs")
        assert backend.store.manifests(BUCKET) == ["mine"]

    @pytest.mark.parametrize("size", [10, 100_000])
    def test_a_manifest_is_replaced_by_who_knows_the_one_that_stands(
        self, backend: Backend, size: int
    ) -> None:
        first, second, third = (incompressible(size, seed) for seed in (1, 2, 3))
        assert not backend.store.put_manifest(BUCKET, "SEGMENT#1", second, replacing=first)
        assert backend.store.manifests(BUCKET) == []
        assert backend.store.put_manifest(BUCKET, "SEGMENT#1", first)
        assert backend.store.put_manifest(BUCKET, "SEGMENT#1", second, replacing=first)
        assert not backend.store.put_manifest(BUCKET, "SEGMENT#1", third, replacing=first)
        assert backend.store.manifests(BUCKET) == [second]

    def test_putting_a_manifest_again_after_a_lost_reply_finds_it_there(self, backend: Backend) -> None:
        for _ in range(2):
            assert backend.store.put_manifest(BUCKET, "SEGMENT#1", "first")
        for _ in range(2):
            assert backend.store.put_manifest(BUCKET, "SEGMENT#1", "second", replacing="first")
        assert not backend.store.put_manifest(BUCKET, "SEGMENT#1", "first")

    def test_a_manifest_that_is_deleted_is_gone_and_does_not_come_back(self, backend: Backend) -> None:
        assert backend.store.put_manifest(BUCKET, "SEGMENT#1", "one")
        assert backend.store.put_manifest(BUCKET, "SEGMENT#2", "two")
        for _ in range(2):
            backend.store.delete_manifest(BUCKET, "SEGMENT#1")
        assert backend.store.manifests(BUCKET) == ["two"]
        assert not backend.store.put_manifest(BUCKET, "SEGMENT#1", "late", replacing="one")
        assert backend.store.manifests(BUCKET) == ["two"]

    async def test_a_listing_s_manifest_that_stands_is_left_as_it_is(self, backend: Backend) -> None:
        await backend.log.put_listed(BUCKET, "LISTED#1", "first")
        await backend.log.put_listed(BUCKET, "LISTED#1", "second")
        assert backend.store.manifests(BUCKET) == ["first"]

    # Entries of other forms

    async def test_entries_of_every_form_are_had_back_as_they_were_put(self, backend: Backend) -> None:
        put = [stub(1), file_entry(2, archive_file()), entry(3, observation(1))]
        for each in put:
            assert await backend.log.put_entry(each)
        assert list(backend.store.entries(BUCKET, 0, 0, 3)) == put
        assert [await backend.log.get_entry(BUCKET, 0, n) for n in (1, 2, 3)] == put

    async def test_a_stub_keeps_all_of_an_entry_but_its_payload(self, backend: Backend) -> None:
        put = [entry(1, observation(1)), file_entry(2, archive_file())]
        for each in put:
            await backend.log.put_entry(each)
            for _ in range(2):
                await backend.log.stub_entry(BUCKET, 0, each.number)
        stubs = [replace(each, payload=b"", form="stub") for each in put]
        assert list(backend.store.entries(BUCKET, 0, 0, 2)) == stubs
        assert await backend.log.head(BUCKET, 0) == 2
        assert await backend.log.put_entry(put[0])  # its reply was lost long ago
        assert not await backend.log.put_entry(entry(1, observation(2), nonce="theirs"))
        assert await backend.log.get_entry(BUCKET, 0, 1) == stubs[0]

    async def test_an_entry_that_is_missing_is_not_stubbed_into_being(self, backend: Backend) -> None:
        with pytest.raises(LogDamaged, match="Entry 7 of stream 0"):
            await backend.log.stub_entry(BUCKET, 0, 7)
        assert await backend.log.head(BUCKET, 0) == 0

    async def test_a_done_mark_outlives_its_entry_s_payload(self, backend: Backend) -> None:
        await backend.log.put_entry(entry(1, observation(1)))
        await backend.log.mark_done(BUCKET, 0, 1)
        await backend.log.stub_entry(BUCKET, 0, 1)
        assert await backend.log.done(BUCKET, 0, 0, 1) == {1}

    async def test_files_that_were_appended_are_named_by_a_manifest_at_the_next_epoch(
        self, backend: Backend
    ) -> None:
        files = [archive_file(1), archive_file(2)]
        place = await StreamWriter(backend.log, "w", clock).append_files(BUCKET, files, 10)
        (body,) = backend.store.manifests(BUCKET)
        assert from_json(body) == Listed(place.stream, place.number, tuple(files))
        assert await backend.log.done(BUCKET, place.stream, 0, place.number) == {place.number}
        epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
        assert epoch.cover[place.stream] == place.number
        (kept,) = backend.store.entries(BUCKET, place.stream, 0, place.number)
        assert (kept.form, kept.count) == ("files", 10)

    async def test_an_entry_of_files_whose_writer_died_is_completed_by_the_next_cutter(
        self, backend: Backend
    ) -> None:
        await backend.log.put_entry(file_entry(1, archive_file()))
        await backend.log.put_entry(stub(2))
        epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
        assert epoch.cover[0] == 2
        assert [from_json(body) for body in backend.store.manifests(BUCKET)] == [
            Listed(0, 1, (archive_file(),))
        ]
        assert await backend.log.done(BUCKET, 0, 0, 2) == {1, 2}

    async def test_an_entry_that_should_name_files_and_does_not_stops_the_cutter(
        self, backend: Backend
    ) -> None:
        await backend.log.put_entry(replace(file_entry(1), payload=b'["no file"]'))
        with pytest.raises(LogDamaged, match="Entry 1 of stream 0 of bucket scans should name files"):
            await EpochCutter(backend.log, BUCKET, clock).cut()
        assert await backend.log.done(BUCKET, 0, 0, 1) == set()

    # Letting go

    async def test_what_is_let_go_stays_until_its_time(self, backend: Backend) -> None:
        rows = [observation(i % 3, version_id=f"v{i}") for i in range(130)]
        await backend.log.put_by_key(BUCKET, 0, 1, rows)
        await backend.log.put_by_key(BUCKET, 0, 2, rows)
        for _ in range(2):
            await backend.log.let_go(BUCKET, 0, 1, rows, NEVER)
        for cover in ({0: 1}, {0: 2}):
            assert sorted(set(self._histories(backend, cover))) == sorted(rows)
        assert len(self._histories(backend, {0: 2})) == 260

    async def test_what_is_due_may_be_gone_and_nothing_else_is(self, backend: Backend) -> None:
        due, kept = observation(1), observation(1, version_id="kept")
        await backend.log.put_by_key(BUCKET, 0, 1, [due])
        await backend.log.put_by_key(BUCKET, 0, 2, [kept])
        await backend.log.let_go(BUCKET, 0, 1, [due], T)
        found = backend.store.key_history(BUCKET, "k0001", {0: 2})
        assert kept in found
        assert set(found) <= {due, kept}

    async def test_a_writer_that_slept_brings_back_nothing_but_what_was_true(self, backend: Backend) -> None:
        rows = [observation(1), observation(2)]
        await backend.log.put_entry(entry(1, *rows))
        await backend.log.put_by_key(BUCKET, 0, 1, rows)
        await backend.log.mark_done(BUCKET, 0, 1)
        await backend.log.let_go(BUCKET, 0, 1, rows, T)
        await backend.log.stub_entry(BUCKET, 0, 1)
        await complete(backend.log, entry(1, *rows))
        assert set(self._histories(backend, {0: 1})) <= set(rows)
        assert self._histories(backend, {}) == []
        (kept,) = backend.store.entries(BUCKET, 0, 0, 1)
        assert kept.form == "stub"

    def _histories(self, backend: Backend, cover: dict[int, int]) -> list[Observation]:
        keys = [f"k{i:04d}" for i in range(3)]
        return [o for key in keys for o in backend.store.key_history(BUCKET, key, cover)]

    # Epochs, and a table that was built anew

    async def test_epochs_are_read_in_order_and_those_that_are_not_there_are_left_out(
        self, backend: Backend
    ) -> None:
        epochs = [Epoch(n, T + n, {0: n}) for n in (1, 2, 3, 10, 11)]
        for epoch in reversed(epochs):
            await backend.log.put_epoch(BUCKET, epoch)
        assert list(backend.store.epochs(BUCKET, 1, 11)) == epochs
        assert list(backend.store.epochs(BUCKET, 2, 10)) == epochs[1:4]
        assert list(backend.store.epochs(BUCKET, 4, 9)) == []
        assert list(backend.store.epochs(BUCKET, 3, 2)) == []
        assert list(backend.store.epochs("other", 1, 11)) == []

    async def test_an_epoch_is_found_by_time_where_numbers_have_gaps(self, backend: Backend) -> None:
        numbers = [5, 6, 7, *range(400, 480, 3), 1_000_480, 1_000_481, 2_500_000]
        epochs = [Epoch(n, T + 10 * i, {0: i}) for i, n in enumerate(numbers)]
        for epoch in epochs:
            assert await backend.log.put_epoch(BUCKET, epoch)
        assert backend.store.epoch_at(BUCKET, T - 1) is None
        for i, epoch in enumerate(epochs):
            assert backend.store.epoch_at(BUCKET, T + 10 * i) == epoch
            assert backend.store.epoch_at(BUCKET, T + 10 * i + 9) == epoch
        assert backend.store.epoch_at(BUCKET, NEVER) == epochs[-1]

    async def test_a_stream_that_begins_with_a_stub_goes_on_behind_it(self, backend: Backend) -> None:
        backend.store.put_config(replace(config(), bucket="restored", streams=1))
        restored = replace(stub(1_000_007), bucket="restored")
        assert await backend.log.put_entry(restored)
        assert await backend.log.put_epoch("restored", Epoch(1_000_004, T + 900, {0: 1_000_007}))
        assert await backend.log.head("restored", 0) == 1_000_007
        cutter = EpochCutter(backend.log, "restored", clock)
        assert (await cutter.cut()).number == 1_000_004
        (place,) = await StreamWriter(backend.log, "w", clock).append("restored", [observation(1)])
        assert place.number == 1_000_008
        epoch = await cutter.cut()
        assert (epoch.number, epoch.time, epoch.cover) == (1_000_005, T + 901, {0: 1_000_008})
        assert [e.number for e in backend.store.entries("restored", 0, 1_000_006, 1_000_008)] == [
            1_000_007,
            1_000_008,
        ]
