"""DynamoDB keeps the stores' contract: on moto, and on AWS's own DynamoDB Local where it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import aioboto3
import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from snapengine.errors import SchemaTooNew, TableMissing
from snapengine.model import Epoch
from snapengine.stores.dynamodb import DynamoDBStore
from snapengine.stores.dynamodb_codec import note_items, primary_key
from snapengine.stores.dynamodb_log import DynamoDBLog
from snapengine.testing.archive_contract import ArchiveContract
from snapengine.testing.row_contract import RowContract
from snapengine.testing.store_contract import (
    BUCKET,
    Backend,
    StoreContract,
    T,
    config,
    observation,
    run_note,
)


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def client(url: str) -> Any:
    return boto3.client("dynamodb", endpoint_url=url, config=Config(retries={"max_attempts": 2}))


async def backend_at(url: str) -> AsyncIterator[Backend]:
    table = f"t{uuid4().hex}"
    store = DynamoDBStore(client(url), table)
    store.create()
    store.put_config(config())
    async with aioboto3.Session().client("dynamodb", endpoint_url=url) as log_client:
        yield Backend(DynamoDBLog(log_client, table), store)


class TestOnMoto(StoreContract, ArchiveContract, RowContract):
    @pytest.fixture
    async def backend(self, moto_url: str) -> AsyncIterator[Backend]:
        async for backend in backend_at(moto_url):
            yield backend


@pytest.mark.services
@pytest.mark.xdist_group("dynamodb-local")
class TestOnDynamoDBLocal(StoreContract, ArchiveContract, RowContract):
    @pytest.fixture
    async def backend(self, dynamodb_local_server: Any) -> AsyncIterator[Backend]:
        async for backend in backend_at(dynamodb_local_server.endpoint_url):
            yield backend


def test_init_makes_a_table_on_demand_encrypted_protected_and_with_recovery(moto_url: str) -> None:
    table = f"t{uuid4().hex}"
    done = DynamoDBStore(client(moto_url), table).create()
    assert done[0] == f"table {table} created: on-demand, encrypted, protected from deletion"
    description = client(moto_url).describe_table(TableName=table)["Table"]
    assert description["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert description["DeletionProtectionEnabled"] is True
    assert description["SSEDescription"]["Status"] == "ENABLED"
    backups = client(moto_url).describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    assert done[-2:] == ["time to live switched on, by the attribute expires", "schema version 3 noted"]
    assert expiry(moto_url, table) == ("ENABLED", "expires")


def expiry(url: str, table: str) -> tuple[str, str | None]:
    found = client(url).describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    return found["TimeToLiveStatus"], found.get("AttributeName")


async def test_a_table_of_before_the_archive_works_and_init_sets_it_right(moto_url: str) -> None:
    table = f"t{uuid4().hex}"
    store = DynamoDBStore(client(moto_url), table)
    store.create()
    client(moto_url).update_time_to_live(
        TableName=table, TimeToLiveSpecification={"Enabled": False, "AttributeName": "expires"}
    )
    old = {**primary_key("TABLE", "SCHEMA"), "version": {"N": "1"}}
    client(moto_url).put_item(TableName=table, Item=old)
    store.check()
    store.put_config(config())
    async with aioboto3.Session().client("dynamodb", endpoint_url=moto_url) as log_client:
        log = DynamoDBLog(log_client, table)
        await log.put_by_key(BUCKET, 0, 1, [observation(1)])
        await log.let_go(BUCKET, 0, 1, [observation(1)], T)
    assert store.key_history(BUCKET, "k0001", {0: 1}) == [observation(1)]
    assert expiry(moto_url, table)[0] == "DISABLED"
    assert store.create() == ["time to live switched on, by the attribute expires", "schema version 3 noted"]
    assert expiry(moto_url, table) == ("ENABLED", "expires")
    assert store.create() == []


def test_a_time_to_live_of_somebody_else_is_told_and_left(moto_url: str) -> None:
    table = f"t{uuid4().hex}"
    store = DynamoDBStore(client(moto_url), table)
    store.create()
    for enabled, attribute in ((False, "expires"), (True, "theirs")):
        client(moto_url).update_time_to_live(
            TableName=table, TimeToLiveSpecification={"Enabled": enabled, "AttributeName": attribute}
        )
    assert store.create() == [
        "WARNING: time to live goes by attribute theirs, not expires: nothing leaves the table"
    ]
    assert expiry(moto_url, table) == ("ENABLED", "theirs")


async def test_an_epoch_among_thousands_is_found_by_time_in_few_requests(moto_url: str) -> None:
    numbers = [*range(1, 150), 1_000_000, 2_000_000]
    asked = 0

    def count(**_: Any) -> None:
        nonlocal asked
        asked += 1

    async for backend in backend_at(moto_url):
        for number in numbers:
            await backend.log.put_epoch(BUCKET, Epoch(number, T + number, {0: number}))
        assert isinstance(backend.store, DynamoDBStore)
        backend.store._client.meta.events.register("before-call.dynamodb.Query", count)
        found = backend.store.epoch_at(BUCKET, T + 77)
        assert found is not None
        assert found.number == 77
    assert asked <= 18


def test_a_note_of_which_only_one_item_was_written_is_made_whole_by_noting_again(moto_url: str) -> None:
    table = f"t{uuid4().hex}"
    store = DynamoDBStore(client(moto_url), table)
    store.create()
    by_bucket, _ = note_items(run_note())
    client(moto_url).put_item(TableName=table, Item=by_bucket)
    assert list(store.notes(BUCKET)) == [run_note()]
    assert store.notes_of_run("r1") == []
    assert store.put_note(run_note())
    assert store.notes_of_run("r1") == list(store.notes(BUCKET)) == [run_note()]


def test_init_sets_right_what_somebody_switched_off(moto_url: str) -> None:
    table = f"t{uuid4().hex}"
    store = DynamoDBStore(client(moto_url), table)
    store.create()
    client(moto_url).update_table(TableName=table, DeletionProtectionEnabled=False)
    assert store.create() == ["deletion protection switched on"]
    assert store.create() == []


def test_a_table_that_is_not_there_is_named_with_the_remedy(moto_url: str) -> None:
    with pytest.raises(TableMissing, match=r"DynamoDB table nowhere.*snapengine init"):
        DynamoDBStore(client(moto_url), "nowhere").check()


def test_a_table_of_a_newer_snapengine_is_refused(moto_url: str) -> None:
    table = f"t{uuid4().hex}"
    store = DynamoDBStore(client(moto_url), table)
    store.create()
    newer = {**primary_key("TABLE", "SCHEMA"), "version": {"N": "99"}}
    client(moto_url).put_item(TableName=table, Item=newer)
    with pytest.raises(SchemaTooNew, match="schema 99"):
        store.check()
    with pytest.raises(SchemaTooNew):
        store.create()
