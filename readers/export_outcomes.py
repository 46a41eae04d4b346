"""What became of each object of an export, and the tally of them all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from readers.export_evidence import NotAsTold
from snapengine.errors import (
    CannotExpressKey,
    CredentialsMissing,
    PermissionMissing,
    Refused,
    SnapEngineError,
    TryAgain,
    VersionArchived,
    VersionGone,
)
from snapengine.model import ObjectVersion

Kind = Literal[
    "copied", "there", "left-out", "gone", "archived", "denied", "conflict", "different", "unreadable"
]
PROBLEMS: Final = ("gone", "archived", "denied", "conflict", "different", "unreadable")
"""The kinds that make an export incomplete. What is `left-out` was asked to be."""


class Conflict(Refused):
    """Something else is at the destination: it is left as it is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one object."""

    kind: Kind
    """`copied` now; `there` already, with the same bytes; or why it is not."""
    version: ObjectVersion
    destination: str
    checked: tuple[str, ...] = ()
    """What was found equal: `size`; `etag`; `checksum`; `bytes`, by reading both; `parts` and `source`, see
    `export_copying.Copied`."""
    size: int | None = None
    """Bytes that are there."""
    etag: str | None = None
    """Of the copy, where that is an object."""
    version_id: str | None = None
    """Of the copy, where its bucket has versions."""
    detail: str = ""
    """Of a problem, in words."""

    def fields(self) -> dict[str, Any]:
        """As the manifest and `--json` have it."""
        return {
            "event": "object" if self.kind in {"copied", "there"} else "problem",
            "outcome": self.kind,
            "key": self.version.key,
            "version_id": self.version.version_id,
            "etag": self.version.etag,
            "size": self.version.size if self.size is None else self.size,
            "destination": self.destination,
            "destination_etag": self.etag,
            "destination_version_id": self.version_id,
            "checked": list(self.checked),
            "detail": self.detail,
        }


@dataclass(slots=True)
class Tally:
    """All outcomes so far."""

    counts: Counter[str] = field(default_factory=Counter)
    """By kind."""
    bytes_copied: int = 0
    bytes_there: int = 0
    by_size_alone: int = 0
    """Of those that are there, how many were compared by size alone."""

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.kind] += 1
        if outcome.kind == "copied":
            self.bytes_copied += outcome.size or 0
        elif outcome.kind == "there":
            self.bytes_there += outcome.size or 0
        if outcome.checked and not {"etag", "checksum", "bytes"}.intersection(outcome.checked):
            self.by_size_alone += 1

    @property
    def problems(self) -> int:
        return sum(self.counts[kind] for kind in PROBLEMS)

    def fields(self) -> dict[str, Any]:
        return {
            **{kind: self.counts[kind] for kind in ("copied", "there", "left-out", *PROBLEMS)},
            "bytes_copied": self.bytes_copied,
            "bytes_there": self.bytes_there,
            "by_size_alone": self.by_size_alone,
        }


_KINDS: Final[tuple[tuple[type[SnapEngineError], Kind], ...]] = (
    (VersionGone, "gone"),
    (VersionArchived, "archived"),
    (PermissionMissing, "denied"),
    (CannotExpressKey, "conflict"),
    (Refused, "conflict"),
    (NotAsTold, "different"),
    (SnapEngineError, "unreadable"),
)


def problem_of(error: SnapEngineError, version: ObjectVersion, destination: str) -> Outcome:
    """The outcome that an error is for one object. Raises those that concern all of them."""
    if isinstance(error, TryAgain | CredentialsMissing):
        raise error
    kind = next(kind for cls, kind in _KINDS if isinstance(error, cls))
    return Outcome(kind, version, destination, detail=str(error))
