"""A bucket of the embedded cloud whose events a queue gets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

ALL = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]


@dataclass
class Watched:
    """A bucket of its own, and the queue that hears of it."""

    s3: Any
    sqs: Any
    bucket: str
    queue_url: str
    queue_arn: str

    def version(self, status: str = "Enabled") -> Watched:
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": status})
        return self

    def subscribe(self, *events: str, rule_id: str = "watch", **filters: str) -> None:
        rule: dict[str, Any] = {"Id": rule_id, "QueueArn": self.queue_arn, "Events": list(events or ALL)}
        if filters:
            rules = [{"Name": name, "Value": value} for name, value in filters.items()]
            rule["Filter"] = {"Key": {"FilterRules": rules}}
        self.configure(QueueConfigurations=[rule])
        self.bodies()

    def configure(self, **configuration: Any) -> None:
        self.s3.put_bucket_notification_configuration(
            Bucket=self.bucket, NotificationConfiguration=configuration
        )

    def put(self, key: str = "a", body: bytes = b"x", **more: Any) -> Any:
        return self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **more)

    def delete(self, key: str = "a", **more: Any) -> Any:
        return self.s3.delete_object(Bucket=self.bucket, Key=key, **more)

    def bodies(self) -> list[dict[str, Any]]:
        """All that has come. A write returns after its messages are in the queue: nothing is on its way."""
        found = []
        while batch := self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            found += [json.loads(message["Body"]) for message in batch]
            entries = [
                {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                for index, message in enumerate(batch)
            ]
            self.sqs.delete_message_batch(QueueUrl=self.queue_url, Entries=entries)
        return found

    def records(self) -> list[dict[str, Any]]:
        bodies = self.bodies()
        assert all(len(body["Records"]) == 1 for body in bodies)
        return [body["Records"][0] for body in bodies]

    def heard(self) -> list[tuple[str, str, str | None]]:
        """Each event's name, key and version id, in the order of the queue."""
        return [
            (
                record["eventName"],
                unquote_plus(record["s3"]["object"]["key"]),
                record["s3"]["object"].get("versionId"),
            )
            for record in self.records()
        ]
