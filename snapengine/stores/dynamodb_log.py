"""The log in DynamoDB, written asynchronously: the steps of `LogStore`, and what a lost reply means."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from snapengine.aws_errors import THROTTLED, code_of, translate, translated
from snapengine.errors import BucketNotEnabled, LogDamaged, Unreachable
from snapengine.model import BucketConfig, Epoch, LogEntry, Observation, Watermarks
from snapengine.stores import dynamodb_codec as codec
from snapengine.stores.checks import check_stub
from snapengine.stores.dynamodb_identifying import identifying_columns

BATCH_ITEMS = 25
"""DynamoDB's limit for BatchWriteItem."""

CONCURRENCY = 8
"""BatchWriteItem requests that one log has in flight."""


class DynamoDBLog:
    """`LogStore` over an aioboto3 DynamoDB client."""

    def __init__(
        self, client: Any, table: str, *, concurrency: int = CONCURRENCY, give_up_after: float = 60.0
    ) -> None:
        """`give_up_after`: seconds without any progress after which a write is given up as Unreachable."""
        self._client = client
        self._table = table
        self._target = f"DynamoDB table {table}"
        self._slots = asyncio.Semaphore(concurrency)
        self._give_up_after = give_up_after

    async def put_entry(self, entry: LogEntry) -> bool:
        try:
            await self._put_if_free(codec.entry_item(entry))
        except ClientError as error:
            if code_of(error) != "ConditionalCheckFailedException":
                raise translate(error, self._target) from error
            standing = await self.get_entry(entry.bucket, entry.stream, entry.number)
            return standing is not None and standing.nonce == entry.nonce
        except BotoCoreError as error:
            raise translate(error, self._target) from error
        return True

    async def _put_if_free(self, item: codec.Item) -> None:
        await self._client.put_item(
            TableName=self._table, Item=item, ConditionExpression="attribute_not_exists(PK)"
        )

    async def get_entry(self, bucket: str, stream: int, number: int) -> LogEntry | None:
        item = await self._get(codec.log_key(bucket, stream), codec.number(number))
        return codec.entry_from(bucket, stream, item) if item else None

    async def _get(self, pk: str, sk: str) -> codec.Item | None:
        with translated(self._target):
            reply = await self._client.get_item(
                TableName=self._table, Key=codec.primary_key(pk, sk), ConsistentRead=True
            )
        item: codec.Item | None = reply.get("Item")
        return item

    async def put_by_key(
        self, bucket: str, stream: int, number: int, observations: Sequence[Observation]
    ) -> None:
        """Safe to repeat: the same observations give the same items. DynamoDB refuses a batch that names
        an item twice, so equal observations are written once."""
        await self._write_all(bucket, stream, number, observations, None)

    async def let_go(
        self, bucket: str, stream: int, number: int, observations: Sequence[Observation], expires_at: int
    ) -> None:
        """Writes the items again, with their time to live. Safe to repeat. Items that are gone come back for
        a while, and so they do without an end if a writer that slept puts them again: no answer changes."""
        await self._write_all(bucket, stream, number, observations, expires_at)

    async def _write_all(
        self,
        bucket: str,
        stream: int,
        number: int,
        observations: Sequence[Observation],
        expires_at: int | None,
    ) -> None:
        unique = list(dict.fromkeys(observations))
        batches = [unique[i : i + BATCH_ITEMS] for i in range(0, len(unique), BATCH_ITEMS)]
        try:
            async with asyncio.TaskGroup() as group:
                for batch in batches:
                    group.create_task(self._write_batch(bucket, stream, number, batch, expires_at))
        except ExceptionGroup as failed:  # one batch's failure stops the others; one error tells it
            raise failed.exceptions[0] from failed

    async def _write_batch(
        self,
        bucket: str,
        stream: int,
        number: int,
        observations: Sequence[Observation],
        expires_at: int | None,
    ) -> None:
        """The items are made when it is their turn: those of a whole entry at once would hold up the loop."""
        async with self._slots:
            items = [codec.observation_item(bucket, stream, number, o) for o in observations]
            if expires_at is not None:
                items = [codec.leaving(item, expires_at) for item in items]
            await self._write([{"PutRequest": {"Item": item}} for item in items])

    async def _write(self, requests: list[dict[str, Any]]) -> None:
        """Write until nothing is unprocessed. A reply that is lost is one more repetition."""
        loop = asyncio.get_running_loop()
        delay = 0.05
        progress_at = loop.time()
        while True:
            left = await self._write_once(requests)
            if not left:
                return
            if len(left) < len(requests):
                progress_at, delay = loop.time(), 0.05
            elif loop.time() - progress_at > self._give_up_after:
                raise Unreachable(
                    f"{self._target} took none of {len(left)} items for {self._give_up_after:.0f} s; "
                    "it is throttling. They will be written again."
                )
            requests = left
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311  # jitter, not a secret
            delay = min(delay * 2, 5.0)

    async def _write_once(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the table did not take."""
        try:
            reply = await self._client.batch_write_item(RequestItems={self._table: requests})
        except ClientError as error:
            if code_of(error) in THROTTLED:
                return requests
            raise translate(error, self._target) from error
        except BotoCoreError as error:
            raise translate(error, self._target) from error
        unprocessed: list[dict[str, Any]] = reply.get("UnprocessedItems", {}).get(self._table, [])
        return unprocessed

    async def put_listed(self, bucket: str, name: str, body: str) -> None:
        """After a lost reply the same call finds its own manifest, and leaves it."""
        try:
            await self._put_if_free(codec.manifest_item(bucket, name, body))
        except ClientError as error:
            if code_of(error) != "ConditionalCheckFailedException":
                raise translate(error, self._target) from error
        except BotoCoreError as error:
            raise translate(error, self._target) from error

    async def put_identifying(
        self, bucket: str, stream: int, number: int, nonce: str, payload: bytes, *, replacing: bool = False
    ) -> None:
        """After a lost reply the same call finds its own item. A request that the network held up comes too
        late to undo an erasure, as it replaces nothing."""
        item = codec.identifying_item(bucket, stream, number, nonce, payload)
        with identifying_columns(self._target, bucket):
            if replacing:
                await self._client.put_item(TableName=self._table, Item=item)
                return
            try:
                await self._put_if_free(item)
            except ClientError as error:
                if code_of(error) != "ConditionalCheckFailedException":
                    raise

    async def get_identifying(self, bucket: str, stream: int, number: int, nonce: str) -> bytes | None:
        with identifying_columns(self._target, bucket):
            item = await self._get(
                codec.identifying_key(bucket, stream), codec.identifying_sort_key(number, nonce)
            )
        return codec.identifying_from(item)[2] if item else None

    async def delete_identifying(self, bucket: str, stream: int, number: int, nonce: str) -> None:
        key = codec.primary_key(
            codec.identifying_key(bucket, stream), codec.identifying_sort_key(number, nonce)
        )
        with identifying_columns(self._target, bucket):
            await self._client.delete_item(TableName=self._table, Key=key)

    async def rewrite_entry(self, entry: LogEntry) -> bool:
        try:
            await self._client.update_item(
                TableName=self._table,
                Key=codec.primary_key(codec.log_key(entry.bucket, entry.stream), codec.number(entry.number)),
                UpdateExpression="SET payload = :payload, #count = :count",
                ConditionExpression="nonce = :nonce AND #form = :form",
                ExpressionAttributeNames={"#form": "form", "#count": "count"},
                ExpressionAttributeValues={
                    ":payload": {"B": entry.payload},
                    ":count": codec.to_value(entry.count),
                    ":nonce": codec.to_value(entry.nonce),
                    ":form": codec.to_value("metadata"),
                },
            )
        except ClientError as error:
            if code_of(error) != "ConditionalCheckFailedException":
                raise translate(error, self._target) from error
            standing = await self.get_entry(entry.bucket, entry.stream, entry.number)
            check_stub(entry, standing)
            return False
        except BotoCoreError as error:
            raise translate(error, self._target) from error
        return True

    async def stub_entry(self, bucket: str, stream: int, number: int) -> None:
        try:
            await self._client.update_item(
                TableName=self._table,
                Key=codec.primary_key(codec.log_key(bucket, stream), codec.number(number)),
                UpdateExpression="REMOVE payload SET #form = :stub",
                ConditionExpression="attribute_exists(PK)",
                ExpressionAttributeNames={"#form": "form"},
                ExpressionAttributeValues={":stub": codec.to_value("stub")},
            )
        except ClientError as error:
            if code_of(error) == "ConditionalCheckFailedException":
                raise LogDamaged(
                    f"Entry {number} of stream {stream} of bucket {bucket} is missing."
                ) from error
            raise translate(error, self._target) from error
        except BotoCoreError as error:
            raise translate(error, self._target) from error

    async def mark_done(self, bucket: str, stream: int, number: int) -> None:
        with translated(self._target):
            await self._client.put_item(
                TableName=self._table,
                Item=codec.primary_key(codec.done_key(bucket, stream), codec.number(number)),
            )

    async def done(self, bucket: str, stream: int, after: int, to: int) -> set[int]:
        query: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": "PK = :pk AND SK BETWEEN :first AND :last",
            "ExpressionAttributeValues": {
                ":pk": {"S": codec.done_key(bucket, stream)},
                ":first": {"S": codec.number(after + 1)},
                ":last": {"S": codec.number(to)},
            },
            "ConsistentRead": True,
        }
        return {int(item["SK"]["S"]) async for item in self._query(query)}

    async def _query(self, query: dict[str, Any]) -> AsyncIterator[codec.Item]:
        while True:
            with translated(self._target):
                page = await self._client.query(**query)
            for item in page["Items"]:
                yield item
            if "LastEvaluatedKey" not in page:
                return
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    async def head(self, bucket: str, stream: int) -> int:
        item = await self._last(codec.log_key(bucket, stream), projection="SK")
        return int(item["SK"]["S"]) if item else 0

    async def newest_epoch(self, bucket: str) -> Epoch | None:
        item = await self._last(codec.epoch_key(bucket))
        return codec.epoch_from(item) if item else None

    async def _last(self, pk: str, projection: str | None = None) -> codec.Item | None:
        with translated(self._target):
            page = await self._client.query(
                TableName=self._table,
                KeyConditionExpression="PK = :pk",
                ExpressionAttributeValues={":pk": {"S": pk}},
                ScanIndexForward=False,
                Limit=1,
                ConsistentRead=True,
                **({"ProjectionExpression": projection} if projection else {}),
            )
        items: list[codec.Item] = page["Items"]
        return items[0] if items else None

    async def put_epoch(self, bucket: str, epoch: Epoch) -> bool:
        """After a lost reply this says False; the cutter reads again and finds its own epoch."""
        try:
            await self._put_if_free(codec.epoch_item(bucket, epoch))
        except ClientError as error:
            if code_of(error) == "ConditionalCheckFailedException":
                return False
            raise translate(error, self._target) from error
        except BotoCoreError as error:
            raise translate(error, self._target) from error
        return True

    async def watermarks(self, bucket: str) -> Watermarks:
        query: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": "PK = :pk",
            "ExpressionAttributeValues": {":pk": {"S": codec.bucket_key(bucket)}},
            "ConsistentRead": True,
        }
        items = [item async for item in self._query(query)]
        marks = codec.watermarks_from(items)
        if marks is None:
            raise self._not_enabled(bucket)
        return marks

    async def raise_caught_up(self, bucket: str, to: int) -> None:
        await self._raise(codec.caught_up_item(bucket, to))

    async def note_verified(self, bucket: str, prefix: str, begun: int) -> None:
        await self._raise(codec.verified_item(bucket, prefix, begun))

    async def _raise(self, item: codec.Item) -> None:
        """Put the item unless one with a later time is there. Safe to repeat."""
        try:
            await self._client.put_item(
                TableName=self._table,
                Item=item,
                ConditionExpression="attribute_not_exists(PK) OR #time < :time",
                ExpressionAttributeNames={"#time": "time"},
                ExpressionAttributeValues={":time": item["time"]},
            )
        except ClientError as error:
            if code_of(error) != "ConditionalCheckFailedException":  # what is there says more
                raise translate(error, self._target) from error
        except BotoCoreError as error:
            raise translate(error, self._target) from error

    async def streams(self, bucket: str) -> int:
        return (await self._config(bucket)).streams

    async def _config(self, bucket: str) -> BucketConfig:
        item = await self._get(codec.bucket_key(bucket), "CONFIG")
        if item is None:
            raise self._not_enabled(bucket)
        return codec.config_from(item)

    def _not_enabled(self, bucket: str) -> BucketNotEnabled:
        return BucketNotEnabled(
            f"Bucket {bucket} is not enabled in {self._target}. Run `snapengine enable-bucket {bucket}`."
        )
