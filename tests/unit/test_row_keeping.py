"""Rows on their way to the log: in batches, patiently, and one that is refused keeps no other from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from metadata_extractors.base import Extraction, column
from metadata_extractors.extracting import MAX_ROW_BYTES, Row, row_of
from metadata_extractors.limits import Face
from metadata_extractors.row_keeping import RowKeeper, keyless
from snapengine.errors import BadData, BucketNotEnabled, PermissionMissing, Unreachable, UsageError
from snapengine.extraction_tasks import Task
from snapengine.log import Committed
from snapengine.metadata_rows import row_schema
from tests.worker_fakes import Lines, until

FACE = Face("1", pa.schema([column("Text", pa.string(), "a test", identifying=True)]))
SECRET = "Doe^Jane"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> Iterator[float]:
        while True:
            yield 0.01

    monkeypatch.setattr("metadata_extractors.row_keeping.delays", pauses)


class Log:
    """Rows in memory. `faults` are raised by the next calls; keys that are `bad` are refused."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.bad: set[str] = set()
        self.tables: list[tuple[str, str, pa.Table]] = []

    async def append(self, bucket: str, extractor: str, table: pa.Table) -> list[Committed]:
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        if bad := self.bad & set(table["key"].to_pylist()):
            raise BadData(f"A row of {min(bad)!r} takes too much.")
        self.tables.append((bucket, extractor, table))
        return [Committed(f"{bucket}#metadata", 0, len(self.tables))]

    @property
    def keys(self) -> list[str]:
        return sorted(key for _, _, table in self.tables for key in table["key"].to_pylist())


class Counts:
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.rows: list[str] = []

    def failed(self, step: str) -> None:
        self.steps.append(step)

    def kept(self, bucket: str, rows: Sequence[Row]) -> None:
        self.rows += [row.batch.column("key")[0].as_py() for row in rows]


class Place:
    """A log, counts, the entries that were to be covered, and a keeper of them."""

    def __init__(self, *faults: Exception, patience: float = 10, **options: Any) -> None:
        self.log = Log(*faults)
        self.counts = Counts()
        self.covered: list[Committed] = []
        self.cover_faults: list[Exception] = []
        given: dict[str, Any] = {"max_age": 0.02} | options
        self.keeper = RowKeeper(self.log, self.cover, self.counts, patience=patience, **given)

    async def cover(self, places: Sequence[Committed]) -> None:
        if self.cover_faults:
            raise self.cover_faults.pop(0)
        self.covered += places


def row(key: str, text: str = "x", extractor: str = "e") -> Row:
    task = Task("scans", key, "v", 1, "etag", "01", 0)
    return row_of(task, extractor, FACE, Extraction("ok", {"Text": text}), 0)


async def test_rows_wait_for_company_and_are_kept_once_an_epoch_covers_them() -> None:
    place = Place()
    async with place.keeper as keeper:
        await asyncio.gather(*(keeper.keep("scans", row(f"k{number}")) for number in range(5)))
        assert len(place.log.tables) == 1
        assert place.covered == [Committed("scans#metadata", 0, 1)]
    assert place.log.tables[0][2].schema == row_schema(FACE.schema)
    assert place.counts.rows == place.log.keys


async def test_a_batch_is_of_one_bucket_and_one_extractor_and_no_larger_than_it_may_be() -> None:
    place = Place(max_rows=2, max_age=60)
    async with place.keeper as keeper:
        keeping = [asyncio.create_task(keeper.keep("a", row(f"k{number}"))) for number in range(4)]
        keeping += [asyncio.create_task(keeper.keep("a", row(key, extractor="f"))) for key in ("k5", "k6")]
        keeping += [asyncio.create_task(keeper.keep("b", row(key))) for key in ("k7", "k8")]
        await asyncio.gather(*keeping)
    assert sorted((b, e, t.num_rows) for b, e, t in place.log.tables) == [
        ("a", "e", 2),
        ("a", "e", 2),
        ("a", "f", 2),
        ("b", "e", 2),
    ]


async def test_large_rows_are_committed_sooner_and_hold_up_what_would_come_next() -> None:
    place = Place(max_bytes=10_000, max_held=20_000, max_age=60)
    async with place.keeper as keeper:
        big = asyncio.create_task(keeper.keep("scans", row("big", "x" * 30_000)))
        await asyncio.sleep(0)
        room = asyncio.create_task(keeper.room())
        await asyncio.sleep(0)
        assert not room.done()
        await asyncio.gather(big, room)
    assert place.log.keys == ["big"]


async def test_an_outage_is_waited_out_and_told_as_trouble() -> None:
    place = Place(*(Unreachable("the table does not answer") for _ in range(3)))
    async with place.keeper as keeper:
        keeping = asyncio.create_task(keeper.keep("scans", row("k")))
        await until(lambda: "scans" in keeper.trouble)
        await keeping
        assert keeper.trouble == {}
    assert place.log.keys == ["k"]
    assert place.counts.steps == ["commit"] * 3


async def test_beyond_patience_whoever_waits_is_told() -> None:
    place = Place(*(Unreachable("no answer") for _ in range(100)), patience=0.05)
    async with place.keeper as keeper:
        found = await asyncio.gather(
            *(keeper.keep("scans", row(key)) for key in "ab"), return_exceptions=True
        )
    assert [type(each) for each in found] == [Unreachable, Unreachable]
    assert place.log.keys == []


async def test_a_bucket_that_is_no_more_is_not_waited_for() -> None:
    place = Place(BucketNotEnabled("gone"))
    async with place.keeper as keeper:
        with pytest.raises(BucketNotEnabled):
            await keeper.keep("scans", row("k"))


async def test_one_row_that_the_store_refuses_keeps_no_other_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = Lines(caplog)
    place = Place()
    bad = f"{SECRET}'s scan"
    place.log.bad = {bad}
    keys = [*(f"k{number}" for number in range(6)), bad]
    async with place.keeper as keeper:
        found = await asyncio.gather(
            *(keeper.keep("scans", row(key)) for key in keys), return_exceptions=True
        )
    assert [type(each) for each in found] == [type(None)] * 6 + [BadData]
    assert place.log.keys == keys[:-1]
    assert lines.of("batch-refused")
    assert SECRET not in lines.text


async def test_where_no_epoch_can_be_cut_rows_are_not_kept_and_not_appended_again() -> None:
    place = Place()
    place.cover_faults = [BadData("damaged")]
    async with place.keeper as keeper:
        found = await asyncio.gather(
            *(keeper.keep("scans", row(key)) for key in "ab"), return_exceptions=True
        )
    assert [type(each) for each in found] == [BadData, BadData]
    assert len(place.log.tables) == 1


async def test_what_is_held_at_the_end_is_committed_and_after_an_error_dropped() -> None:
    place = Place(max_age=60)
    async with place.keeper as keeper:
        keeping = asyncio.create_task(keeper.keep("scans", row("k")))
        await asyncio.sleep(0)
    await keeping
    assert place.log.keys == ["k"]
    place = Place(max_age=60)
    waiting: list[asyncio.Task[None]] = []

    async def fail() -> None:
        async with place.keeper as keeper:
            waiting.append(asyncio.create_task(keeper.keep("scans", row("k"))))
            await asyncio.sleep(0)
            raise RuntimeError

    with pytest.raises(ExceptionGroup):
        await fail()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert place.log.keys == []


def test_a_row_too_large_for_memory_is_one_that_failed() -> None:
    large = row("k", "x" * (MAX_ROW_BYTES + 1))
    (told,) = large.batch.to_pylist()
    assert (large.outcome, told["outcome"], told["Text"]) == ("failed", "failed", None)
    assert "a row may take" in told["error"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionMissing(f"AWS denied s3://b/{SECRET} version v. Allow it."), "AWS denied …"),
        (BadData(f"A row of {SECRET!r} is bad."), "A row of '…' is bad."),
        (UsageError("There is no extractor 'dicon'."), "There is no extractor 'dicon'."),
        (ValueError(f"in '{SECRET}'"), "ValueError: in '…'"),
    ],
)
def test_why_something_failed_is_told_without_any_objects_key(error: Exception, reason: str) -> None:
    assert keyless(error)["reason"] == reason
