"""A real S3 server as the oracle: what it listed then, and what the engine says now that it was.

Random operations through a plain client on SeaweedFS, the true listing saved after each. Events are made of
the client's traffic by `tests.recorder`. It stays within what SeaweedFS does as S3 does (docs/services.md):
versioning is on from the start, no key is the folder of another, and no key has `//` or the like.
"""

from __future__ import annotations

import ast
import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import boto3
import pytest

from ingest_worker.records import parse_message
from snapengine.buckets.reconcile import run_reconcile
from snapengine.engine import Engine
from snapengine.log import EpochCutter, StreamWriter
from snapengine.model import BucketConfig
from snapengine.settings import Settings
from snapengine.views import View
from tests import recorder
from tests.plain_client import KEYS, Listed, Shown, User, listed, shown_now
from tests.recorder import Event, message
from tests.servers import Endpoint
from tools.local_servers import ACCESS_KEY, SECRET_KEY

pytestmark = [pytest.mark.services, pytest.mark.xdist_group("seaweedfs")]

OPERATIONS = 120
LOST = 0.1


class Past(NamedTuple):
    """What the server listed when an operation had ended."""

    at: int
    """The time of its last event, UTC milliseconds."""
    shown: Shown


@dataclass
class Story:
    """What was done to one bucket, as it is known outside the engine."""

    bucket: str
    pasts: list[Past]
    events: list[Event]
    rows: dict[str, list[Listed]]
    """What exists in the end: by key, markers and versions, the newest first."""


@pytest.fixture(scope="module")
def story(seaweedfs_server: Endpoint, request: pytest.FixtureRequest) -> Story:
    client: Any = boto3.client(
        "s3",
        endpoint_url=seaweedfs_server.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    bucket = f"oracle-{uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    user = User(client, bucket, seed=request.param)
    pasts = []
    for _ in range(OPERATIONS):
        user.act()
        pasts.append(Past(user.recorder.events[-1].time, shown_now(client, bucket)))
    rows = listed(client, bucket)
    client.close()
    return Story(bucket, pasts, user.recorder.events, rows)


@pytest.fixture(autouse=True)
def _on_the_server(seaweedfs_server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweedfs_server.environment().items():
        monkeypatch.setenv(name, value)


every_seed = pytest.mark.parametrize("story", [1, 2, 3], indirect=True, ids="seed {}".format)


class House:
    """An engine with a fresh log in which the story's bucket is enabled; its baseline found nothing."""

    def __init__(self, story: Story, folder: Path) -> None:
        self.engine = Engine(Settings(store=f"sqlite:///{folder / 'log.db'}"))
        self.bucket = story.bucket
        began = story.events[0].time - 1
        self.engine.store.create()
        config = BucketConfig(self.bucket, "us-east-1", "000000000000", streams=2, enabled_at=began)
        self.engine.store.put_config(replace(config, baseline_started=began, baseline_ended=began))

    async def hear(self, bodies: Sequence[str]) -> None:
        """What a worker does with messages."""
        observations = [p.observation for body in bodies for p in parse_message(body) if p.observation]
        assert len(observations) == len(bodies)
        async with self.engine.log() as log:
            for start in range(0, len(observations), 50):
                writer = StreamWriter(log, f"writer {start}", self.engine.clock)
                await writer.append(self.bucket, observations[start : start + 50])
            await EpochCutter(log, self.bucket, self.engine.clock).cut()

    def view(self, at: int) -> View:
        return self.engine.view(self.bucket, at)


def shown(view: View) -> Shown:
    return {version.key: (version.version_id, version.etag, version.size) for version in view.versions()}


def out_of_order(events: Sequence[Event], seed: int) -> list[str]:
    """Messages as a queue may give them: in any order, some twice."""
    chance = random.Random(seed)
    bodies = [message(event) for event in events]
    bodies += chance.choices(bodies, k=len(bodies) // 5)
    chance.shuffle(bodies)
    return bodies


@every_seed
async def test_from_events_alone_every_past_listing_of_the_server_is_had_again(
    story: Story, tmp_path: Path
) -> None:
    house = House(story, tmp_path)
    await house.hear(out_of_order(story.events, seed=1))
    assert shown(house.view(story.events[0].time - 1)) == {}
    for past, following in zip(story.pasts, [*story.pasts[1:], None], strict=True):
        view = house.view(past.at)
        assert shown(view) == past.shown
        of_each = {key: view.get(key) for key in KEYS}
        assert {k: (v.version_id, v.etag, v.size) for k, v in of_each.items() if v} == past.shown
        if following is not None:  # until the next operation's first event nothing changes
            first = min(event.time for event in story.events if past.at < event.time <= following.at)
            assert shown(house.view(first - 1)) == past.shown


@every_seed
@pytest.mark.parametrize("page_size", [1000, 7])
async def test_with_a_tenth_of_the_events_lost_and_one_reconcile_views_are_what_can_be_known(
    story: Story, page_size: int, tmp_path: Path
) -> None:
    house = House(story, tmp_path)
    lost = set(random.Random(2).sample(range(len(story.events)), int(len(story.events) * LOST)))
    kept = [event for number, event in enumerate(story.events) if number not in lost]
    await house.hear(out_of_order(kept, seed=2))
    before = [house.view(past.at) for past in story.pasts]
    digests = [view.digest() for view in before]
    assert [shown(view) for view in before] == [knowable(kept, {})(past.at) for past in story.pasts]
    assert [shown(view) for view in before] != [past.shown for past in story.pasts]

    await asyncio.sleep(1.1)  # S3 tells the time by seconds: now its clock is past the last event for certain
    report = await run_reconcile(house.engine, story.bucket, page_size=page_size)
    assert report.begun > story.pasts[-1].at
    known = knowable(kept, story.rows)
    for past in story.pasts:
        assert shown(house.view(past.at)) == known(past.at)
    assert shown(house.engine.view(story.bucket)) == story.pasts[-1].shown
    assert house.view(story.pasts[-1].at).completeness.level == "verified"
    again = [house.engine.open_ref(view.reference) for view in before]
    assert [view.digest() for view in again] == digests
    repeated = await run_reconcile(house.engine, story.bucket, page_size=page_size)
    assert (repeated.stored, repeated.found) == (0, {})


class _Entry(NamedTuple):
    """A version or a marker, as far as it is known."""

    created: bool
    version_id: str
    time: int
    sequencer: str | None
    place: int | None
    """In the listing; the newest is 0."""
    etag: str | None
    size: int | None


def knowable(events: Sequence[Event], rows: dict[str, list[Listed]]) -> Callable[[int], Shown]:
    """What a view can show of instants before a complete listing: SEMANTICS.md on plain dictionaries,
    for versions with ids of their own.

    An event tells an entry's time; a listing tells it too early, but not before what lies beneath. What was
    made and lost, and is no more, was never heard of; a removal that was lost is dated when it was noticed,
    which is after every instant asked for here.
    """
    entries: defaultdict[str, dict[str, _Entry]] = defaultdict(dict)
    removed: dict[tuple[str, str], int] = {}
    for event in events:
        if event.name == "ObjectRemoved:Delete":
            removed[event.key, event.version_id] = event.time
        else:
            created = event.name.startswith("ObjectCreated:")
            entries[event.key][event.version_id] = _Entry(
                created, event.version_id, event.time, event.sequencer, None, event.etag, event.size
            )
    for key, listing in rows.items():
        beneath = 0
        for place, row in reversed(list(enumerate(listing))):
            told = entries[key].get(row.version_id)
            if told is None:
                time = max(row.last_modified, beneath)
                told = _Entry(row.created, row.version_id, time, None, None, row.etag, row.size)
            entries[key][row.version_id] = told._replace(place=place)
            beneath = max(beneath, told.time)

    def at(instant: int) -> Shown:
        tops = {}
        for key, known in entries.items():
            live = [
                entry
                for entry in known.values()
                if entry.time <= instant and removed.get((key, entry.version_id), instant + 1) > instant
            ]
            if (top := _latest(live)) is not None and top.created:
                tops[key] = (top.version_id, top.etag, top.size)
        return tops

    return at


def _latest(live: Sequence[_Entry]) -> _Entry | None:
    """The latest with a sequencer and the latest without, and of the two the later."""
    told = max(
        (e for e in live if e.sequencer), key=lambda e: (e.sequencer or "").ljust(16, "0"), default=None
    )
    seen = min((e for e in live if not e.sequencer), key=lambda e: e.place or 0, default=None)
    if told is None or seen is None:
        return told or seen
    if told.place is not None and seen.place is not None:
        return told if told.place < seen.place else seen
    return told if told.time >= seen.time else seen


def test_the_recorder_imports_nothing_of_what_it_is_to_judge() -> None:
    tree = ast.parse(Path(recorder.__file__).read_text())
    imported = [
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    ours = {"snapengine", "ingest_worker", "readers", "metadata_extractors", "tests", "."}
    assert imported
    assert not {name.partition(".")[0] or "." for name in imported} & ours
