"""PURE: what a rollback would do, and what became of each key."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from readers.rollback_steps import NOT_TO_BE_HAD, TO_DO, Step

SAMPLES: Final = 5
"""Keys of each kind that a plan shows."""

Tier = Literal["Standard", "Bulk", "Expedited"]
Fate = Literal[
    "copied",
    "marked",
    "there",
    "changed",
    "unsure",
    "gone",
    "archived",
    "restoring",
    "denied",
    "different",
    "unreadable",
]
PROBLEMS: Final = ("changed", *NOT_TO_BE_HAD, "different")


@dataclass(slots=True)
class Planned:
    """What a rollback would do."""

    reference: str
    counts: Counter[str] = field(default_factory=Counter)
    """Keys by `Step.kind`."""
    bytes: int = 0
    """To be copied, by S3 itself."""
    samples: dict[str, list[Step]] = field(default_factory=dict)
    """By kind, but for what stays as it is."""
    warnings: list[str] = field(default_factory=list)

    @property
    def to_do(self) -> int:
        return sum(self.counts[kind] for kind in TO_DO)

    @property
    def missing(self) -> int:
        """Versions that cannot be had."""
        return sum(self.counts[kind] for kind in NOT_TO_BE_HAD)

    def fields(self) -> dict[str, Any]:
        """As `--json` has it."""
        kinds = ("same", "equal", "absent", *TO_DO, *NOT_TO_BE_HAD)
        return {
            "reference": self.reference,
            **{kind: self.counts[kind] for kind in kinds},
            "bytes": self.bytes,
            "warnings": self.warnings,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one key."""

    fate: Fate
    """`copied`, `marked`; `there`: it shows the version's bytes, or nothing, already; `changed`: somebody
    else changed it since the plan, and it is left; `restoring`: from its archive, for a later run."""
    step: Step
    new_version_id: str | None = None
    """Of the copy, or of the marker."""
    checked: tuple[str, ...] = ()
    """Of a copy what was found equal, as in `export_copying.Copied`."""
    detail: str = ""

    def fields(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "outcome": self.fate,
            "key": self.step.key,
            "version_id": self.step.version.version_id if self.step.version else None,
            "new_version_id": self.new_version_id,
            "checked": list(self.checked),
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Restoring:
    """How archived versions are asked for."""

    days: int = 7
    """For so long the restored copies stay readable."""
    tier: Tier = "Standard"
