"""What may befall the log's writers: replies lost, puts that land late, long sleep, and death."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from snapengine.errors import Unreachable
from snapengine.model import Epoch, LogEntry, Observation
from snapengine.ports import LogStore
from tests.contract.lossy import LossyStore

T = TypeVar("T")
Step = Literal["put_entry", "put_by_key", "put_listed", "mark_done", "put_epoch", "let_go", "stub_entry"]
STEPS: tuple[Step, ...] = ("put_entry", "put_by_key", "mark_done")
Kind = Literal["before", "after", "late", "sleep"]
"""`before`: the call fails and nothing happens. `after`: it happens and the reply is lost. `late`: the reply
is lost and it happens later. `sleep`: the writer sleeps before the call."""


@dataclass(frozen=True)
class Fault:
    """Strikes the next call of a step."""

    step: Step
    kind: Kind


class FaultyStore(LossyStore):
    """One writer's way to the log. It adds sleep, and puts that land late, to what a `LossyStore` does."""

    def __init__(self, store: LogStore) -> None:
        super().__init__(store)
        self.log = store
        self.late: list[LogEntry] = []
        """Puts on their way, of which the writer knows nothing any more."""
        self.asleep = asyncio.Event()
        self.woken = asyncio.Event()
        self._fault: Fault | None = None

    def strike(self, fault: Fault | None) -> None:
        """Arm one fault; one that was armed before and has not struck is forgotten."""
        self._faults.clear()
        self.asleep, self.woken = asyncio.Event(), asyncio.Event()
        self._fault = fault
        if fault and fault.kind in {"before", "after"}:
            self.fail(fault.step, fault.kind)

    async def _sleep(self, step: Step) -> None:
        if self._fault == Fault(step, "sleep"):
            self._fault = None
            woken = self.woken
            self.asleep.set()
            await woken.wait()

    async def put_entry(self, entry: LogEntry) -> bool:
        await self._sleep("put_entry")
        if self._fault == Fault("put_entry", "late"):
            self._fault = None
            self.late.append(entry)
            raise Unreachable("the put is on its way, and nobody knows")
        return await super().put_entry(entry)

    async def put_by_key(
        self, bucket: str, stream: int, number: int, observations: Sequence[Observation]
    ) -> None:
        await self._sleep("put_by_key")
        await super().put_by_key(bucket, stream, number, observations)

    async def put_listed(self, bucket: str, name: str, body: str) -> None:
        await self._sleep("put_listed")
        await super().put_listed(bucket, name, body)

    async def let_go(
        self, bucket: str, stream: int, number: int, observations: Sequence[Observation], expires_at: int
    ) -> None:
        await self._sleep("let_go")
        await super().let_go(bucket, stream, number, observations, expires_at)

    async def stub_entry(self, bucket: str, stream: int, number: int) -> None:
        await self._sleep("stub_entry")
        await super().stub_entry(bucket, stream, number)

    async def mark_done(self, bucket: str, stream: int, number: int) -> None:
        await self._sleep("mark_done")
        await super().mark_done(bucket, stream, number)

    async def put_epoch(self, bucket: str, epoch: Epoch) -> bool:
        await self._sleep("put_epoch")
        return bool(await self._call("put_epoch", lambda: self.log.put_epoch(bucket, epoch)))


class Doing(Generic[T]):
    """Something that a writer is at: it has ended, or the writer sleeps in the midst of it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, store: FaultyStore, what: Coroutine[Any, Any, T]
    ) -> None:
        self._loop = loop
        self._store = store
        self._task = loop.create_task(what)
        loop.run_until_complete(self._until_it_rests())

    async def _until_it_rests(self) -> None:
        sleeping = asyncio.create_task(self._store.asleep.wait())
        await asyncio.wait({self._task, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        sleeping.cancel()

    @property
    def ended(self) -> bool:
        return self._task.done()

    def result(self) -> T | None:
        """What came of it; None if it failed, or the writer died."""
        if self._task.cancelled() or isinstance(self._task.exception(), Unreachable):
            return None
        return self._task.result()

    def wake(self) -> None:
        """The writer goes on, knowing nothing of the time that has passed."""
        self._store.woken.set()
        self._loop.run_until_complete(asyncio.wait({self._task}))

    def kill(self) -> None:
        self._task.cancel()
        self._loop.run_until_complete(asyncio.wait({self._task}))
