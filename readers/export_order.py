"""PURE but for its threads: streams in key order, side by side, and work done ahead of its results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from snapengine.errors import BadData


class Keyed(Protocol):
    """What has a key."""

    @property
    def key(self) -> str: ...


L = TypeVar("L", bound=Keyed)
R = TypeVar("R", bound=Keyed)
T = TypeVar("T")
U = TypeVar("U")


def side_by_side(left: Iterable[L], right: Iterable[R]) -> Iterator[tuple[L | None, R | None]]:
    """Two streams of distinct keys, each ascending by UTF-8 bytes, matched by key; None where one lacks it.

    Raises `BadData` for a stream that is not in that order, as then nothing could be matched.
    """
    # Python compares text by code points, which is the order of its UTF-8 bytes.
    ours, theirs = _ascending(left), _ascending(right)
    one, other = next(ours, None), next(theirs, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.key < other.key):
            yield one, None
            one = next(ours, None)
        elif one is None or other.key < one.key:
            yield None, other
            other = next(theirs, None)
        else:
            yield one, other
            one, other = next(ours, None), next(theirs, None)


def _ascending(stream: Iterable[Any]) -> Iterator[Any]:
    before: str | None = None
    for each in stream:
        if before is not None and each.key <= before:
            raise BadData(
                f"A listing has key {each.key!r} after {before!r}: it is not in the order of S3's listings, "
                "so nothing can be matched with it. Check AWS_ENDPOINT_URL."
            )
        before = each.key
        yield each


def done_ahead(
    work: Callable[[T], U], items: Iterable[T], workers: int, *, ahead: int = 4
) -> Generator[tuple[T, U], None, None]:
    """Each item with what `work` gives for it, in order, `workers` at once, in bounded memory. What it raises
    is raised in its turn, and what has not begun by then is not done."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="snapengine-export")
    waiting: deque[tuple[T, Future[U]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= ahead * workers:
                first, coming = waiting.popleft()
                yield first, coming.result()
        while waiting:
            first, coming = waiting.popleft()
            yield first, coming.result()
    finally:
        pool.shutdown(cancel_futures=True)
