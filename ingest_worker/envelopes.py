"""PURE: bodies of queue messages to raw records, out of whatever S3's events were wrapped in on their way.

A body is an S3 notification (`{"Records": [...]}`; SNS with raw message delivery sends the same), an
EventBridge event, S3's own test event, or an SNS notification around any of these. Sources: S3 User Guide,
"Event message structure" and "EventBridge event message structure"; SNS Developer Guide, "Parsing message
formats".
"""

from __future__ import annotations

import json
import reprlib
from typing import Any, Final, Literal, NamedTuple, NoReturn

from snapengine.errors import MalformedMessage

Form = Literal["s3", "eventbridge", "test"]

TEST_EVENT: Final = "s3:TestEvent"
"""S3 sends one to the queue whenever the bucket's notifications are configured."""

MAX_WRAPPERS: Final = 3
"""SNS notifications inside one another that are opened. One is usual; a topic that forwards makes two."""


class RawRecord(NamedTuple):
    """One event as it was sent: freed from its envelope, not yet understood."""

    form: Form
    fields: dict[str, Any]
    """Of the record (`s3`), or of the whole event (`eventbridge`, `test`)."""


def raw_records(body: str | bytes) -> list[RawRecord]:
    """The records in a message's body, in their order, at least one. Bytes are UTF-8.

    Raises `MalformedMessage`, and nothing else, for any body that is none of the forms above.
    """
    document = _document(body)
    for _ in range(MAX_WRAPPERS):
        if type(document) is not dict:
            raise MalformedMessage(
                f"The message is JSON but not an object: {shown(document)}. Expected an S3 event."
            )
        records = document.get("Records")
        if records is not None:
            return _notification(records)
        if "detail-type" in document:
            return [RawRecord("eventbridge", document)]
        if document.get("Event") == TEST_EVENT:
            return [RawRecord("test", document)]
        document = _document(_sns_message(document))
    raise MalformedMessage(f"The message has more than {MAX_WRAPPERS} SNS notifications around its event.")


def shown(value: object) -> str:
    """A value for an error's text: quoted, escaped, and never long, whatever was sent."""
    return _SHORT.repr(value)


class _Short(reprlib.Repr):
    """Shortens text rather than its `repr`, whose quotes and escapes stay whole: logs mask what is quoted."""

    def repr_str(self, x: str, level: int) -> str:  # noqa: ARG002  # reprlib's signature
        if len(x) < self.maxstring and len(whole := repr(x)) <= self.maxstring:
            return whole
        for kept in range(self.maxstring // 2 - 4, 0, -1):
            short = repr(f"{x[:kept]}...{x[-kept:]}")
            if len(short) <= self.maxstring:
                break
        return short

    def repr_bytes(self, x: bytes, level: int) -> str:
        return self.repr_str(x.decode(errors="replace"), level)  # with `b` before it, it would not be masked


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlevel = 2


def _notification(records: object) -> list[RawRecord]:
    if type(records) is not list or not records:
        raise MalformedMessage(f"`Records` is {shown(records)}; expected a list of at least one S3 record.")
    for record in records:
        if type(record) is not dict:
            raise MalformedMessage(
                f"`Records` holds {shown(record)}; expected S3 records, which are objects."
            )
    return [RawRecord("s3", record) for record in records]


def _sns_message(document: dict[str, Any]) -> str:
    """What an SNS notification carries; anything else that came this far is no event at all."""
    kind = document.get("Type")
    message = document.get("Message")
    if kind == "Notification" and type(message) is str:
        return message
    if kind in ("SubscriptionConfirmation", "UnsubscribeConfirmation"):
        raise MalformedMessage(
            f"The message is an SNS {kind} of topic {shown(document.get('TopicArn'))}, not an event. "
            "Subscribe the queue as `sqs`, by its ARN, from its own account: SNS then asks for none."
        )
    raise MalformedMessage(
        "The message is neither an S3 notification nor an EventBridge event nor an SNS notification of one: "
        f"its fields are {shown(list(document))}."
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON (RFC 8259)")


# Made once: `json.loads` with an option would make a decoder for every message.
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _document(body: str | bytes) -> Any:
    """The JSON value of a body. Of a name given twice the last counts, as for Python and JavaScript."""
    try:
        return _decode(body if isinstance(body, str) else body.decode())
    except RecursionError:
        raise MalformedMessage("The message is nested too deeply to be an S3 event.") from None
    except ValueError as error:  # also UnicodeDecodeError, and integers beyond Python's limit of digits
        raise MalformedMessage(f"The message is not JSON in UTF-8 ({error}): {shown(body)}.") from None
