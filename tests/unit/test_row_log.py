"""Rows of metadata in the log under lost replies, dead writers and races; and what a denial says."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from snapengine.errors import BadData, IdentifyingRefused, Unreachable
from snapengine.log import EpochCutter, RowWriter, StreamWriter
from snapengine.metadata_codec import decode, encode
from snapengine.metadata_rows import fold_rows, metadata_log
from snapengine.model import LogEntry
from snapengine.stores.dynamodb import DynamoDBStore
from snapengine.stores.dynamodb_log import DynamoDBLog
from snapengine.stores.sqlite import SQLiteStore
from snapengine.stores.sqlite_database import Database
from snapengine.stores.sqlite_log import SQLiteLog
from snapengine.testing.row_contract import EXTRACTOR, SCHEMA, identified, row, row_entry, row_table
from snapengine.testing.store_contract import BUCKET, Backend, clock, config, entry, observation
from tests.contract.lossy import LossyStore


@pytest.fixture
def backend() -> Backend:
    database = Database(":memory:")
    store = SQLiteStore(database)
    store.put_config(config(streams=1))
    return Backend(SQLiteLog(database), store)


@pytest.mark.parametrize("step", ["put_identifying", "put_entry", "mark_done"])
@pytest.mark.parametrize("fault", ["before", "after"])
async def test_an_append_that_failed_anywhere_can_be_repeated_and_loses_no_column(
    backend: Backend, step: str, fault: str
) -> None:
    lossy = LossyStore(backend.log)
    lossy.fail(step, fault)
    writer = RowWriter(lossy, "w", clock)
    table = row_table([row(1), row(2)])
    with pytest.raises(Unreachable):
        await writer.append(BUCKET, EXTRACTOR, table)
    await writer.append(BUCKET, EXTRACTOR, table)
    epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
    assert identified(backend, epoch).equals(table)


class Overtaken(LossyStore):
    """Another writer takes the number between the identifying part and the entry."""

    async def put_entry(self, entry: LogEntry) -> bool:
        if entry.number == 1:
            theirs = row_table([row(9)])
            payload = encode(EXTRACTOR, theirs).identifying
            await self._store.put_identifying(BUCKET, 0, 1, "theirs", payload or b"")
            await self._store.put_entry(row_entry(1, theirs, nonce="theirs"))
        return await super().put_entry(entry)


async def test_a_writer_that_loses_its_number_hides_nothing_and_is_not_taken_for_the_other(
    backend: Backend,
) -> None:
    writer = RowWriter(Overtaken(backend.log), "w", clock)
    (place,) = await writer.append(BUCKET, EXTRACTOR, row_table([row(1)]))
    assert place.number == 2
    epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
    assert epoch.rows == {0: 2}
    assert [number for number, _, _ in backend.store.identifying(BUCKET, 0, 0, 9)] == [1, 1, 2]
    assert identified(backend, epoch).equals(row_table([row(1), row(9)]))


async def test_rows_that_are_not_whole_are_refused_before_anything_is_written(backend: Backend) -> None:
    bad = row_table([row(i) for i in range(600)] + [row(600, outcome="fine")])
    with pytest.raises(BadData, match="'fine'"):
        await RowWriter(backend.log, "w", clock).append(BUCKET, EXTRACTOR, bad)
    assert await backend.log.head(metadata_log(BUCKET), 0) == 0
    assert list(backend.store.identifying(BUCKET, 0, 0, 9)) == []


async def test_no_rows_are_no_entry(backend: Backend) -> None:
    assert await RowWriter(backend.log, "w", clock).append(BUCKET, EXTRACTOR, SCHEMA.empty_table()) == []
    assert await backend.log.head(metadata_log(BUCKET), 0) == 0


async def test_an_epoch_without_rows_is_as_it_was_before_there_were_any(backend: Backend) -> None:
    await StreamWriter(backend.log, "w", clock).append(BUCKET, [observation(1)])
    epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
    assert (epoch.cover, epoch.rows) == ({0: 1}, {})


async def test_rows_alone_make_an_epoch_and_never_take_back_what_was_covered(backend: Backend) -> None:
    backend.store.put_config(config(streams=2))
    cutter = EpochCutter(backend.log, BUCKET, clock)
    await StreamWriter(backend.log, "w", clock).append(BUCKET, [observation(1)])
    first = await cutter.cut()
    for name in ("a", "b", "c", "d"):
        await RowWriter(backend.log, name, clock).append(BUCKET, EXTRACTOR, row_table([row(1)]))
        second = await cutter.cut()
        assert second.number == first.number + 1
        assert second.cover == first.cover
        assert all(second.rows[stream] >= to for stream, to in first.rows.items())
        first = second
    assert sum(first.rows.values()) == 4


async def test_an_unfinished_entry_of_rows_does_not_hold_the_observations_watermarks_back(
    backend: Backend,
) -> None:
    await StreamWriter(backend.log, "w", clock).append(BUCKET, [observation(1)])
    await backend.log.put_entry(row_entry(1, row_table([row(1)])))
    await backend.log.raise_caught_up(BUCKET, 77)
    cutter = EpochCutter(backend.log, BUCKET, clock)
    epoch = await cutter.cut(patient=True)
    assert (epoch.rows, epoch.watermarks.caught_up) == ({}, 77)
    await backend.log.put_entry(entry(2, observation(2)))
    await backend.log.raise_caught_up(BUCKET, 78)
    epoch = await cutter.cut(patient=True)
    assert (epoch.rows, epoch.watermarks.caught_up) == ({0: 1}, 77)


async def test_erasing_takes_a_row_out_of_what_an_old_epoch_shows_and_leaves_the_rest(
    backend: Backend,
) -> None:
    table = row_table([row(1), row(2)])
    (place,) = await RowWriter(backend.log, "w", clock).append(BUCKET, EXTRACTOR, table)
    epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
    kept = await backend.log.get_entry(place.bucket, place.stream, place.number)
    assert kept is not None
    left = row_entry(place.number, table.slice(1), nonce=kept.nonce, stream=place.stream)
    packed = encode(EXTRACTOR, table.slice(1))
    await backend.log.put_identifying(
        BUCKET, place.stream, place.number, kept.nonce, packed.identifying or b"", replacing=True
    )
    assert await backend.log.rewrite_entry(left)
    assert identified(backend, epoch).equals(table.slice(1))
    (entry_left,) = backend.store.entries(place.bucket, place.stream, 0, place.number)
    assert fold_rows(decode(entry_left.payload).table)["key"].to_pylist() == ["k0002"]


# What DynamoDB denies


def denied() -> DynamoDBStore:
    client = boto3.client(
        "dynamodb", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    stub = Stubber(client)
    stub.add_client_error("query", "AccessDeniedException", "not authorized to perform: dynamodb:Query")
    stub.activate()
    return DynamoDBStore(client, "t")


def test_a_role_that_may_not_read_identifying_columns_is_told_which_and_what_to_do() -> None:
    with pytest.raises(IdentifyingRefused, match=r"scans.*Query.*IDENTIFYING#scans#\*.*Leave those columns"):
        list(denied().identifying(BUCKET, 0, 0, 1))


class Denying:
    """A client that may not touch identifying columns."""

    def __getattr__(self, name: str) -> Any:
        async def call(**_: Any) -> None:
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, name)

        return call


async def test_a_role_that_may_not_write_identifying_columns_is_told_so() -> None:
    log = DynamoDBLog(Denying(), "t")
    for replacing in (False, True):
        with pytest.raises(IdentifyingRefused, match="put_item"):
            await log.put_identifying(BUCKET, 0, 1, "n", b"secret", replacing=replacing)
    with pytest.raises(IdentifyingRefused, match="delete_item"):
        await log.delete_identifying(BUCKET, 0, 1, "n")
