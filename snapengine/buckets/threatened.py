"""Which noted runs saw views of keys whose noncurrent versions a lifecycle rule removes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from snapengine.buckets.advice import expiring_rules, prefix_of, rule_name
from snapengine.buckets.facts import BucketFacts
from snapengine.buckets.tools import Tools
from snapengine.errors import SnapEngineError
from snapengine.model import RunNote
from snapengine.pinning import pin_name
from snapengine.reference import parse_reference
from snapengine.run_notes import run_text

NOTES: Final = 500
"""Read at most, in the order of run ids."""
NEWEST: Final = 3


@dataclass(frozen=True, slots=True)
class ThreatenedRuns:
    """Runs whose noted views, not pinned themselves, may show keys that such a rule applies to. Whether a
    version they saw is noncurrent, or ever will be, was not looked up; nor were tags and sizes that a rule
    asks for, nor how many newer versions it keeps."""

    rules: tuple[str, ...]
    """The bucket's enabled rules that remove noncurrent versions, by id."""
    runs: int | None
    """None if the notes or pins could not be read."""
    newest: tuple[str, ...]
    """The ids of the few that began last, the last one first."""
    notes_read: int
    more: bool
    """There are more notes than were read: `runs` is a lower bound, and there may be newer ones."""


def threatened_runs(engine: Tools, facts: BucketFacts, warnings: list[str]) -> ThreatenedRuns | None:
    """None where no rule removes noncurrent versions. That notes cannot be read is a warning, no error."""
    rules = list(expiring_rules(facts))
    if not rules:
        return None
    names = tuple(map(rule_name, rules))
    try:
        read = list(islice(engine.store.notes(facts.bucket), NOTES + 1))
        more, notes = len(read) > NOTES, read[:NOTES]
        pinned = {each.name for each in engine.store.snapshots(facts.bucket)} if notes else set()
        newest = _newest_first(notes, [prefix_of(rule) for rule in rules], pinned)
    except SnapEngineError as error:
        warnings.append(
            f"Whether noted runs need versions that lifecycle rules of bucket {facts.bucket} destroy is not "
            f"known: {error}"
        )
        return ThreatenedRuns(names, None, (), 0, more=False)
    found = ThreatenedRuns(names, len(newest), tuple(newest[:NEWEST]), len(notes), more)
    if found.runs or more:
        warnings.append(_in_words(facts.bucket, found))
    return found


def _newest_first(notes: Iterable[RunNote], prefixes: list[str], pinned: set[str]) -> list[str]:
    began: dict[str, int] = {}
    for note in notes:
        if pin_name(note.reference) in pinned:
            continue
        shown = parse_reference(note.reference).prefix
        if any(shown.startswith(prefix) or prefix.startswith(shown) for prefix in prefixes):
            began[note.run_id] = max(note.started_at, began.get(note.run_id, note.started_at))
    return sorted(began, key=lambda run_id: (-began[run_id], run_id))


def _in_words(bucket: str, found: ThreatenedRuns) -> str:
    bound = (
        f" Only {found.notes_read:,} notes were read; there are more, and newer runs may be among them."
        if found.more
        else ""
    )
    if not found.runs:
        return (
            f"No lifecycle rule threatens the noted views of bucket {bucket} that were looked at.{bound} "
            f"`snapengine runs {bucket}` lists them all."
        )
    runs = "1 run" if found.runs == 1 else f"{found.runs:,} runs"
    newest = ", ".join(map(run_text, found.newest))
    return (
        f"{'At least ' if found.more else ''}{runs} noted views of bucket {bucket}, not pinned, whose keys a "
        f"lifecycle rule that destroys versions may reach: "
        f"{newest if found.runs == 1 else f'the newest {newest}'}. Versions they saw may be lost once "
        f"overwritten or deleted.{bound} Disable the rule; or, where the bucket has Object Lock, hold what a "
        f"run saw by `snapengine pin run:/ID`, or one view by its reference. `snapengine runs {bucket}` "
        "lists them."
    )
