"""Many ranges of exact versions read at once, large ones in parts; results in the order asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from threading import Lock
from typing import Final, NamedTuple

from snapengine.model import ObjectVersion

WORKERS: Final = 32
"""Requests at once in a process: what the engine's S3 client keeps connections for."""

PART: Final = 8 << 20
"""Bytes of a request, where an object is read in parts."""

_AHEAD: Final = 2 * WORKERS
_AHEAD_BYTES: Final = WORKERS * PART
"""Requests, and what they ask for, that run or are done before the first result is taken."""

Read = Callable[[ObjectVersion, int, int | None], bytes]
"""`View.read_version`: `(version, start, end)` to bytes `[start, end)`; `end=None` means to its end."""

ReadInto = Callable[[ObjectVersion, int, memoryview], None]
"""`View.read_into`: `(version, start, buffer)`. Given beside a `Read`, parts are joined without a copy."""


class Wanted(NamedTuple):
    """Bytes `[start, end)` of a version; fewer where it ends before, and to its end if `end` is None."""

    version: ObjectVersion
    start: int = 0
    end: int | None = None


Outcome = bytes | Exception


def read_many(read: Read, wanted: Iterable[Wanted], into: ReadInto | None = None) -> Iterator[bytes]:
    """The bytes of each, in order, from up to `WORKERS` requests at once for the whole process.

    At most 64 requests run ahead of what is taken, for 256 MiB or one object if that is larger. Raises the
    first error when its turn comes; what has not begun by then is not read. Not to be called from within a
    read: it would wait for itself.
    """
    for outcome in try_many(read, wanted, into):
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome


def try_many(read: Read, wanted: Iterable[Wanted], into: ReadInto | None = None) -> Iterator[Outcome]:
    """The same, with the error of each that cannot be read in its place."""
    coming: deque[tuple[_Begun, int]] = deque()
    requests = size = 0
    try:
        for one in wanted:
            parts, more = split(one), _size(one)
            while coming and (requests + len(parts) > _AHEAD or size + more > _AHEAD_BYTES):
                first, less = coming.popleft()
                requests, size = requests - len(first.futures), size - less
                yield first.outcome()
            coming.append((_begin(read, parts, into), more))
            requests, size = requests + len(parts), size + more
        while coming:
            yield coming.popleft()[0].outcome()
    finally:
        for left, _ in coming:
            left.cancel()


def read_whole(
    read: Read, version: ObjectVersion, start: int = 0, end: int | None = None, into: ReadInto | None = None
) -> bytes:
    """One range; a large one in parts at once."""
    one = Wanted(version, start, end)
    parts = split(one)
    if len(parts) == 1:
        return read(*parts[0])
    return next(read_many(read, [one], into))


def split(one: Wanted) -> list[Wanted]:
    """PURE. The requests for it: parts of `PART` bytes, the last one up to twice that less one; of a version
    whose size nobody knows a single one."""
    version, start, end = one
    if version.size is None:
        return [one]
    stop = version.size if end is None else min(end, version.size)
    cuts = list(range(start + PART, stop - PART + 1, PART))
    if not cuts:
        return [one]
    return [Wanted(version, a, b) for a, b in zip([start, *cuts], [*cuts, stop], strict=True)]


def _size(one: Wanted) -> int:
    """Bytes, as far as they are known."""
    size = one.version.size or 0
    return max(0, (size if one.end is None else min(one.end, size)) - one.start)


class _Begun:
    """A range that is being read, by one request or in parts."""

    def __init__(
        self, futures: list[Future[bytes]] | list[Future[None]], whole: BytesIO | None = None
    ) -> None:
        self.futures = futures
        self._whole = whole
        """Where the parts are put; its bytes need not be copied."""

    def outcome(self) -> Outcome:
        """Once it has been read."""
        try:
            read = [future.result() for future in self.futures]
        except Exception as error:  # noqa: BLE001  # it is told in the place of the bytes
            self.cancel()
            return error
        if self._whole is not None:
            return self._whole.getvalue()
        parts = [part for part in read if part is not None]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def cancel(self) -> None:
        for future in self.futures:
            future.cancel()


def _begin(read: Read, parts: list[Wanted], into: ReadInto | None) -> _Begun:
    if len(parts) == 1 or into is None:
        return _Begun([_pool().submit(read, *part) for part in parts])
    first = parts[0].start
    whole = BytesIO(bytes((parts[-1].end or 0) - first))
    room = whole.getbuffer()
    return _Begun(
        [
            _pool().submit(into, part.version, part.start, room[part.start - first : (part.end or 0) - first])
            for part in parts
        ],
        whole,
    )


_pools: list[ThreadPoolExecutor] = []
_lock = Lock()


def _pool() -> ThreadPoolExecutor:
    """The process's one."""
    with _lock:
        if not _pools:
            _pools.append(ThreadPoolExecutor(WORKERS, thread_name_prefix="snapengine-read"))
        return _pools[0]


def _forget() -> None:
    """In a process that was forked: the threads stayed behind, and one of them may have held the lock."""
    global _lock  # noqa: PLW0603  # a lock that is held for ever can only be replaced
    _lock = Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
