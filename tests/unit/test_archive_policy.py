"""When a checkpoint or a differential is due, and which differentials are of no use any more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snapengine.archive.manifest import (
    Archive,
    ArchiveFile,
    Checkpoint,
    Differential,
    Manifest,
    Role,
    Segment,
    archive_of,
    retired,
)
from snapengine.archiving import policy
from snapengine.archiving.policy import checkpoint_due, differential_due, useless

HOUR = 3_600_000
"""From one epoch to the next, in milliseconds."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "LEAST", 100)


def file(role: Role, rows: int) -> ArchiveFile:
    return ArchiveFile(role, role, rows, 1, "", 1, "")


def segment(first: int, last: int, observations: int, rows: int = 0) -> Segment:
    files = (file("regular", observations), file("rows", rows))
    return Segment(first, last, files, {0: last}, last * HOUR, 0, 1)


def checkpoint(epoch: int, rows: int = 10_000, at: int | None = None) -> Checkpoint:
    return Checkpoint(epoch * HOUR if at is None else at, epoch, (file("objects", rows),), 1)


def differential(epoch: int, base: Checkpoint) -> Differential:
    return Differential(epoch * HOUR, epoch, (file("objects", 1),), 1, base=base.name)


BASE = checkpoint(10)
BEFORE = segment(1, 10, 1_000_000)


def archive(*since: int, more: tuple[Manifest, ...] = (BASE,)) -> Archive:
    """So many observations in each epoch after the checkpoint."""
    return archive_of([BEFORE, *(segment(n, n, rows) for n, rows in enumerate(since, 11)), *more])


def test_without_a_checkpoint_no_differential_is_due_however_much_there_is() -> None:
    assert not differential_due(archive(5000, more=()))
    assert not differential_due(archive(5000, more=(retired(BASE, 1),)))
    assert not differential_due(Archive())
    assert checkpoint_due(archive(5000, more=()))


def test_a_differential_is_due_when_more_than_the_least_came_since_the_checkpoint() -> None:
    assert not differential_due(archive())
    assert not differential_due(archive(60, 40))
    assert differential_due(archive(60, 41))
    assert not checkpoint_due(archive(60, 41))


def test_rows_of_metadata_count_as_observations_do() -> None:
    assert differential_due(archive_of([BEFORE, segment(11, 11, 3, rows=101), BASE]))
    assert not differential_due(archive_of([BEFORE, segment(11, 11, 100, rows=100), BASE]))


def test_the_next_differential_is_due_when_as_much_came_since_the_last_one_as_before_it() -> None:
    last = differential(11, BASE)
    assert not differential_due(archive(400, 399, more=(BASE, last)))
    assert differential_due(archive(400, 400, more=(BASE, last)))
    assert differential_due(archive(400, 200, 200, more=(BASE, last)))
    assert not differential_due(archive(400, 200, 200, more=(BASE, last, differential(12, BASE))))
    assert not differential_due(archive(10, 100, more=(BASE, last)))  # the least, each time
    assert differential_due(archive(10, 101, more=(BASE, last)))


def test_all_that_are_made_cost_about_what_two_of_the_last_do() -> None:
    made: list[int] = []
    since: list[int] = []
    standing: tuple[Manifest, ...] = (BASE,)
    for _ in range(199):
        since.append(10)
        if differential_due(archive(*since, more=standing)):
            made.append(sum(since))
            standing = (*standing, differential(10 + len(since), BASE))
    assert made == [110, 220, 440, 880, 1760]
    assert sum(made) < 2 * made[-1]


def test_only_what_is_of_the_newest_checkpoint_counts() -> None:
    older = checkpoint(4)
    begun = differential(11, older)
    assert differential_due(archive(101, more=(older, BASE, begun)))
    assert not differential_due(archive(101, more=(older, BASE, begun, differential(11, BASE))))
    assert not differential_due(archive(100, more=(older, BASE)))


def test_of_a_segment_that_was_put_together_counts_what_is_later() -> None:
    longer = segment(1, 20, 2000)  # 1,000 of them after epoch 10
    for rows, due in ((999, False), (1001, True)):
        of_last = archive_of([longer, segment(21, 21, rows), BASE, differential(20, BASE)])
        assert differential_due(of_last) == due


def test_a_differential_is_useless_once_its_checkpoint_does_not_stand() -> None:
    other = checkpoint(12)
    mine, others = differential(11, BASE), differential(13, other)
    assert useless(archive(more=(BASE, other, mine, others))) == []
    assert useless(archive(more=(BASE, mine, others))) == [others]
    assert useless(archive(more=(retired(BASE, 5), other, mine, others))) == [mine]
    assert useless(archive(more=(mine, retired(others, 5)))) == [mine]
    moved = replace(BASE, at=BASE.at + 1)
    assert useless(archive(more=(moved, mine))) == [mine]


def test_a_checkpoint_that_is_later_than_a_differential_would_be_is_none_to_differ_from() -> None:
    late = checkpoint(12, at=12 * HOUR - 1)
    assert differential_due(archive(60, 60, more=(BASE, late)))
    assert not differential_due(archive(60, 60, more=(BASE, replace(late, at=11 * HOUR))))
