"""S3's events, made from the traffic of a plain boto3 client: for servers that send none.

It looks at requests as they are sent and at replies as they come, and writes the notification that S3 would
send for each write that succeeded. It imports nothing of the engine, which is judged by what is made here.
"""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote_plus, unquote, urlsplit
from xml.etree import ElementTree


@dataclass(frozen=True, slots=True)
class Event:
    """One record, and what it is made of."""

    name: str
    """S3's name of the event, such as `ObjectCreated:Put`."""
    bucket: str
    key: str
    version_id: str
    time: int
    """UTC milliseconds."""
    sequencer: str
    size: int | None
    etag: str | None

    @property
    def record(self) -> dict[str, Any]:
        """As S3 writes it into a message, `Records` being a list of such."""
        fields = {"key": quote_plus(self.key), "versionId": self.version_id, "sequencer": self.sequencer}
        known = {
            name: value for name, value in (("size", self.size), ("eTag", self.etag)) if value is not None
        }
        return {
            "eventVersion": "2.3",
            "eventSource": "aws:s3",
            "awsRegion": "us-east-1",
            "eventTime": rfc3339(self.time),
            "eventName": self.name,
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "recorder",
                "bucket": {"name": self.bucket, "arn": f"arn:aws:s3:::{self.bucket}"},
                "object": fields | known,
            },
        }


def message(*events: Event) -> str:
    """The body of a message that S3 puts into a queue."""
    return json.dumps({"Records": [event.record for event in events]})


def rfc3339(millis: int) -> str:
    """As S3 writes times: `2026-11-20T09:00:00.000Z`."""
    seconds = datetime.fromtimestamp(millis // 1000, UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{millis % 1000:03}Z"


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    """Of an operation whose request is XML."""

    @classmethod
    def of(cls, prepared: Any) -> _Request:
        """From what is about to go over the wire; the bucket's name is the first part of the path."""
        url = urlsplit(prepared.url)
        _, bucket, key = (*url.path.split("/", 2), "", "")[:3]
        query = parse_qs(url.query, keep_blank_values=True)
        return cls(
            prepared.method,
            bucket,
            unquote(key),
            {name: values[0] for name, values in query.items()},
            {name.lower(): _text(value) for name, value in prepared.headers.items()},
            prepared.body if isinstance(prepared.body, bytes) else b"",
        )

    def content_length(self) -> int:
        """Of what is uploaded, without the frames of a chunked body."""
        return int(self.headers.get("x-amz-decoded-content-length") or self.headers["content-length"])


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Recorder:
    """Hears every call of one client, from any thread, one write at a time. `events` are in S3's order."""

    def __init__(self, client: Any) -> None:
        self.events: list[Event] = []
        self._sent = threading.local()
        self._parts: dict[tuple[str, int], int] = {}
        self._sizes: dict[tuple[str, str, str], int] = {}
        client.meta.events.register("before-send.s3", self._on_send)
        client.meta.events.register("after-call.s3", self._on_reply)

    def _on_send(self, request: Any, **_: Any) -> None:
        self._sent.request = _Request.of(request)  # of a call that botocore repeats, the last one

    def _on_reply(self, http_response: Any, parsed: dict[str, Any], model: Any, **_: Any) -> None:
        if http_response.status_code >= 300 or "Error" in parsed:
            return
        request: _Request = self._sent.request
        match model.name:
            case "UploadPart":
                place = request.query["uploadId"], int(request.query["partNumber"])
                self._parts[place] = request.content_length()
            case "PutObject":
                self._created("Put", request, parsed, parsed["ETag"], request.content_length())
            case "CopyObject":
                size = self._sizes[_source(request.headers["x-amz-copy-source"])]
                self._created("Copy", request, parsed, parsed["CopyObjectResult"]["ETag"], size)
            case "CompleteMultipartUpload":
                upload = request.query["uploadId"]
                size = sum(length for (of, _), length in self._parts.items() if of == upload)
                self._created("CompleteMultipartUpload", request, parsed, parsed["ETag"], size)
            case "DeleteObject":
                gone = request.query.get("versionId")
                self._deleted(request.bucket, request.key, gone, parsed.get("VersionId"))
            case "DeleteObjects":
                asked = _asked_to_delete(request.body)
                for entry in parsed.get("Deleted", ()):
                    # A marker that was removed comes back as one that was made does, but for what was asked.
                    marker = entry.get("DeleteMarkerVersionId")
                    gone = entry.get("VersionId") or (marker if (entry["Key"], marker) in asked else None)
                    self._deleted(request.bucket, entry["Key"], gone, marker)

    def _created(self, how: str, request: _Request, reply: dict[str, Any], etag: str, size: int) -> None:
        place = request.bucket, request.key, reply["VersionId"]
        self._sizes[place] = size
        self._tell(f"ObjectCreated:{how}", *place, size, etag.strip('"'))

    def _deleted(self, bucket: str, key: str, version_id: str | None, marker: str | None) -> None:
        if version_id is not None:
            self._tell("ObjectRemoved:Delete", bucket, key, version_id)
        elif marker is not None:
            self._tell("ObjectRemoved:DeleteMarkerCreated", bucket, key, marker)

    def _tell(
        self,
        name: str,
        bucket: str,
        key: str,
        version_id: str,
        size: int | None = None,
        etag: str | None = None,
    ) -> None:
        """S3 says that sequencers order the events of a key, the shorter padded with zeros on the right."""
        last = self.events[-1].time if self.events else 0
        now = max(time.time_ns() // 1_000_000, last + 1)
        sequencer = f"{16 * (len(self.events) + 1):016X}".rstrip("0")
        self.events.append(Event(name, bucket, key, version_id, now, sequencer, size, etag))


def _asked_to_delete(body: bytes) -> set[tuple[str, str]]:
    """The keys and versions of a DeleteObjects request, of those that name a version."""
    asked = set()
    for element in ElementTree.fromstring(body):  # noqa: S314  # of our own client
        fields = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
        if fields.get("VersionId"):
            asked.add((fields["Key"], fields["VersionId"]))
    return asked


def _source(header: str) -> tuple[str, str, str]:
    """Bucket, key and version of `x-amz-copy-source`."""
    found = re.fullmatch(r"/?([^/]+)/(.+)\?versionId=(.+)", header)
    if found is None:
        raise ValueError(f"The recorder follows copies of a named version only, not {header!r}.")
    return found[1], unquote(found[2]), found[3]
