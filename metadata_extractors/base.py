"""What an extractor is: the first bytes of an object in, one row's values out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

Outcome = Literal["ok", "partial", "not_dicom", "timeout", "failed", "gone", "archived"]
"""`ok`: all of the header was read. `partial`: it ends too early or is damaged, and the values are those
before that place. `not_dicom`: an object of another kind. `timeout`: reading took too long. `failed`: nothing
could be read. `gone`, `archived`: S3 no longer has the version, or not at hand."""


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
    """Reads one kind of object. It does no I/O, and it pickles, so that it can work anywhere."""

    @property
    def schema(self) -> pa.Schema:
        """The columns it fills. Their types depend on the columns asked for and never on the objects; each
        field's metadata says `identifying`: `true` or `false`."""
        ...

    def extract(self, prefix: Prefix) -> Extraction:
        """The values in the header. Raises `NeedMoreBytes` if it goes on after a prefix that is not the
        last: no value is ever taken from a header cut short by us."""
        ...


ExtractorFactory = Callable[[Sequence[str] | None], Extractor]
"""What an entry point of the group `snapengine.extractors` names: columns (None: the default ones) to an
extractor. Raises `UsageError` for a column that it does not know."""
