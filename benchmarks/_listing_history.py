"""PURE: what is done to the bucket of `view_vs_listing`, and what is in it at T by the server's replies.

Two versions an object on average (one to six), markers beside them. Everything happens in rounds; no key has
two operations in one, and rounds are more than a second apart: S3 tells times in whole seconds, and of two
operations on a key within one second a listing that is split into versions and markers cannot tell the order.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Literal, NamedTuple

from snapengine.model import CREATED, MARKER_CREATED, Observation

ROUNDS = 6
ROUND_OF_T = 4
"""T lies before this round (they count from 0)."""

VERSIONS = ((1, 45), (2, 30), (3, 15), (4, 5), (6, 5))
"""How many versions an object has, and how many of a hundred objects have so many: 2.0 on average."""
DELETED = 0.12
"""Of the objects get a marker that is their last word; half as many get one and come back."""
LATE = 0.1
"""Of the objects that can come to be in any round do; the others are there from the first."""

Act = Literal["put", "delete"]


class Operation(NamedTuple):
    """One request to the server."""

    act: Act
    key: str
    number: int
    """Of the object; with `version` it makes each body another."""
    version: int


class Row(NamedTuple):
    """An object as a peer shows it; None for what it does not say."""

    version_id: str | None
    size: int | None
    etag: str | None


Answer = dict[str, Row]
"""What is in the bucket, by key."""


def make_rounds(objects: int, seed: int) -> list[list[Operation]]:
    """What to do, round by round, each in an order that has nothing to do with that of the keys."""
    chance = random.Random(seed)
    counts, weights = zip(*VERSIONS, strict=True)
    rounds: list[list[Operation]] = [[] for _ in range(ROUNDS)]
    for number, versions in enumerate(chance.choices(counts, weights, k=objects)):
        acts: list[Act] = ["put"] * versions
        fate = chance.random()
        if len(acts) < ROUNDS:
            if fate < DELETED:
                acts.append("delete")
            elif fate < 1.5 * DELETED and versions > 1:
                acts.insert(chance.randrange(1, versions), "delete")
        first = 0 if chance.random() >= LATE else chance.randint(0, ROUNDS - len(acts))
        later = sorted(chance.sample(range(first + 1, ROUNDS), len(acts) - 1))
        for version, (place, act) in enumerate(zip([first, *later], acts, strict=True)):
            rounds[place].append(Operation(act, key_of(number), number, version))
    for each in rounds:
        chance.shuffle(each)
    return rounds


def key_of(number: int) -> str:
    """A hundred images a series, two series a study, two studies a patient."""
    series, image = divmod(number, 100)
    study, series = divmod(series, 2)
    patient, study = divmod(study, 2)
    return f"ct/patient-{patient:05}/study-{study + 1}/series-{series + 1}/IM-{image + 1:04}.dcm"


def body_of(operation: Operation) -> bytes:
    """No two versions have the same, so a peer that shows the wrong one shows another ETag."""
    return b"DICM %d %d" % (operation.number, operation.version)


def answer_at(events: Iterable[Observation], at: int) -> Answer:
    """By the events alone, in the order in which they came: what peers and we have to say."""
    answer: Answer = {}
    for event in events:
        if event.event_time > at:
            continue
        if event.kind == CREATED:
            answer[event.key] = Row(event.version_id, event.size, event.etag)
        elif event.kind == MARKER_CREATED:
            answer.pop(event.key, None)
    return answer


def differing(expected: Answer, said: Answer) -> int:
    """How many keys a peer has wrong: missing, not to be there, or another version as far as it says."""
    wrong = len(expected.keys() ^ said.keys())
    for key in expected.keys() & said.keys():
        pairs = zip(expected[key], said[key], strict=True)
        wrong += any(shown is not None and shown != right for right, shown in pairs)
    return wrong
