"""Which runs saw this data, this very version, or anything of an object: from the notes in the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapengine.model import ObjectVersion, RunNote
from snapengine.reference import parse_reference
from snapengine.verify import same_digest

if TYPE_CHECKING:
    from snapengine.engine import Engine


@dataclass(frozen=True, slots=True)
class Seen:
    """A view that a run noted, and what it shows of the object that was asked for."""

    note: RunNote
    versions: tuple[ObjectVersion, ...] = ()


def runs_that_saw(
    engine: Engine,
    bucket: str,
    *,
    digest: str | None = None,
    key: str | None = None,
    version_id: str | None = None,
    since: int | None = None,
) -> Iterator[Seen]:
    """The bucket's notes, by run, that meet all conditions: a view's `digest` (in full or short), an object's
    `key` that it shows (as `version_id`, if that is given), a run that began at `since` (UTC milliseconds) or
    later.

    A key is looked up in each view that may show it: once for views of one instant and epoch.
    """
    known: dict[str, tuple[ObjectVersion, ...]] = {}
    for note in engine.store.notes(bucket):
        if since is not None and note.started_at < since:
            continue
        if digest is not None and not (note.digest and same_digest(digest, note.digest)):
            continue
        if key is None:
            yield Seen(note)
            continue
        if not key.startswith(parse_reference(note.reference).prefix):
            continue
        if note.reference not in known:
            known[note.reference] = _shown(engine, note, key)
        found = tuple(v for v in known[note.reference] if version_id in {None, v.version_id})
        if found:
            yield Seen(note, found)


def _shown(engine: Engine, note: RunNote, key: str) -> tuple[ObjectVersion, ...]:
    view = engine.open_ref(note.reference)
    if view.ref.versions == "all":
        return tuple(version for version in view.list(prefix=key).objects if version.key == key)
    version = view.get(key)
    return () if version is None else (version,)
