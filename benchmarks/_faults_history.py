"""What happens to made-up buckets, on plain dictionaries, and the messages that tell of it.

It imports nothing of the engine: it is what the engine is judged by.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from threading import Lock

from tests.recorder import Event, message

FIRST = 1_700_000_000_000
"""UTC milliseconds: nothing happens before it."""
NULL = "null"
REMOVED = "ObjectRemoved:Delete"
MARKER = "ObjectRemoved:DeleteMarkerCreated"

Row = tuple[str, str | None, int | None]
"""Version id, ETag, size in bytes."""
Shown = dict[str, Row]
"""By key."""


class History:
    """One bucket, to which things happen at random; versioning is suspended now and then, or never on."""

    def __init__(self, bucket: str, seed: int, *, versioned: bool = True, keys: int = 40) -> None:
        self.bucket = bucket
        self.events: list[Event] = []
        self.keys = [f"ct/é {number % 7}/{number:04}+.dcm" for number in range(keys)]
        self.now = FIRST
        self._chance = random.Random(seed)
        self._versioned = versioned
        self._enabled = versioned
        self._stacks: defaultdict[str, list[Event]] = defaultdict(list)
        self._past: defaultdict[str, tuple[list[int], list[Row | None]]] = defaultdict(lambda: ([], []))

    def happen(self) -> Event:
        """One thing, and S3's word on it."""
        self.now += self._chance.choice([0, 1, 7, 400, 3000])
        if self._versioned and self._chance.random() < 0.02:
            self._enabled = not self._enabled
        key = self._chance.choice(self.keys)
        stack = self._stacks[key]
        what = self._chance.random()
        if what < 0.2 and stack:
            event = self._event(REMOVED, key, self._chance.choice(stack).version_id)
        elif what < 0.4 and self._versioned:
            event = self._event(MARKER, key, self._new_version())
        else:
            name = "ObjectCreated:Put" if what < 0.9 else "ObjectCreated:CompleteMultipartUpload"
            size = self._chance.randrange(1 << 40)
            event = self._event(name, key, self._new_version(), size, f"{self._chance.randrange(9):032x}")
        self._stacks[key] = stack = [e for e in stack if e.version_id != event.version_id]
        if event.name != REMOVED:
            stack.insert(0, event)
        times, rows = self._past[key]
        times.append(event.time)
        rows.append(_row(stack[0]) if stack and stack[0].name != MARKER else None)
        self.events.append(event)
        return event

    def _new_version(self) -> str:
        return f"v{len(self.events):06}" if self._enabled else NULL

    def _event(
        self, name: str, key: str, version_id: str, size: int | None = None, etag: str | None = None
    ) -> Event:
        sequencer = f"{16 * (len(self.events) + 1):016X}".rstrip("0")  # lengths differ, as S3's may
        return Event(name, self.bucket, key, version_id, self.now, sequencer, size, etag)

    def shown(self, at: int, prefix: str = "") -> Shown:
        """What the bucket showed at an instant, inclusive: what was written down then."""
        found = {}
        for key, (times, rows) in self._past.items():
            number = bisect_right(times, at) - 1
            if number >= 0 and key.startswith(prefix) and (row := rows[number]) is not None:
                found[key] = row
        return found


def _row(event: Event) -> Row:
    return event.version_id, event.etag, event.size


def shown_by(events: Iterable[Event], at: int, prefix: str = "") -> Shown:
    """What a bucket showed at an instant, inclusive, as far as these of its events can tell.

    A version that was removed is out, in whatever order that is learned. Of what is told of a null version
    only the last counts. Of what is left the last decides.
    """
    by_key: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.time <= at and event.key.startswith(prefix):
            by_key[event.key].append(event)
    found = {}
    for key, told in by_key.items():
        told.sort(key=lambda event: event.sequencer.ljust(16, "0"))
        removed = {event.version_id for event in told if event.name == REMOVED} - {NULL}
        last_null = next((event for event in reversed(told) if event.version_id == NULL), None)
        left = [
            event
            for event in told
            if event.name != REMOVED
            and event.version_id not in removed
            and (event.version_id != NULL or event is last_null)
        ]
        if left and left[-1].name != MARKER:
            found[key] = _row(left[-1])
    return found


class Load:
    """Gives the events of several histories to a queue: out of order, some late, some more than once, some
    several in a message. Thread-safe."""

    def __init__(
        self, histories: Sequence[History], send: Callable[[Sequence[str]], None], seed: int
    ) -> None:
        self.messages = 0
        self.duplicates = 0
        """Events sent once more than once, each time they were."""
        self.reorderings = 0
        """Events sent after a later one of the same key."""
        self._histories = histories
        self._send = send
        self._chance = random.Random(seed)
        self._late: list[Event] = []
        self._newest: dict[tuple[str, str], str] = {}
        self._lock = Lock()

    def more(self, count: int) -> None:
        """Let `count` things happen, and tell of most of them now; of what was left over earlier, of some."""
        with self._lock:
            batch: list[Event] = []
            for _ in range(count):
                event = self._chance.choice(self._histories).happen()
                when = self._chance.random()
                (self._late if when < 0.1 else batch).append(event)
                if 0.1 <= when < 0.2:
                    self.duplicates += 1
                    self._chance.choice((self._late, batch)).append(event)
            self._chance.shuffle(self._late)
            old = len(self._late) // 4
            batch += self._late[:old]
            del self._late[:old]
            self._tell(batch)

    def rest(self) -> None:
        """Tell of all that is left over."""
        with self._lock:
            self._tell(self._late)
            self._late = []

    def _tell(self, events: list[Event]) -> None:
        self._chance.shuffle(events)
        bodies = []
        while events:
            several = self._chance.choice((1, 1, 1, 2, 3))
            bodies.append(message(*events[:several]))
            for event in events[:several]:
                self._note(event)
            del events[:several]
        self.messages += len(bodies)
        self._send(bodies)

    def _note(self, event: Event) -> None:
        of, sequencer = (event.bucket, event.key), event.sequencer.ljust(16, "0")
        newest = self._newest.get(of, "")
        if sequencer < newest:
            self.reorderings += 1
        self._newest[of] = max(newest, sequencer)
