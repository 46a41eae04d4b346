"""What an extractor must be to be used, whoever brings it: it has a name, a version and fit columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from snapengine.errors import BadData, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

RESERVED: Final = frozenset({"key", "version_id", "size", "event_time", "outcome", "error"})
"""Columns that every row has."""


class Described(Protocol):
    """What an extractor says of itself."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def schema(self) -> pa.Schema: ...


E = TypeVar("E", bound=Described)


def checked(extractor: E, name: str) -> E:
    """The extractor, if it is what `Extractor` says. Raises `UsageError` that names what is wrong."""
    if extractor.name != name:
        raise UsageError(f"The extractor {name!r} calls itself {extractor.name!r}; one name is needed.")
    if not extractor.version:
        raise UsageError(f"The extractor {name!r} has no version.")
    from snapengine.metadata_codec import encode  # pyarrow, which a list of names does without
    from snapengine.metadata_rows import row_schema

    seen = set(RESERVED)
    for field in extractor.schema:
        metadata = field.metadata or {}
        if field.name in seen:
            raise UsageError(f"The extractor {name!r} has a second column {field.name!r}.")
        if metadata.get(b"identifying") not in {b"true", b"false"}:
            raise UsageError(f"{name!r} does not say whether its column {field.name!r} is identifying.")
        if not (metadata.get(b"source") or metadata.get(b"tag")):
            raise UsageError(f"{name!r} does not say the source of its column {field.name!r}.")
        seen.add(field.name)
    try:
        encode(name, row_schema(extractor.schema).empty_table())
    except BadData as error:
        raise UsageError(f"Rows of the extractor {name!r} could not be stored: {error}") from error
    return extractor
