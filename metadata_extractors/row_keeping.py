"""Rows to the log, in batches by bucket and extractor; whoever gives a row waits until it is kept.

What a lost reply means: the batch is appended again, and its rows are then there twice, which changes no
answer: of several rows of one version one is chosen.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar

import pyarrow as pa

from metadata_extractors.extracting import OUTAGES, Row
from snapengine.errors import BucketNotEnabled, UsageError
from snapengine.log import Committed
from snapengine.workers import logs
from snapengine.workers.backoff import delays
from snapengine.workers.failures import plain

T = TypeVar("T")

MAX_ROWS: Final = 500
MAX_BYTES: Final = 4 * 1024 * 1024
"""Of a batch in memory."""

MAX_AGE: Final = 0.5
"""Seconds that a row waits for company at most."""

MAX_HELD: Final = 64 * 1024 * 1024
"""Bytes of rows that wait to be kept; beyond it no object is begun."""


class RowLog(Protocol):
    """`snapengine.log.RowWriter`."""

    async def append(self, bucket: str, extractor: str, table: pa.Table) -> list[Committed]: ...


class Counts(Protocol):
    """Who counts."""

    def failed(self, step: str) -> None: ...

    def kept(self, bucket: str, rows: Sequence[Row]) -> None: ...


Cover = Callable[[Sequence[Committed]], Awaitable[None]]
"""Has an epoch cover the entries, or sees to it that one will."""


_Kind = tuple[str, str, pa.Schema]
"""Bucket, extractor and columns: what the rows of a batch have in common."""


class _Item(NamedTuple):
    row: Row
    kept: asyncio.Future[None]


@dataclass(slots=True)
class _Batch:
    timer: asyncio.TimerHandle
    items: list[_Item] = field(default_factory=list)
    bytes: int = 0


class RowKeeper:
    """Gathers rows, and commits a batch when it is full or old enough.

    An outage of the store is nobody's fault: the batch is tried again for `patience` seconds. If it fails for
    another reason its halves are tried, so that one row that the store will not take keeps no other from it.

    An asynchronous context: on a regular exit it commits what it holds; on an exception it drops that.
    """

    def __init__(
        self,
        log: RowLog,
        cover: Cover,
        counts: Counts,
        *,
        patience: float,
        max_rows: int = MAX_ROWS,
        max_bytes: int = MAX_BYTES,
        max_age: float = MAX_AGE,
        max_held: int = MAX_HELD,
    ) -> None:
        self._log = log
        self._cover = cover
        self._counts = counts
        self._patience = patience
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._max_held = max_held
        self._held = 0
        self._less = asyncio.Event()
        self._gathered: dict[_Kind, _Batch] = {}
        self._group = asyncio.TaskGroup()
        self.trouble: dict[str, str] = {}
        """Why commits fail at the moment, by bucket."""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for kind_of_rows, batch in list(self._gathered.items()):
            if error is None:
                self._flush(kind_of_rows)
            else:
                batch.timer.cancel()
                for item in batch.items:
                    item.kept.cancel()
        await self._group.__aexit__(kind, error, tb)

    async def room(self) -> None:
        """Return once so little waits to be kept that more may come."""
        while self._held > self._max_held:
            self._less.clear()
            await self._less.wait()

    async def keep(self, bucket: str, row: Row) -> None:
        """Return once the row is in the log and covered. Raises what hinders that for too long."""
        kind = (bucket, row.extractor, row.batch.schema)
        loop = asyncio.get_running_loop()
        batch = self._gathered.get(kind)
        if batch is None:
            timer = loop.call_later(self._max_age, self._flush, kind)
            batch = self._gathered[kind] = _Batch(timer)
        item = _Item(row, loop.create_future())
        batch.items.append(item)
        size = row.batch.nbytes
        batch.bytes += size
        self._held += size
        if len(batch.items) >= self._max_rows or batch.bytes >= self._max_bytes:
            self._flush(kind)
        try:
            await item.kept
        finally:
            self._held -= size
            self._less.set()

    def _flush(self, kind: _Kind) -> None:
        batch = self._gathered.pop(kind)
        batch.timer.cancel()
        self._group.create_task(self._commit(kind[0], batch.items))

    async def _commit(self, bucket: str, items: Sequence[_Item]) -> None:
        try:
            await self._append(bucket, items)
        finally:
            self.trouble.pop(bucket, None)

    async def _append(self, bucket: str, items: Sequence[_Item]) -> None:
        rows = [item.row for item in items]
        table = pa.Table.from_batches([row.batch for row in rows])
        try:
            places = await self._patiently(bucket, lambda: self._log.append(bucket, rows[0].extractor, table))
        except OUTAGES as error:
            _fail(items, error)
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, only the rows to blame are not kept
            if len(items) == 1:
                _fail(items, error)
                return
            logs.warning("batch-refused", bucket=bucket, rows=len(rows), **keyless(error))
            middle = len(items) // 2
            for half in (items[:middle], items[middle:]):
                # Should every row be refused, the pause keeps this from being a hot loop.
                await asyncio.sleep(0.05)
                await self._append(bucket, half)
            return
        self._counts.kept(bucket, rows)
        try:
            if places:  # of objects that are forgotten nothing is written
                await self._patiently(bucket, lambda: self._cover(places))
        except Exception as error:  # noqa: BLE001  # for those who wait
            _fail(items, error)
        for item in items:
            if not item.kept.done():
                item.kept.set_result(None)

    async def _patiently(self, bucket: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call it, again and again while there is an outage. Raises its error once patience is over."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience
        pauses = delays()
        while True:
            try:
                return await call()
            except Exception as raised:
                error = plain(raised)
                self._counts.failed("commit")
                pause = next(pauses)
                hopeless = isinstance(error, BucketNotEnabled) or not isinstance(error, OUTAGES)
                if hopeless or loop.time() + pause > give_up_at:
                    raise error from raised
                self.trouble[bucket] = str(error)
                logs.warning("commit-failed", bucket=bucket, again_in=round(pause, 3), **logs.reason(error))
            await asyncio.sleep(pause)


def keyless(error: BaseException) -> dict[str, Any]:
    """The fields of a log line that tell why something failed, without any object's key: `s3://BUCKET/KEY`
    has no end that can be told, so that nothing of what follows is kept. What is quoted may be one too, but
    not where the call is wrong: an extractor's name, say."""
    fields = logs.reason(error)
    reason = fields["reason"] if isinstance(error, UsageError) else logs.masked(fields["reason"])
    return fields | {"reason": re.sub(r"s3://.*", "…", reason, flags=re.DOTALL)}


def _fail(items: Sequence[_Item], error: Exception) -> None:
    for item in items:
        if not item.kept.done():
            item.kept.set_exception(error)
            item.kept.exception()  # seen, though nobody may wait for it any more
