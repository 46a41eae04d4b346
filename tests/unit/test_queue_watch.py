"""A queue that is watched raises the watermark of its buckets, and never past what is not committed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from ingest_worker.consumer import Consumer
from ingest_worker.metrics import Metrics
from ingest_worker.queue_watch import QueueWatch, is_of
from ingest_worker.targets import targets
from ingest_worker.watermark import Reading
from snapengine.errors import NotFound, Unreachable
from snapengine.log import StreamWriter
from snapengine.testing.store_contract import BUCKET, T, config
from snapengine.workers.epochs import Epochs
from snapengine.workers.sqs import Backlog, Message
from tests.worker_fakes import NOT_JSON, FakeQueue, Gate, Lines, Store, body, gone, now, until

GOOD = Reading(taken=100.0, asked=T, visible=0, in_flight=0, delayed=0, ours=0, oldest=None, dead=0)


# A queue, watched


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> Iterator[float]:
        while True:
            yield 0.01

    for module in ("snapengine.workers.consumer", "ingest_worker.writer", "snapengine.workers.epochs"):
        monkeypatch.setattr(f"{module}.delays", pauses)
    monkeypatch.setattr("ingest_worker.queue_watch.EVERY", 0.01)
    monkeypatch.setattr("ingest_worker.queue_watch.CONFIRM", 0.1)
    monkeypatch.setattr("ingest_worker.queue_watch.APART", 1)
    monkeypatch.setattr("snapengine.workers.epochs.PACE", 20)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


class Watched:
    """A worker on one queue: consumer, watch and epochs, as the worker puts them together."""

    def __init__(self, queue: FakeQueue, log: Any, *buckets: str, watched_log: Any = None) -> None:
        self.metrics = Metrics()
        self.buckets = buckets or (BUCKET,)
        self.epochs = Epochs(watched_log or log, now, self.metrics)
        writer = StreamWriter(log, "w", now)
        self.consumer = Consumer(queue, writer, now, self.metrics, self.epochs.note)
        self.watch = QueueWatch(
            queue,
            self.consumer,
            watched_log or log,
            now,
            self.metrics,
            lambda: self.buckets,
            self.epochs.note_raised,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each.run()) for each in (self.consumer, self.watch)]
        try:
            async with self.epochs.kept():
                yield
                self.consumer.stop()
                await asyncio.wait_for(tasks[0], 10)
        finally:
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)


def carried(store: Store, bucket: str = BUCKET) -> int:
    """The watermark of the newest epoch."""
    epoch = store.reader.newest_epoch(bucket)
    return (epoch.watermarks.caught_up if epoch else None) or 0


async def stays_below(store: Store, instant: int) -> None:
    """For long enough that it would have been passed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.5
    while loop.time() < end:
        assert carried(store) <= instant
        await asyncio.sleep(0.01)


async def test_an_idle_queues_watermark_rises_and_epochs_carry_it(store: Store) -> None:
    begun = now()
    each = Watched(FakeQueue(), store.log)
    async with each.running():
        await until(lambda: carried(store) >= begun)
        seen = carried(store)
        await until(lambda: carried(store) > seen)
        assert each.watch.behind() < 5


async def test_what_arrives_and_is_committed_is_passed_and_covered_by_that_epoch(store: Store) -> None:
    queue = FakeQueue(body("k1"))
    async with Watched(queue, store.log).running():
        queue.send(body("k2"))
        after = now()
        await until(lambda: carried(store) > after)
        assert sorted(o.key for o in store.observed()) == ["k1", "k2"]


async def test_it_is_raised_by_so_much_at_a_time_whoever_raised_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest_worker.queue_watch.APART", 10_000)
    each, raised = Watched(FakeQueue(), store.log), now() - 9_000
    await store.log.raise_caught_up(BUCKET, raised)
    async with each.running():
        await until(lambda: len(each.watch._readings) > 20)
        assert (await store.log.watermarks(BUCKET)).caught_up == raised
        assert 9 <= each.watch.behind() < 30
        monkeypatch.setattr("ingest_worker.queue_watch.APART", 5_000)
        await until(lambda: carried(store) > raised)


async def test_a_stalled_workers_messages_hold_it_until_another_has_committed_them(store: Store) -> None:
    queue = FakeQueue(body("k"), visibility=1)
    gate = Gate(store.log, "put_entry")
    stalled = Consumer(queue, StreamWriter(gate, "s", now), now, Metrics(), lambda _: None)
    sleeper = asyncio.create_task(stalled.run())
    await until(lambda: gate.waiting == 1)
    stalled.stop()  # it receives no more, extends nothing, and keeps what it has
    queue.faults["extend"] = gone(1_000)
    async with Watched(queue, store.log).running():
        await stays_below(store, queue.sent_at["m1"])
        await until(lambda: carried(store) > queue.sent_at["m1"])
        assert {o.key for o in store.observed()} == {"k"}
        gate.open()
        await asyncio.wait_for(sleeper, 10)


async def test_a_crashed_workers_messages_hold_it_until_another_has_committed_them(store: Store) -> None:
    queue = FakeQueue(body("k"), visibility=1)
    gate = Gate(store.log, "mark_done")
    crashing = Consumer(queue, StreamWriter(gate, "c", now), now, Metrics(), lambda _: None)
    task = asyncio.create_task(crashing.run())
    await until(lambda: gate.waiting == 1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    async with Watched(queue, store.log).running():
        await stays_below(store, queue.sent_at["m1"])
        await until(lambda: carried(store) > queue.sent_at["m1"])
        assert {o.key for o in store.observed()} == {"k"}


async def test_a_dead_letter_holds_it_until_the_queue_is_cleared(store: Store, lines: Lines) -> None:
    dead = FakeQueue()
    queue = FakeQueue(body("k"), NOT_JSON, dead_letter=dead)
    async with Watched(queue, store.log).running():
        await until(lambda: bool(dead.bodies) and bool(lines.of("watermark-held")))
        queue.send(body("later"))
        await stays_below(store, queue.sent_at["m2"])
        assert sorted(o.key for o in store.observed()) == ["k", "later"]
        dead.bodies.clear()
        await until(lambda: carried(store) > queue.sent_at["m3"])
    (held,) = lines.of("watermark-held")
    assert held["dead_letters"] == 1
    assert "dead-letter queue" in held["remedy"]
    assert len(lines.of("watermark-released")) == 1


async def test_while_the_store_takes_nothing_it_rises_to_the_oldest_message_in_hand_and_no_further(
    store: Store,
) -> None:
    gate = Gate(store.log, "put_entry")
    queue = FakeQueue()
    async with Watched(queue, gate, watched_log=store.log).running():
        await until(lambda: carried(store) > 0)
        await asyncio.sleep(0.2)
        queue.send(body("k"))
        sent = queue.sent_at["m1"]
        await until(lambda: gate.waiting == 1)
        await until(lambda: carried(store) == sent)
        await stays_below(store, sent)
        gate.open()
        await until(lambda: carried(store) > sent)
        assert {o.key for o in store.observed()} == {"k"}


async def test_a_message_that_nobody_can_commit_holds_it(store: Store) -> None:
    queue = FakeQueue(NOT_JSON)  # and there is no dead-letter queue
    async with Watched(queue, store.log).running():
        await stays_below(store, queue.sent_at["m1"])


async def test_a_dead_letter_queue_that_cannot_be_read_holds_it_and_is_reported_once(
    store: Store, lines: Lines
) -> None:
    dead = FakeQueue()
    dead.faults["backlog"] = [NotFound("There is no queue dead") for _ in range(5_000)]
    each = Watched(FakeQueue(dead_letter=dead), store.log)
    async with each.running():
        await stays_below(store, 0)
        labels = {"step": "watermark"}
        counted = each.metrics.registry.get_sample_value("snapengine_worker_failures_total", labels)
        assert counted
        assert counted > 2
        dead.faults.clear()
        await until(lambda: carried(store) > 0)
    assert [line["code"] for line in lines.of("watermark-failed")] == ["not-found"]


async def test_while_no_poll_is_answered_nothing_is_vouched_for(store: Store) -> None:
    queue = FakeQueue()
    queue.faults["receive"] = gone(100_000)
    async with Watched(queue, store.log).running():
        await stays_below(store, 0)
        queue.faults.clear()
        await until(lambda: carried(store) > 0)


async def test_a_bucket_that_cannot_be_raised_keeps_no_other_back(lines: Lines) -> None:
    store = Store("one", "two")
    async with Watched(FakeQueue(), store.log, "unknown", "one", "two").running():
        await until(lambda: carried(store, "one") > 0 and carried(store, "two") > 0)
    assert lines.of("watermark-failed")[0]["code"] == "bucket-not-enabled"


async def test_a_store_that_fails_is_tried_again(store: Store, lines: Lines) -> None:
    class Failing:
        times = 3

        async def raise_caught_up(self, bucket: str, to: int) -> None:
            self.times -= 1
            if self.times >= 0:
                raise Unreachable("no answer")
            await store.log.raise_caught_up(bucket, to)

        def __getattr__(self, name: str) -> Any:
            return getattr(store.log, name)

    async with Watched(FakeQueue(), store.log, watched_log=Failing()).running():
        await until(lambda: carried(store) > 0)
    assert len(lines.of("watermark-failed")) == 1


async def test_a_bucket_whose_queue_is_another_or_that_is_let_go_is_not_raised() -> None:
    store = Store("ours", "other")
    each = Watched(FakeQueue(), store.log, "ours")
    async with each.running():
        await until(lambda: carried(store, "ours") > 0)
        each.buckets = ()
        await asyncio.sleep(0.05)
        seen = carried(store, "ours")
        await asyncio.sleep(0.3)
        assert carried(store, "ours") == seen
        assert carried(store, "other") == 0
        assert each.watch.behind() == 0


async def test_a_message_that_comes_while_sqs_counts_holds_it_though_the_counts_lack_it(store: Store) -> None:
    class Late(FakeQueue):
        async def backlog(self) -> Backlog:
            each.consumer.in_hand.add(Message("m", sent=T))
            return Backlog(0, 0, 0, None)

    each = Watched(Late(), store.log)
    each.watch._readings.append(GOOD._replace(taken=-math.inf, asked=now()))
    await each.watch.look()
    assert (await store.log.watermarks(BUCKET)).caught_up == T


async def test_of_what_is_in_hand_it_is_known_when_it_was_sent_and_who_may_have_it_too(store: Store) -> None:
    queue = FakeQueue(body("new"), body("came before"))
    queue.received["m2"] = 1
    gate = Gate(store.log, "put_entry")
    each = Watched(queue, gate, watched_log=store.log)
    async with each.running():
        await until(lambda: gate.waiting == 1)
        found = {message.id: message for message in each.consumer.in_hand}
        assert {each: message.sent for each, message in found.items()} == queue.sent_at
        assert {each: message.shared for each, message in found.items()} == {"m1": False, "m2": True}
        assert not any(each.settled for each in found.values())
        queue.faults["delete"] = gone(1_000)
        gate.open()
        await until(lambda: all(each.settled for each in found.values()))
        queue.faults.clear()


async def test_a_message_whose_extension_came_too_late_may_be_in_other_hands(store: Store) -> None:
    queue = FakeQueue(body("k"), visibility=1)
    gate = Gate(store.log, "put_entry")
    each = Watched(queue, gate, watched_log=store.log)
    async with each.running():
        await until(lambda: gate.waiting == 1)
        (message,) = each.consumer.in_hand
        await until(lambda: queue.calls.count("extend") >= 2)
        assert [m.shared for m in each.consumer.in_hand] == [False]
        message.extended -= 1.5  # as if the process had slept
        calls = queue.calls.count("extend")
        await until(lambda: queue.calls.count("extend") > calls + 1)
        assert [m.shared for m in each.consumer.in_hand] == [True]
        gate.open()


def test_a_queue_vouches_for_the_enabled_buckets_that_are_registered_with_it() -> None:
    registered = [
        config(bucket="a", queue_url="q/shared"),
        config(bucket="b", queue_url="q/shared"),
        config(bucket="off", queue_url="q/shared", enabled=False),
        config(bucket="elsewhere", queue_url="q/other"),
    ]
    found = targets(registered, [], ["q/shared", "q/of-nobody"])
    assert found["q/shared"].vouches_for == ("a", "b")
    assert found["q/of-nobody"].vouches_for == ()


def test_a_registered_dead_letter_queue_is_known_by_its_arn() -> None:
    assert is_of("https://sqs.eu-central-1.amazonaws.com/123/dead", "arn:aws:sqs:eu-central-1:123:dead")
    assert not is_of("https://sqs.eu-central-1.amazonaws.com/123/dead", "arn:aws:sqs:eu-central-1:124:dead")
    assert not is_of("https://sqs.eu-central-1.amazonaws.com/123/dead", "arn:aws:sqs:eu-central-1:123:dead2")


async def test_where_sqs_and_the_registry_name_different_dead_letter_queues_both_count(store: Store) -> None:
    registered, of_policy = FakeQueue(), FakeQueue()

    class Two(FakeQueue):
        def another(self, url: str) -> FakeQueue:
            return {"url:dead": of_policy, "url:registered": registered}[url]

    queue = Two(dead_letter=of_policy)
    each = Watched(queue, store.log)
    each.consumer.dead_letter_url = "url:registered"
    registered.send("?")
    async with each.running():
        await stays_below(store, 0)
        of_policy.send("?")
        registered.bodies.clear()
        await stays_below(store, 0)
        of_policy.bodies.clear()
        await until(lambda: carried(store) > 0)
