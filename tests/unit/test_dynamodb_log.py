"""DynamoDB's own ways to fail: unprocessed items, throttling, timeouts, lost replies."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError, ReadTimeoutError

from snapengine.errors import CredentialsMissing, PermissionMissing, TableMissing, Unreachable
from snapengine.stores.dynamodb_log import DynamoDBLog
from snapengine.testing.store_contract import BUCKET, entry, observation


class Client:
    """A table in a dictionary whose answers a test scripts: exceptions, or how many items to leave."""

    def __init__(self, *script: Any) -> None:
        self.items: dict[tuple[str, str], Any] = {}
        self.script = list(script)
        self.calls = 0

    async def batch_write_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803  # AWS's name
        self.calls += 1
        ((table, requests),) = RequestItems.items()
        keys = [codec_key(r["PutRequest"]["Item"]) for r in requests]
        assert len(set(keys)) == len(keys) <= 25, "DynamoDB refuses such a batch"
        step = self.script.pop(0) if self.script else 0
        if isinstance(step, Exception):
            raise step
        taken = requests[: len(requests) - step]
        self.items.update({codec_key(r["PutRequest"]["Item"]): r["PutRequest"]["Item"] for r in taken})
        return {"UnprocessedItems": {table: requests[len(taken) :]} if step else {}}

    async def put_item(self, Item: Any, **_: Any) -> None:  # noqa: N803  # AWS's name
        """Takes the item and loses the reply, where the script has an exception."""
        if codec_key(Item) in self.items:
            raise refusal("ConditionalCheckFailedException")
        self.items[codec_key(Item)] = Item
        if self.script:
            raise self.script.pop(0)

    async def update_item(self, Key: Any, **_: Any) -> None:  # noqa: N803  # AWS's name
        """Stubs the entry and loses the reply, where the script has an exception."""
        if codec_key(Key) not in self.items:
            raise refusal("ConditionalCheckFailedException")
        item = self.items[codec_key(Key)]
        item.pop("payload", None)
        item["form"] = {"S": "stub"}
        if self.script:
            raise self.script.pop(0)

    async def get_item(self, Key: Any, **_: Any) -> dict[str, Any]:  # noqa: N803  # AWS's name
        item = self.items.get(codec_key(Key))
        return {"Item": item} if item else {}


def codec_key(item: Any) -> tuple[str, str]:
    return (item["PK"]["S"], item["SK"]["S"])


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "said the table"}}, "BatchWriteItem")


def log(client: Client, **options: Any) -> DynamoDBLog:
    return DynamoDBLog(client, "table", **options)


ROWS = [observation(i) for i in range(30)]


async def test_unprocessed_items_are_written_again_until_none_is_left() -> None:
    client = Client(20, 3, 0, 0)
    await log(client).put_by_key(BUCKET, 0, 1, ROWS)
    assert len(client.items) == 30
    assert client.calls == 4


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "ThrottlingException"])
async def test_a_throttled_batch_is_written_again(code: str) -> None:
    client = Client(refusal(code), refusal(code))
    await log(client).put_by_key(BUCKET, 0, 1, ROWS[:3])
    assert len(client.items) == 3


async def test_throttling_without_end_is_given_up_and_said() -> None:
    client = Client(*[refusal("ThrottlingException")] * 50)
    with pytest.raises(Unreachable, match="took none of 3 items"):
        await log(client, give_up_after=0.1).put_by_key(BUCKET, 0, 1, ROWS[:3])


async def test_a_batch_that_holds_an_item_twice_is_sent_with_it_once() -> None:
    client = Client()
    await log(client).put_by_key(BUCKET, 0, 1, [ROWS[0]] * 40)
    assert len(client.items) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectTimeoutError(endpoint_url="http://127.0.0.1"), Unreachable),
        (ReadTimeoutError(endpoint_url="http://127.0.0.1"), Unreachable),
        (NoCredentialsError(), CredentialsMissing),
        (refusal("AccessDeniedException"), PermissionMissing),
        (refusal("ResourceNotFoundException"), TableMissing),
    ],
)
async def test_every_other_failure_is_raised_as_ours(error: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected):
        await log(Client(error)).put_by_key(BUCKET, 0, 1, ROWS[:1])


async def test_an_entry_whose_put_timed_out_but_landed_is_found_when_it_is_put_again() -> None:
    client = Client(ReadTimeoutError(endpoint_url="http://127.0.0.1"))
    mine = entry(1, observation(1), nonce="mine")
    with pytest.raises(Unreachable):
        await log(client).put_entry(mine)
    assert await log(client).put_entry(mine)
    assert not await log(client).put_entry(entry(1, observation(2), nonce="theirs"))


async def test_what_is_let_go_is_written_again_with_its_time_in_seconds_rounded_up() -> None:
    client = Client(20, 3, 0, 0)
    await log(client).let_go(BUCKET, 0, 1, ROWS, 1_700_000_000_001)
    plain = Client()
    await log(plain).put_by_key(BUCKET, 0, 1, ROWS)
    expires = {"expires": {"N": "1700000001"}}
    assert client.items == {key: {**item, **expires} for key, item in plain.items.items()}


async def test_a_listing_s_manifest_whose_reply_was_lost_is_found_when_it_is_put_again() -> None:
    client = Client(ReadTimeoutError(endpoint_url="http://127.0.0.1"))
    with pytest.raises(Unreachable):
        await log(client).put_listed(BUCKET, "LISTED#1", "body")
    await log(client).put_listed(BUCKET, "LISTED#1", "body")
    assert len(client.items) == 1


async def test_a_stub_whose_reply_was_lost_is_made_again() -> None:
    client = Client()
    await log(client).put_entry(entry(1, observation(1)))
    client.script = [ReadTimeoutError(endpoint_url="http://127.0.0.1")]
    with pytest.raises(Unreachable):
        await log(client).stub_entry(BUCKET, 0, 1)
    await log(client).stub_entry(BUCKET, 0, 1)
    kept = await log(client).get_entry(BUCKET, 0, 1)
    assert kept is not None
    assert (kept.form, kept.payload, kept.count) == ("stub", b"", 1)


@pytest.mark.parametrize("step", ["put_listed", "stub_entry"])
async def test_what_the_table_refuses_is_raised_as_ours(step: str) -> None:
    client = Client()
    await log(client).put_entry(entry(1, observation(1)))
    client.script = [refusal("AccessDeniedException")]
    with pytest.raises(PermissionMissing):
        await (
            log(client).put_listed(BUCKET, "LISTED#1", "body")
            if step == "put_listed"
            else log(client).stub_entry(BUCKET, 0, 1)
        )
