"""Many ranges read at once: in order, in bounded memory, and each with its own error."""

from __future__ import annotations

import multiprocessing
import threading
import time
from itertools import pairwise

import pytest

from readers import concurrent
from readers.concurrent import PART, WORKERS, Wanted, read_many, read_whole, split, try_many
from snapengine.model import ObjectVersion


def version(key: str, size: int | None) -> ObjectVersion:
    return ObjectVersion(key, "v", size, "e", 0)


def told(of: ObjectVersion, start: int, end: int | None) -> bytes:
    return f"{of.key}[{start},{end})".encode()


class Store:
    """Objects of some bytes each, which counts the reads that run at once."""

    def __init__(self, size: int) -> None:
        self.body = bytes(range(251)) * (size // 251 + 1)
        self.size = size
        self.most = self.now = self.reads = 0
        self.lock = threading.Lock()

    def read_into(self, of: ObjectVersion, start: int, buffer: memoryview) -> None:
        buffer[:] = self.read(of, start, start + len(buffer))

    def read(self, of: ObjectVersion, start: int, end: int | None) -> bytes:
        with self.lock:
            self.now += 1
            self.reads += 1
            self.most = max(self.most, self.now)
        time.sleep(0.001)
        with self.lock:
            self.now -= 1
        if of.key == "bad":
            raise ValueError("bad")
        return self.body[start : self.size if end is None else min(end, self.size)]


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, 2 * PART - 1, 2 * PART, 5 * PART + 7])
@pytest.mark.parametrize(("start", "end"), [(0, None), (3, None), (5, 3 * PART + 5), (0, 10**12)])
def test_parts_tile_the_range_without_gap_or_overlap(size: int, start: int, end: int | None) -> None:
    parts = split(Wanted(version("k", size), start, end))
    assert parts[0].start == start
    for one, after in pairwise(parts):
        assert one.end == after.start
        assert one.end - one.start == PART
    if len(parts) == 1:
        assert parts[0].end == end
    else:
        assert parts[-1].end == (size if end is None else min(end, size))
        assert all(PART <= (p.end or 0) - p.start < 2 * PART for p in parts)


def test_a_version_of_unknown_size_is_read_by_one_request() -> None:
    assert split(Wanted(version("k", None))) == [Wanted(version("k", None))]


def test_results_come_in_the_order_asked_for() -> None:
    wanted = [Wanted(version(str(i), 10), i, i + 1) for i in range(500)]
    assert list(read_many(told, wanted)) == [f"{i}[{i},{i + 1})".encode() for i in range(500)]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_large_object_is_read_in_parts_at_once_and_joined_exactly(in_place: bool) -> None:
    store = Store(5 * PART + 7)
    of, into = version("k", store.size), store.read_into if in_place else None
    assert read_whole(store.read, of, into=into) == store.body[: store.size]
    assert store.reads == 5
    assert read_whole(store.read, of, 11, 3 * PART, into) == store.body[11 : 3 * PART]


def test_a_part_that_cannot_be_read_is_the_error_of_the_whole() -> None:
    store = Store(3 * PART)
    wanted = [Wanted(version(key, store.size)) for key in ("k", "bad", "k")]
    found = list(try_many(store.read, wanted, store.read_into))
    assert [type(one) for one in found] == [bytes, ValueError, bytes]
    assert found[0] == found[2] == store.body[: store.size]


def test_many_reads_run_at_once_but_no_more_than_there_are_workers() -> None:
    store = Store(10)
    assert len(list(read_many(store.read, [Wanted(version("k", 10))] * 300))) == 300
    assert 1 < store.most <= WORKERS


def test_what_nobody_takes_is_not_read() -> None:
    store = Store(10)
    taking = read_many(store.read, (Wanted(version("k", 10)) for _ in range(10_000)))
    next(taking)
    time.sleep(0.05)
    assert store.reads <= 3 * WORKERS
    taking.close()  # type: ignore[attr-defined]  # it is a generator


def test_large_results_that_nobody_takes_are_few() -> None:
    store = Store(10)
    taking = read_many(store.read, (Wanted(version("k", PART)) for _ in range(10_000)))
    next(taking)
    time.sleep(0.05)
    assert store.reads <= WORKERS + 1
    taking.close()  # type: ignore[attr-defined]  # it is a generator


def test_an_error_is_raised_in_its_turn_or_told_in_its_place() -> None:
    store = Store(3)
    wanted = [Wanted(version(key, 3)) for key in ("a", "bad", "c")]
    outcomes = list(try_many(store.read, wanted))
    assert (outcomes[0], outcomes[2]) == (store.body[:3], store.body[:3])
    assert isinstance(outcomes[1], ValueError)
    taking = read_many(store.read, wanted)
    assert next(taking) == store.body[:3]
    with pytest.raises(ValueError, match="bad"):
        next(taking)


def test_an_error_in_one_part_of_a_large_object_is_the_error_of_the_whole() -> None:
    with pytest.raises(ValueError, match="bad"):
        read_whole(Store(3).read, version("bad", 4 * PART))


def _in_child(answers: multiprocessing.Queue[list[bytes]]) -> None:
    answers.put(list(read_many(told, [Wanted(version("k", 1))] * 3)))


def test_a_forked_child_reads_with_threads_of_its_own() -> None:
    list(read_many(told, [Wanted(version("k", 1))]))
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[list[bytes]] = context.Queue()
    concurrent._lock.acquire()
    try:
        child = context.Process(target=_in_child, args=(answers,))
        child.start()
    finally:
        concurrent._lock.release()
    assert answers.get(timeout=20) == [b"k[0,None)"] * 3
    child.join(20)
    assert child.exitcode == 0
