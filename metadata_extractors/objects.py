"""The extractor of what S3 itself knows of an object: its headers, its user metadata, its tags."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import pyarrow as pa

from metadata_extractors.base import Extraction, ObjectFacts, Reader, column
from metadata_extractors.columns import pick
from snapengine.errors import UsageError

_HEADERS: Final = {
    "ContentType": False,
    "ContentEncoding": False,
    "ContentLanguage": False,
    "ContentDisposition": True,
    "CacheControl": False,
    "StorageClass": False,
    "ServerSideEncryption": False,
}
"""By name, whether it may identify someone: a disposition holds a file name."""

_FIELDS: Final = (
    *(column(name, pa.string(), f"HEAD: {name}", identifying=hides) for name, hides in _HEADERS.items()),
    column("LastModified", pa.timestamp("ms", "UTC"), "HEAD: LastModified"),
    column("UserMetadataJson", pa.string(), "HEAD: x-amz-meta-*", identifying=True),
    column("TagsJson", pa.string(), "GetObjectTagging", identifying=True),
)
_PREFIXES: Final = ("meta:", "tag:")


class ObjectExtractor:
    """Needs no byte of the object, so that it works for archived ones too.

    A column `meta:NAME` or `tag:NAME` gives one value of the user metadata or of the tags, as text.
    """

    name = "object"
    version = "1"
    head_bytes = 0

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        asked = columns if columns is None or isinstance(columns, str) else list(columns)
        single = [name for name in asked or () if name.startswith(_PREFIXES)]
        if empty := [name for name in single if name in _PREFIXES]:
            raise UsageError(f"Name one, as in {empty[0] + 'site'!r}.")
        single_fields = [
            column(name, pa.string(), _source(name), identifying=True) for name in dict.fromkeys(single)
        ]
        self._fields = pick([*_FIELDS, *single_fields], asked)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(self._fields)

    def matches(self, key: str, size: int | None, head: bytes) -> bool:  # noqa: ARG002  # every object
        return True

    def extract(self, reader: Reader) -> Extraction:
        facts = reader.facts()
        if facts is None:
            return Extraction("failed", problems=("S3 cannot be asked about the object here",))
        values = {field.name: _value(field.name, facts) for field in self._fields}
        wants_tags = any(name == "TagsJson" or name.startswith("tag:") for name in values)
        problems = ("tags may not be read",) if facts.tags is None and wants_tags else ()
        return Extraction("ok", values, problems)


def _source(name: str) -> str:
    return f"HEAD: x-amz-meta-{name[5:]}" if name.startswith("meta:") else f"GetObjectTagging: {name[4:]}"


def _value(name: str, facts: ObjectFacts) -> object:
    if name.startswith("meta:"):
        return facts.metadata.get(name.removeprefix("meta:"))
    if name.startswith("tag:"):
        return (facts.tags or {}).get(name.removeprefix("tag:"))
    if name == "LastModified":
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=facts.last_modified)
    if name == "UserMetadataJson":
        return _json(facts.metadata)
    if name == "TagsJson":
        return _json(facts.tags or {})
    return facts.headers.get(name)


def _json(pairs: Mapping[str, str]) -> str | None:
    return json.dumps(dict(pairs), sort_keys=True, ensure_ascii=False) if pairs else None
