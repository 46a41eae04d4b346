"""Batches to the log: when a message counts as done, and what happens when the store will not have it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ingest_worker.metrics import MAX_TYPES, Metrics
from ingest_worker.records import parse_message
from ingest_worker.writer import Log, Writer
from snapengine.errors import PermissionMissing, Unreachable
from snapengine.log import Committed, StreamWriter
from snapengine.model import Observation
from snapengine.observation_codec import MAX_ROWS
from snapengine.testing.store_contract import BUCKET, T
from snapengine.workers.sqs import Message
from tests.contract.lossy import LossyStore
from tests.worker_fakes import TEST_EVENT, Gate, Lines, Store, body, record, until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> Iterator[float]:
        while True:
            yield 0.01

    monkeypatch.setattr("ingest_worker.writer.delays", pauses)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


class Bench:
    """A writer, and what became of the messages that it was given."""

    def __init__(self, log: Log, *, patience: float = math.inf, max_age: float = 0.01) -> None:
        self.settled: list[str] = []
        self.left: list[str] = []
        self.committed: list[Committed] = []
        self.metrics = Metrics()
        self.writer = Writer(
            log,
            lambda: T + 2_500,
            self.metrics,
            settle=lambda messages: self.settled.extend(m.id for m in messages),
            leave=lambda messages: self.left.extend(m.id for m in messages),
            committed=self.committed.extend,
            patience=patience,
            max_age=max_age,
        )

    def take(self, message_id: str, text: str) -> bool:
        return self.writer.take(Message(message_id), parse_message(text))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"snapengine_worker_{name}", labels)


def stream_writer(store: Any) -> StreamWriter:
    return StreamWriter(store, "w", lambda: T)


class Refusing:
    """A log that takes no observation of certain keys, or of certain buckets."""

    def __init__(self, log: Log, error: Exception, *, keys: Sequence[str] = (), bucket: str = "") -> None:
        self._log = log
        self._error = error
        self._keys = keys
        self._bucket = bucket
        self.calls = 0

    async def append(self, bucket: str, observations: Sequence[Observation]) -> list[Committed]:
        self.calls += 1
        if bucket == self._bucket or any(o.key in self._keys for o in observations):
            raise self._error
        return await self._log.append(bucket, observations)


async def test_observations_of_many_messages_go_into_one_entry_of_the_log() -> None:
    store = Store()
    bench = Bench(stream_writer(store.log))
    async with bench.writer:
        for number in range(30):
            bench.take(f"m{number}", body(f"k{number:02}"))
    assert [place.number for place in bench.committed] == [1]
    assert await store.keys() == [f"k{number:02}" for number in range(30)]
    assert sorted(bench.settled) == sorted(f"m{number}" for number in range(30))


async def test_a_message_counts_as_done_only_when_all_that_it_says_is_committed() -> None:
    store = Store("one", "two")
    gate = Gate(store.log, "mark_done")
    bench = Bench(
        Split(stream_writer(store.log), stream_writer(gate), gated="two"),
    )
    async with bench.writer:
        bench.take("both", body(record("a", "one"), record("b", "two"), record("c", "one")))
        bench.take("first", body(record("d", "one")))
        await until(lambda: bench.settled == ["first"])
        assert gate.waiting
        gate.open()
        await until(lambda: bench.settled == ["first", "both"])
    assert await store.keys("one") == ["a", "c", "d"]
    assert await store.keys("two") == ["b"]


class Split:
    """One log for one bucket, another for the rest."""

    def __init__(self, log: Log, other: Log, *, gated: str) -> None:
        self._log, self._other, self._gated = log, other, gated

    async def append(self, bucket: str, observations: Sequence[Observation]) -> list[Committed]:
        return await (self._other if bucket == self._gated else self._log).append(bucket, observations)


async def test_nothing_is_done_before_the_entry_is_marked_done() -> None:
    gate = Gate(Store().log, "mark_done")
    bench = Bench(stream_writer(gate))
    async with bench.writer:
        bench.take("m", body("k"))
        await until(lambda: gate.waiting == 1)
        assert bench.settled == []
        gate.open()
    assert bench.settled == ["m"]


async def test_a_full_batch_does_not_wait_for_its_time() -> None:
    bench = Bench(stream_writer(Store().log), max_age=3600)
    async with bench.writer:
        for number in range(MAX_ROWS):
            bench.take(f"m{number}", body(f"k{number}"))
        await until(lambda: len(bench.settled) == MAX_ROWS)


async def test_a_batch_that_is_not_full_goes_when_it_is_old_enough() -> None:
    bench = Bench(stream_writer(Store().log), max_age=0.05)
    async with bench.writer:
        bench.take("m", body("k"))
        assert bench.settled == []
        await until(lambda: bench.settled == ["m"])


async def test_one_message_may_fill_more_than_one_batch() -> None:
    store = Store()
    bench = Bench(stream_writer(store.log), max_age=3600)
    async with bench.writer:
        bench.take("m", body(*(f"k{number:04}" for number in range(MAX_ROWS + 7))))
    assert bench.settled == ["m"]
    assert len(await store.keys()) == MAX_ROWS + 7


@pytest.mark.parametrize("step", ["put_entry", "put_by_key", "mark_done"])
@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_store_that_is_away_is_tried_until_it_is_back(step: str, fault: str, lines: Lines) -> None:
    store = Store()
    lossy = LossyStore(store.log)
    lossy.fail(step, fault, fault, fault)
    bench = Bench(stream_writer(lossy))
    async with bench.writer:
        bench.take("m", body("k"))
    assert bench.settled == ["m"]
    assert set(await store.keys()) == {"k"}
    assert bench.value("failures_total", step="commit") == 3
    assert [line["code"] for line in lines.of("commit-failed")] == ["unreachable"] * 3


async def test_what_a_task_group_in_the_store_raises_is_an_outage_too() -> None:
    group = ExceptionGroup("unhandled", [ExceptionGroup("inner", [Unreachable("throttled")])])
    refusing = Refusing(stream_writer(Store().log), group, keys=["k"])
    bench = Bench(refusing, patience=0.1)
    async with bench.writer:
        bench.take("m", body("k"))
        bench.take("n", body("l"))
    assert sorted(bench.left) == ["m", "n"]  # not halved: one batch all along
    assert refusing.calls > 2


async def test_while_the_store_is_away_the_writer_says_so() -> None:
    lossy = LossyStore(Store().log)
    lossy.fail("put_entry", *["before"] * 20)
    bench = Bench(stream_writer(lossy))
    async with bench.writer:
        bench.take("m", body("k"))
        await until(lambda: bench.writer.trouble == {BUCKET: "put_entry did not get through"})
        await until(lambda: bench.settled == ["m"])
    assert bench.writer.trouble == {}


async def test_when_patience_is_over_the_messages_are_left_with_the_reason(lines: Lines) -> None:
    denied = PermissionMissing("AWS denied PutItem", "PutItem")
    bench = Bench(Refusing(stream_writer(Store().log), denied, bucket=BUCKET), patience=0.05)
    async with bench.writer:
        bench.take("m", body("k"))
    assert (bench.settled, bench.left) == ([], ["m"])
    (line,) = lines.of("messages-left")
    assert line["messages"] == ["m"]
    assert line["code"] == "permission-missing"
    assert line["reason"] == "AWS denied PutItem"


async def test_one_buckets_outage_keeps_no_other_buckets_messages() -> None:
    store = Store("one", "two")
    away = Refusing(stream_writer(store.log), Unreachable("away"), bucket="two")
    bench = Bench(away, patience=0.5)
    async with bench.writer:
        for number in range(10):
            bench.take(f"two-{number}", body(record(f"k{number}", "two")))
            bench.take(f"one-{number}", body(record(f"k{number}", "one")))
        await until(lambda: len(bench.settled) == 10)
        assert bench.left == []
    assert sorted(bench.settled) == [f"one-{number}" for number in range(10)]
    assert sorted(bench.left) == [f"two-{number}" for number in range(10)]


async def test_events_of_a_bucket_that_is_not_enabled_are_left_at_once_and_not_lost(lines: Lines) -> None:
    store = Store()
    bench = Bench(stream_writer(store.log))
    async with bench.writer:
        bench.take("ours", body("k"))
        bench.take("foreign", body(record("k", "somebody-elses")))
        bench.take("mixed", body("l", record("l", "somebody-elses")))
    assert bench.settled == ["ours"]
    assert sorted(bench.left) == ["foreign", "mixed"]
    (line,) = lines.of("messages-left")
    assert line["bucket"] == "somebody-elses"
    assert line["code"] == "bucket-not-enabled"
    assert await store.keys() == ["k", "l"]


async def test_an_observation_that_the_store_refuses_keeps_no_other_from_the_log(lines: Lines) -> None:
    store = Store()
    refusing = Refusing(stream_writer(store.log), ValueError("no place for 'k7'"), keys=["k7"])
    bench = Bench(refusing)
    async with bench.writer:
        for number in range(10):
            bench.take(f"m{number}", body(f"k{number}"))
    assert bench.left == ["m7"]
    assert sorted(bench.settled) == [f"m{number}" for number in range(10) if number != 7]
    assert await store.keys() == [f"k{number}" for number in range(10) if number != 7]
    (line,) = lines.of("messages-left")
    assert line["reason"] == "ValueError: no place for '…'"
    assert line["where"]


async def test_a_message_is_left_once_however_much_of_it_fails() -> None:
    bench = Bench(stream_writer(Store().log), max_age=3600)
    async with bench.writer:
        bench.take("m", body(*(record(f"k{number}", "unknown") for number in range(MAX_ROWS + 1))))
    assert bench.left == ["m"]


async def test_after_an_error_nothing_more_is_committed_and_nothing_settled() -> None:
    store = Store()
    bench = Bench(stream_writer(store.log), max_age=0.01)

    async def body_of_the_caller() -> None:
        async with bench.writer:
            bench.take("m", body("k"))
            raise KeyError("a fault of the caller")

    with pytest.raises(ExceptionGroup):
        await body_of_the_caller()
    await asyncio.sleep(0.05)  # beyond the batch's time: its timer must be gone
    assert (bench.settled, bench.left) == ([], [])
    assert await store.keys() == []


async def test_cancelling_settles_nothing() -> None:
    gate = Gate(Store().log, "put_entry")
    bench = Bench(stream_writer(gate))

    async def run() -> None:
        async with bench.writer:
            bench.take("m", body("k"))
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await until(lambda: gate.waiting == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (bench.settled, bench.left) == ([], [])


async def test_duplicates_are_counted_and_kept() -> None:
    store = Store()
    bench = Bench(stream_writer(store.log))
    async with bench.writer:
        bench.take("m1", body("k"))
        bench.take("m2", body("k"))
        await until(lambda: len(bench.settled) == 2)
        bench.take("m3", body("k"))
    assert bench.settled == ["m1", "m2", "m3"]
    assert bench.value("duplicates_total") == 2
    # Within one entry they are one; a later entry has it again, as no epoch was known to cover the first.
    assert await store.keys() == ["k", "k"]


async def test_what_holds_no_fact_is_acknowledged_and_counted_by_type() -> None:
    bench = Bench(stream_writer(Store().log))
    async with bench.writer:
        assert not bench.take("test", TEST_EVENT)
        assert not bench.take("tagging", body(record("k", name="ObjectTagging:Put")))
    assert bench.value("test_events_total") == 1
    assert bench.value("unknown_types_total", type="ObjectTagging:Put") == 1


async def test_types_are_labels_of_bounded_number() -> None:
    metrics = Metrics()
    for number in range(10 * MAX_TYPES):
        metrics.no_fact(f"Made up {number}")
    samples = [line for line in metrics.text().splitlines() if line.startswith(b"snapengine_worker_unknown")]
    assert len([line for line in samples if b"_total" in line]) == MAX_TYPES + 1
    assert metrics.registry.get_sample_value("snapengine_worker_unknown_types_total", {"type": "other"}) == (
        9 * MAX_TYPES
    )


async def test_what_was_committed_is_measured() -> None:
    bench = Bench(stream_writer(Store().log))
    async with bench.writer:
        bench.take("m1", body("k1", "k2"))
    assert bench.value("observations_total", bucket=BUCKET) == 2
    assert bench.value("batches_total") == 1
    assert bench.value("flush_seconds_count") == 1
    assert bench.value("lag_seconds", bucket=BUCKET) == 2.5


async def test_no_key_is_logged_whatever_fails(lines: Lines) -> None:
    bench = Bench(Refusing(stream_writer(Store().log), ValueError("bad key 'Doe^Jane'"), keys=["Doe^Jane"]))
    async with bench.writer:
        bench.take("m1", body("Doe^Jane"))
        bench.take("m2", body(record("Doe^Jane", "unknown")))
    assert len(lines.of("messages-left")) == 2
    assert "Jane" not in lines.text
