"""Files of the archive as they are written: their bytes, their description, and nothing left behind."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snapengine.archive.manifest import FORMAT_VERSION
from snapengine.archive.roots import Root, open_root
from snapengine.archive.schemas import ROW_GROUP_ROWS
from snapengine.archive.writing import FileWriter
from snapengine.bulkfold import VIEW_SCHEMA
from tests.archive_files import SEGMENT, SORT, image_keys, no_client, observed, put_rows

PATH = "b/observations/epochs=1_2/regular-0a-0.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return open_root(f"file://{tmp_path}/root", no_client)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


def test_a_file_is_described_as_it_is(root: Root, tmp_path: Path) -> None:
    table = observed(image_keys(1000))
    file = put_rows(root, PATH, table)
    data = (tmp_path / "root" / PATH).read_bytes()
    assert (file.path, file.role, file.rows) == (PATH, "regular", 1000)
    assert file.size == len(data)
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert file.footer_size == int.from_bytes(data[-8:-4], "little") + 8
    assert file.footer_sha256 == hashlib.sha256(data[-file.footer_size :]).hexdigest()
    times = table["event_time"].cast(pa.int64()).to_pylist()
    assert (file.min_key, file.max_key) == (image_keys(1000)[0], image_keys(1000)[-1])
    assert (file.min_time, file.max_time, file.max_page) == (min(times), max(times), 0)


def test_the_greatest_page_time_is_that_of_any_row(root: Root) -> None:
    table = observed(["a", "b", "c"])
    pages = pa.array([None, 1_763_000_000_123, 1_763_000_000_001], SEGMENT.field("page_time").type)
    table = table.set_column(table.column_names.index("page_time"), "page_time", pages)
    assert put_rows(root, PATH, table).max_page == 1_763_000_000_123


def test_pyarrow_reads_back_the_same_rows(root: Root, tmp_path: Path) -> None:
    table = observed(image_keys(3000))
    put_rows(root, PATH, table)
    assert pq.read_table(tmp_path / "root" / PATH).equals(table)
    assert pq.ParquetFile(tmp_path / "root" / PATH, page_checksum_verification=True).read().equals(table)


def test_the_footer_names_format_and_order_and_pages_have_checksums(root: Root, tmp_path: Path) -> None:
    put_rows(root, PATH, observed(image_keys(10)))
    metadata = pq.read_metadata(tmp_path / "root" / PATH)
    assert metadata.metadata[b"snapengine.format"] == str(FORMAT_VERSION).encode()
    assert metadata.format_version == "2.6"
    group = metadata.row_group(0)
    names = [SEGMENT.names[column.column_index] for column in group.sorting_columns]
    assert tuple(names) == SORT
    for index in range(group.num_columns):
        assert group.column(index).compression == "ZSTD"
        assert group.column(index).is_stats_set


@pytest.mark.parametrize("chunk", [1, 50_000, ROW_GROUP_ROWS, 400_000])
def test_row_groups_are_full_whatever_the_tables_are(root: Root, tmp_path: Path, chunk: int) -> None:
    rows = 3 if chunk == 1 else 2 * ROW_GROUP_ROWS + 5000
    table = pa.table(
        {"key": [f"k{n:09d}" for n in range(rows)], "event_time": pa.array(range(rows), _millis())}
    )
    with FileWriter(root, PATH, "objects", table.schema, sort=("key",)) as writer:
        for start in range(0, rows, chunk):
            writer.write(table.slice(start, chunk))
            writer.write(table.slice(0, 0))
    metadata = pq.read_metadata(tmp_path / "root" / PATH)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == ([3] if chunk == 1 else [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 5000])
    assert pq.read_table(tmp_path / "root" / PATH).equals(table)
    assert (writer.rows, writer.file.rows) == (rows, rows)


def test_rows_of_a_view_and_of_epochs_are_written_too(root: Root, tmp_path: Path) -> None:
    view = pa.Table.from_pylist(
        [{"key": "a", "version_id": "v", "size": 1, "event_time": 5, "time": "event"}], schema=VIEW_SCHEMA
    )
    with FileWriter(root, "b/o.parquet", "objects", VIEW_SCHEMA, sort=("key",)) as writer:
        writer.write(view)
    assert (writer.file.min_key, writer.file.max_time, writer.file.max_page) == ("a", 5, 0)
    epochs = pa.table({"number": [1, 2], "time": pa.array([1, 2], _millis()), "cover": [[1, 2], [3]]})
    with FileWriter(root, "b/e.parquet", "epochs", epochs.schema, sort=("number",)) as writer:
        writer.write(epochs)
    assert (writer.file.min_key, writer.file.max_key, writer.file.min_time) == ("", "", 0)
    assert pq.read_table(tmp_path / "root/b/e.parquet").equals(epochs)


def test_a_file_without_rows_is_one(root: Root, tmp_path: Path) -> None:
    with FileWriter(root, PATH, "regular", SEGMENT, sort=SORT) as writer:
        pass
    assert (writer.file.rows, writer.file.min_key, writer.file.max_time) == (0, "", 0)
    assert pq.read_table(tmp_path / "root" / PATH).num_rows == 0


def test_rows_out_of_order_are_refused_within_a_table_and_between_two(root: Root) -> None:
    for tables in ([observed(["b", "a"])], [observed(["b"]), observed(["a"])]):
        with pytest.raises(ValueError, match="order of 'key'"):
            _write(root, tables)
    assert list(root.paths()) == []


def test_the_order_of_keys_is_that_of_their_utf8(root: Root) -> None:
    keys = ["Z", "a", "é", "\uffee", "\U0001f4be"]  # UTF-16 would put the last before the one before it
    file = put_rows(root, PATH, observed(keys))
    assert (file.min_key, file.max_key) == (keys[0], keys[-1])


def test_an_exception_leaves_nothing_behind(root: Root, local: Path) -> None:
    writer = _writer(root, local)
    with suppress(ZeroDivisionError), writer:
        writer.write(observed(["a"]))
        assert list(local.iterdir())
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="has not been closed"):
        _ = writer.file
    assert list(local.iterdir()) == []
    assert list(root.paths()) == []


def test_a_put_that_fails_leaves_nothing_behind(root: Root, local: Path) -> None:
    class Full:
        url = root.url

        def put(self, path: str, source: Path) -> str | None:
            raise OSError(28, "No space left on device")

    full: Any = Full()
    with pytest.raises(OSError, match="No space"), _writer(full, local) as writer:
        writer.write(observed(["a"]))
    assert list(local.iterdir()) == []


def test_a_schema_that_cannot_be_written_leaves_nothing_behind(root: Root, local: Path) -> None:
    with pytest.raises(pa.ArrowNotImplementedError):
        FileWriter(root, PATH, "epochs", pa.schema([("x", pa.struct([]))]), folder=local)
    assert list(local.iterdir()) == []


def test_an_abandoned_file_is_not_put(root: Root, local: Path) -> None:
    with _writer(root, local) as writer:
        writer.write(observed(["a"]))
        writer.abandon()
    assert list(local.iterdir()) == []
    assert list(root.paths()) == []


def test_closing_twice_puts_once(root: Root, local: Path) -> None:
    with _writer(root, local) as writer:
        writer.write(observed(["a"]))
        assert writer.close() is writer.close()
    assert list(local.iterdir()) == []


def test_tables_with_other_columns_are_refused(root: Root) -> None:
    with pytest.raises(KeyError), _writer(root) as writer:
        writer.write(pa.table({"key": ["a"]}))


def test_an_observation_costs_at_most_eighty_bytes_even_where_times_do_not_follow_keys(root: Root) -> None:
    keys = image_keys(60_000)
    random.Random(1).shuffle(keys)
    keys = sorted(keys[:20_000])  # a third of the images came in these epochs
    file = put_rows(root, PATH, observed(keys))
    assert file.size / file.rows <= 80


def _millis() -> pa.DataType:
    return pa.timestamp("ms", tz="UTC")


def _writer(root: Root, folder: Path | None = None) -> FileWriter:
    return FileWriter(root, PATH, "regular", SEGMENT, sort=SORT, folder=folder)


def _write(root: Root, tables: Iterable[pa.Table]) -> None:
    with _writer(root) as writer:
        for table in tables:
            writer.write(table)
