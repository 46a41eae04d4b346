"""PURE: the plan of `enable-bucket` as values: what was asked for, and the steps that lead there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for."""

    prefix: str | None = None
    """None: as registered, or the whole bucket."""
    wait: bool = True
    """Whether to give AWS the time that it asks for before the baseline."""
    streams: int | None = None
    """Of a bucket that is enabled for the first time; None: by the settings."""
    baseline: Literal["auto", "log", "parquet"] = "auto"
    """Where the baseline's observations go: see `listed_files.Into`."""
    extract: tuple[str, ...] | None = None
    """The extractors that new versions are handed to; none ends it. None: as registered."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By extractor, the columns that it is to fill beside its usual ones: all of them, in place of those
    registered. An extractor that is not named keeps its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change, in one line of plain words."""

    code: ClassVar[str] = "step"
    words: str


@dataclass(frozen=True, slots=True)
class MakeQueue(Step):
    code: ClassVar[str] = "make-queue"
    name: str


@dataclass(frozen=True, slots=True)
class SetQueue(Step):
    """Set attributes of a queue that exists."""

    code: ClassVar[str] = "set-queue"
    name: str
    attributes: Mapping[str, str]
    tag: bool = False
    """Whether to tag it as our log's."""


@dataclass(frozen=True, slots=True)
class PutRule(Step):
    code: ClassVar[str] = "put-rule"
    prefix: str


@dataclass(frozen=True, slots=True)
class SwitchVersioningOn(Step):
    code: ClassVar[str] = "switch-versioning-on"


@dataclass(frozen=True, slots=True)
class Register(Step):
    code: ClassVar[str] = "register"
    prefix: str
    anew: bool
    """Events may have been missed: history begins again, with the rule's reading back."""
    again: bool
    """Whether all versions are to be listed (again)."""


@dataclass(frozen=True, slots=True)
class SetExtraction(Step):
    """Register by which extractors, with which further columns, and the queues as they stand."""

    code: ClassVar[str] = "set-extraction"
    extractors: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class TakeBaseline(Step):
    code: ClassVar[str] = "take-baseline"


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done. With a refusal there are no steps; without either, there is nothing to do."""

    bucket: str
    prefix: str
    wanted: Wanted = field(default_factory=Wanted)
    steps: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "bucket": self.bucket,
            "prefix": self.prefix,
            "wait": self.wanted.wait,
            "steps": [{"step": step.code, **asdict(step)} for step in self.steps],
            "warnings": list(self.warnings),
            "refusals": list(self.refusals),
        }


@dataclass(frozen=True, slots=True)
class Deregister(Step):
    code: ClassVar[str] = "deregister"


@dataclass(frozen=True, slots=True)
class RemoveRule(Step):
    code: ClassVar[str] = "remove-rule"


@dataclass(frozen=True, slots=True)
class DeleteQueue(Step):
    code: ClassVar[str] = "delete-queue"
    name: str
