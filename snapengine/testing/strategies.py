"""Hypothesis strategies for the observations of one key, and short words to write such observations down.

Two kinds of history: `adversarial_observations` keeps no law but the types, so that rules about arrival and
repetition are tried on everything; `key_histories` plays a key of a bucket as S3 would, on plain lists, and
knows what the key showed at every moment, so that the fold can be compared with the truth.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from hypothesis import strategies as st

from snapengine.model import (
    BASELINE,
    CREATED,
    EVENT,
    MARKER_CREATED,
    NULL_VERSION,
    RECONCILE,
    VERSION_DELETED,
    Kind,
    Observation,
    Origin,
)

KEY: Final = "scans/ä+%.dcm"


def millis(seconds: float) -> int:
    """Stories are told in seconds; observations hold milliseconds."""
    return round(seconds * 1000)


def sequencer_at(seconds: float) -> str:
    """A sequencer that orders as the time does."""
    return f"{millis(seconds):016X}"


def put(version: str, at: float, etag: str | None = None) -> Observation:
    """The event of an object's creation; its ETag is the version's name unless given."""
    return Observation(CREATED, KEY, version, millis(at), sequencer_at(at), 7, etag or version)


def marked(version: str, at: float) -> Observation:
    """The event of a delete marker."""
    return Observation(MARKER_CREATED, KEY, version, millis(at), sequencer_at(at))


def removed(version: str, at: float) -> Observation:
    """The event of a removal for good, of a version or of a marker."""
    return Observation(VERSION_DELETED, KEY, version, millis(at), sequencer_at(at))


class Row(NamedTuple):
    """An entry as a listing shows it. An ETag of None is a delete marker's."""

    version: str
    last_modified: float
    etag: str | None


def row(version: str, last_modified: float, etag: str | None = None) -> Row:
    """A listed object version; its ETag is the version's name unless given."""
    return Row(version, last_modified, etag or version)


def marker_row(version: str, last_modified: float) -> Row:
    """A listed delete marker."""
    return Row(version, last_modified, None)


def listing(name: str, page: float, *rows: Row) -> list[Observation]:
    """What a listing whose page was requested at `page` shows of the key, the newest first."""
    return [
        Observation(
            kind=MARKER_CREATED if etag is None else CREATED,
            key=KEY,
            version_id=version,
            event_time=millis(last_modified),
            size=None if etag is None else 7,
            etag=etag,
            storage_class=None if etag is None else "STANDARD",
            origin=RECONCILE,
            listing=name,
            page_time=millis(page),
            position=position,
        )
        for position, (version, last_modified, etag) in enumerate(rows)
    ]


def absent(version: str, page: float, name: str = "L") -> Observation:
    """The removal that a listing proves by not showing the version on a page requested at `page`."""
    return Observation(
        kind=VERSION_DELETED,
        key=KEY,
        version_id=version,
        event_time=millis(page),
        origin=RECONCILE,
        listing=name,
        page_time=millis(page),
    )


_SMALL_TIMES = st.sampled_from([0, 9_999, 10_000, 10_001, 10_500, 10_999, 11_000, 12_000, 13_500])
_SEQUENCERS = st.sampled_from([None, "0A", "0a00", "0a", "0A1", "0b", "1", "1000", "10"])


@st.composite
def adversarial_observations(draw: st.DrawFn) -> Observation:
    """One observation from a domain so small that times, sequencers, ETags, pages and places collide."""
    kind: Kind = draw(st.sampled_from([CREATED, CREATED, MARKER_CREATED, VERSION_DELETED]))
    version = draw(st.sampled_from([NULL_VERSION, NULL_VERSION, "v1", "v2", "v3"]))
    observation = Observation(
        kind=kind,
        key=KEY,
        version_id=version,
        event_time=draw(_SMALL_TIMES),
        size=draw(st.sampled_from([None, 0, 7])) if kind == CREATED else None,
        etag=draw(st.sampled_from([None, "a", "b", "a-2"])) if kind == CREATED else None,
        storage_class=draw(st.sampled_from([None, "STANDARD", "GLACIER"])) if kind == CREATED else None,
    )
    origin: Origin = draw(st.sampled_from([EVENT, EVENT, BASELINE, RECONCILE]))
    if origin == EVENT:
        name = draw(st.sampled_from([None, "ObjectCreated:Put", "ObjectCreated:Copy"]))
        return observation._replace(sequencer=draw(_SEQUENCERS), event_name=name)
    page_time = draw(_SMALL_TIMES)
    observation = observation._replace(
        origin=origin, listing=draw(st.sampled_from(["L1", "L2", "L3"])), page_time=page_time
    )
    if kind == VERSION_DELETED:
        return observation._replace(event_time=page_time)
    return observation._replace(
        event_time=observation.event_time // 1000 * 1000, position=draw(st.integers(0, 3))
    )


Versioning = Literal["off", "enabled", "suspended"]
Operation = Literal["put", "multipart", "delete", "expire", "remove", "remove-unknown", "switch"]
OPERATIONS: Final[tuple[Operation, ...]] = (
    "put",
    "put",
    "put",
    "multipart",
    "delete",
    "delete",
    "remove",
    "remove",
    "remove-unknown",
    "expire",
    "switch",
)
_DAY_MS = 86_400_000
_START_MS = 3 * _DAY_MS + 3_600_000


class Entry(NamedTuple):
    """A version or a marker that exists."""

    version_id: str
    kind: Kind
    etag: str | None
    size: int | None
    last_modified: int
    time: int


class Step(NamedTuple):
    """One thing that is done to the key, `wait` ms after the last; `number` settles what is left open."""

    operation: Operation
    wait: int
    number: int


class KeyHistory:
    """One key of a bucket, played on plain lists: what S3 holds, says in events, and shows in listings."""

    def __init__(self, versioning: Versioning) -> None:
        self.versioning: Versioning = versioning
        self.now = _START_MS
        self.entries: list[Entry] = []
        """What exists, the newest first."""
        self.events: list[Observation] = []
        self.past: list[tuple[int, Entry | None]] = []
        """After each step: the time, and the object that the key showed from then on."""
        self._made = 0
        self._expired_on = -1
        self._switched = 0

    @property
    def current(self) -> Entry | None:
        """The object that the key shows now."""
        top = self.entries[0] if self.entries else None
        return top if top is not None and top.kind == CREATED else None

    def at(self, instant: int) -> Entry | None:
        """The object that the key showed at `instant`, inclusive."""
        shown = [entry for time, entry in self.past if time <= instant]
        return shown[-1] if shown else None

    def play(self, steps: list[Step]) -> None:
        """Do what the steps say. What S3 would refuse, or not notice, is passed over."""
        for step in steps:
            self.now += step.wait
            self._do(step)
            self.past.append((self.now, self.current))

    def listed(self, name: str, known: list[Observation]) -> list[Observation]:
        """A complete listing requested now: every entry, and the absence of those known but gone."""
        rows = [
            Observation(
                kind=entry.kind,
                key=KEY,
                version_id=entry.version_id,
                event_time=entry.last_modified,
                size=entry.size,
                etag=entry.etag,
                origin=RECONCILE,
                listing=name,
                page_time=self.now,
                position=position,
            )
            for position, entry in enumerate(self.entries)
        ]
        shown = {entry.version_id for entry in self.entries}
        gone = {o.version_id for o in known if o.kind != VERSION_DELETED} - shown
        return rows + [absent(version, self.now / 1000, name) for version in sorted(gone)]

    def _do(self, step: Step) -> None:
        content = "abc"[step.number % 3]
        if step.operation == "put":
            self._create(CREATED, content, self.now)
        elif step.operation == "multipart":
            begun = max(self._switched, self.now - (0, 300, 2000, 3_600_000)[step.number % 4])
            self._create(CREATED, f"{content}-2", begun)
        elif step.operation == "delete" and self.versioning == "off":
            self._drop(NULL_VERSION)
            self._report(VERSION_DELETED, NULL_VERSION)
        elif step.operation == "delete":
            self._create(MARKER_CREATED, None, self.now)
        elif step.operation == "expire":
            self._expire()
        elif step.operation == "remove" and self.entries:
            version = self.entries[step.number % len(self.entries)].version_id
            self._drop(version)
            self._report(VERSION_DELETED, version)
        elif step.operation == "remove-unknown":
            self._report(VERSION_DELETED, "v-nobody-recorded")
        elif step.operation == "switch":
            self.now += 15 * 60 * 1000  # AWS asks for a quarter of an hour
            self._switched = self.now
            self.versioning = "suspended" if self.versioning == "enabled" else "enabled"

    def _expire(self) -> None:
        today = self.now // _DAY_MS
        if self.versioning != "off" and self.current is not None and today > self._expired_on:
            self._expired_on = today  # lifecycle rules run once a day, and date their markers midnight
            self._create(MARKER_CREATED, None, today * _DAY_MS)

    def _create(self, kind: Kind, etag: str | None, modified: int) -> None:
        self._made += 1
        version = f"v{self._made}" if self.versioning == "enabled" else NULL_VERSION
        self._drop(version)
        size = None if etag is None else ord(etag[0])  # equal ETags are equal content
        entry = Entry(version, kind, etag, size, modified // 1000 * 1000, self.now)
        self.entries.insert(0, entry)
        self._report(kind, version, etag, size)

    def _drop(self, version: str) -> None:
        self.entries = [entry for entry in self.entries if entry.version_id != version]

    def _report(self, kind: Kind, version: str, etag: str | None = None, size: int | None = None) -> None:
        number = 8 * (len(self.events) + 1)  # lengths differ, as trailing zeros are cut
        sequencer = f"{number:08x}".rstrip("0")
        sequencer = sequencer.upper() if number % 3 else sequencer + "00"
        self.events.append(Observation(kind, KEY, version, self.now, sequencer, size, etag))


def steps(operations: tuple[Operation, ...] = OPERATIONS, most: int = 8) -> st.SearchStrategy[list[Step]]:
    """What is done to a key; waits are such that seconds, and even milliseconds, are shared."""
    step = st.builds(
        Step,
        operation=st.sampled_from(operations),
        wait=st.sampled_from([0, 1, 40, 300, 700, 1000, 2500]),
        number=st.integers(0, 11),
    )
    return st.lists(step, max_size=most)


@st.composite
def key_histories(
    draw: st.DrawFn,
    versioning: tuple[Versioning, ...] = ("off", "enabled", "suspended"),
    operations: tuple[Operation, ...] = OPERATIONS,
) -> KeyHistory:
    """A key to which a few things have been done; versioning may have been switched meanwhile."""
    history = KeyHistory(draw(st.sampled_from(versioning)))
    history.play(draw(steps(operations)))
    return history


@st.composite
def some_of(draw: st.DrawFn, observations: list[Observation]) -> list[Observation]:
    """What is left of the observations when some were lost."""
    kept = draw(st.lists(st.booleans(), min_size=len(observations), max_size=len(observations)))
    return [o for o, keep in zip(observations, kept, strict=True) if keep]


@st.composite
def shuffled(draw: st.DrawFn, observations: list[Observation]) -> list[Observation]:
    """The observations in another order, some of them several times."""
    again = draw(st.lists(st.sampled_from(observations), max_size=4)) if observations else []
    return draw(st.permutations(observations + again))
