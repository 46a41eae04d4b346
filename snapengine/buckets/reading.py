"""Reads what a plan needs to know of a bucket and its queues. Changes nothing."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from snapengine.archive_root import archive_root, archived_into, bucket_of, root_is_watched
from snapengine.aws_errors import code_of
from snapengine.buckets import queues, rules
from snapengine.buckets.asking import asking
from snapengine.buckets.clock import ServerClock
from snapengine.buckets.facts import GAP, BucketFacts, Versioning, extracts, is_directory_bucket
from snapengine.buckets.listing import list_versions
from snapengine.buckets.queues import QueueFacts
from snapengine.buckets.replies import local_name, parse_xml, with_xml
from snapengine.buckets.tools import Tools
from snapengine.errors import Refused, SnapEngineError, UsageError
from snapengine.lease import ENABLE
from snapengine.model import CREATED, BucketConfig
from snapengine.reference import checked_bucket

_SAMPLED = 5
"""How many objects are looked at for a sign of replication."""
_AWS_DOMAINS = ("amazonaws.com", "amazonaws.com.cn", "api.aws", "amazonaws.eu", "on.aws")
_NO_QUEUE = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}


def read_facts(
    engine: Tools, bucket: str, *, unread: list[str] | None = None, extraction: bool = False
) -> BucketFacts:
    """What stands now; of extraction if it is registered or asked for.

    Raises our errors: `PermissionMissing` names the IAM action, `BucketUnknown`, `CredentialsMissing`,
    `Unreachable`; `TableMissing` before S3 is asked anything.

    With `unread`, why the queues cannot be read is added there instead, and all are None.
    """
    checked_bucket(bucket)
    engine.store.check()
    account, partition = caller(engine)
    here = str(engine.sqs.meta.region_name)
    if is_directory_bucket(bucket):
        return BucketFacts(bucket, account, here)
    with asking(f"bucket {bucket}"):
        region = _region(engine, bucket) or here
        owned = _owned(engine, bucket, account)
    config = engine.store.config(bucket)
    if not owned or region != here:  # refused by these alone, and much of the rest could not be read
        return BucketFacts(bucket, account, here, region, partition, owned_by_caller=owned, config=config)
    versioning, mfa_delete = _versioning(engine, bucket, account)
    notification, unknown = read_notification(engine, bucket, account)
    found: Any = _queues(engine, bucket, unread, extraction=extraction or extracts(config))
    return BucketFacts(
        bucket=bucket,
        account=account,
        queue_region=here,
        region=region,
        partition=partition,
        real_aws=is_aws(str(engine.sqs.meta.endpoint_url)),
        versioning=versioning,
        mfa_delete=mfa_delete,
        notification=notification,
        unknown_elements=unknown,
        lifecycle=tuple(_optional(engine, "get_bucket_lifecycle_configuration", bucket, account, "Rules")),
        object_lock=bool(
            _optional(engine, "get_object_lock_configuration", bucket, account, "ObjectLockConfiguration")
        ),
        replicates_to=_replicates_to(engine, bucket, account),
        replica=_a_replica(engine, bucket, account),
        **found,
        config=config,
        unfinished=bool((engine.store.progress(bucket, ENABLE) or {}).get(GAP)),
        store=engine.settings.store,
        archived_here=tuple(archived_into(bucket, engine.store.buckets())),
        archive=(config.archive if config else None) or engine.settings.archive,
        archive_refused=_archive_refused(engine, config or BucketConfig(bucket, region, account)),
    )


def _archive_refused(engine: Tools, config: BucketConfig) -> str | None:
    url = config.archive or engine.settings.archive
    if url is None:
        return None
    if bucket_of(url) == config.bucket:
        return root_is_watched(url, config.bucket)
    try:
        archive_root(engine, config)
    except (Refused, UsageError) as error:
        return str(error)
    return None


def is_aws(endpoint_url: str) -> bool:
    """Whether an endpoint is AWS's own."""
    host = urlsplit(endpoint_url).hostname or ""
    return any(host == domain or host.endswith(f".{domain}") for domain in _AWS_DOMAINS)


def caller(engine: Tools) -> tuple[str, str]:
    """The account whose credentials these are, and its partition (`aws`, `aws-cn`, …)."""
    with asking("AWS STS"):
        identity = engine.client("sts").get_caller_identity()
    return str(identity["Account"]), str(identity["Arn"]).split(":")[1]


def _region(engine: Tools, bucket: str) -> str | None:
    """None where the server has no such notion; AWS always says it."""
    reply = engine.s3.head_bucket(Bucket=bucket)
    return reply["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")


def _owned(engine: Tools, bucket: str, account: str) -> bool:
    """Whether the account owns the bucket, which S3 tells only by refusing if it does not. That nothing
    else is refused, the call before without the condition has shown."""
    try:
        engine.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
    except ClientError as error:
        if code_of(error) in {"403", "AccessDenied"}:
            return False
        raise
    return True


def _versioning(engine: Tools, bucket: str, account: str) -> tuple[Versioning, bool]:
    with asking(f"bucket {bucket}"):
        reply = engine.s3.get_bucket_versioning(Bucket=bucket, ExpectedBucketOwner=account)
    return reply.get("Status", "off"), reply.get("MFADelete") == "Enabled"


def read_notification(engine: Tools, bucket: str, account: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The configuration as the API's dict, and the XML elements that the SDK left out of it."""
    reply, unknown, _ = notification_at(engine, bucket, account, ServerClock())
    return reply, unknown


def notification_at(
    engine: Tools, bucket: str, account: str, clock: ServerClock
) -> tuple[dict[str, Any], tuple[str, ...], int]:
    """The same, and an instant by S3's clock (UTC milliseconds) when it was read, as near as is known."""
    sent = clock.now()
    with asking(f"bucket {bucket}"):
        reply, body = with_xml(
            engine.s3,
            "GetBucketNotificationConfiguration",
            "get_bucket_notification_configuration",
            parsed=True,
            Bucket=bucket,
            ExpectedBucketOwner=account,
        )
    clock.heard(reply, sent)
    reply.pop("ResponseMetadata")
    names = {local_name(element) for rule in parse_xml(body) for element in rule.iter()} if body else set()
    return reply, tuple(sorted(names - rules.KNOWN_ELEMENTS)), clock.about(clock.now())


_ABSENT = {
    "NoSuchLifecycleConfiguration",
    "ReplicationConfigurationNotFoundError",
    "ObjectLockConfigurationNotFoundError",
}
_UNSUPPORTED = {"NotImplemented", "MethodNotAllowed", "501", "405"}


def _optional(engine: Tools, method: str, bucket: str, account: str, part: str) -> Any:
    """A part of the bucket's settings; an empty tuple where there is none, or where a server that is not
    AWS's has no such thing."""
    with asking(f"bucket {bucket}"):
        try:
            reply = getattr(engine.s3, method)(Bucket=bucket, ExpectedBucketOwner=account)
        except ClientError as error:
            lacking = not is_aws(str(engine.s3.meta.endpoint_url)) and code_of(error) in _UNSUPPORTED
            if code_of(error) in _ABSENT or lacking:
                return ()
            raise
    return reply.get(part, ())


def _replicates_to(engine: Tools, bucket: str, account: str) -> tuple[str, ...]:
    found = _optional(engine, "get_bucket_replication", bucket, account, "ReplicationConfiguration")
    targets = (rule["Destination"]["Bucket"] for rule in (found or {}).get("Rules", ()))
    return tuple(sorted({str(arn).rpartition(":")[2] for arn in targets}))


def _a_replica(engine: Tools, bucket: str, account: str) -> str | None:
    """A key whose newest version is a replica, if the first few show one.

    S3 does not tell a bucket that it is a replication destination; only its objects know. So a bucket that
    is one may go unnoticed. Objects that cannot be looked at count as no sign. The listing is needed: what
    the baseline will be denied is better known now.
    """
    page = next(list_versions(engine.s3, bucket, page_size=4 * _SAMPLED, owner=account))
    current = [entry for entry in page.entries if entry.kind == CREATED and entry.is_latest]
    for entry in current[:_SAMPLED]:
        try:
            reply = engine.s3.head_object(Bucket=bucket, Key=entry.key, ExpectedBucketOwner=account)
        except (ClientError, BotoCoreError):
            continue
        if reply.get("ReplicationStatus") == "REPLICA":
            return entry.key
    return None


def _queues(
    engine: Tools, bucket: str, unread: list[str] | None, *, extraction: bool
) -> dict[str, QueueFacts | None]:
    """By the fields of `BucketFacts`."""
    try:
        return {
            field: read_queue(engine, name)
            for field, name in queues.queue_names(bucket).items()
            if extraction or not field.startswith("extract")
        }
    except SnapEngineError as error:
        if unread is None:
            raise
        unread.append(str(error))
        return {}


def read_queue(engine: Tools, name: str) -> QueueFacts | None:
    """A queue of ours as it stands, or None."""
    with asking(f"queue {name}"):
        try:
            url = engine.sqs.get_queue_url(QueueName=name)["QueueUrl"]
            reply: Any = engine.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
            tags = engine.sqs.list_queue_tags(QueueUrl=url).get("Tags", {})
        except ClientError as error:
            if code_of(error) in _NO_QUEUE:
                return None
            raise
    attributes = reply["Attributes"]
    return QueueFacts(name, url, attributes["QueueArn"], attributes, tags)
