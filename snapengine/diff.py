"""PURE: what changed between two views."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from snapengine.bulkfold import versions_of
from snapengine.model import ObjectVersion


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. `before` is None if it was added, `after` if it was removed."""

    key: str
    before: ObjectVersion | None
    after: ObjectVersion | None

    @property
    def kind(self) -> str:
        """`added`, `removed` or `changed`."""
        if self.before is None:
            return "added"
        return "changed" if self.after else "removed"


@dataclass(frozen=True, slots=True)
class Diff:
    """The keys that differ between two views, in key order."""

    before: str
    """The reference of the one view."""
    after: str
    changes: tuple[Change, ...]

    @property
    def added(self) -> list[ObjectVersion]:
        return [c.after for c in self.changes if c.before is None and c.after]

    @property
    def removed(self) -> list[ObjectVersion]:
        return [c.before for c in self.changes if c.after is None and c.before]

    @property
    def changed(self) -> list[tuple[ObjectVersion, ObjectVersion]]:
        return [(c.before, c.after) for c in self.changes if c.before and c.after]

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __str__(self) -> str:
        return f"{len(self.added)} added, {len(self.changed)} changed, {len(self.removed)} removed"

    def _repr_html_(self) -> str:
        from snapengine.notebook import diff_html

        return diff_html(self)


def diff_tables(before_ref: str, before: pa.Table, after_ref: str, after: pa.Table) -> Diff:
    """The differences of two tables of `VIEW_SCHEMA`, both in key order: a merge of the two."""
    changes: list[Change] = []
    old_rows, new_rows = iter(versions_of(before)), iter(versions_of(after))
    old, new = next(old_rows, None), next(new_rows, None)
    while old or new:
        if new is None or (old and old.key < new.key):
            assert old is not None  # noqa: S101  # the loop's condition, for the type checker
            changes.append(Change(old.key, old, None))
            old = next(old_rows, None)
        elif old is None or new.key < old.key:
            changes.append(Change(new.key, None, new))
            new = next(new_rows, None)
        else:
            if _identity(old) != _identity(new):
                changes.append(Change(old.key, old, new))
            old, new = next(old_rows, None), next(new_rows, None)
    return Diff(before_ref, after_ref, tuple(changes))


def _identity(version: ObjectVersion) -> tuple[object, ...]:
    """What the digest covers: that a time became better known is no change of the data."""
    return (version.version_id, version.etag, version.size)
