"""Messages through a worker: against `json.loads` alone, and against bare writes to DynamoDB.

(a) On one core, bodies of queue messages go the worker's whole way (envelope, record, observation, batch by
    bucket, log entry encoded) into a sink that keeps the entries and does nothing; the peer merely calls
    `json.loads` on the same bodies. By-key items are the sink's work: the cost of making them is a figure
    of its own.
(b) The same way into DynamoDB Local: log entry, by-key items, DONE mark. The peer is a bare loop of
    BatchWriteItem over the same by-key items, made beforehand, with as many requests in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import quote_plus

import pyarrow as pa

from benchmarks._dynamodb import BUCKET, add_endpoint_option, dynamodb_local, fresh_table, table_of
from benchmarks.harness import Figure, Result, Target, alternate, median_ratio, positive, timed, undisturbed
from ingest_worker.metrics import Metrics
from ingest_worker.records import parse_message
from ingest_worker.writer import Writer
from snapengine.engine import Engine, wall_clock
from snapengine.instants import render
from snapengine.log import StreamWriter
from snapengine.model import CREATED, MARKER_CREATED, VERSION_DELETED, Kind, LogEntry, Observation
from snapengine.observation_codec import MAX_ROWS, decode
from snapengine.ports import LogStore
from snapengine.stores import dynamodb_codec as codec
from snapengine.stores.dynamodb_log import BATCH_ITEMS, CONCURRENCY
from snapengine.workers.consumer import IN_HAND
from snapengine.workers.sqs import BATCH, Message

LOT = 4 * BATCH
"""Messages between which other tasks have their turn: a worker has four polls open."""
FIRST_EVENT = 1_795_165_200_000
"""UTC milliseconds."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=positive, default=20_000, help="of one event, into the null sink")
    parser.add_argument("--items", type=positive, default=10_000, help="events into DynamoDB Local")
    parser.add_argument("--repetitions", type=positive, default=9, help="of each side")
    add_endpoint_option(parser)


def run(options: argparse.Namespace) -> Result:
    events = list(make_events(max(options.messages, options.items)))
    null, null_time, null_correct = _null_sink(events[: options.messages], options.repetitions)
    with dynamodb_local(options.endpoint_url):
        dynamodb, dynamodb_rate, dynamodb_correct = _dynamodb(events[: options.items], options.repetitions)
    return Result(
        name="ingest",
        params={
            "messages": options.messages,
            "mean_body_bytes": sum(len(body) for body, _ in events) // len(events),
            "items": options.items,
            "concurrency": CONCURRENCY,
            "repetitions": options.repetitions,
        },
        figures=null | dynamodb,
        ratios={"null_sink_time": null_time, "dynamodb_rate": dynamodb_rate},
        targets={
            "null_sink_time": Target("at_most", 5.0),
            "dynamodb_rate": Target("at_least", 0.8),
        },
        correct=null_correct and dynamodb_correct,
    )


def make_events(count: int) -> Iterator[tuple[str, Observation]]:
    """Bodies of messages with one record each, as S3 sends them, and what each says; the same every time.

    Of twenty, seventeen are new objects, one a multipart upload, one a delete marker, one a removal.
    """
    chance = random.Random(20_261_120)  # the same events every time is the point
    for i in range(count):
        name, kind = _KINDS.get(i % 20, ("ObjectCreated:Put", CREATED))
        yield _event(i, name, kind, chance)


_KINDS: dict[int, tuple[str, Kind]] = {
    7: ("ObjectCreated:CompleteMultipartUpload", CREATED),
    13: ("ObjectRemoved:DeleteMarkerCreated", MARKER_CREATED),
    19: ("ObjectRemoved:Delete", VERSION_DELETED),
}


def _event(i: int, name: str, kind: Kind, chance: random.Random) -> tuple[str, Observation]:
    observation = Observation(
        kind=kind,
        key=f"ct/patient {i % 997:04}/study+{i % 7}/{i:08}.dcm",
        version_id=f"{chance.getrandbits(192):032x}",
        event_time=FIRST_EVENT + 3 * i,
        sequencer=f"{0x00673DA5B07B0C41F2 + i:018X}",
        size=524_288 + i if kind == CREATED else None,
        etag=f"{chance.getrandbits(128):032x}" if kind == CREATED else None,
        event_name=name,
    )
    fields: dict[str, Any] = {"key": quote_plus(observation.key, safe="/")}
    if kind == CREATED:
        fields |= {"size": observation.size, "eTag": observation.etag}
    fields |= {"versionId": observation.version_id, "sequencer": observation.sequencer}
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-central-1",
        "eventTime": render(observation.event_time),
        "eventName": name,
        "userIdentity": {"principalId": "AWS:AROAEXAMPLEID:scanner"},
        "requestParameters": {"sourceIPAddress": "192.0.2.10"},
        "responseElements": {
            "x-amz-request-id": f"{chance.getrandbits(64):016X}",
            "x-amz-id-2": f"{chance.getrandbits(300):076x}",
        },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "snapengine-example",
            "bucket": {
                "name": BUCKET,
                "ownerIdentity": {"principalId": "EXAMPLEOWNERID"},
                "arn": f"arn:aws:s3:::{BUCKET}",
            },
            "object": fields,
        },
    }
    return json.dumps({"Records": [record]}), observation


async def through_worker(bodies: Sequence[str], log: LogStore) -> None:
    """What a worker does of its own from bodies of messages to the log."""
    in_hand = 0
    room = asyncio.Event()

    def settle(messages: Sequence[Message]) -> None:
        nonlocal in_hand
        in_hand -= len(messages)
        room.set()

    def leave(messages: Sequence[Message]) -> None:
        raise RuntimeError(f"{len(messages)} messages would be left in the queue")

    async with Writer(
        StreamWriter(log, "benchmark", wall_clock),
        wall_clock,
        Metrics(),
        settle=settle,
        leave=leave,
        committed=lambda _: None,
        patience=0.0,
        max_age=60.0,  # every batch is full, so each run has the same batches
    ) as writer:
        for start in range(0, len(bodies), LOT):
            lot = bodies[start : start + LOT]
            while in_hand + len(lot) > IN_HAND:
                room.clear()
                await room.wait()
            in_hand += len(lot)
            for number, body in enumerate(lot, start):
                writer.take(Message(str(number)), parse_message(body))
            await asyncio.sleep(0)


# (a) into nothing


class NullLog:
    """What `StreamWriter` asks of a `LogStore`: entries are kept as they come, by-key items not made."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    async def put_entry(self, entry: LogEntry) -> bool:
        self.payloads.append(entry.payload)
        return True

    async def put_by_key(self, *_: object) -> None: ...

    async def mark_done(self, *_: object) -> None: ...

    async def head(self, *_: object) -> int:
        return len(self.payloads)

    async def streams(self, _: str) -> int:
        return 1


def _null_sink(
    events: Sequence[tuple[str, Observation]], repetitions: int
) -> tuple[dict[str, Figure], float, bool]:
    bodies, expected = [body for body, _ in events], [observation for _, observation in events]
    correct: list[bool] = []

    def ours() -> float:
        log = NullLog()
        seconds = timed(lambda: asyncio.run(through_worker(bodies, cast("LogStore", log))))
        correct.append([o for payload in log.payloads for o in decode(payload)] == expected)
        return seconds

    def parse_only() -> None:
        for body in bodies:
            json.loads(body)

    def make_items() -> None:
        for number, observation in enumerate(expected):
            codec.observation_item(BUCKET, 0, number, observation)

    with one_core():
        through, parsing = alternate(ours, lambda: timed(parse_only), repetitions)
        items = [timed(make_items) for _ in range(repetitions)]
    micros = 1e6 / len(bodies)
    figures = {
        "null_sink": Figure.of([s * micros for s in through], "µs/event"),
        "json_loads": Figure.of([s * micros for s in parsing], "µs/event"),
        "null_sink_rate": Figure.of([len(bodies) / s for s in through], "events/s"),
        "by_key_items": Figure.of([s * micros for s in items], "µs/event"),
    }
    return figures, median_ratio(through, parsing), all(correct)


@contextmanager
def one_core() -> Iterator[None]:
    """Within, this thread and Arrow's use one core, where the platform (Linux) can say so."""
    threads = pa.cpu_count()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    pa.set_cpu_count(1)
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        pa.set_cpu_count(threads)
        if cores:
            os.sched_setaffinity(0, cores)


# (b) into DynamoDB Local


def _dynamodb(
    events: Sequence[tuple[str, Observation]], repetitions: int
) -> tuple[dict[str, Figure], float, bool]:
    bodies = [body for body, _ in events]
    items = [
        codec.observation_item(BUCKET, 0, number // MAX_ROWS + 1, observation)
        for number, (_, observation) in enumerate(events)
    ]
    expected = _by_primary_key(items)
    entries = (len(events) - 1) // MAX_ROWS + 1
    correct: list[bool] = []

    def ours() -> float:
        with fresh_table() as engine:
            with undisturbed():
                seconds = asyncio.run(_write_through_worker(engine, bodies))
            stored = _stored(engine)
            by_key = {key: item for key, item in stored.items() if key[0].startswith("KEY#")}
            commits = [key[0].partition("#")[0] for key in stored if key[0].startswith(("LOG#", "DONE#"))]
            correct.append(by_key == expected)
            correct.append(sorted(commits) == ["DONE"] * entries + ["LOG"] * entries)
            return seconds

    def peer() -> float:
        with fresh_table() as engine:
            with undisturbed():
                seconds = asyncio.run(_write_bare(engine, items))
            by_key = {key: item for key, item in _stored(engine).items() if key[0].startswith("KEY#")}
            correct.append(by_key == expected)
            return seconds

    through, bare = alternate(ours, peer, repetitions)
    figures = {
        "dynamodb": Figure.of([len(items) / s for s in through], "items/s"),
        "bare_batch_write": Figure.of([len(items) / s for s in bare], "items/s"),
    }
    return figures, median_ratio(bare, through), all(correct)


async def _write_through_worker(engine: Engine, bodies: Sequence[str]) -> float:
    async with engine.log() as log:
        started = time.perf_counter()
        await through_worker(bodies, log)
        return time.perf_counter() - started


async def _write_bare(engine: Engine, items: Sequence[codec.Item]) -> float:
    table = table_of(engine)
    requests = [{"PutRequest": {"Item": item}} for item in items]
    batches = iter([requests[i : i + BATCH_ITEMS] for i in range(0, len(requests), BATCH_ITEMS)])

    async def write(client: Any) -> None:
        for batch in batches:  # shared: each takes the next
            left = batch
            while left:
                reply = await client.batch_write_item(RequestItems={table: left})
                left = reply.get("UnprocessedItems", {}).get(table, [])

    async with engine.async_client("dynamodb") as client:
        started = time.perf_counter()
        await asyncio.gather(*(write(client) for _ in range(CONCURRENCY)))
        return time.perf_counter() - started


def _stored(engine: Engine) -> dict[tuple[str, str], codec.Item]:
    """Everything in the table."""
    pages = engine.client("dynamodb").get_paginator("scan")
    found = pages.paginate(TableName=table_of(engine), ConsistentRead=True)
    return _by_primary_key(item for page in found for item in page["Items"])


def _by_primary_key(items: Any) -> dict[tuple[str, str], codec.Item]:
    return {(item["PK"]["S"], item["SK"]["S"]): item for item in items}
