"""Created versions on their way to extraction: after the commit, before their messages are done with."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from ingest_worker.hand_off import HandOff
from ingest_worker.metrics import Metrics
from ingest_worker.records import parse_message
from ingest_worker.writer import Writer
from snapengine.errors import NotFound, PermissionMissing, Unreachable
from snapengine.extraction_tasks import MAX_BYTES, parse_tasks
from snapengine.log import Committed, StreamWriter
from snapengine.model import BucketConfig, Observation
from snapengine.testing.store_contract import BUCKET, T, config
from snapengine.workers.sqs import Message, NotSent
from tests.worker_fakes import Gate, Lines, Store, body, record, until

URL = "https://sqs/extraction"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> Iterator[float]:
        while True:
            yield 0.01

    monkeypatch.setattr("ingest_worker.writer.delays", pauses)


class Extraction:
    """The queue of extraction in memory. `faults`: what its next calls do, an error they raise before or, in
    a list, after they took everything; or the code with which they refuse the first message."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.faults: list[Exception | list[Exception] | tuple[str, bool]] = []
        self.shut = asyncio.Event()
        self.shut.set()

    async def send(self, bodies: Sequence[str]) -> list[NotSent]:
        assert 1 <= len(bodies) <= 10
        assert sum(map(len, bodies)) <= MAX_BYTES
        await self.shut.wait()
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        refused = 1 if isinstance(fault, tuple) else 0
        self.batches.append(list(bodies[refused:]))
        if isinstance(fault, list):
            raise fault[0]
        return [NotSent(bodies[0], *fault)] if isinstance(fault, tuple) else []

    @property
    def keys(self) -> list[str]:
        return [task.key for batch in self.batches for text in batch for task in parse_tasks(text)]


class Bench:
    """A writer that hands off, and what became of the messages that it was given."""

    def __init__(
        self,
        *,
        extractors: tuple[str, ...] = ("dicom",),
        url: str | None = URL,
        enabled: bool = True,
        patience: float = math.inf,
        age: float = 30.0,
        store: Store | None = None,
    ) -> None:
        self.store = store or Store()
        self.queue = Extraction()
        self.metrics = Metrics()
        self.config: BucketConfig = replace(
            config(streams=2), extractors=extractors, extract_queue_url=url, enabled=enabled
        )
        self.asked: list[str] = []
        self.unreadable: list[Exception] = []
        self.settled: list[str] = []
        self.left: list[str] = []
        self.committed: list[Committed] = []
        self.hand_off = HandOff(self._config, self._queue_of, self.metrics, config_age=age)
        self.writer = Writer(
            StreamWriter(self.store.log, "w", lambda: T),
            lambda: T,
            self.metrics,
            settle=lambda messages: self.settled.extend(m.id for m in messages),
            leave=lambda messages: self.left.extend(m.id for m in messages),
            committed=self.committed.extend,
            patience=patience,
            hand_off=self.hand_off,
            max_age=0.01,
        )

    def _config(self, bucket: str) -> BucketConfig | None:
        self.asked.append(bucket)
        if self.unreadable:
            raise self.unreadable.pop(0)
        return self.config if bucket == BUCKET else None

    async def _queue_of(self, url: str) -> Extraction:
        assert url == URL
        return self.queue

    def take(self, message_id: str, text: str) -> None:
        assert self.writer.take(Message(message_id), parse_message(text))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"snapengine_worker_{name}", labels)


async def test_created_versions_are_handed_on_and_markers_and_removals_are_not() -> None:
    bench = Bench()
    gone = [record("k", name=f"ObjectRemoved:{how}") for how in ("Delete", "DeleteMarkerCreated")]
    async with bench.writer:
        bench.take("m", body("a", *gone, "b"))
    (text,) = bench.queue.batches[0]
    (task, _) = parse_tasks(text)
    assert bench.queue.keys == ["a", "b"]
    assert (task.bucket, task.version_id, task.size, task.etag, task.sequencer, task.event_time) == (
        BUCKET,
        "v-a",
        10,
        "e",
        "0055AE",
        1_700_000_000_000,
    )
    assert bench.settled == ["m"]
    assert bench.value("handed_off_total", bucket=BUCKET) == 2


async def test_a_message_is_done_only_when_what_it_says_is_committed_and_handed_on() -> None:
    bench = Bench()
    bench.queue.shut.clear()
    async with bench.writer:
        bench.take("m", body("k"))
        await until(lambda: bool(bench.committed))
        assert await bench.store.keys() == ["k"]
        assert bench.settled == []
        bench.queue.shut.set()
    assert bench.settled == ["m"]


async def test_nothing_is_handed_on_that_is_not_committed() -> None:
    store = Store()
    bench = Bench()
    gate = Gate(store.log, "mark_done")
    bench.writer._log = StreamWriter(gate, "w", lambda: T)
    async with bench.writer:
        bench.take("m", body("k"))
        await until(lambda: gate.waiting == 1)
        assert bench.queue.batches == []
        gate.open()
    assert bench.queue.keys == ["k"]


async def test_while_the_queue_is_away_other_batches_are_committed_and_the_worker_says_so() -> None:
    bench = Bench()
    bench.queue.faults = [Unreachable("no answer")] * 100_000
    async with bench.writer:
        for number in range(8):  # more than are committed at once
            bench.take(f"m{number}", body(f"k{number}"))
            await until(lambda number=number: len(bench.committed) > number)  # type: ignore[misc]  # bound at once
        assert bench.settled == []
        assert bench.writer.trouble == {f"{BUCKET} (hand-off)": "no answer"}
        bench.queue.faults.clear()
    assert sorted(bench.settled) == [f"m{number}" for number in range(8)]
    assert sorted(bench.queue.keys) == [f"k{number}" for number in range(8)]
    assert bench.writer.trouble == {}
    assert (bench.value("failures_total", step="hand-off") or 0) >= 8
    assert bench.value("failures_total", step="commit") == 0


async def test_what_sqs_did_not_take_of_a_batch_is_sent_again_and_the_rest_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines, bench = Lines(caplog), Bench()
    bench.queue.faults = [("InternalError", False), ("InternalError", False)]
    async with bench.writer:
        bench.take("m", body(*(f"k{number:03}" for number in range(100))))
    assert sorted(bench.queue.keys) == [f"k{number:03}" for number in range(100)]
    assert [len(batch) for batch in bench.queue.batches] == [4, 0, 1]
    assert bench.settled == ["m"]
    assert "did not take 1 of 5 messages (InternalError)" in lines.of("hand-off-failed")[0]["reason"]
    assert "k000" not in lines.text


async def test_after_a_lost_reply_they_are_sent_again() -> None:
    bench = Bench()
    bench.queue.faults = [[Unreachable("no answer")]]
    async with bench.writer:
        bench.take("m", body("k"))
    assert bench.queue.keys == ["k", "k"]


async def test_many_and_long_keys_go_in_calls_of_what_sqs_takes() -> None:
    bench = Bench()
    async with bench.writer:
        for number in range(300):
            long = record(f"{number:03}" + "%01" * 1021)
            long["s3"]["object"]["versionId"] = "v"
            bench.take(f"m{number}", body(long))
    assert len(bench.queue.keys) == len(set(bench.queue.keys)) == 300
    assert len(bench.settled) == 300


@pytest.mark.parametrize(
    "error", [Unreachable("no answer"), PermissionMissing("denied", "sqs:SendMessage"), NotFound("no queue")]
)
async def test_when_patience_is_over_the_messages_are_left_to_come_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    lines, bench = Lines(caplog), Bench(patience=0.05)
    bench.queue.faults = [error] * 1000
    async with bench.writer:
        bench.take("m", body("k"))
    assert (bench.settled, bench.left) == ([], ["m"])
    assert lines.of("messages-left")[0]["count"] == 1
    assert bench.writer.trouble == {}
    again = Bench(store=bench.store)
    async with again.writer:
        again.take("m", body("k"))
    assert (again.settled, again.queue.keys) == (["m"], ["k"])
    assert set(await bench.store.keys()) == {"k"}


async def test_what_sqs_says_is_our_fault_is_not_tried_again_for_ever() -> None:
    bench = Bench()
    bench.queue.faults = [("InvalidMessageContents", True)]
    async with bench.writer:
        bench.take("m", body("k"))
    assert (bench.settled, bench.left) == ([], ["m"])


async def test_a_bucket_without_extractors_is_asked_for_once_and_then_costs_nothing() -> None:
    bench = Bench(extractors=())
    async with bench.writer:
        for number in range(5):
            bench.take(f"m{number}", body(f"k{number}"))
            await until(lambda number=number: len(bench.settled) > number)  # type: ignore[misc]  # bound at once
    assert bench.asked == [BUCKET]
    assert bench.queue.batches == []
    assert bench.hand_off.needless(BUCKET)


async def test_extraction_is_taken_up_and_let_go_of_while_the_worker_runs() -> None:
    bench = Bench(extractors=(), age=0.02)
    async with bench.writer:
        bench.take("m1", body("before"))
        await until(lambda: bench.settled == ["m1"])
        bench.config = replace(bench.config, extractors=("dicom",))
        await asyncio.sleep(0.03)
        bench.take("m2", body("during"))
        await until(lambda: bench.settled == ["m1", "m2"])
        bench.config = replace(bench.config, extractors=())
        await asyncio.sleep(0.03)
        bench.take("m3", body("after"))
    assert bench.queue.keys == ["during"]
    assert bench.settled == ["m1", "m2", "m3"]


async def test_messages_that_wait_for_a_queue_that_is_gone_are_done_once_extraction_is_ended() -> None:
    bench = Bench(age=0.02)
    bench.queue.faults = [NotFound("There is no queue.")] * 1000
    async with bench.writer:
        bench.take("m", body("k"))
        await until(lambda: bool(bench.writer.trouble))
        (trouble,) = bench.writer.trouble.values()
        assert f"snapengine enable-bucket {BUCKET} --extract dicom" in trouble
        assert bench.settled == []
        bench.config = replace(bench.config, extractors=(), extract_queue_url=None)
    assert bench.settled == ["m"]


async def test_an_enabled_bucket_with_extractors_and_no_queue_is_a_trouble_and_no_silence() -> None:
    bench = Bench(url=None, age=0.02)
    async with bench.writer:
        bench.take("m", body("k"))
        await until(lambda: bool(bench.writer.trouble))
        assert bench.settled == []
        bench.config = replace(bench.config, extract_queue_url=URL)
    assert (bench.settled, bench.queue.keys) == (["m"], ["k"])


async def test_late_events_of_a_disabled_bucket_whose_queue_is_gone_are_done_with() -> None:
    bench = Bench(url=None, enabled=False)
    async with bench.writer:
        bench.take("m", body("k"))
    assert bench.settled == ["m"]


async def test_a_registry_that_is_away_is_waited_for() -> None:
    bench = Bench()
    bench.unreadable = [Unreachable("no answer"), Unreachable("no answer")]
    async with bench.writer:
        bench.take("m", body("k"))
    assert (bench.settled, bench.queue.keys) == (["m"], ["k"])
    assert bench.value("failures_total", step="hand-off") == 2


async def test_a_writer_that_is_ended_by_an_error_settles_nothing_that_is_not_handed_on() -> None:
    bench = Bench()
    bench.queue.shut.clear()
    await bench.writer.__aenter__()
    bench.take("m", body("k"))
    await until(lambda: bool(bench.committed))
    the_end = RuntimeError("the end")
    with pytest.raises(ExceptionGroup):
        await bench.writer.__aexit__(RuntimeError, the_end, None)
    assert bench.settled == []


def test_observations_are_not_looked_at_before_extraction_is_known_to_be_wanted() -> None:
    class Untouchable(list[Observation]):
        def __iter__(self) -> Iterator[Observation]:
            raise AssertionError("looked at")

    bench = Bench(extractors=())
    asyncio.run(_call(bench.hand_off, Untouchable()))


async def _call(hand_off: HandOff, observations: Sequence[Observation]) -> None:
    await hand_off.parcel(BUCKET, observations)()
