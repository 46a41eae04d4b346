"""An extract worker's surroundings for tests: objects in the embedded cloud, extraction queues, a store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import boto3
import pyarrow as pa

from metadata_extractors.extract_worker import ExtractWorker, Options
from metadata_extractors.limits import Limits
from snapengine.engine import Engine
from snapengine.extraction_tasks import Task, messages_of
from snapengine.metadata_codec import decode
from snapengine.metadata_rows import conform, fold_rows, metadata_log, unify
from snapengine.model import CREATED, BucketConfig, Observation
from snapengine.settings import Settings
from tests.seed import record

COMMAND = (
    "import typer; from metadata_extractors.extract_command import extract_worker; typer.run(extract_worker)"
)
VISIBILITY = 2


class Site:
    """A bucket in the cloud, its extraction queue with a dead-letter queue, and an engine."""

    def __init__(
        self, environment: dict[str, str], store: str, extractors: Sequence[str] = ("dicom",)
    ) -> None:
        self.environment = {**environment, "SNAPENGINE_STORE": store}
        self.engine = Engine(Settings(store=store))
        self.engine.store.create()
        self.s3: Any = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])
        self.sqs: Any = boto3.client("sqs", endpoint_url=environment["AWS_ENDPOINT_URL"])
        self.bucket = f"scans-{uuid4().hex[:8]}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.versioning("Enabled")
        self.dead_url = self._queue("dead", {})
        self.url = self._queue("extract", self._settings())
        self.config = BucketConfig(
            self.bucket,
            "us-east-1",
            "123456789012",
            streams=2,
            extractors=tuple(extractors),
            extract_queue_url=self.url,
            extract_dead_letter_queue_url=self.dead_url,
        )
        self.engine.store.put_config(self.config)

    def _queue(self, purpose: str, attributes: dict[str, str]) -> str:
        return str(
            self.sqs.create_queue(QueueName=f"{self.bucket}-{purpose}", Attributes=attributes)["QueueUrl"]
        )

    def _settings(self) -> dict[str, str]:
        found = self.sqs.get_queue_attributes(QueueUrl=self.dead_url, AttributeNames=["QueueArn"])
        policy = {"deadLetterTargetArn": found["Attributes"]["QueueArn"], "maxReceiveCount": "100"}
        return {"VisibilityTimeout": str(VISIBILITY), "RedrivePolicy": json.dumps(policy)}

    def register(self, **changes: Any) -> None:
        self.config = replace(self.config, **changes)
        self.engine.store.put_config(self.config)

    def versioning(self, status: str) -> None:
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": status})

    def put(self, key: str, body: bytes, **options: Any) -> Task:
        """Put an object; what the worker would be told of it."""
        reply = self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **options)
        version = reply.get("VersionId", "null")
        head = self.s3.head_object(Bucket=self.bucket, Key=key)
        millis = round(head["LastModified"].timestamp() * 1000)
        return Task(
            self.bucket, key, version, len(body), reply["ETag"].strip('"'), f"{next(_sequence):016X}", millis
        )

    def send(self, *tasks: Task) -> None:
        for body in messages_of(tasks):
            self.send_raw(body)

    def send_raw(self, body: str) -> None:
        self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def observe(self, *tasks: Task) -> None:
        """Have the log know the versions."""
        record(
            self.engine,
            [
                Observation(
                    CREATED, t.key, t.version_id, t.event_time, t.sequencer, t.size, t.etag, event_name="Put"
                )
                for t in tasks
            ],
            self.bucket,
        )

    def run(self, *, processes: int = 1, limits: Limits | None = None, **options: Any) -> ExtractWorker:
        """Empty the queue by a worker in this process."""
        worker = ExtractWorker(
            self.engine,
            Options("w", processes=processes, once=True, limits=limits or Limits(), **options),
        )
        asyncio.run(worker.run(asyncio.Event()))
        return worker

    def in_queue(self, url: str | None = None) -> int:
        """Messages there, whether hidden or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=url or self.url, AttributeNames=names)
        return sum(int(found["Attributes"][name]) for name in names)

    def dead(self) -> list[Any]:
        found = self.sqs.receive_message(
            QueueUrl=self.dead_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        )
        return list(found.get("Messages", []))

    def stored(self, extractor: str = "dicom", *, identifying: bool = True) -> pa.Table:
        """All rows of the extractor that the newest epoch covers, as they were appended."""
        epoch = self.engine.store.newest_epoch(self.bucket)
        found = []
        for stream, last in sorted(epoch.rows.items() if epoch else ()):
            hidden = {
                (number, nonce): payload
                for number, nonce, payload in self.engine.store.identifying(self.bucket, stream, 0, last)
            }
            for entry in self.engine.store.entries(metadata_log(self.bucket), stream, 0, last):
                payload = (
                    hidden.get((entry.number, entry.nonce), entry.payload) if identifying else entry.payload
                )
                rows = decode(payload)
                if rows.extractor == extractor:
                    found.append(rows.table)
        if not found:
            return pa.table({"key": pa.array([], pa.string())})
        schema = unify([table.schema for table in found], extractor)
        return pa.concat_tables([conform(table, schema) for table in found])

    def rows(
        self, extractor: str = "dicom", *, identifying: bool = True
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """One row for each version, by key and version id."""
        stored = self.stored(extractor, identifying=identifying)
        if not stored.num_rows:
            return {}
        return {(row["key"], row["version_id"]): row for row in fold_rows(stored).to_pylist()}

    def outcomes(self, extractor: str = "dicom") -> dict[str, str]:
        return {key: row["outcome"] for (key, _), row in sorted(self.rows(extractor).items())}


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number


_sequence = _numbers()
