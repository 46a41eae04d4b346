"""Sharding, order and resuming, without torch: each row once, and the same order for ever."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers.sampling import Place, Progress, Sampling, Shard, checked, shuffled
from snapengine.errors import UsageError

VIEW = "snap://scans@2026-11-20T09:00:00.000Z~7/"
counts = st.integers(0, 300)
seeds = st.integers(-(2**70), 2**70)
few = st.integers(1, 7)
PINNED = [[2, 8, 3, 0, 9, 6, 5, 1, 4, 7], [2, 0, 7, 8, 9, 1, 4, 6, 5, 3], [9, 7, 1, 6, 8, 4, 5, 3, 0, 2]]


def shards(world_size: int, workers: int) -> list[Shard]:
    return [Shard(rank, world_size, w, workers) for rank in range(world_size) for w in range(workers)]


@given(counts, seeds, st.integers(0, 50), st.booleans(), few, few)
def test_all_shards_together_have_every_row_once_in_every_epoch(
    count: int, seed: int, epoch: int, shuffle: bool, world_size: int, workers: int
) -> None:
    plan = Sampling(VIEW, count, shuffle, seed)
    parts = [plan.rows(epoch, shard) for shard in shards(world_size, workers)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [len(part) for part in parts] == [len(plan.places(s)) for s in shards(world_size, workers)]


@given(counts, seeds, st.integers(0, 50), st.booleans(), few, few)
def test_even_ranks_have_as_many_rows_and_leave_out_fewer_than_there_are_ranks(
    count: int, seed: int, epoch: int, shuffle: bool, world_size: int, workers: int
) -> None:
    plan = Sampling(VIEW, count, shuffle, seed, even=True)
    ranks = [
        [len(plan.rows(epoch, Shard(rank, world_size, w, workers))) for w in range(workers)]
        for rank in range(world_size)
    ]
    assert all(lengths == ranks[0] for lengths in ranks), "or a rank would wait for the last batch of another"
    taken = np.concatenate([plan.rows(epoch, shard) for shard in shards(world_size, workers)])
    assert len(set(taken.tolist())) == len(taken) == count - count % world_size


@given(counts, seeds, st.booleans(), few, few, st.data())
def test_going_on_from_a_state_gives_the_rest_and_nothing_twice(
    count: int, seed: int, shuffle: bool, world_size: int, workers: int, data: st.DataObject
) -> None:
    plan = Sampling(VIEW, count, shuffle, seed)
    for shard in shards(world_size, workers):
        rows = plan.rows(3, shard).tolist()
        stopped = data.draw(st.integers(0, len(rows)))
        epoch, taken = Sampling(VIEW, count, shuffle, seed).resumed(plan.state(3, shard, stopped), shard)
        assert (epoch, taken) == (3, stopped)
        assert rows[:stopped] + plan.rows(epoch, shard)[taken:].tolist() == rows


def test_rows_that_are_not_shuffled_come_in_key_order() -> None:
    plan = Sampling(VIEW, 7)
    assert plan.rows(0, Shard()).tolist() == plan.rows(1, Shard()).tolist() == list(range(7))
    assert [plan.rows(0, Shard(rank, 2, 0, 1)).tolist() for rank in range(2)] == [[0, 2, 4, 6], [1, 3, 5]]


def test_the_order_of_a_seed_and_an_epoch_is_pinned_for_ever() -> None:
    assert shuffled(10, 0, 0).tolist() == PINNED[0]
    assert shuffled(10, 0, 1).tolist() == PINNED[1]
    assert shuffled(10, -5, 2).tolist() == PINNED[2]


def test_every_order_is_as_likely() -> None:
    found = Counter(tuple(shuffled(4, seed, 0).tolist()) for seed in range(24_000))
    assert set(found) == set(permutations(range(4)))
    chi_squared = sum((n - 1000) ** 2 / 1000 for n in found.values())
    assert chi_squared < 49.7, "of 23 degrees of freedom, exceeded once in a thousand"


def test_epochs_and_seeds_do_not_resemble_each_other() -> None:
    one = shuffled(10_000, 1, 0)
    for seed, epoch in ((1, 1), (2, 0), (11, 0), (1, 10)):
        other = shuffled(10_000, seed, epoch)
        assert int((one == other).sum()) < 12, "about one in ten thousand stands at the same place by chance"
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


@pytest.mark.parametrize("shard", [Shard(2, 2), Shard(-1, 2), Shard(0, 1, 3, 3), Shard(0, 0)])
def test_a_shard_that_cannot_be_is_refused(shard: Shard) -> None:
    with pytest.raises(UsageError, match="they count from 0"):
        checked(shard)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"view": "snap://scans@2026-11-21T09:00:00.000Z~8/"}, "open_ref"),
        ({"count": 99}, "count=99 there and 10 here"),
        ({"seed": 3}, "seed=3 there and 0 here"),
        ({"shuffle": True}, "shuffle=True there"),
        ({"even": True}, "even=True there"),
        ({"shard": "0/4/0/1"}, "as many ranks and workers"),
        ({"state": 2}, "newer snapengine"),
        ({"taken": 6}, "damaged"),
        ({"taken": -1}, "damaged"),
        ({"taken": None}, "damaged"),
        ({"epoch": "1"}, "damaged"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_says_why(change: dict[str, Any], says: str) -> None:
    plan, shard = Sampling(VIEW, 10), Shard(0, 2, 0, 1)
    with pytest.raises(UsageError, match=says):
        plan.resumed(plan.state(0, shard, 2) | change, shard)


@pytest.mark.parametrize("state", [{}, None, {"yielded": 3}, []])
def test_what_is_no_state_of_ours_is_refused(state: Any) -> None:
    with pytest.raises(UsageError, match="no state"):
        Sampling(VIEW, 10).resumed(state, Shard())


# Progress


def test_a_state_is_of_the_newest_iteration_and_counts_what_was_given() -> None:
    progress = Progress(Sampling(VIEW, 10))
    assert progress.state(0, Shard())["taken"] == 0
    first = progress.begin(0)
    first.taken = 4
    assert progress.state(0, Shard())["taken"] == 4
    assert progress.state(1, Shard())["taken"] == 0, "of the next epoch nothing was given yet"
    second = progress.begin(1)
    first.taken = 9
    second.taken = 2
    assert progress.state(1, Shard())["taken"] == 2


def test_a_loaded_state_is_gone_on_with_once_and_in_its_own_epoch_only() -> None:
    sampling = Sampling(VIEW, 10)
    progress = Progress(sampling)
    assert progress.load(sampling.state(3, Shard(), 6), Shard()) == 3
    assert progress.state(3, Shard())["taken"] == 6
    assert progress.begin(3) == Place(3, 6)
    assert progress.begin(3) == Place(3, 0)
    progress.load(sampling.state(3, Shard(), 6), Shard())
    assert progress.begin(4) == Place(4, 0)
    assert progress.begin(3) == Place(3, 0)


def test_of_a_state_at_its_epoch_s_end_nothing_is_left_and_then_comes_the_epoch_that_is_set() -> None:
    sampling = Sampling(VIEW, 10)
    ended = sampling.state(3, Shard(), 10)
    progress = Progress(sampling)
    assert progress.load(ended, Shard(), 4) == 4, "set before the state was loaded"
    assert progress.state(4, Shard()) == ended
    assert progress.begin(4) == Place(3, 10, ended=True)
    assert progress.state(4, Shard()) == ended
    assert progress.begin(4) == Place(4, 0)
    assert progress.load(ended, Shard(), 0) == 3, "as nothing later is set"
    progress.turn(4)
    assert progress.state(4, Shard())["taken"] == 0
    assert progress.begin(4) == Place(4, 0), "set after the state was loaded"
    assert progress.load(sampling.state(3, Shard(), 9), Shard(), 4) == 3, "something is left"
