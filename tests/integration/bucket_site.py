"""A bucket on the embedded cloud and an engine that reaches it, for the tests of enabling and its kin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from botocore.loaders import create_loader

from snapengine.buckets import queues
from snapengine.buckets.enable import enable_bucket, plan_enable
from snapengine.buckets.steps import Plan, Wanted
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.fold import fold
from snapengine.model import BucketConfig
from snapengine.settings import load_settings

READS = ("Get", "Head", "List", "Query")
_LOADER = create_loader()


class Killed(BaseException):
    """The process ends here; nothing of ours catches it."""


@dataclass
class Site:
    """One bucket, and one engine whose calls can be watched, denied and cut short."""

    engine: Engine
    bucket: str
    writes: list[str] = field(default_factory=list)
    """The operations that change something, as they were called."""

    @property
    def s3(self) -> Any:
        return self.engine.s3

    @property
    def sqs(self) -> Any:
        return self.engine.sqs

    def plan(self, **wanted: Any) -> Plan:
        return plan_enable(self.engine, self.bucket, Wanted(**({"wait": False} | wanted)))

    async def enable(self, **options: Any) -> Any:
        return await enable_bucket(self.engine, self.plan(**options), sleep=no_sleep, pause=no_pause)

    def config(self) -> BucketConfig:
        config = self.engine.store.config(self.bucket)
        assert config is not None
        return config

    def notification(self) -> dict[str, Any]:
        reply: dict[str, Any] = self.s3.get_bucket_notification_configuration(Bucket=self.bucket)
        reply.pop("ResponseMetadata")
        return reply

    def queue_names(self) -> list[str]:
        urls = self.sqs.list_queues(QueueNamePrefix=queues.queue_name(self.bucket)).get("QueueUrls", [])
        return sorted(url.rpartition("/")[2] for url in urls)

    def attributes(self, name: str) -> dict[str, str]:
        url = self.sqs.get_queue_url(QueueName=name)["QueueUrl"]
        reply: dict[str, Any] = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return dict(reply["Attributes"])

    def state(self) -> tuple[Any, ...]:
        """All that enabling changes outside the log."""
        return (
            self.s3.get_bucket_versioning(Bucket=self.bucket).get("Status"),
            self.notification(),
            {name: steady(self.attributes(name)) for name in self.queue_names()},
            self.engine.store.config(self.bucket),
        )

    def clients(self) -> list[Any]:
        return [self.s3, self.sqs]

    def deny(self, operation: str, code: str = "AccessDenied") -> None:
        """Every further call of the operation is refused."""
        self.fail(operation, ClientError({"Error": {"Code": code, "Message": "you may not"}}, operation))

    def fail(self, operation: str, error: BaseException, times: int | None = None) -> None:
        left = [times]

        def hook(model: Any, **_: Any) -> None:
            if model.name == operation and left[0] != 0:
                left[0] = None if left[0] is None else left[0] - 1
                raise error

        for client in self.clients():
            client.meta.events.register("before-call", hook)

    @contextmanager
    def stopped_at(self, write: int, *, landed: bool) -> Iterator[None]:
        """Ends the process at the n-th call that changes something: before it, or when it has landed."""
        count = 0

        def hook(model: Any, **_: Any) -> None:
            nonlocal count
            if not model.name.startswith(READS):
                count += 1
                if count == write:
                    raise Killed

        event = "after-call" if landed else "before-call"
        for client in self.clients():
            client.meta.events.register(event, hook)
        try:
            yield
        finally:
            for client in self.clients():
                client.meta.events.unregister(event, hook)

    def entries(self) -> set[tuple[str, str, str]]:
        """Every version and marker that the log knows, at the newest epoch."""
        return {(o.kind, o.key, o.version_id) for key in self.listed_keys() for o in self.history(key)}

    def history(self, key: str) -> list[Any]:
        epoch = self.engine.store.newest_epoch(self.bucket)
        return self.engine.store.key_history(self.bucket, key, epoch.cover) if epoch else []

    def view(self) -> dict[str, str]:
        """Key → version id, folded from the log at the newest epoch."""
        folded = {key: fold(self.history(key), 2**52) for key in self.listed_keys()}
        return {key: version.version_id for key, version in folded.items() if version}

    def listed_keys(self) -> set[str]:
        return {key for _, key, _ in self.listed()}

    def listed(self) -> set[tuple[str, str, str]]:
        """What S3 says."""
        found: set[tuple[str, str, str]] = set()
        for page in self.s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket):
            found |= {("Created", v["Key"], v["VersionId"]) for v in page.get("Versions", ())}
            found |= {("MarkerCreated", v["Key"], v["VersionId"]) for v in page.get("DeleteMarkers", ())}
        return found

    def current(self) -> dict[str, str]:
        """Key → version id of what S3 shows as live."""
        found: dict[str, str] = {}
        for page in self.s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket):
            found |= {v["Key"]: v["VersionId"] for v in page.get("Versions", ()) if v["IsLatest"]}
        return found


def steady(attributes: dict[str, str]) -> dict[str, str]:
    """Without the counts and the times."""
    return {k: v for k, v in attributes.items() if not k.startswith("Approximate") and "Timestamp" not in k}


def open_site(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, store: str | None = None
) -> Site:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    # Each session would read botocore's service models from disk again: most of what a test would take.
    monkeypatch.setattr("botocore.session.create_loader", lambda *_: _LOADER)
    monkeypatch.setenv("SNAPENGINE_STORE", store or f"sqlite:///{tmp_path / 'log.db'}")
    engine = Engine(load_settings())
    engine.store.create()
    site = Site(engine, f"scans.{uuid4().hex[:12]}")
    engine.s3.create_bucket(Bucket=site.bucket)

    def note(model: Any, **_: Any) -> None:
        if not model.name.startswith(READS):
            site.writes.append(model.name)

    for client in site.clients():
        client.meta.events.register("before-call", note)
    return site


FOREIGN: dict[str, Any] = {
    "Id": "thumbnails",
    "Events": ["s3:ObjectTagging:*"],
    "Filter": {"Key": {"FilterRules": [{"Name": "suffix", "Value": ".png"}]}},
}


def with_foreign_rule(site: Site) -> dict[str, Any]:
    url = site.sqs.create_queue(QueueName=f"theirs-{site.bucket.replace('.', '-')}")["QueueUrl"]
    arn = site.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    theirs = {"QueueConfigurations": [{**FOREIGN, "QueueArn": arn}], "EventBridgeConfiguration": {}}
    site.s3.put_bucket_notification_configuration(Bucket=site.bucket, NotificationConfiguration=theirs)
    site.writes.clear()
    return site.notification()


async def no_sleep(seconds: float) -> None:
    """For waits on which nothing but the patience of AWS rests."""


def no_pause(seconds: float) -> None:
    """Likewise."""


NO_CREDENTIALS = NoCredentialsError()
UNREACHABLE = EndpointConnectionError(endpoint_url="https://s3.example")
