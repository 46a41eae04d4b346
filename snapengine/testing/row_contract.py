"""What every store must do with rows of metadata; a backend joins by its fixture, and overrides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from snapengine.errors import BucketNotEnabled, LogDamaged
from snapengine.log import EpochCutter, RowWriter, StreamWriter
from snapengine.metadata_codec import decode, encode
from snapengine.metadata_rows import fold_rows, metadata_log, row_schema
from snapengine.model import Epoch, LogEntry
from snapengine.testing.store_contract import BUCKET, Backend, T, clock, config, observation

EXTRACTOR = "scans.v1"
SCHEMA = row_schema(
    pa.schema(
        [
            pa.field("Modality", pa.string()),
            pa.field("PatientName", pa.string(), metadata={"identifying": "true"}),
            pa.field("Spacing", pa.list_(pa.float64()), metadata={"unit": "mm", "identifying": "false"}),
        ]
    )
)
"""Of an extractor with an identifying column."""


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A row of its own."""
    base = {
        "key": f"k{number:04d}",
        "version_id": f"v{number}",
        "etag": "e",
        "sequencer": f"{number:016X}",
        "extractor_version": "1",
        "outcome": "ok",
        "extracted_at": T + number,
        "Modality": "CT",
        "PatientName": f"name {number}",
        "Spacing": [0.5, 0.5],
    }
    return {**base, **changes}


def row_table(rows: Sequence[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Rows as a table by a full schema."""
    return pa.Table.from_pylist([{name: r.get(name) for name in schema.names} for r in rows], schema=schema)


def row_entry(number: int, table: pa.Table, nonce: str = "n", stream: int = 0) -> LogEntry:
    """An entry of the log of rows."""
    packed = encode(EXTRACTOR, table)
    return LogEntry(
        metadata_log(BUCKET), stream, number, nonce, T, packed.rows, packed.plain, form="metadata"
    )


def identified(backend: Backend, epoch: Epoch) -> pa.Table:
    """All columns of the rows that an epoch covers, folded."""
    tables = [SCHEMA.empty_table()]
    for stream, last in epoch.rows.items():
        nonces = {e.number: e.nonce for e in backend.store.entries(metadata_log(BUCKET), stream, 0, last)}
        parts = [
            payload
            for number, nonce, payload in backend.store.identifying(BUCKET, stream, 0, last)
            if nonces[number] == nonce
        ]
        assert len(parts) == last
        tables += [decode(payload).table for payload in parts]
    return fold_rows(pa.concat_tables(tables))


class RowContract:
    """What every store must do with rows; the sentences are the contract."""

    async def test_an_entry_of_rows_is_had_back_apart_from_the_observations(self, backend: Backend) -> None:
        put = row_entry(1, row_table([row(1), row(2)]))
        assert await backend.log.put_entry(put)
        assert await backend.log.get_entry(metadata_log(BUCKET), 0, 1) == put
        assert list(backend.store.entries(metadata_log(BUCKET), 0, 0, 1)) == [put]
        assert await backend.log.head(BUCKET, 0) == 0
        assert list(backend.store.identifying(BUCKET, 0, 0, 9)) == []

    async def test_identifying_parts_are_had_back_by_number_each_with_its_nonce(
        self, backend: Backend
    ) -> None:
        wanted = [(n, nonce, f"{n}{nonce}".encode()) for n in range(1, 131) for nonce in ("a", "b")]
        for number, nonce, payload in reversed(wanted):
            await backend.log.put_identifying(BUCKET, 1, number, nonce, payload)
        await backend.log.put_identifying(BUCKET, 0, 5, "c", b"another stream")
        await backend.log.put_identifying("other", 1, 5, "c", b"another bucket")
        assert list(backend.store.identifying(BUCKET, 1, 0, 130)) == wanted
        assert list(backend.store.identifying(BUCKET, 1, 4, 6)) == wanted[8:12]
        assert list(backend.store.identifying(BUCKET, 1, 6, 6)) == []
        assert await backend.log.get_identifying(BUCKET, 1, 5, "b") == b"5b"
        assert await backend.log.get_identifying(BUCKET, 1, 5, "c") is None

    async def test_an_identifying_part_is_replaced_on_request_alone(self, backend: Backend) -> None:
        await backend.log.put_identifying(BUCKET, 0, 1, "n", b"first")
        await backend.log.put_identifying(BUCKET, 0, 1, "n", b"late")
        assert list(backend.store.identifying(BUCKET, 0, 0, 1)) == [(1, "n", b"first")]
        await backend.log.put_identifying(BUCKET, 0, 1, "n", b"erased", replacing=True)
        assert list(backend.store.identifying(BUCKET, 0, 0, 1)) == [(1, "n", b"erased")]

    async def test_deleting_an_identifying_part_deletes_that_one_and_may_be_repeated(
        self, backend: Backend
    ) -> None:
        await backend.log.put_identifying(BUCKET, 0, 1, "n", b"one")
        await backend.log.put_identifying(BUCKET, 0, 1, "m", b"other")
        for _ in range(2):
            await backend.log.delete_identifying(BUCKET, 0, 1, "n")
        assert list(backend.store.identifying(BUCKET, 0, 0, 1)) == [(1, "m", b"other")]

    async def test_an_entry_of_rows_is_rewritten_and_stays_the_entry_it_was(self, backend: Backend) -> None:
        put = row_entry(1, row_table([row(1), row(2)]))
        await backend.log.put_entry(put)
        await backend.log.mark_done(put.bucket, 0, 1)
        fewer = row_entry(1, row_table([row(2)]))
        for _ in range(2):
            assert await backend.log.rewrite_entry(fewer)
        assert list(backend.store.entries(put.bucket, 0, 0, 1)) == [
            replace(put, payload=fewer.payload, count=1)
        ]
        assert await backend.log.done(put.bucket, 0, 0, 1) == {1}

    async def test_nothing_but_that_entry_of_rows_is_ever_rewritten(self, backend: Backend) -> None:
        put = row_entry(1, row_table([row(1)]))
        await backend.log.put_entry(put)
        with pytest.raises(LogDamaged, match="Entry 1 of stream 0 of scans#metadata"):
            await backend.log.rewrite_entry(replace(put, nonce="another"))
        with pytest.raises(LogDamaged, match="Entry 2"):
            await backend.log.rewrite_entry(replace(put, number=2))
        assert await backend.log.get_entry(put.bucket, 0, 1) == put
        assert await backend.log.head(put.bucket, 0) == 1
        (place,) = await StreamWriter(backend.log, "w", clock).append(BUCKET, [observation(1)])
        kept = await backend.log.get_entry(BUCKET, place.stream, 1)
        assert kept is not None
        with pytest.raises(LogDamaged):
            await backend.log.rewrite_entry(replace(kept, payload=b""))

    async def test_a_stub_is_not_rewritten_into_an_entry_again(self, backend: Backend) -> None:
        put = row_entry(1, row_table([row(1)]))
        await backend.log.put_entry(put)
        await backend.log.stub_entry(put.bucket, 0, 1)
        assert not await backend.log.rewrite_entry(put)
        (kept,) = backend.store.entries(put.bucket, 0, 0, 1)
        assert (kept.form, kept.payload) == ("stub", b"")

    async def test_an_epoch_keeps_what_it_covers_of_rows(self, backend: Backend) -> None:
        epochs = [Epoch(1, T, {0: 1}, rows={}), Epoch(2, T + 1, {0: 1}, rows={0: 7, 11: 2})]
        for epoch in epochs:
            assert await backend.log.put_epoch(BUCKET, epoch)
        assert list(backend.store.epochs(BUCKET, 1, 2)) == epochs
        assert await backend.log.newest_epoch(BUCKET) == epochs[1]

    async def test_appended_rows_are_covered_by_the_next_epoch_with_all_their_columns(
        self, backend: Backend
    ) -> None:
        table = row_table([row(i) for i in range(700)])
        await RowWriter(backend.log, "w", clock).append(BUCKET, EXTRACTOR, table.slice(0, 600))
        first = await EpochCutter(backend.log, BUCKET, clock).cut()
        await RowWriter(backend.log, "w2", clock).append(BUCKET, EXTRACTOR, table.slice(600))
        second = await EpochCutter(backend.log, BUCKET, clock).cut()
        assert identified(backend, first).equals(table.slice(0, 600))
        assert identified(backend, second).equals(table)
        assert await EpochCutter(backend.log, BUCKET, clock).cut() == second

    async def test_the_plain_entry_holds_no_identifying_value(self, backend: Backend) -> None:
        (place,) = await RowWriter(backend.log, "w", clock).append(BUCKET, EXTRACTOR, row_table([row(1)]))
        (kept,) = backend.store.entries(metadata_log(BUCKET), place.stream, 0, place.number)
        found = decode(kept.payload)
        assert "PatientName" not in found.table.schema.names
        assert found.schema.equals(SCHEMA, check_metadata=True)
        assert (kept.form, kept.count, place.bucket) == ("metadata", 1, metadata_log(BUCKET))

    async def test_writers_of_rows_on_one_stream_lose_nothing(self, backend: Backend) -> None:
        writers = [RowWriter(backend.log, f"w{i}", clock) for i in range(5)]
        await asyncio.gather(
            *(
                w.append(BUCKET, EXTRACTOR, row_table([row(10 * i + j)]))
                for j in range(4)
                for i, w in enumerate(writers)
            )
        )
        epoch = await EpochCutter(backend.log, BUCKET, clock).cut()
        wanted = sorted(10 * i + j for i in range(5) for j in range(4))
        assert identified(backend, epoch).equals(row_table([row(number) for number in wanted]))

    async def test_rows_whose_writer_died_before_done_are_covered_by_the_next_cutter(
        self, backend: Backend
    ) -> None:
        table = row_table([row(1)])
        put = row_entry(1, table)
        await backend.log.put_identifying(
            BUCKET, 0, 1, put.nonce, encode(EXTRACTOR, table).identifying or b""
        )
        await backend.log.put_entry(put)
        cutter = EpochCutter(backend.log, BUCKET, clock)
        assert (await cutter.cut(patient=True)).rows == {}
        epoch = await cutter.cut(patient=True)
        assert epoch.rows == {0: 1}
        assert identified(backend, epoch).equals(table)

    async def test_a_bucket_that_is_not_enabled_takes_no_rows(self, backend: Backend) -> None:
        with pytest.raises(BucketNotEnabled, match="snapengine enable-bucket other"):
            await RowWriter(backend.log, "w", clock).append("other", EXTRACTOR, row_table([row(1)]))

    def test_what_is_extracted_and_by_which_queue_is_kept_with_the_bucket(self, backend: Backend) -> None:
        full = config(
            extractors=("dicom", "object"),
            extractor_columns={"dicom": ("SliceLocation", "00091001"), "object": ("tag:site",)},
            extract_queue_url="https://q",
            extract_queue_arn="arn:q",
            extract_dead_letter_queue_url="https://d",
        )
        backend.store.put_config(full)
        assert backend.store.config(BUCKET) == full
        assert backend.store.buckets() == [full]
