"""Files of many row groups: read in parts, by several threads, and by forked processes too."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snapengine.archive import reading, writing
from snapengine.archive.manifest import ArchiveFile
from snapengine.archive.reading import ArchiveReader
from snapengine.archive.writing import BLOCK
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing
from tests.archive_files import RootSite, image_keys, moto_s3, observed, put_rows, root_site

PATH = "b/observations/epochs=1_2/regular-0a-0.parquet"
GROUPS = 23
GROUP_ROWS = 4_000


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with moto_s3() as client:
        yield client


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return observed(image_keys((GROUPS - 1) * GROUP_ROWS + 7))


@pytest.fixture(params=["file", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path, s3: Any) -> RootSite:
    return root_site(request.param, tmp_path, s3)


@pytest.fixture(autouse=True, params=[2, 1], ids=["two decoders", "one"])
def _many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred kilobytes are read as many megabytes are, whatever machine this is."""
    monkeypatch.setattr(writing, "ROW_GROUP_ROWS", GROUP_ROWS)
    monkeypatch.setattr(reading, "SMALL", 0)
    monkeypatch.setattr(reading, "TINY", 0)
    monkeypatch.setattr(reading, "DECODERS", request.param)
    monkeypatch.setattr(reading, "_TOGETHER", 3)


@pytest.fixture(params=[False, True], ids=["own threads", "kept threads"])
def kept(request: pytest.FixtureRequest) -> Iterator[ThreadPoolExecutor | None]:
    """Threads that decode, as a view keeps them."""
    if not request.param:
        yield None
        return
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def file(site: RootSite, rows: pa.Table) -> ArchiveFile:
    return put_rows(site.root, PATH, rows)


@pytest.mark.parametrize("columns", [None, ["key"], ["size", "key"]])
@pytest.mark.parametrize("groups", [range(GROUPS), range(0, GROUPS, 2), range(5, 12), [3], [1, 21, 22], []])
def test_the_rows_are_those_of_the_row_groups_in_their_order(
    site: RootSite,
    file: ArchiveFile,
    rows: pa.Table,
    groups: Sequence[int],
    columns: list[str] | None,
    kept: ThreadPoolExecutor | None,
) -> None:
    expected = pa.concat_tables(
        [rows.slice(0, 0), *(rows.slice(n * GROUP_ROWS, GROUP_ROWS) for n in groups)]
    ).select(columns or rows.column_names)
    found = ArchiveReader(site.root).read(file, groups=groups, columns=columns, decoders=kept)
    assert found.equals(expected)


def test_a_folder_is_read_a_few_row_groups_at_a_time_and_s3_at_once(
    site: RootSite, file: ArchiveFile
) -> None:
    reader = ArchiveReader(site.root)
    reader.read(file, groups=range(GROUPS), columns=["key", "size"])
    assert reader.requests == 1 + (8 if site.folder else 1)  # of 23 three at a time, or of 12 and of 11


@pytest.mark.parametrize("number", [0, 2, 11, 12, 22])
def test_damage_in_any_row_group_is_an_error_that_names_the_file_and_the_block(
    site: RootSite, file: ArchiveFile, number: int, kept: ThreadPoolExecutor | None
) -> None:
    at = _end_of_keys(site, number)
    _flip(site, at)
    reader = ArchiveReader(site.root)
    with pytest.raises(ArchiveDamaged, match=rf"{PATH}.* near byte {at - at % BLOCK}\b"):
        reader.read(file, columns=["key"], decoders=kept)
    others = [n for n in range(GROUPS) if abs(n - number) > 1]
    rest = reader.read(file, groups=others, columns=["key"], decoders=kept)
    assert rest.num_rows >= (len(others) - 1) * GROUP_ROWS


def test_damage_between_what_is_wanted_is_nobodys_matter(
    site: RootSite, file: ArchiveFile, rows: pa.Table
) -> None:
    _flip(site, _end_of_keys(site, 7) + 2 * BLOCK)
    reader = ArchiveReader(site.root)
    assert reader.read(file, columns=["key"]).equals(rows.select(["key"]))
    with pytest.raises(ArchiveDamaged):
        reader.read(file)


def test_a_file_that_is_gone_meanwhile_is_missing_and_not_damaged(site: RootSite, file: ArchiveFile) -> None:
    reader = ArchiveReader(site.root)
    reader.groups(file)
    site.root.delete(PATH)
    with pytest.raises(ArchiveFileMissing, match=PATH):
        reader.read(file)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no such advice")
def test_a_disk_is_told_beforehand_what_will_be_read(
    tmp_path: Path, rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda _file, start, length, _advice: told.append((start, start + length))
    )
    site = root_site("file", tmp_path, None)
    file = put_rows(site.root, PATH, rows)
    reader = ArchiveReader(site.root)
    assert reader.read(file, groups=range(9), columns=["key"]).equals(
        rows.slice(0, 9 * GROUP_ROWS).select(["key"])
    )
    ((start, end),) = told
    metadata = pq.read_metadata(pa.BufferReader(site.root.read(PATH)))
    last = metadata.row_group(8).column(metadata.schema.names.index("key"))
    assert start == 0
    assert end - BLOCK < last.data_page_offset + last.total_compressed_size <= end
    reader.read(file, groups=[3, 4], columns=["key"])
    assert len(told) == 1, "what is read at once needs no telling"


def test_a_disk_that_takes_no_advice_is_read_all_the_same(
    tmp_path: Path, rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ESPIPE, "no advice")

    monkeypatch.setattr(os, "posix_fadvise", refused, raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    site = root_site("file", tmp_path, None)
    reader = ArchiveReader(site.root)
    assert reader.read(put_rows(site.root, PATH, rows)).equals(rows)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_reads_with_threads_of_its_own(tmp_path: Path, rows: pa.Table) -> None:
    site = root_site("file", tmp_path, None)
    file = put_rows(site.root, PATH, rows)
    reader = ArchiveReader(site.root)
    assert reader.read(file).equals(rows)
    child = multiprocessing.get_context("fork").Process(target=_reads_the_same, args=(reader, file, rows))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0


def _reads_the_same(reader: ArchiveReader, file: ArchiveFile, rows: pa.Table) -> None:
    assert reader.read(file).equals(rows)


def _end_of_keys(site: RootSite, number: int) -> int:
    """Where the last byte of a row group's keys is."""
    metadata = pq.read_metadata(pa.BufferReader(site.root.read(PATH)))
    chunk = metadata.row_group(number).column(metadata.schema.names.index("key"))
    return int(chunk.data_page_offset + chunk.total_compressed_size) - 1


def _flip(site: RootSite, at: int) -> None:
    data = bytearray(site.root.read(PATH))
    data[at] ^= 0x10
    site.overwrite(PATH, bytes(data))
