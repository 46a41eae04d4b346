"""What an extractor is: ranged reads of one object version in, one row's values out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

Outcome = Literal["ok", "partial", "not_matched", "timeout", "failed", "gone", "archived"]
"""`ok`: all of the header was read. `partial`: it ends too early or is damaged, and the values are those
before that place. `not_matched`: an object of another kind. `timeout`: reading took too long. `failed`:
nothing could be read. `gone`, `archived`: S3 no longer has the version, or not at hand."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first bytes of an object."""

    data: bytes
    whole: bool
    """The object has no more than these."""
    last: bool
    """No more will be given: it is whole, or as long as a header may be."""


class NeedMoreBytes(Exception):
    """The prefix ends before the header does; `needed` is the length (bytes) that is known to be needed."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"at least {needed} bytes are needed")
        self.needed = needed


class BudgetSpent(Exception):
    """A read would take more bytes, or more requests, than one object may cost. Nothing was read."""


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What HEAD and GetObjectTagging say of one version. Tags are those of the moment of asking: S3 lets them
    be changed in place."""

    size: int
    """Bytes."""
    last_modified: int
    """UTC milliseconds."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By boto3's name: `ContentType`, `CacheControl`, `StorageClass`, `ETag`, ..."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the writer sent as `x-amz-meta-*`."""
    tags: Mapping[str, str] | None = None
    """None where they may not be read."""


class Reader(Protocol):
    """Reads one exact version of one object, within a budget of bytes and requests."""

    @property
    def key(self) -> str: ...

    @property
    def size(self) -> int | None:
        """Bytes; None where nobody told it."""
        ...

    @property
    def max_bytes(self) -> int:
        """No more than these are read of the object, all reads together."""
        ...

    def read(self, start: int, end: int) -> bytes:
        """Bytes `[start, end)`; fewer only where the object ends before. Raises `BudgetSpent`."""
        ...

    def facts(self) -> ObjectFacts | None:
        """What S3 says of the version; None where that cannot be asked."""
        ...


@dataclass(frozen=True, slots=True)
class Extraction:
    """What an extractor read from one object."""

    outcome: Outcome
    values: Mapping[str, object] = field(default_factory=dict)
    """By column; what is missing is null. They fit the extractor's schema."""
    problems: tuple[str, ...] = ()
    """What was wrong, in words, never with the value of an identifying column."""


class MetadataRow(NamedTuple):
    """One object version and what was read from it."""

    key: str
    version_id: str
    size: int | None
    """Bytes."""
    event_time: int
    """UTC milliseconds."""
    outcome: Outcome
    error: str | None
    values: Mapping[str, object]


class Extractor(Protocol):
    """Reads one kind of object. All its I/O goes through the reader, so that it can work anywhere.

    An attribute `head_bytes` (0 to 65,536, which it is without) says how many bytes `matches` wants.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Another one where the same object may give other values than before."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """The columns it fills. Their types depend on the columns asked for and never on the objects. Each
        field's metadata has `identifying` (`true` or `false`), `source` or `tag`, and perhaps a `unit`."""
        ...

    def matches(self, key: str, size: int | None, head: bytes) -> bool:
        """Whether the object may be of its kind. `head` is the first bytes, or all of a shorter object."""
        ...

    def extract(self, reader: Reader) -> Extraction:
        """The values in the object's header: never one from a header cut short by us."""
        ...


ExtractorFactory = Callable[[Sequence[str] | None], Extractor]
"""What an entry point of the group `snapengine.extractors` names: columns (None: the default ones) to an
extractor. Raises `UsageError` for a column that it does not know."""


def column(
    name: str, kind: pa.DataType, source: str, *, unit: str = "", identifying: bool = False
) -> pa.Field:
    """A field as `Extractor.schema` wants it: `source` says where values come from, `unit` is a UCUM code."""
    import pyarrow as pa

    metadata = {"source": source, "identifying": str(identifying).lower()}
    return pa.field(name, kind, metadata=metadata | ({"unit": unit} if unit else {}))
