"""One queue, consumed: nothing deleted before it is committed, nothing lost whatever call fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ingest_worker.consumer import Consumer
from ingest_worker.metrics import Metrics
from snapengine.errors import NotFound, Unreachable
from snapengine.log import StreamWriter
from snapengine.testing.store_contract import T
from snapengine.workers.failures import plain
from tests.contract.lossy import LossyStore
from tests.worker_fakes import NOT_JSON, TEST_EVENT, FakeQueue, Gate, Lines, Store, body, gone, record, until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> Iterator[float]:
        while True:
            yield 0.01

    monkeypatch.setattr("ingest_worker.writer.delays", pauses)
    monkeypatch.setattr("snapengine.workers.consumer.delays", pauses)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


def consumer(queue: FakeQueue, store: Any, **options: Any) -> Consumer:
    log = StreamWriter(store, "w", lambda: T)
    return Consumer(queue, log, lambda: T, Metrics(), lambda _: None, **{"once": True} | options)


@asynccontextmanager
async def running(each: Consumer) -> AsyncIterator[asyncio.Task[None]]:
    """Running within; stopped, and ended, after."""
    task = asyncio.create_task(each.run())
    try:
        yield task
        each.stop()
        async with asyncio.timeout(10):
            await task
    finally:
        task.cancel()


async def test_a_queue_is_emptied_into_the_log() -> None:
    store = Store()
    queue = FakeQueue(*(body(f"k{number:02}") for number in range(57)))
    await consumer(queue, store.log).run()
    assert queue.bodies == {}
    assert await store.keys() == [f"k{number:02}" for number in range(57)]
    assert set(queue.received.values()) == {1}


async def test_a_message_is_deleted_only_after_its_entry_is_done() -> None:
    gate = Gate(Store().log, "mark_done")
    queue = FakeQueue(body("k"))
    async with running(consumer(queue, gate, once=False)):
        await until(lambda: gate.waiting == 1)
        assert "delete" not in queue.calls
        gate.open()
        await until(lambda: not queue.bodies)


async def test_test_events_and_events_without_a_fact_are_acknowledged() -> None:
    store = Store()
    queue = FakeQueue(TEST_EVENT, body(record("k", name="ObjectTagging:Put")))
    await consumer(queue, store.log).run()
    assert queue.bodies == {}
    assert await store.keys() == []


async def test_what_is_being_written_slowly_stays_hidden_from_others() -> None:
    gate = Gate(Store().log, "put_entry")
    queue = FakeQueue(body("k"), visibility=1)
    async with running(consumer(queue, gate, once=False)):
        await until(lambda: queue.calls.count("extend") >= 4)  # for some two seconds: twice its timeout
        assert queue.received == {"m1": 1}
        gate.open()
        await until(lambda: not queue.bodies)
    assert queue.received == {"m1": 1}


async def test_what_is_left_after_it_was_told_to_stop_is_shown_to_others_at_once() -> None:
    gate = Gate(Store().log, "put_entry")
    queue = FakeQueue(*(body(f"k{number}") for number in range(3)), visibility=600)
    each = consumer(queue, Refusing(gate), once=False, patience=0)
    async with running(each):
        await until(lambda: gate.waiting == 1)
        each.stop()
        gate.open()
    assert len(queue.bodies) == 3
    assert len(await queue.receive(wait=0, visibility=600)) == 3


class Refusing:
    """A log that takes nothing."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put_entry(self, entry: Any) -> bool:
        await self._store.put_entry(entry)
        raise Unreachable("no answer")


async def test_an_extension_that_fails_is_tried_again() -> None:
    gate = Gate(Store().log, "put_entry")
    queue = FakeQueue(body("k"), visibility=1)
    queue.faults["extend"] = gone()
    async with running(consumer(queue, gate, once=False)):
        await until(lambda: queue.calls.count("extend") >= 3)
        assert queue.received == {"m1": 1}
        gate.open()


async def test_a_deletion_that_sqs_did_not_carry_out_is_repeated() -> None:
    queue = FakeQueue(*(body(f"k{number}") for number in range(10)))
    queue.refusals = [("InternalError", False), ("InternalError", False)]
    queue.faults["delete"] = gone(2)
    await consumer(queue, Store().log).run()
    assert queue.bodies == {}
    assert queue.calls == ["delete"] * 5


async def test_a_deletion_that_can_never_work_is_given_up_and_the_message_comes_again(lines: Lines) -> None:
    store = Store()
    queue = FakeQueue(body("k"))
    queue.refusals = [("ReceiptHandleIsInvalid", True)]
    await consumer(queue, store.log).run()
    assert queue.calls == ["delete"]
    assert list(queue.bodies) == ["m1"]
    assert lines.of("delete-failed")[0]["code"] == "ReceiptHandleIsInvalid"
    queue.send(body("later"))
    queue._hidden_until.clear()
    await consumer(queue, store.log).run()
    assert queue.bodies == {}
    assert set(await store.keys()) == {"k", "later"}


async def test_what_cannot_be_parsed_goes_to_the_dead_letter_queue_untouched(lines: Lines) -> None:
    dead, store = FakeQueue(), Store()
    bad_record = body("fine", {"eventVersion": "2.6", "eventName": "ObjectCreated:Put", "s3": {}})
    queue = FakeQueue(NOT_JSON, body("good"), bad_record, dead_letter=dead)
    await consumer(queue, store.log).run()
    assert queue.bodies == {}
    assert sorted(dead.bodies.values()) == sorted([NOT_JSON, bad_record])
    assert await store.keys() == ["good"]
    reasons = [attributes["reason"] for attributes in dead.attributes_of.values()]
    assert any("not JSON" in reason for reason in reasons)
    first, second = lines.of("malformed-message-set-aside")
    assert {first["message"], second["message"]} == {"m1", "m3"}
    assert first["queue"] == "events"
    assert first["code"] == "malformed-message"
    assert "not JSON" in first["reason"]
    assert "Jane" not in lines.text


async def test_the_registrys_dead_letter_queue_does_where_the_queue_names_none() -> None:
    queue = FakeQueue(NOT_JSON)
    dead = FakeQueue()

    async def send_on(url: str, raw: dict[str, Any], reason: str) -> None:
        assert url == "url:of-the-registry"
        dead.send(raw["Body"])

    queue.send_on = send_on  # type: ignore[method-assign]  # another dead-letter queue than the fake's own
    await consumer(queue, Store().log, dead_letter_url="url:of-the-registry").run()
    assert list(dead.bodies.values()) == [NOT_JSON]


async def test_without_a_dead_letter_queue_it_is_left_and_never_deleted(lines: Lines) -> None:
    queue = FakeQueue(NOT_JSON, body("good"))
    each = consumer(queue, Store().log)
    await each.run()
    assert list(queue.bodies.values()) == [NOT_JSON]
    assert each.left == {"m1"}
    assert lines.of("malformed-message-left")[0]["message"] == "m1"


async def test_if_the_dead_letter_queue_does_not_take_it_it_stays(lines: Lines) -> None:
    dead = FakeQueue()
    queue = FakeQueue(NOT_JSON, dead_letter=dead)
    queue.faults["send_on"] = gone()
    await consumer(queue, Store().log).run()
    assert list(queue.bodies.values()) == [NOT_JSON]
    assert lines.of("set-aside-failed")[0]["code"] == "unreachable"
    queue._hidden_until.clear()
    await consumer(queue, Store().log).run()
    assert queue.bodies == {}
    assert list(dead.bodies.values()) == [NOT_JSON]


async def test_an_outage_of_the_queue_is_waited_out(lines: Lines) -> None:
    queue = FakeQueue(body("k"))
    queue.faults["attributes"] = gone(3)
    queue.faults["receive"] = gone(12)
    each = consumer(queue, Store().log, once=False)
    async with running(each):
        await until(lambda: not queue.bodies)
        assert each.troubles() == []
    assert len(lines.of("receive-failed")) == 15


async def test_an_outage_of_the_queue_shows_as_trouble() -> None:
    queue = FakeQueue()
    queue.faults["receive"] = gone(100_000)
    each = consumer(queue, Store().log, once=False)
    assert each.troubles() == ["Queue events: not reached yet"]
    async with running(each):
        await until(lambda: each.troubles() == ["Queue events: no answer"])


async def test_emptying_once_ends_with_the_error_where_the_queue_stays_away() -> None:
    queue = FakeQueue(body("k"))
    queue.faults["receive"] = gone(100)
    with pytest.raises(ExceptionGroup) as raised:
        await consumer(queue, Store().log).run()
    assert isinstance(plain(raised.value), Unreachable)


async def test_a_queue_that_does_not_exist_is_an_error() -> None:
    queue = FakeQueue()
    queue.faults["attributes"] = [NotFound("There is no queue")]
    with pytest.raises(ExceptionGroup) as raised:
        await consumer(queue, Store().log, once=False).run()
    assert isinstance(plain(raised.value), NotFound)


async def test_no_more_is_received_than_may_be_in_hand() -> None:
    store = Store()
    gate = Gate(store.log, "put_entry")
    queue = FakeQueue(*(body(f"k{number:03}") for number in range(200)))
    each = consumer(queue, gate, once=False, limit=50)
    async with running(each):
        await until(lambda: len(each.in_hand) == 50)
        await asyncio.sleep(0.1)  # time enough for polls that should not be
        assert len(queue.received) == 50
        gate.open()
        await until(lambda: not queue.bodies)
    assert len(await store.keys()) == 200


async def test_told_to_stop_it_finishes_what_is_in_hand_and_takes_no_more() -> None:
    store = Store()
    gate = Gate(store.log, "put_entry")
    queue = FakeQueue(body("k"))
    each = consumer(queue, gate, once=False)
    task = asyncio.create_task(each.run())
    await until(lambda: gate.waiting == 1)
    each.stop()
    queue.send(body("too late"))
    gate.open()
    await asyncio.wait_for(task, 10)
    assert list(queue.bodies) == ["m2"]
    assert await store.keys() == ["k"]


async def test_told_to_stop_before_it_began_it_ends() -> None:
    queue = FakeQueue(body("k"))
    each = consumer(queue, Store().log, once=False)
    each.stop()
    await asyncio.wait_for(each.run(), 10)
    assert queue.received == {}


async def test_killed_at_any_step_it_leaves_the_message_to_the_next() -> None:
    for step in ("put_entry", "put_by_key", "mark_done"):
        store = Store()
        gate = Gate(store.log, step)
        queue = FakeQueue(body("k"))
        task = asyncio.create_task(consumer(queue, gate).run())
        await until(lambda gate=gate: gate.waiting == 1)  # type: ignore[misc]  # bound at once, as it should
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(queue.bodies) == ["m1"]
        queue._hidden_until.clear()
        await consumer(queue, store.log).run()
        assert queue.bodies == {}
        assert set(await store.keys()) == {"k"}


async def test_several_workers_on_one_queue_lose_nothing() -> None:
    store = Store()
    queue = FakeQueue(*(body(f"k{number:03}") for number in range(300)))
    async with asyncio.TaskGroup() as group:
        for name in ("one", "two", "three"):
            log = StreamWriter(store.log, name, lambda: T)
            each = Consumer(queue, log, lambda: T, Metrics(), lambda _: None, once=True)
            group.create_task(each.run())
    assert queue.bodies == {}
    assert await store.keys() == [f"k{number:03}" for number in range(300)]


async def test_lost_replies_of_the_store_and_the_queue_together_lose_nothing() -> None:
    store = Store()
    lossy = LossyStore(store.log)
    lossy.fail("put_entry", "after", "before")
    lossy.fail("mark_done", "before", "after")
    queue = FakeQueue(*(body(f"k{number:02}") for number in range(25)))
    queue.faults["delete"] = gone(2)
    queue.faults["receive"] = gone(3)
    await consumer(queue, lossy).run()
    assert queue.bodies == {}
    assert sorted(set(await store.keys())) == [f"k{number:02}" for number in range(25)]


async def test_messages_of_an_unknown_bucket_are_left_to_sqs() -> None:
    queue = FakeQueue(body(record("k", "unknown")), body("k"))
    each = consumer(queue, Store().log)
    await each.run()
    assert list(queue.bodies) == ["m1"]
    assert each.left == {"m1"}
    assert each.in_hand == set()


async def test_emptying_once_ends_though_what_it_left_comes_again() -> None:
    queue = FakeQueue(body(record("k", "unknown")), NOT_JSON, body("k"), visibility=1)
    queue.hides = False
    each = consumer(queue, Store().log)
    await asyncio.wait_for(each.run(), 10)
    assert sorted(queue.bodies) == ["m1", "m2"]
    assert each.left == {"m1", "m2"}


async def test_emptying_once_gives_up_what_cannot_be_deleted(lines: Lines) -> None:
    store = Store()
    queue = FakeQueue(body("k"))
    queue.faults["delete"] = gone(100)
    each = consumer(queue, store.log)
    await asyncio.wait_for(each.run(), 10)
    assert each.left == {"m1"}
    assert lines.of("not-deleted")[0]["messages"] == ["m1"]
    assert set(await store.keys()) == {"k"}
