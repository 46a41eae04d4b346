"""PURE: the messages that hand created versions from whoever has recorded them to whoever extracts metadata.

A message's body is one JSON object:

    {"extraction": 1, "bucket": "scans", "objects": [{"key": "ct/1.dcm", "version_id": "3sL4…", "size": 512,
     "etag": "d41d…", "sequencer": "0055AE", "event_time": 1795255200000}, …]}

`extraction` is the format's version. Of an object `size`, `etag` and `sequencer` may be left out, if they are
not known; fields that are not named here are ignored. Not ASCII, and characters that SQS does not take, are
escaped as JSON does it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from snapengine.errors import MalformedMessage
from snapengine.model import CREATED, Observation

FORMAT: Final = 1

MAX_TASKS: Final = 20
"""Of one message, so that one worker can be done with it before its visibility timeout is over."""

MAX_BYTES: Final = 250_000
"""Of one message; SQS's own limit was 262,144 bytes for long, and other servers have kept it. One task has
some 25 kB at most: four texts of 1,024 bytes, each of them escaped to six."""


class Task(NamedTuple):
    """A version that was observed to be created, and whose metadata is to be extracted."""

    bucket: str
    key: str
    """1 to 1,024 bytes of UTF-8."""
    version_id: str
    size: int | None
    """Bytes."""
    etag: str | None
    """Without quotes. With the sequencer it says which of a key's `null` versions is meant."""
    sequencer: str | None
    event_time: int
    """UTC milliseconds."""


def tasks_of(bucket: str, observations: Iterable[Observation]) -> list[Task]:
    """The created versions among a bucket's observations, in their order, each once."""
    return list(
        dict.fromkeys(
            Task(bucket, o.key, o.version_id, o.size, o.etag, o.sequencer, o.event_time)
            for o in observations
            if o.kind == CREATED
        )
    )


def messages_of(tasks: Sequence[Task]) -> list[str]:
    """Bodies of messages that hold all tasks, bucket by bucket in their order: as few as the limits allow."""
    by_bucket: dict[str, list[str]] = {}
    for task in tasks:
        by_bucket.setdefault(task.bucket, []).append(_object_of(task))
    return [
        f'{{"extraction":{FORMAT},"bucket":{json.dumps(bucket)},"objects":[{",".join(pack)}]}}'
        for bucket, objects in by_bucket.items()
        for pack in _packs(objects, MAX_BYTES - 60 - len(json.dumps(bucket)))
    ]


def parse_tasks(body: str | bytes) -> list[Task]:
    """The tasks in a message's body, in their order, 1 to `MAX_TASKS`. Bytes are UTF-8.

    Raises `MalformedMessage`, and nothing else, for any body that is not such a message as a whole. Its text
    holds nothing of what was sent, as a key may hold a patient's name.
    """
    document = _document(body)
    if type(document) is not dict or "extraction" not in document:
        raise MalformedMessage("The message is JSON, and no extraction task.")
    if type(document["extraction"]) is not int or document["extraction"] != FORMAT:
        raise MalformedMessage(
            "The message is an extraction task in a format that this version of snapengine does not read; it "
            f"reads {FORMAT}. If a newer one wrote it, upgrade, then move it back from the dead-letter queue."
        )
    objects = document.get("objects")
    if type(objects) is not list or not 1 <= len(objects) <= MAX_TASKS:
        raise MalformedMessage(f"`objects` of an extraction task is no list of 1 to {MAX_TASKS}.")
    bucket = _text(document, "bucket")
    return [_task(bucket, fields) for fields in objects]


def _object_of(task: Task) -> str:
    fields = {name: value for name, value in task._asdict().items() if name != "bucket" and value is not None}
    return json.dumps(fields, separators=(",", ":"))


def _packs(objects: Sequence[str], room: int) -> Iterator[list[str]]:
    pack: list[str] = []
    length = 0
    for text in objects:
        if pack and (len(pack) == MAX_TASKS or length + 1 + len(text) > room):
            yield pack
            pack, length = [], 0
        pack.append(text)
        length += 1 + len(text)
    if pack:
        yield pack


def _document(body: str | bytes) -> Any:
    try:
        return json.loads(body if isinstance(body, str) else body.decode())
    except RecursionError:
        raise MalformedMessage("The message is nested too deeply to be an extraction task.") from None
    except ValueError:  # also UnicodeDecodeError, and integers beyond Python's limit of digits
        raise MalformedMessage("The message is not JSON in UTF-8.") from None


def _task(bucket: str, fields: object) -> Task:
    if type(fields) is not dict:
        raise MalformedMessage("`objects` of an extraction task holds something that is no JSON object.")
    size = fields.get("size")
    return Task(
        bucket,
        _text(fields, "key"),
        _text(fields, "version_id"),
        None if size is None else _number(fields, "size"),
        _text_if_any(fields, "etag"),
        _text_if_any(fields, "sequencer"),
        _number(fields, "event_time"),
    )


def _text_if_any(fields: dict[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else _text(fields, name)


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if type(value) is str and value:
        try:
            if len(value.encode()) <= _TEXT_LIMIT:
                return value
        except UnicodeEncodeError:  # half a surrogate pair
            pass
    raise MalformedMessage(
        f"`{name}` of an extraction task is no text of 1 to {_TEXT_LIMIT:,} bytes of UTF-8."
    )


def _number(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is int and 0 <= value < _NUMBER_LIMIT:
        return value
    raise MalformedMessage(f"`{name}` of an extraction task is no whole number that is not negative.")


_TEXT_LIMIT: Final = 1024
_NUMBER_LIMIT: Final = 1 << 63
