"""One SQS queue: the calls that a consumer makes, their errors as ours, their partial failures as values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from snapengine.aws_errors import code_of, translate
from snapengine.errors import NotFound, Unreachable
from snapengine.instants import render

BATCH: Final = 10
"""SQS's limit of messages for one call."""

MAX_ATTRIBUTES: Final = 10
"""SQS's limit of attributes for one message."""

REASON_LENGTH: Final = 1_000
"""Characters of a reason that go with a message; its attributes count towards SQS's limit of its size."""

_NO_SUCH_QUEUE: Final = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}


class Message:
    """A queue's message in hand, until all that it asks for is done or it is left to come again."""

    __slots__ = ("extended", "id", "left", "open", "receipt", "sent", "settled", "shared")

    def __init__(self, message_id: str, receipt: str = "", extended: float = 0.0, sent: int = 0) -> None:
        self.id = message_id
        self.receipt = receipt
        self.extended = extended
        """By the loop's clock: when its visibility was last extended, or it was received."""
        self.sent = sent
        """UTC milliseconds by SQS's clock; 0 if unknown."""
        self.settled = False
        """Whether it has been dealt with, so that SQS may have been asked to delete it."""
        self.shared = False
        """Whether it is or was in other hands too: it came before, or was not hidden all the time."""
        self.open = 0
        """How many of its parts are not done yet."""
        self.left = False
        """Whether it was given up: it is then never settled, whatever else of it gets done."""


class Attributes(NamedTuple):
    """How a queue is set up."""

    visibility: int
    """Seconds for which a received message stays hidden from others."""
    dead_letter_arn: str | None


class Backlog(NamedTuple):
    """What a queue holds, by SQS's counts, which are approximate."""

    visible: int
    in_flight: int
    delayed: int
    dead_letter_arn: str | None
    date: str | None = None
    """The reply's Date header."""


class Failure(NamedTuple):
    """A message for which a batch call did not do what was asked, though it was answered with 200."""

    message: Message
    code: str
    final: bool
    """Asking again will not help: SQS says that the fault is ours, a receipt that has expired say."""


class NotSent(NamedTuple):
    """A message that a batch call did not send, though it was answered with 200."""

    body: str
    code: str
    final: bool
    """Asking again will not help: SQS says that the fault is ours."""


class SQSQueue:
    """A queue by its URL, over an aioboto3 SQS client."""

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self.url = url
        self.name = url.rstrip("/").rpartition("/")[2]

    async def attributes(self) -> Attributes:
        """Raises `NotFound` if there is no such queue."""
        with self._errors():
            reply = await self._client.get_queue_attributes(
                QueueUrl=self.url, AttributeNames=["VisibilityTimeout", "RedrivePolicy"]
            )
        found = reply.get("Attributes", {})
        return Attributes(int(found.get("VisibilityTimeout", 30)), _dead_letter_arn(found))

    async def backlog(self) -> Backlog:
        with self._errors():
            reply = await self._client.get_queue_attributes(
                QueueUrl=self.url, AttributeNames=[*_COUNTS, "RedrivePolicy"]
            )
        found = reply.get("Attributes", {})
        visible, in_flight, delayed = (int(found[name]) for name in _COUNTS)
        date = reply["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
        return Backlog(visible, in_flight, delayed, _dead_letter_arn(found), date)

    def another(self, url: str) -> SQSQueue:
        """Another queue, over the same client."""
        return SQSQueue(self._client, url)

    async def url_of(self, arn: str) -> str:
        """The URL of a queue that is known by its ARN (`arn:aws:sqs:REGION:ACCOUNT:NAME`)."""
        _, _, _, _, account, name = arn.split(":", 5)
        with self._errors():
            reply = await self._client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
        return str(reply["QueueUrl"])

    async def receive(self, *, wait: int, visibility: int) -> list[dict[str, Any]]:
        """Up to ten messages, as SQS gives them, after at most `wait` seconds."""
        with self._errors():
            reply = await self._client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=BATCH,
                WaitTimeSeconds=wait,
                VisibilityTimeout=visibility,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
            )
        messages: list[dict[str, Any]] = reply.get("Messages", [])
        return messages

    async def delete(self, messages: Sequence[Message]) -> list[Failure]:
        """Delete up to ten messages. Safe to repeat: SQS takes the deletion of what is gone as done."""
        entries = [{"Id": str(i), "ReceiptHandle": m.receipt} for i, m in enumerate(messages)]
        with self._errors():
            reply = await self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)
        return _failures(messages, reply)

    async def extend(self, messages: Sequence[Message], visibility: int) -> list[Failure]:
        """Hide up to ten messages for `visibility` seconds from now on."""
        entries = [
            {"Id": str(i), "ReceiptHandle": m.receipt, "VisibilityTimeout": visibility}
            for i, m in enumerate(messages)
        ]
        with self._errors():
            reply = await self._client.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)
        return _failures(messages, reply)

    async def send(self, bodies: Sequence[str]) -> list[NotSent]:
        """Send up to ten messages. After a lost reply they may be there, and a repetition makes them two."""
        entries = [{"Id": str(i), "MessageBody": body} for i, body in enumerate(bodies)]
        with self._errors():
            reply = await self._client.send_message_batch(QueueUrl=self.url, Entries=entries)
        return [
            NotSent(bodies[int(entry["Id"])], str(entry.get("Code", "")), bool(entry.get("SenderFault")))
            for entry in reply.get("Failed", [])
        ]

    async def send_on(self, url: str, raw: dict[str, Any], reason: str) -> None:
        """Send a received message, its body and attributes untouched, to another queue with the reason.

        After a lost reply it may be there twice. It has a new id and send time there; ours of the old go
        with it as far as SQS takes more attributes.
        """
        theirs = {
            name: {part: text for part, text in value.items() if part in _ATTRIBUTE_PARTS}
            for name, value in raw.get("MessageAttributes", {}).items()
        }
        ours = {
            "snapengine-reason": reason[:REASON_LENGTH],
            "snapengine-queue": self.name,
            "snapengine-message-id": raw["MessageId"],
            "snapengine-sent": render(sent(raw)),
        }
        room = max(0, MAX_ATTRIBUTES - len(theirs))
        added = {
            name: {"DataType": "String", "StringValue": text} for name, text in list(ours.items())[:room]
        }
        with self._errors():
            await self._client.send_message(
                QueueUrl=url, MessageBody=raw["Body"], MessageAttributes=theirs | added
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            if code_of(error) in _NO_SUCH_QUEUE:
                raise NotFound(
                    f"There is no queue {self.url}, or not for these credentials. `snapengine "
                    "enable-bucket` makes a bucket's queue; `--queue-url` takes another."
                ) from error
            raise translate(error, f"queue {self.name}") from error
        except BotoCoreError as error:
            raise translate(error, f"queue {self.name}") from error
        except ResponseParserError as error:
            # A proxy's or load balancer's page in the place of an answer.
            raise Unreachable(f"Queue {self.name} gave an answer that is none of SQS's.") from error


def sent(raw: dict[str, Any]) -> int:
    """When a received message was sent, UTC milliseconds by SQS's clock; 0 if SQS does not say."""
    return int(raw.get("Attributes", {}).get("SentTimestamp", 0))


def came_before(raw: dict[str, Any]) -> bool:
    """Whether a received message was handed out before, to whomever; or SQS does not say."""
    count: str | None = raw.get("Attributes", {}).get("ApproximateReceiveCount")
    return count != "1"


_ATTRIBUTE_PARTS: Final = {"DataType", "StringValue", "BinaryValue"}

_COUNTS: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


def _dead_letter_arn(attributes: dict[str, str]) -> str | None:
    arn: str | None = json.loads(attributes.get("RedrivePolicy") or "{}").get("deadLetterTargetArn")
    return arn


def _failures(messages: Sequence[Message], reply: dict[str, Any]) -> list[Failure]:
    return [
        Failure(messages[int(entry["Id"])], str(entry.get("Code", "")), bool(entry.get("SenderFault")))
        for entry in reply.get("Failed", [])
    ]
