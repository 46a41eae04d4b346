"""The log and the registry in DynamoDB, read synchronously: what resolving a view and the commands need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from secrets import token_hex
from typing import Any

from botocore.exceptions import ClientError

from snapengine.aws_errors import code_of, translate, translated
from snapengine.errors import LogDamaged, SchemaTooNew, TableMissing
from snapengine.model import AuditRecord, BucketConfig, Epoch, LogEntry, Observation, RunNote, Snapshot
from snapengine.stores import dynamodb_codec as codec
from snapengine.stores.dynamodb_identifying import identifying_columns

NEAR = 64
"""So many epochs are read at once instead of being halved further."""


class DynamoDBStore:
    """`LogReader` and `Registry` over a boto3 DynamoDB client."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table
        self._target = f"DynamoDB table {table}"

    # Reading the log

    def newest_epoch(self, bucket: str) -> Epoch | None:
        for item in self._query(codec.epoch_key(bucket), ScanIndexForward=False, Limit=1):
            return codec.epoch_from(item)
        return None

    def epoch(self, bucket: str, number: int) -> Epoch | None:
        item = self._get(codec.epoch_key(bucket), codec.number(number))
        return codec.epoch_from(item) if item else None

    def epochs(self, bucket: str, first: int, last: int) -> Iterator[Epoch]:
        if first <= last:
            between = (codec.number(first), codec.number(last))
            for item in self._query(codec.epoch_key(bucket), between=between):
                yield codec.epoch_from(item)

    def epoch_at(self, bucket: str, time: int) -> Epoch | None:
        """By bisection: epochs' times rise with their numbers, which may have gaps."""
        newest = self.newest_epoch(bucket)
        if newest is None or newest.time <= time:
            return newest
        low, high = 0, newest.number  # no epoch up to `low` is after `time`, all from `high` on are
        found: Epoch | None = None
        while high - low > NEAR:
            middle = (low + high) // 2
            between = (codec.number(low + 1), codec.number(middle))
            items = self._query(codec.epoch_key(bucket), between=between, ScanIndexForward=False, Limit=1)
            last = next((codec.epoch_from(item) for item in items), None)
            if last is not None and last.time > time:
                high = last.number
            else:
                low, found = middle, last or found
        between = (codec.number(low + 1), codec.number(high - 1))
        if low + 1 < high:
            for item in self._query(codec.epoch_key(bucket), between=between, ScanIndexForward=False):
                if (epoch := codec.epoch_from(item)).time <= time:
                    return epoch
        return found

    def manifests(self, bucket: str) -> list[str]:
        return [codec.manifest_from(item) for item in self._query(codec.archive_key(bucket))]

    def entries(self, bucket: str, stream: int, after: int, to: int) -> Iterator[LogEntry]:
        expected = after + 1
        if to <= after:
            return
        pages = self._query(codec.log_key(bucket, stream), between=(codec.number(expected), codec.number(to)))
        for item in pages:
            entry = codec.entry_from(bucket, stream, item)
            if entry.number != expected:
                break
            yield entry
            expected += 1
        if expected <= to:
            raise LogDamaged(f"Entry {expected} of stream {stream} of bucket {bucket} is missing.")

    def identifying(self, bucket: str, stream: int, after: int, to: int) -> Iterator[tuple[int, str, bytes]]:
        if to <= after:
            return
        between = codec.identifying_between(after, to)
        with identifying_columns(self._target, bucket):
            for item in self._query(codec.identifying_key(bucket, stream), between=between):
                yield codec.identifying_from(item)

    def key_history(self, bucket: str, key: str, cover: Mapping[int, int]) -> list[Observation]:
        items = self._query(codec.object_key(bucket, key))
        found = (codec.observation_from(key, item, cover) for item in items)
        return [o for o in found if o is not None]

    def _query(
        self, pk: str, *, between: tuple[str, str] | None = None, **options: Any
    ) -> Iterator[codec.Item]:
        values = {":pk": {"S": pk}}
        condition = "PK = :pk"
        if between:
            condition += " AND SK BETWEEN :first AND :last"
            values |= {":first": {"S": between[0]}, ":last": {"S": between[1]}}
        query = {
            "TableName": self._table,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ConsistentRead": True,
            **options,
        }
        while True:
            with translated(self._target):
                page = self._client.query(**query)
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _get(self, pk: str, sk: str) -> codec.Item | None:
        with translated(self._target):
            reply = self._client.get_item(
                TableName=self._table, Key=codec.primary_key(pk, sk), ConsistentRead=True
            )
        item: codec.Item | None = reply.get("Item")
        return item

    # The registry

    def create(self) -> list[str]:
        from snapengine.stores.dynamodb_table import create_table

        with translated(self._target):
            done = create_table(self._client, self._table)
        if self._put_if(
            {**codec.primary_key("TABLE", "SCHEMA"), "version": codec.to_value(codec.SCHEMA_VERSION)},
            "attribute_not_exists(PK) OR version < :version",
            values={":version": codec.to_value(codec.SCHEMA_VERSION)},
        ):
            done.append(f"schema version {codec.SCHEMA_VERSION} noted")
        self.check()
        return done

    def check(self) -> None:
        item = self._get("TABLE", "SCHEMA")
        if item is None:
            raise TableMissing(
                f"{self._target} exists but is not set up for snapengine. Run `snapengine init`."
            )
        version = codec.from_value(item["version"])
        if version > codec.SCHEMA_VERSION:
            raise SchemaTooNew(
                f"{self._target} has schema {version}; this snapengine knows up to {codec.SCHEMA_VERSION}. "
                "Upgrade snapengine."
            )

    def config(self, bucket: str) -> BucketConfig | None:
        item = self._get(codec.bucket_key(bucket), "CONFIG")
        return codec.config_from(item) if item else None

    def put_config(self, config: BucketConfig) -> None:
        with translated(self._target):
            self._client.put_item(TableName=self._table, Item=codec.primary_key("BUCKETS", config.bucket))
            try:
                self._client.put_item(
                    TableName=self._table,
                    Item=codec.config_item(config),
                    ConditionExpression="attribute_not_exists(PK) OR streams <= :streams",
                    ExpressionAttributeValues={":streams": codec.to_value(config.streams)},
                )
            except ClientError as error:
                if code_of(error) == "ConditionalCheckFailedException":
                    raise ValueError(
                        f"The number of streams of bucket {config.bucket} may only grow."
                    ) from error
                raise

    def buckets(self) -> list[BucketConfig]:
        names = [item["SK"]["S"] for item in self._query("BUCKETS")]
        return [config for name in names if (config := self.config(name))]

    def acquire(self, bucket: str, task: str, holder: str, until: int, now: int) -> str | None:
        key = codec.primary_key(codec.bucket_key(bucket), f"LEASE#{task}")
        taken = self._put_if(
            {**key, "holder": codec.to_value(holder), "until": codec.to_value(until)},
            "attribute_not_exists(PK) OR holder = :holder OR #until < :now",
            names={"#until": "until"},
            values={":holder": codec.to_value(holder), ":now": codec.to_value(now)},
        )
        if taken:
            return None
        item = self._get(codec.bucket_key(bucket), f"LEASE#{task}")
        return str(item["holder"]["S"]) if item else "another process"

    def release(self, bucket: str, task: str, holder: str) -> None:
        with translated(self._target):
            try:
                self._client.delete_item(
                    TableName=self._table,
                    Key=codec.primary_key(codec.bucket_key(bucket), f"LEASE#{task}"),
                    ConditionExpression="attribute_not_exists(PK) OR holder = :holder",
                    ExpressionAttributeValues={":holder": codec.to_value(holder)},
                )
            except ClientError as error:
                if code_of(error) != "ConditionalCheckFailedException":  # it is somebody else's by now
                    raise

    def save_progress(self, bucket: str, task: str, progress: Mapping[str, str | int]) -> None:
        with translated(self._target):
            self._client.put_item(
                TableName=self._table,
                Item={
                    **codec.primary_key(codec.bucket_key(bucket), f"PROGRESS#{task}"),
                    "progress": {"M": {name: codec.to_value(v) for name, v in progress.items()}},
                },
            )

    def progress(self, bucket: str, task: str) -> dict[str, str | int] | None:
        item = self._get(codec.bucket_key(bucket), f"PROGRESS#{task}")
        return {n: codec.from_value(v) for n, v in item["progress"]["M"].items()} if item else None

    def clear_progress(self, bucket: str, task: str) -> None:
        with translated(self._target):
            self._client.delete_item(
                TableName=self._table,
                Key=codec.primary_key(codec.bucket_key(bucket), f"PROGRESS#{task}"),
            )

    def put_manifest(self, bucket: str, name: str, body: str, *, replacing: str | None = None) -> bool:
        """Safe to repeat after a lost reply: the same body again is no other."""
        item = codec.manifest_item(bucket, name, body)
        free = "attribute_not_exists(PK)" if replacing is None else "#hash = :replacing"
        values = {":hash": item["hash"]}
        if replacing is not None:
            values[":replacing"] = codec.body_hash(replacing)
        return self._put_if(item, f"{free} OR #hash = :hash", names={"#hash": "hash"}, values=values)

    def delete_manifest(self, bucket: str, name: str) -> None:
        with translated(self._target):
            self._client.delete_item(
                TableName=self._table, Key=codec.primary_key(codec.archive_key(bucket), name)
            )

    def put_snapshot(self, snapshot: Snapshot) -> bool:
        return self._put_if(codec.snapshot_item(snapshot), "attribute_not_exists(PK)")

    def snapshot(self, bucket: str, name: str) -> Snapshot | None:
        item = self._get(codec.snapshot_key(bucket), name)
        return codec.snapshot_from(item) if item else None

    def snapshots(self, bucket: str) -> list[Snapshot]:
        return [codec.snapshot_from(item) for item in self._query(codec.snapshot_key(bucket))]

    def delete_snapshot(self, bucket: str, name: str) -> bool:
        with translated(self._target):
            reply = self._client.delete_item(
                TableName=self._table,
                Key=codec.primary_key(codec.snapshot_key(bucket), name),
                ReturnValues="ALL_OLD",
            )
        return "Attributes" in reply

    def put_note(self, note: RunNote) -> bool:
        return all(self._noted(item, note.digest) for item in codec.note_items(note))

    def _noted(self, item: codec.Item, digest: str) -> bool:
        """After a lost reply the same digest stands there, which is as well."""
        names, values = {"#digest": "digest"}, {":none": codec.to_value("")}
        if self._put_if(item, "attribute_not_exists(PK) OR #digest = :none", names=names, values=values):
            return True
        standing = self._get(item["PK"]["S"], item["SK"]["S"])
        return not digest or (standing is not None and codec.note_from(standing).digest == digest)

    def notes_of_run(self, run_id: str) -> list[RunNote]:
        items = self._query(codec.run_key(run_id), between=codec.NOTES_BETWEEN)
        return sorted(map(codec.note_from, items), key=lambda note: (note.bucket, note.reference))

    def notes(self, bucket: str) -> Iterator[RunNote]:
        return map(codec.note_from, self._query(codec.runs_key(bucket)))

    def agree_on_epoch(self, run_id: str, bucket: str, at: int, epoch: int) -> int:
        key = codec.primary_key(codec.run_key(run_id), codec.run_epoch_sort_key(bucket, at))
        if self._put_if({**key, "epoch": codec.to_value(epoch)}, "attribute_not_exists(PK)"):
            return epoch
        standing = self._get(key["PK"]["S"], key["SK"]["S"])
        return int(codec.from_value(standing["epoch"])) if standing else epoch

    def scrub(self) -> list[str]:
        backups = (
            f"backups of {self._target}: those for point-in-time recovery for up to 35 days, those made on "
            "demand until they are deleted; its stream, where it has one, for 24 hours"
        )
        return [backups]

    def append_audit(self, record: AuditRecord) -> None:
        self._put_if(codec.audit_item(record, token_hex(6)), None)

    def audit_log(self, since: int = 0) -> Iterable[AuditRecord]:
        for item in self._query("AUDIT", between=(codec.audit_from_time(since), "9" * 20)):
            yield codec.audit_from(item)

    def _put_if(
        self,
        item: codec.Item,
        condition: str | None,
        names: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> bool:
        """Put an item; False if the condition does not hold."""
        options: dict[str, Any] = {"ConditionExpression": condition} if condition else {}
        if names:
            options["ExpressionAttributeNames"] = names
        if values:
            options["ExpressionAttributeValues"] = values
        try:
            self._client.put_item(TableName=self._table, Item=item, **options)
        except ClientError as error:
            if code_of(error) == "ConditionalCheckFailedException":
                return False
            raise translate(error, self._target) from error
        return True
