"""What is in the log and what views show, against what happened; and references, taken again and again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

from benchmarks._faults_history import FIRST, REMOVED, History, Shown, shown_by
from snapengine.engine import Engine
from snapengine.model import Completeness, Epoch, Observation
from snapengine.observation_codec import decode
from snapengine.views import View
from tests.recorder import Event

Told = tuple[str, str, str, int, str | None, int | None, str | None]
"""What an event says: kind, key, version id, UTC milliseconds, sequencer, size in bytes, ETag."""


@dataclass(slots=True)
class Verdict:
    """What was found; all but the first two should be 0."""

    views: int = 0
    """Compared with what happened."""
    references: int = 0
    """Taken while things went wrong, and resolved again afterwards."""
    repeated: int = 0
    """Observations that are in the log more than once, each further time: allowed, and no answer's matter."""
    lost: int = 0
    """Observations that are not in the log, or not by key."""
    invented: int = 0
    """Observations in the log that nobody told."""
    wrong: int = 0
    """Views, and look-ups of keys, that showed anything else than what was known to have happened."""
    changed: int = 0
    """References that no longer gave the same digest, level and watermarks."""
    notes: list[str] = field(default_factory=list)
    """Of what was wrong, some."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.invented or self.wrong or self.changed)

    def add(self, other: Verdict) -> None:
        for name in ("views", "references", "repeated", "lost", "invented", "wrong", "changed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.notes += other.notes

    def note(self, text: str) -> None:
        if len(self.notes) < 20:
            self.notes.append(text)


@dataclass(frozen=True, slots=True)
class Taken:
    """A view's reference, and what it was."""

    reference: str
    digest: str
    completeness: Completeness


def told(event: Event) -> Told:
    """In the engine's words, by S3's documentation of its events."""
    kind = {REMOVED: "VersionDeleted", "ObjectRemoved:DeleteMarkerCreated": "MarkerCreated"}.get(event.name)
    return (
        kind or "Created",
        event.key,
        event.version_id,
        event.time,
        event.sequencer,
        event.size,
        event.etag,
    )


def said(o: Observation) -> Told:
    """The same of an observation."""
    return o.kind, o.key, o.version_id, o.event_time, o.sequencer, o.size, o.etag


def shown(view: View) -> Shown:
    return {version.key: (version.version_id, version.etag, version.size) for version in view.versions()}


def covered(engine: Engine, bucket: str, epoch: Epoch) -> list[Observation]:
    """All that an epoch covers, straight from the log's entries."""
    return [
        observation
        for stream, last in sorted(epoch.cover.items())
        for entry in engine.store.entries(bucket, stream, 0, last)
        for observation in decode(entry.payload)
    ]


def by_key(engine: Engine, bucket: str, epoch: Epoch, keys: Sequence[str]) -> list[Observation]:
    """All that an epoch covers, from the items by key."""
    return [o for key in keys for o in engine.store.key_history(bucket, key, epoch.cover)]


class References:
    """References taken while the log is written, each checked at once and again when all is over."""

    def __init__(self, make_engine: Callable[[], Engine], seed: int) -> None:
        self.taken: list[Taken] = []
        self.verdict = Verdict()
        self._make_engine = make_engine
        self._engine = make_engine()
        self._chance = random.Random(seed)
        self._lock = Lock()

    def take(self, history: History) -> None:
        """A view of some instant at the newest epoch: what the covered events can tell, it must show."""
        with self._lock:
            engine = self._engine
            epoch = engine.store.newest_epoch(history.bucket)
            if epoch is None:
                return
            at = self._chance.randint(FIRST, history.now)
            prefix = self._chance.choice(["", "", "ct/é 3/"])
            view = engine.view(history.bucket, at, prefix=prefix, epoch=epoch.number)
            known = set(map(said, covered(engine, history.bucket, epoch)))
            events = [event for event in list(history.events) if told(event) in known]
            self.verdict.views += 1
            if shown(view) != shown_by(events, at, prefix):
                self.verdict.wrong += 1
                self.verdict.note(f"While writing, {view} was wrong.")
            self.keep(view)

    def keep(self, view: View) -> None:
        self.taken.append(Taken(view.reference, view.digest(), view.completeness))

    def again(self) -> Verdict:
        """Resolve each once more, with an engine that has never seen them."""
        engine = self._make_engine()
        for taken in self.taken:
            view = engine.open_ref(taken.reference)
            self.verdict.references += 1
            if (view.digest(), view.completeness) != (taken.digest, taken.completeness):
                self.verdict.changed += 1
                self.verdict.note(f"{taken.reference} is not what it was.")
        return self.verdict


def judge(engine: Engine, history: History, views: int, seed: int) -> Verdict:
    """The log and its views at the newest epoch, against everything that happened to the bucket."""
    verdict = Verdict()
    epoch = engine.store.newest_epoch(history.bucket) or Epoch(0, 0, {})
    observations = covered(engine, history.bucket, epoch)
    in_entries = Counter(map(said, observations))
    in_items = Counter(map(said, by_key(engine, history.bucket, epoch, history.keys)))
    truth = set(map(told, history.events))
    verdict.repeated = in_entries.total() - len(in_entries)
    verdict.lost = len(truth - in_entries.keys()) + (in_entries - in_items).total()
    strange = sum(o.origin != "event" or o.listing is not None for o in observations)
    verdict.invented = len(in_entries.keys() - truth) + (in_items - in_entries).total() + strange
    if verdict.lost or verdict.invented:
        verdict.note(f"{history.bucket}: {verdict.lost} lost, {verdict.invented} invented.")
    chance = random.Random(seed)
    instants = [FIRST - 1, history.now, *(chance.choice(history.events).time for _ in range(views))]
    for number, at in enumerate(instants):
        keys = chance.sample(history.keys, 8)
        view = engine.view(history.bucket, at - number % 2, epoch=epoch.number)
        _compare(verdict, history, view, keys)
    return verdict


def _compare(verdict: Verdict, history: History, view: View, keys: Sequence[str]) -> None:
    """A view whole, and first some keys of it, which are looked up one by one while it is not resolved."""
    expected = history.shown(view.ref.at)
    looked_up = {key: (v.version_id, v.etag, v.size) for key in keys if (v := view.get(key)) is not None}
    verdict.views += 1
    right = looked_up == {key: row for key, row in expected.items() if key in keys}
    if not (right and shown(view) == expected == shown_by(history.events, view.ref.at)):
        verdict.wrong += 1
        verdict.note(f"{view} is wrong.")
