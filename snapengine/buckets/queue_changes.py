"""Creates, corrects and deletes a bucket's queues. Every call may be repeated after a lost reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from snapengine.aws_errors import code_of, translate
from snapengine.buckets.asking import asking
from snapengine.buckets.notification import Pause
from snapengine.buckets.queues import STORE_TAG, still_holds, store_tag
from snapengine.buckets.reading import is_aws, read_queue
from snapengine.buckets.tools import Tools
from snapengine.errors import SnapEngineError

_DELETED_RECENTLY_SECONDS = 60
"""SQS keeps a deleted queue's name back for so long."""
_LOOK_AGAIN = 5.0


def create_queue(engine: Tools, name: str, settings: Mapping[str, str], pause: Pause) -> list[str]:
    """What a server that is not AWS's did not take, in words. A queue that is there is set right."""
    tags = {STORE_TAG: store_tag(engine.settings.store)}
    with asking(f"queue {name}"):
        waited = 0.0
        while True:
            try:
                engine.sqs.create_queue(QueueName=name, Attributes=_any(settings), tags=tags)
            except ClientError as error:
                code = code_of(error)
                if code.endswith("QueueDeletedRecently") and waited <= _DELETED_RECENTLY_SECONDS:
                    pause(_LOOK_AGAIN)
                    waited += _LOOK_AGAIN
                    continue
                if code.endswith(("QueueNameExists", "QueueAlreadyExists")):
                    return set_queue(engine, name, settings, tag=True)
                if not _may_lack(engine, error):
                    raise
                engine.sqs.create_queue(QueueName=name)
                return set_queue(engine, name, settings, tag=True)
            else:
                return []


def set_queue(engine: Tools, name: str, settings: Mapping[str, str], *, tag: bool) -> list[str]:
    """Set attributes of a queue that exists; what a server that is not AWS's did not take, in words."""
    refused: list[str] = []
    with asking(f"queue {name}"):
        url = engine.sqs.get_queue_url(QueueName=name)["QueueUrl"]
        if tag:
            engine.sqs.tag_queue(QueueUrl=url, Tags={STORE_TAG: store_tag(engine.settings.store)})
        try:
            if settings:
                engine.sqs.set_queue_attributes(QueueUrl=url, Attributes=_any(settings))
        except ClientError as error:
            if not _may_lack(engine, error):
                raise
            for attribute, value in settings.items():
                try:
                    engine.sqs.set_queue_attributes(QueueUrl=url, Attributes=_any({attribute: value}))
                except ClientError as one:
                    if not _may_lack(engine, one):
                        raise
                    refused.append(
                        f"Queue {name} is not on AWS, and its server does not take {attribute} "
                        f"({code_of(one)}): it is not in force."
                    )
    return refused


def delete_if_empty(engine: Tools, name: str, *, before: Callable[[], object] = lambda: None) -> str | None:
    """Why it is kept, or None; `before` is called when it is about to go."""
    queue = read_queue(engine, name)
    if queue is not None and queue.messages:
        return still_holds(queue)
    before()
    delete_queue(engine, name)
    return None


def delete_queue(engine: Tools, name: str) -> None:
    """No queue of that name is left. What it held is lost."""
    queue = read_queue(engine, name)
    if queue is not None:
        with asking(f"queue {name}"):
            try:
                engine.sqs.delete_queue(QueueUrl=queue.url)
            except ClientError as error:
                if not code_of(error).endswith(("NonExistentQueue", "QueueDoesNotExist")):
                    raise


def _may_lack(engine: Tools, error: ClientError) -> bool:
    """Whether the server may simply not know an attribute: never on AWS, nor if it gives another reason."""
    unknown = type(translate(error, "")) is SnapEngineError
    return unknown and not is_aws(str(engine.sqs.meta.endpoint_url))


def _any(attributes: Mapping[str, str]) -> Any:
    return dict(attributes)  # boto3's stubs want literal names
