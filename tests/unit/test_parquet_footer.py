"""Parquet footers: read from the end, and nothing of the data."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metadata_extractors.base import Extraction, ObjectFacts
from metadata_extractors.parquet_footer import ParquetExtractor
from metadata_extractors.ranged import RangedReader, extract_from


def parquet(rows: int = 1000, columns: int = 2, group: int = 500) -> bytes:
    buffer = io.BytesIO()
    names = [f"column {place}" for place in range(columns)]
    table = pa.table({name: pa.array(range(rows), pa.int64()) for name in names})
    pq.write_table(
        table.replace_schema_metadata({"who": "Doe"}), buffer, row_group_size=group, compression="none"
    )
    return buffer.getvalue()


def extract(data: bytes, max_bytes: int = 16 * 2**20) -> tuple[Extraction, list[tuple[int, int]]]:
    asked = []

    def read(start: int, end: int) -> bytes:
        asked.append((start, end))
        return data[start:end]

    return extract_from(ParquetExtractor(), RangedReader(read, len(data), "t", max_bytes=max_bytes)), asked


def test_a_footer_tells_rows_columns_schema_and_writer() -> None:
    data = parquet()
    found, _ = extract(data)
    oracle = pq.read_metadata(io.BytesIO(data))
    assert (found.outcome, found.problems) == ("ok", ())
    values = dict(found.values)
    assert json.loads(str(values.pop("SchemaJson"))) == [
        {"path": f"column {i}", "physical": "INT64", "logical": None, "nullable": True, "repeated": False}
        for i in range(2)
    ]
    assert json.loads(str(values.pop("KeyValueJson"))) == {"who": "Doe"}
    assert values == {
        "RowCount": 1000, "ColumnCount": 2, "RowGroupCount": 2, "FormatVersion": oracle.format_version,
        "CreatedBy": oracle.created_by, "FooterSize": oracle.serialized_size,
    }  # fmt: skip


def test_of_a_large_file_four_bytes_and_the_end_are_read() -> None:
    data = parquet(200_000, group=100_000)
    found, asked = extract(data)
    assert found.values["RowCount"] == 200_000
    assert asked == [(0, 4), (len(data) - 65_536, len(data))]


def test_a_footer_longer_than_the_first_range_is_read_whole() -> None:
    data = parquet(1, 3000)
    found, asked = extract(data)
    assert (found.outcome, found.values["ColumnCount"]) == ("ok", 3000)
    assert len(asked) == 3
    assert sum(end - start for start, end in asked) <= len(data)


def test_a_file_cut_anywhere_gives_no_value() -> None:
    data = parquet()
    for length in range(4, len(data), 97):
        found, _ = extract(data[:length])
        assert (found.outcome, found.values) == ("failed", {})


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (b"PARE", "encrypted"),
        (b"\xff\xff\xff\x7fPAR1", "claims more bytes"),
        (b"\x10\0\0\0PAR1", "damaged"),
        (b"", "does not end as Parquet does"),
    ],
)
def test_a_bad_end_is_a_failure_that_says_why(end: bytes, says: str) -> None:
    found, _ = extract(b"PAR1" + b"\xff" * 100 + end)
    assert found.outcome == "failed"
    assert says in found.problems[0]


def test_a_footer_longer_than_the_budget_is_not_fetched() -> None:
    found, asked = extract(parquet(1, 3000), max_bytes=70_000)
    assert (found.outcome, found.problems) == ("failed", ("the footer is longer than may be read",))
    assert len(asked) == 2


def test_other_objects_do_not_match() -> None:
    assert extract(b"PK\x03\x04 no Parquet")[0].outcome == "not_matched"


def test_an_object_of_unknown_size_is_asked_for_it() -> None:
    data = parquet(100_000)
    told = RangedReader(lambda start, end: data[start:end], None, facts=lambda: ObjectFacts(len(data), 0))
    assert extract_from(ParquetExtractor(), told).values["RowCount"] == 100_000
    untold = RangedReader(lambda start, end: data[start:end], None)
    assert extract_from(ParquetExtractor(), untold).outcome == "failed"
