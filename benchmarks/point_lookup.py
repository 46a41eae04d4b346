"""One key at T among 1,000 versions of it, against a bare paginated Query for the same key.

What the target is about: a look-up in a view that exists already, at a pinned epoch. It is one strongly
consistent Query (per megabyte of the key's history), from which the observations are read, cut at the epoch
and folded; the peer sends the same Query and stops at the items as boto3 gives them. Making a view costs two
round trips more (the bucket's configuration, the epoch): `view_and_lookup` has them, and no target.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks._dynamodb import BUCKET, add_endpoint_option, dynamodb_local, fresh_table, table_of
from benchmarks.harness import Figure, Result, Target, alternate, median_ratio, positive, timed, undisturbed
from snapengine.engine import Engine, wall_clock
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import CREATED, MARKER_CREATED, VERSION_DELETED, Epoch, ObjectVersion, Observation
from snapengine.stores import dynamodb_codec as codec

KEY = "ct/patient 0001/study+1/00000001.dcm"
FIRST_EVENT = 1_700_000_000_000
"""UTC milliseconds."""
SPACING = 1_000
"""Milliseconds from one version to the next."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--versions", type=positive, default=1_000, help="of the key, markers included")
    parser.add_argument("--repetitions", type=positive, default=75, help="of each side")
    add_endpoint_option(parser)


def run(options: argparse.Namespace) -> Result:
    history = list(make_history(options.versions))
    at = FIRST_EVENT + options.versions // 2 * SPACING
    with dynamodb_local(options.endpoint_url), fresh_table() as engine:
        epoch = asyncio.run(_record(engine, history))
        figures, ratio = _measure(engine, at, epoch.number, options.repetitions)
        items = query_bare(engine.client("dynamodb"), table_of(engine))
        correct = len(items) == len(history) and _all_agree(engine, epoch.number, items, options.versions)
    return Result(
        name="point_lookup",
        params={
            "versions": options.versions,
            "observations": len(history),
            "repetitions": options.repetitions,
            "lookup": "in an existing view, at a pinned epoch",
        },
        figures=figures,
        ratios={"lookup_time": ratio},
        targets={"lookup_time": Target("at_most", 1.3)},
        correct=correct,
    )


def make_history(versions: int) -> Iterator[Observation]:
    """One key's versions, a second apart: every tenth a marker; every twentieth is later removed for good."""
    for i in range(versions):
        marker = i % 10 == 9
        version = Observation(
            kind=MARKER_CREATED if marker else CREATED,
            key=KEY,
            version_id=f"ExVer.{i:026}",
            event_time=FIRST_EVENT + i * SPACING,
            sequencer=f"{0x00673DA5B07B0C41F2 + 2 * i:018X}",
            size=None if marker else 524_288 + i,
            etag=None if marker else f"{i:032x}",
            event_name="ObjectRemoved:DeleteMarkerCreated" if marker else "ObjectCreated:Put",
        )
        yield version
        if i % 20 in {3, 19}:
            yield version._replace(
                kind=VERSION_DELETED,
                event_time=version.event_time + SPACING // 2,
                sequencer=f"{0x00673DA5B07B0C41F2 + 2 * i + 1:018X}",
                size=None,
                etag=None,
                event_name="ObjectRemoved:Delete",
            )


async def _record(engine: Engine, history: Sequence[Observation]) -> Epoch:
    async with engine.log() as log:
        await StreamWriter(log, "benchmark", wall_clock).append(BUCKET, history)
        return await EpochCutter(log, BUCKET, wall_clock).cut()


def _measure(engine: Engine, at: int, epoch: int, repetitions: int) -> tuple[dict[str, Figure], float]:
    client, table = engine.client("dynamodb"), table_of(engine)
    whole: list[float] = []

    def look_up() -> float:
        with undisturbed():
            started = time.perf_counter()
            view = engine.view(BUCKET, at, epoch=epoch)
            made = time.perf_counter()
            view[KEY]
            ended = time.perf_counter()
        whole.append(ended - started)
        return ended - made

    lookups, queries = alternate(look_up, lambda: timed(lambda: query_bare(client, table)), repetitions)
    figures = {
        "lookup": Figure.of([1e3 * s for s in lookups], "ms"),
        "bare_query": Figure.of([1e3 * s for s in queries], "ms"),
        "view_and_lookup": Figure.of([1e3 * s for s in whole[-repetitions:]], "ms"),
    }
    return figures, median_ratio(lookups, queries)


def query_bare(client: Any, table: str) -> list[codec.Item]:
    """The key's items, as anyone would read them with boto3."""
    pages = client.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression="PK = :pk",
        ExpressionAttributeValues={":pk": {"S": codec.object_key(BUCKET, KEY)}},
        ConsistentRead=True,
    )
    return [item for page in pages for item in page["Items"]]


def _all_agree(engine: Engine, epoch: int, items: Sequence[codec.Item], versions: int) -> bool:
    """Whether look-ups say what the bare items say: at the timed instant, before the first version, and at
    others that step through objects, markers and removals."""
    instants = [FIRST_EVENT - 1, FIRST_EVENT + versions // 2 * SPACING]
    instants += [FIRST_EVENT + i * SPACING for i in range(0, versions, max(1, versions // 30))]
    instants += [FIRST_EVENT + i * SPACING + SPACING // 2 for i in (3, 9, 19, versions - 1)]
    return all(
        _said(engine.view(BUCKET, at, epoch=epoch).get(KEY)) == newest_at(items, at) for at in instants
    )


def _said(version: ObjectVersion | None) -> tuple[str, int | None, str | None] | None:
    return (version.version_id, version.size, version.etag) if version else None


def newest_at(items: Sequence[codec.Item], at: int) -> tuple[str, int | None, str | None] | None:
    """Version id, size and ETag of the object at `at`, from the items alone: of the entries not after it and
    not removed by then, the one with the greatest sequencer, unless that is a marker."""
    known = [item for item in items if int(item["SK"]["S"].partition("#")[0]) <= at]
    removed = {item["version_id"]["S"] for item in known if item["kind"]["S"] == VERSION_DELETED}
    live = [item for item in known if item["version_id"]["S"] not in removed]
    newest = max(live, key=lambda item: str(item["sequencer"]["S"]), default=None)
    if newest is None or newest["kind"]["S"] != CREATED:
        return None
    return newest["version_id"]["S"], int(newest["size"]["N"]), newest["etag"]["S"]
