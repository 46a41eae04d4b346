"""Which extractors a bucket wants, and how long an object is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from metadata_extractors.base import Extraction, column
from metadata_extractors.extract_sink import ExtractSink, Forgetting, Wanted, Work
from metadata_extractors.extracting import Extractors, Row, row_of
from metadata_extractors.limits import Face, Limits
from metadata_extractors.row_keeping import RowKeeper
from snapengine.errors import BucketNotEnabled, PermissionMissing, TryAgain, Unreachable, UsageError
from snapengine.extraction_tasks import Task
from snapengine.log import Committed
from snapengine.model import BucketConfig
from snapengine.stores.sqlite_database import Database
from snapengine.stores.sqlite_log import SQLiteLog
from snapengine.workers.sqs import Message

FACE = Face("1", pa.schema([column("Text", pa.string(), "a test")]))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> Iterator[float]:
        while True:
            yield 0.01

    for module in ("extract_sink", "row_keeping"):
        monkeypatch.setattr(f"metadata_extractors.{module}.delays", pauses)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class FakeExtractors:
    """Extractors of which `faults` are raised, by key, again and again; `missing` ones are not installed."""

    def __init__(self) -> None:
        self.faults: dict[str, Exception] = {}
        self.missing: set[str] = set()
        self.untried: set[str] = set()
        self.asked: list[tuple[str, ...]] = []
        self.keys: list[str] = []

    def faces(self, names: Sequence[str]) -> dict[str, Face]:
        self.asked.append(tuple(names))
        if missing := self.missing & set(names):
            raise UsageError(f"There is no extractor {min(missing)!r}.")
        return dict.fromkeys(names, FACE)

    def rows(self, task: Task, names: Sequence[str]) -> list[Row]:
        self.keys.append(task.key)
        if task.key in self.faults:
            raise self.faults[task.key]
        return [row_of(task, name, FACE, Extraction("ok", {"Text": "x"}), 0) for name in names]

    def pack(
        self, tasks: Sequence[Task], names: Sequence[str], ending: Callable[[], bool]
    ) -> list[list[Row] | Exception | None]:
        found: list[list[Row] | Exception | None] = []
        for one in tasks:
            try:
                found.append(None if one.key in self.untried else self.rows(one, names))
            except Exception as error:  # noqa: BLE001  # as it is told
                found.append(error)
        return found


class Log:
    def __init__(self) -> None:
        self.keys: list[str] = []

    async def append(self, bucket: str, extractor: str, table: pa.Table) -> list[Committed]:
        self.keys += table["key"].to_pylist()
        return []


class Counts:
    def failed(self, step: str) -> None:
        pass

    def kept(self, bucket: str, rows: Sequence[Row]) -> None:
        pass

    def extracted(self, seconds: float) -> None:
        pass


class Place:
    """Work over fakes."""

    def __init__(self, pool: ThreadPoolExecutor, **options: Any) -> None:
        self.extractors = FakeExtractors()
        extractors: Any = self.extractors
        self.log = Log()
        self.configs: dict[str, BucketConfig] = {}
        self.want("scans", "dicom")
        self.keeper = RowKeeper(self.log, self._covered, Counts(), patience=1, max_age=0.01)
        self.wanted = Wanted(self.configs.get, extractors, pool)
        given: dict[str, Any] = {"patience": 60.0} | options
        self.work = Work(
            extractors,
            pool,
            2,
            self.wanted,
            Forgetting(SQLiteLog(Database(":memory:"))),
            self.keeper,
            Counts(),
            **given,
        )
        self.settled: list[str] = []
        self.left: list[str] = []

    def want(self, bucket: str, *names: str) -> None:
        self.configs[bucket] = BucketConfig(bucket, "us-east-1", "1", extractors=names)

    async def _covered(self, _places: Sequence[Committed]) -> None:
        pass

    async def take(self, *messages: Sequence[Task]) -> None:
        def settle(some: Sequence[Message]) -> None:
            self.settled += [message.id for message in some]

        def leave(some: Sequence[Message]) -> None:
            self.left += [message.id for message in some]

        async with self.keeper, ExtractSink(self.work, settle, leave) as sink:
            for number, tasks in enumerate(messages):
                assert sink.take(Message(f"m{number}"), tasks)


def task(key: str, bucket: str = "scans") -> Task:
    return Task(bucket, key, "v", 1, "etag", "01", 0)


async def test_a_message_is_settled_when_all_its_rows_are_kept(pool: ThreadPoolExecutor) -> None:
    place = Place(pool)
    place.want("scans", "dicom", "object")
    await place.take([task("a"), task("b")], [task("c")])
    assert (sorted(place.settled), place.left) == (["m0", "m1"], [])
    assert sorted(place.log.keys) == ["a", "a", "b", "b", "c", "c"]


async def test_an_object_that_cannot_be_asked_for_is_left_once_others_could_be(
    pool: ThreadPoolExecutor,
) -> None:
    place = Place(pool, forbearance=0.1)
    place.extractors.faults = {"b": PermissionMissing("denied")}
    async with asyncio.timeout(10):
        await place.take([task("b"), task("a")], [task("c")])
    assert (place.settled, place.left) == (["m1"], ["m0"])
    assert sorted(place.log.keys) == ["a", "c"]
    assert place.extractors.keys.count("b") > 2


async def test_where_nothing_can_be_read_it_is_an_outage_and_is_waited_out(pool: ThreadPoolExecutor) -> None:
    place = Place(pool, forbearance=0.05)
    place.extractors.faults = {"a": Unreachable("no answer"), "b": Unreachable("no answer")}

    async def mend() -> None:
        await asyncio.sleep(0.5)
        assert "scans (reading)" in place.work.trouble
        place.extractors.faults.clear()

    await asyncio.gather(place.take([task("a")], [task("b")]), mend())
    assert (sorted(place.settled), place.left) == (["m0", "m1"], [])
    assert place.work.trouble == {}


async def test_beyond_patience_the_message_is_left(pool: ThreadPoolExecutor) -> None:
    place = Place(pool, patience=0.1)
    place.extractors.faults = {"a": Unreachable("no answer")}
    await place.take([task("a"), task("b")])
    assert (place.settled, place.left, place.log.keys) == ([], ["m0"], ["b"])


async def test_an_object_that_was_not_tried_in_company_is_tried_by_itself(pool: ThreadPoolExecutor) -> None:
    place = Place(pool)
    place.extractors.untried = {"b"}
    await place.take([task("a"), task("b")])
    assert (place.settled, sorted(place.log.keys)) == (["m0"], ["a", "b"])


async def test_when_it_is_ending_nothing_more_is_begun(pool: ThreadPoolExecutor) -> None:
    place = Place(pool)
    place.extractors.faults = {"a": Unreachable("no answer")}

    async def end() -> None:
        await asyncio.sleep(0.1)
        place.work.ending.set()

    async with asyncio.timeout(5):
        await asyncio.gather(place.take([task("a")]), end())
    assert place.left == ["m0"]
    assert [type(each) for each in await place.work.message([task("b")])] == [TryAgain]


async def test_that_a_bucket_wants_nothing_is_never_taken_from_memory(pool: ThreadPoolExecutor) -> None:
    place = Place(pool)
    place.want("scans")
    assert await place.wanted.of("scans") == ()
    place.want("scans", "dicom")
    assert await place.wanted.of("scans") == ("dicom",)
    place.configs.clear()
    assert await place.wanted.of("scans") == ("dicom",)  # for two seconds
    with pytest.raises(BucketNotEnabled):
        await place.wanted.of("other")


async def test_extractors_are_started_once_and_those_that_are_missing_not_tried_each_time(
    pool: ThreadPoolExecutor,
) -> None:
    place = Place(pool)
    place.extractors.missing = {"none"}
    place.want("bad", "none")
    for _ in range(3):
        assert await place.wanted.of("scans") == ("dicom",)
        with pytest.raises(UsageError, match="'none'"):
            await place.wanted.of("bad")
    assert sorted(place.extractors.asked) == [("dicom",), ("none",)]
    await place.take([task("a", "bad")], [task("b")])
    assert (place.settled, place.left) == (["m1"], ["m0"])


class Bytes:
    """A source of one object."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[int, int | None]] = []

    def read(self, bucket: str, version: Any, start: int, end: int | None) -> bytes:
        self.reads.append((start, end))
        return self.data[start:end]

    def facts(self, bucket: str, version: Any) -> Any:
        raise Unreachable("no answer")


def test_several_extractors_share_what_was_read() -> None:
    source = Bytes(b"plain text " * 20_000)
    with Extractors(source, lambda: 7, 1) as extractors:
        rows = extractors.rows(task("a")._replace(size=len(source.data)), ["dicom", "images", "nifti"])
    assert [row.outcome for row in rows] == ["not_matched"] * 3
    assert source.reads == [(0, 65_536)]
    assert rows[0].batch.to_pylist()[0]["extractor_version"]


def test_an_extractor_that_cannot_be_started_replaces_none_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Bytes(b"text")
    with Extractors(source, lambda: 7, 1, Limits()) as extractors:
        assert extractors.rows(task("a"), ["dicom"])[0].outcome == "not_matched"
        with pytest.raises(UsageError):
            extractors.rows(task("a"), ["dicom", "none-such"])
        assert extractors.rows(task("a"), ["dicom"])[0].outcome == "not_matched"
        assert extractors.started == 1


def test_what_s3_does_not_answer_is_no_outcome() -> None:
    with Extractors(Bytes(b""), lambda: 7, 1) as extractors:
        with pytest.raises(Unreachable):
            extractors.rows(task("a"), ["object"])
        assert extractors.rows(task("a"), ["dicom"])[0].outcome == "not_matched"


def test_after_the_end_nothing_is_extracted() -> None:
    with Extractors(Bytes(b""), lambda: 7, 1) as extractors:
        extractors.rows(task("a"), ["dicom"])
        extractors.end()
        with pytest.raises(TryAgain):
            extractors.rows(task("a"), ["dicom"])
