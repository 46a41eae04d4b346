"""A bucket of marked scans on the guarded cloud, their rows, an archive; and engines of roles with policies.

The policies are those of the documentation, word for word, with its names of table, bucket and archive.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from unittest.mock import patch

import pyarrow as pa

from metadata_extractors.extract_worker import ExtractWorker, Options
from metadata_extractors.extracting import Extractors
from metadata_extractors.limits import Limits
from snapengine import Engine, Settings
from snapengine.archiving.run import ArchiveReport, archive_bucket
from snapengine.devcloud import DevCloud
from snapengine.extraction_tasks import Task
from snapengine.log import EpochCutter, RowWriter, StreamWriter
from snapengine.metadata_codec import decode
from snapengine.model import CREATED, BucketConfig, Epoch, Observation
from tests.guarded_cloud import ACCOUNT, REGION, Guard
from tests.iam import Policy

DOCS: Final = Path(__file__).parents[1] / "docs"
TABLE, BUCKET, ARCHIVE = "snapengine", "scans", "our-archives"
STORE: Final = f"dynamodb://{TABLE}"
ROOT: Final = f"s3://{ARCHIVE}/snapengine"
LIMITS: Final = Limits(cpu_seconds=5, wall_seconds=20)


def policy(page: str, heading: str) -> Policy:
    """The policy below a heading of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = re.split(rf"^##+ {re.escape(heading)}\n", text, maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^##+ ", section, flags=re.MULTILINE)[0]
    (block,) = re.findall(r"^```json\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    found: Policy = json.loads(block)
    return found


READER: Final = policy("privacy.md", "A reader")
IDENTIFYING: Final = policy("privacy.md", "A reader who may identify patients of one bucket")
NEVER: Final = policy("privacy.md", "Never, whatever else a role may do")
EXTRACTING: Final = policy("privacy.md", "The extract worker")
ARCHIVING: Final = policy("archive.md", "Permissions")
EVERYTHING: Final[Policy] = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}

ROLES: Final[Mapping[str, list[Policy]]] = {
    "reader": [READER],
    "researcher": [READER, IDENTIFYING],
    "denied": [EVERYTHING, NEVER],
    "extractor": [EXTRACTING],
    "archiver": [ARCHIVING],
    "ingest": [policy("enable-bucket.md", "The worker"), NEVER],
}
ADMINISTRATOR: Final = "devcloud"


class Clock:
    """UTC milliseconds; each look is a second later."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        self.now += 1000
        return self.now


class House:
    """The bucket `scans`, by whatever role."""

    def __init__(self, cloud: DevCloud, guard: Guard, folder: Path) -> None:
        self.guard = guard
        self.folder = folder
        self.clock = Clock(1_795_000_000_000)
        self.settings: dict[str, Any] = {"store": STORE, "archive": ROOT, "cache": "off"}
        guard.policies.update(ROLES)
        self.environment = {
            **cloud.environment(),
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "SNAPENGINE_STORE": STORE,
            "SNAPENGINE_ARCHIVE": ROOT,
            "SNAPENGINE_CACHE": "off",
        }
        with self.acting(ADMINISTRATOR) as engine:
            for name in (BUCKET, ARCHIVE):
                where: Any = {"LocationConstraint": REGION}
                engine.s3.create_bucket(Bucket=name, CreateBucketConfiguration=where)
                engine.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
            engine.store.create()
            self.register()

    def register(self, **settings: Any) -> None:
        with self.acting(ADMINISTRATOR) as engine:
            config = BucketConfig(BUCKET, REGION, ACCOUNT, streams=2, baseline_started=1, baseline_ended=1)
            known = engine.store.config(BUCKET) or config
            engine.store.put_config(replace(known, **settings))

    @contextmanager
    def acting(self, role: str) -> Iterator[Engine]:
        """An engine of a role, and its credentials for whatever begins within."""
        with patch.dict(os.environ, self.environment_of(role)), patch("boto3.DEFAULT_SESSION", None):
            yield Engine(Settings(**self.settings), clock=self.clock)

    @contextmanager
    def deidentifying(self, key: str) -> Iterator[None]:
        """By setting, whoever acts within."""
        self.settings |= {"deidentify": "on", "deidentify_key": key}
        try:
            yield
        finally:
            del self.settings["deidentify"], self.settings["deidentify_key"]

    def environment_of(self, role: str) -> dict[str, str]:
        return {**self.environment, "AWS_ACCESS_KEY_ID": role, "AWS_SECRET_ACCESS_KEY": role}

    def put(self, objects: Mapping[str, bytes], **options: Any) -> list[Task]:
        """Store objects and record them as the ingest worker, with an epoch."""
        tasks = []
        with self.acting(ADMINISTRATOR) as engine:
            for key, data in objects.items():
                reply = engine.s3.put_object(Bucket=BUCKET, Key=key, Body=data, **options)
                told = (key, reply["VersionId"], len(data), reply["ETag"].strip('"'))
                tasks.append(Task(BUCKET, *told, f"{self.clock():018X}", self.clock.now))
        with self.acting("ingest") as engine:
            observations = [
                Observation(
                    kind=CREATED,
                    key=task.key,
                    version_id=task.version_id,
                    event_time=task.event_time,
                    sequencer=task.sequencer,
                    size=task.size,
                    etag=task.etag,
                    event_name="ObjectCreated:Put",
                )
                for task in tasks
            ]

            async def commit() -> Epoch:
                async with engine.log() as log:
                    await StreamWriter(log, "events", self.clock).append(BUCKET, observations)
                    return await EpochCutter(log, BUCKET, self.clock).cut()

            asyncio.run(commit())
        return tasks

    def extract(self, tasks: Sequence[Task], *names: str, role: str = "extractor") -> list[pa.RecordBatch]:
        """Their rows, made in child processes and kept by a role, with an epoch."""
        with self.acting(role) as engine, Extractors(engine, self.clock, 1, LIMITS) as extractors:
            found: dict[str, list[pa.RecordBatch]] = {name: [] for name in names}
            for task in tasks:
                for row in extractors.rows(task, names):
                    found[row.extractor].append(row.batch)

            async def keep() -> None:
                async with engine.log() as log:
                    writer = RowWriter(log, "extract", self.clock)
                    for name, batches in found.items():
                        await writer.append(BUCKET, name, pa.Table.from_batches(batches))
                    await EpochCutter(log, BUCKET, self.clock).cut()

            asyncio.run(keep())
        return [batch for batches in found.values() for batch in batches]

    def archive(self, role: str = "archiver", **options: Any) -> ArchiveReport:
        with self.acting(role) as engine:
            return asyncio.run(archive_bucket(engine, BUCKET, **options))

    def queues(self) -> None:
        """Make an extraction queue and its dead-letter queue, new ones each time, and register them."""
        name = f"snapengine-scans_{token_hex(3)}-Extract"
        with self.acting(ADMINISTRATOR) as engine:
            sqs: Any = engine.sqs
            self.dead_url = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
            settings = {"VisibilityTimeout": "2"}
            created = sqs.create_queue(QueueName=name, Attributes=settings)
            self.queue_url = created["QueueUrl"]
        self.register(
            extract_queue_url=self.queue_url,
            extract_dead_letter_queue_url=self.dead_url,
        )

    def send(self, *bodies: str) -> None:
        with self.acting(ADMINISTRATOR) as engine:
            for body in bodies:
                engine.sqs.send_message(QueueUrl=self.queue_url, MessageBody=body)

    def messages(self, url: str) -> list[Any]:
        with self.acting(ADMINISTRATOR) as engine:
            reply = engine.sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
            )
            return list(reply.get("Messages", []))

    def work(self, role: str = "extractor", **options: Any) -> ExtractWorker:
        """Empty the extraction queue, in this process. Raises what the worker raises."""
        with self.acting(role) as engine:
            settings = {"once": True, "limits": LIMITS, **options}
            worker = ExtractWorker(engine, Options("w", **settings))
            asyncio.run(worker.run(asyncio.Event()))
            return worker

    # What lies where

    def rows(self, extractor: str = "dicom") -> dict[str, dict[str, Any]]:
        """The plain rows that the table has, by key; of several the last."""
        found: dict[str, dict[str, Any]] = {}
        for item in self.items():
            if item.get("form", {}).get("S") == "metadata":
                decoded = decode(bytes(item["payload"]["B"]))
                if decoded.extractor == extractor:
                    found |= {row["key"]: row for row in decoded.table.to_pylist()}
        return found

    def items(self) -> list[dict[str, Any]]:
        """All items of the table."""
        with self.acting(ADMINISTRATOR) as engine:
            pages = engine.client("dynamodb").get_paginator("scan").paginate(TableName=TABLE)
            return [item for page in pages for item in page["Items"]]

    def files(self) -> dict[str, bytes]:
        """All files of the archive, by path below the root."""
        with self.acting(ADMINISTRATOR) as engine:
            root = engine.root(ROOT)
            return {stored.path: root.read(stored.path) for stored in root.paths()}
