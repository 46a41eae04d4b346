"""What is forgotten, as the log has it; and that writers and cutters of epochs bring nothing of it back."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from snapengine.archive.identifying import IdentifyingParts, decoded
from snapengine.errors import IdentifyingRefused, LogDamaged, PermissionMissing, SchemaTooNew, Unreachable
from snapengine.forgotten import (
    UNITS_AT_ONCE,
    Forgotten,
    forget_in_entry,
    forgotten_log,
    key_unit,
    prefix_unit,
    put_back,
    read_forgotten,
    tell,
    version_unit,
)
from snapengine.log import EpochCutter, RowWriter
from snapengine.metadata_codec import compacted, decode, encode, pack, without
from snapengine.metadata_rows import metadata_log, row_schema
from snapengine.model import LogEntry
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import Database
from snapengine.stores.sqlite_log import SQLiteLog
from snapengine.testing.row_contract import EXTRACTOR, row, row_entry, row_table
from snapengine.testing.store_contract import BUCKET, Backend, clock, config
from tests.contract.lossy import LossyStore


@pytest.fixture
def backend() -> Backend:
    database = Database(":memory:")
    store = SQLiteStore(database)
    store.put_config(config(streams=1))
    return Backend(SQLiteLog(database), store)


async def keys_kept(backend: Backend) -> tuple[list[str], list[str]]:
    """Of the log of rows the keys in the entries, and those in the identifying parts."""
    plain: list[str] = []
    for number in range(1, await backend.log.head(metadata_log(BUCKET), 0) + 1):
        entry = await backend.log.get_entry(metadata_log(BUCKET), 0, number)
        assert entry is not None
        plain += decoded(entry).table["key"].to_pylist()
    parts = [decode(payload).table for _, _, payload in backend.store.identifying(BUCKET, 0, 0, 99)]
    return plain, [key for part in parts for key in part["key"].to_pylist()]


# What is forgotten


async def test_what_is_told_adds_up_in_the_order_of_its_telling(backend: Backend) -> None:
    assert await read_forgotten(backend.log, BUCKET) == Forgotten()
    one, two = key_unit("a"), key_unit("b")
    assert (await tell(backend.log, BUCKET, "forget", [one, two], clock)).number == 1
    assert (await tell(backend.log, BUCKET, "forget", [one], clock)).number == 1
    assert await tell(backend.log, BUCKET, "allow", [one], clock) == Forgotten(2, frozenset([two]))
    again = await tell(backend.log, BUCKET, "forget", [one], clock)
    assert again == Forgotten(3, frozenset([one, two]))
    assert await read_forgotten(backend.log, BUCKET) == again
    assert await read_forgotten(backend.log, BUCKET, Forgotten(2, frozenset([two]))) == again


async def test_more_units_than_an_entry_holds_are_told_in_several(backend: Backend) -> None:
    units = {key_unit(f"k{n}") for n in range(2 * UNITS_AT_ONCE + 1)}
    assert await tell(backend.log, BUCKET, "forget", units, clock) == Forgotten(3, frozenset(units))


async def test_two_who_forget_at_once_lose_nothing(backend: Backend) -> None:
    class Overtaken(LossyStore):
        async def put_entry(self, entry: LogEntry) -> bool:
            if entry.number == 1:
                await tell(backend.log, BUCKET, "forget", [key_unit("theirs")], clock)
            return await super().put_entry(entry)

    found = await tell(Overtaken(backend.log), BUCKET, "forget", [key_unit("ours")], clock)
    assert found == Forgotten(2, frozenset([key_unit("ours"), key_unit("theirs")]))


async def test_a_rebuilt_table_goes_on_with_what_was_forgotten_and_with_its_number(backend: Backend) -> None:
    known = Forgotten(7, frozenset([key_unit("a")]))
    for _ in range(2):
        await put_back(backend.log, BUCKET, known, 1)
    assert await read_forgotten(backend.log, BUCKET) == known
    assert (await tell(backend.log, BUCKET, "forget", [key_unit("b")], clock)).number == 8
    with pytest.raises(LogDamaged):
        await put_back(backend.log, BUCKET, Forgotten(7, frozenset([key_unit("c")])), 1)


async def test_a_gap_or_a_newer_format_in_what_is_forgotten_is_never_passed_over(backend: Backend) -> None:
    log = forgotten_log(BUCKET)
    await backend.log.put_entry(
        LogEntry(log, 0, 2, "n", 1, 0, b'{"format":1,"action":"forget","units":[]}', "metadata")
    )
    with pytest.raises(LogDamaged, match="Entry 1"):
        await read_forgotten(backend.log, BUCKET)
    await backend.log.put_entry(LogEntry(log, 0, 1, "n", 1, 0, b'{"format":2}', "metadata"))
    with pytest.raises(SchemaTooNew):
        await read_forgotten(backend.log, BUCKET)


def test_a_key_a_version_a_null_version_and_a_prefix_are_told_apart() -> None:
    units = [
        key_unit("a"),
        version_unit("b", "v1", "e"),
        version_unit("c", "null", "e1"),
        prefix_unit("é/日"),
    ]
    forgotten = Forgotten(1, frozenset(units))
    rows = [
        ("a", "v1", "e", True),
        ("a", "null", None, True),
        ("aa", "v1", "e", False),
        ("b", "v1", None, True),
        ("b", "v2", "e", False),
        ("c", "null", "e1", True),
        ("c", "null", "e2", False),
        ("é/日", "v", "e", True),
        ("é/日本", "v", "e", True),
        ("é/", "v", "e", False),
        ("E/日本", "v", "e", False),
    ]
    table = pa.table({name: [r[n] for r in rows] for n, name in enumerate(("key", "version_id", "etag"))})
    assert forgotten.mask(table).to_pylist() == [r[3] for r in rows]
    assert [forgotten.covers(*r[:3]) for r in rows] == [r[3] for r in rows]
    assert forgotten.left(table)["key"].to_pylist() == [r[0] for r in rows if not r[3]]
    assert forgotten.left(table.slice(0, 0)).num_rows == 0
    assert forgotten.by_prefix("é/日本") == "é/日"
    assert not any("日" in unit for unit in units)


# Payloads


def test_a_payload_without_rows_keeps_nothing_of_them_and_its_columns() -> None:
    forgotten = Forgotten(1, frozenset([key_unit("k0001")]))
    packed = encode(EXTRACTOR, row_table([row(1), row(2)]))
    for payload in (packed.plain, packed.identifying):
        assert payload is not None
        left, rows = without(payload, forgotten.mask)
        assert rows == 1
        assert decode(left).schema.equals(decode(payload).schema, check_metadata=True)
        assert decode(left).table.equals(decode(payload).table.slice(1))
    nothing, rows = without(left, Forgotten(1, frozenset([key_unit("k0002")])).mask)
    assert (rows, decode(nothing).table.num_rows) == (0, 0)


def test_dictionaries_keep_no_value_that_no_row_has() -> None:
    coded = pa.array(["secret", "plain", "plain"]).dictionary_encode()
    table = pa.table({"one": coded, "many": pa.array([["x"]] * 3, pa.list_(coded.type))}).slice(1)
    fresh = compacted(table)
    assert fresh.to_pylist() == table.to_pylist()
    assert fresh["one"].chunk(0).dictionary.to_pylist() == ["plain"]


def test_no_payload_has_values_of_rows_that_are_in_another() -> None:
    schema = row_schema(pa.schema([pa.field("Label", pa.dictionary(pa.int32(), pa.string()))]))
    table = row_table([row(n, Label=f"label-{n:04d}") for n in range(600)], schema)
    first, second = [decode(packed.plain).table["Label"] for packed in pack(EXTRACTOR, table)]
    assert len(first.chunk(0).dictionary) == 500
    assert len(second.chunk(0).dictionary) == 100
    names = row_table([row(n, Modality=f"modality {n:04d}") for n in range(600)])
    payload = next(pack(EXTRACTOR, names)).plain
    with pa.CompressedInputStream(pa.BufferReader(payload), "zstd") as stream:
        assert b"modality 0500" not in stream.read()


# Writers and cutters


async def test_rows_of_what_is_forgotten_are_not_written(backend: Backend) -> None:
    writer = RowWriter(backend.log, "w", clock)
    await writer.append(BUCKET, EXTRACTOR, row_table([row(0)]))
    await tell(backend.log, BUCKET, "forget", [key_unit("k0001")], clock)
    await writer.append(BUCKET, EXTRACTOR, row_table([row(1), row(2)]))
    assert await writer.append(BUCKET, EXTRACTOR, row_table([row(1)])) == []
    assert writer.left_out == 2
    assert await keys_kept(backend) == (["k0000", "k0002"], ["k0000", "k0002"])
    await tell(backend.log, BUCKET, "allow", [key_unit("k0001")], clock)
    assert len(await writer.append(BUCKET, EXTRACTOR, row_table([row(1)]))) == 1


class Forgetting(LossyStore):
    """Something is forgotten between the put of an entry and its DONE mark."""

    async def put_entry(self, entry: LogEntry) -> bool:
        put = await super().put_entry(entry)
        if entry.bucket == metadata_log(BUCKET):
            await tell(self._store, BUCKET, "forget", [key_unit("k0001")], clock)
        return put


async def test_what_is_forgotten_while_its_rows_are_written_is_taken_out_before_an_epoch_can_cover_them(
    backend: Backend,
) -> None:
    writer = RowWriter(Forgetting(backend.log), "w", clock)
    await writer.append(BUCKET, EXTRACTOR, row_table([row(1), row(2)]))
    assert await keys_kept(backend) == (["k0002"], ["k0002"])
    assert writer.left_out == 1


class ForgettingMore(LossyStore):
    """While an entry is rewritten something more is forgotten, and is taken out of it by who forgets it."""

    async def rewrite_entry(self, entry: LogEntry) -> bool:
        if not await self._store.head("told", 0):
            await self._store.put_entry(replace(entry, bucket="told", number=1))
            forgotten = await tell(self._store, BUCKET, "forget", [key_unit("k0002")], clock)
            found = await self._store.get_entry(entry.bucket, 0, entry.number)
            assert found is not None
            await forget_in_entry(self._store, found, forgotten)
        return bool(await self._store.rewrite_entry(entry))


async def test_rewriting_an_entry_brings_back_nothing_that_is_forgotten_at_the_same_time(
    backend: Backend,
) -> None:
    class Both(Forgetting, ForgettingMore):
        pass

    writer = RowWriter(Both(backend.log), "w", clock)
    await writer.append(BUCKET, EXTRACTOR, row_table([row(1), row(2), row(3)]))
    assert await keys_kept(backend) == (["k0003"], ["k0003"])
    assert writer.left_out == 2


async def test_completing_an_entry_brings_back_nothing_that_is_forgotten_at_the_same_time(
    backend: Backend,
) -> None:
    lossy = LossyStore(backend.log)
    lossy.fail("mark_done", "before")
    with pytest.raises(Unreachable):
        await RowWriter(lossy, "w", clock).append(BUCKET, EXTRACTOR, row_table([row(1), row(2), row(3)]))
    await tell(backend.log, BUCKET, "forget", [key_unit("k0001")], clock)
    await EpochCutter(ForgettingMore(backend.log), BUCKET, clock).cut()
    assert await keys_kept(backend) == (["k0003"], ["k0003"])


async def test_what_a_writer_that_died_had_put_is_taken_out_by_who_cuts_the_epoch(backend: Backend) -> None:
    lossy = LossyStore(backend.log)
    lossy.fail("mark_done", "before")
    with pytest.raises(Unreachable):
        await RowWriter(lossy, "w", clock).append(BUCKET, EXTRACTOR, row_table([row(1), row(2)]))
    await tell(backend.log, BUCKET, "forget", [key_unit("k0001")], clock)
    epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
    assert epoch.rows == {0: 1}
    assert await keys_kept(backend) == (["k0002"], ["k0002"])


class Denied(LossyStore):
    """A role that may put identifying parts and entries, and neither read the one nor rewrite the other."""

    async def get_identifying(self, *_: object) -> bytes | None:
        raise IdentifyingRefused("no")

    async def rewrite_entry(self, entry: LogEntry) -> bool:
        raise PermissionMissing("no", action="dynamodb:UpdateItem")


async def test_a_role_that_may_not_rewrite_entries_goes_on_and_leaves_them_to_the_archiver(
    backend: Backend,
) -> None:
    class Race(Denied, Forgetting):
        pass

    await RowWriter(Race(backend.log), "w", clock).append(BUCKET, EXTRACTOR, row_table([row(1), row(2)]))
    part = encode(EXTRACTOR, row_table([row(1)])).identifying or b""
    await backend.log.put_identifying(BUCKET, 0, 2, "n", part)
    await backend.log.put_entry(row_entry(2, row_table([row(1)])))
    epoch = await EpochCutter(Denied(backend.log), BUCKET, clock).cut()
    assert epoch.rows == {0: 2}
    assert await keys_kept(backend) == (["k0001", "k0002", "k0001"], ["k0001", "k0002", "k0001"])


async def test_only_rows_count_that_an_entry_and_its_identifying_part_both_have(backend: Backend) -> None:
    put = row_entry(1, row_table([row(1), row(3)]))
    part = encode(EXTRACTOR, row_table([row(1), row(2), row(3)])).identifying or b""
    await backend.log.put_identifying(BUCKET, 0, 1, "n", part)
    await backend.log.put_entry(put)
    whole = IdentifyingParts(backend.store, BUCKET, {}, {0: 1}).whole(put, decoded(put))
    assert whole.table["PatientName"].to_pylist() == ["name 1", "name 3"]


async def test_half_way_through_an_erasure_only_rows_count_that_both_parts_have(backend: Backend) -> None:
    put = row_entry(1, row_table([row(1), row(2)]))
    part = encode(EXTRACTOR, row_table([row(1), row(2)])).identifying or b""
    await backend.log.put_identifying(BUCKET, 0, 1, "n", part)
    await backend.log.put_entry(put)
    forgotten = Forgotten(1, frozenset([key_unit("k0001")]))

    class Dying(LossyStore):
        async def rewrite_entry(self, entry: LogEntry) -> bool:
            if entry.count < 2:
                raise Unreachable("gone")
            return bool(await self._store.rewrite_entry(entry))

    with pytest.raises(Unreachable):
        await forget_in_entry(Dying(backend.log), put, forgotten)
    whole = IdentifyingParts(backend.store, BUCKET, {}, {0: 1}).whole(put, decoded(put))
    assert whole.table["key"].to_pylist() == ["k0002"]
    assert await forget_in_entry(backend.log, put, forgotten) == 1
    assert await keys_kept(backend) == (["k0002"], ["k0002"])


async def test_an_identifying_part_of_other_rows_is_still_damage(backend: Backend) -> None:
    put = row_entry(1, row_table([row(1), row(2)]))
    part = encode(EXTRACTOR, row_table([row(3)])).identifying or b""
    await backend.log.put_identifying(BUCKET, 0, 1, "n", part)
    with pytest.raises(LogDamaged, match="of other rows"):
        IdentifyingParts(backend.store, BUCKET, {}, {0: 1}).whole(put, decoded(put))


async def test_an_identifying_part_without_identifying_columns_is_damage(backend: Backend) -> None:
    put = row_entry(1, row_table([row(1), row(2)]))
    part = encode(EXTRACTOR, row_table([row(1), row(2)])).plain
    await backend.log.put_identifying(BUCKET, 0, 1, "n", part)
    with pytest.raises(LogDamaged, match="of other rows"):
        IdentifyingParts(backend.store, BUCKET, {}, {0: 1}).whole(put, decoded(put))
