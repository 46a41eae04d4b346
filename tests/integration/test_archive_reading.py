"""Reading the archive's files: what was written or an error, in as few requests and bytes as promised."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snapengine.archive import reading, writing
from snapengine.archive.cache import Cache
from snapengine.archive.manifest import ArchiveFile
from snapengine.archive.pieces import Piece, merged, sparse_file
from snapengine.archive.reading import ArchiveReader
from snapengine.archive.writing import FileWriter
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, SchemaTooNew
from tests.archive_files import SEGMENT, RootSite, image_keys, moto_s3, observed, put_rows, root_site

PATH = "b/observations/epochs=1_2/regular-0a-0.parquet"
MIB = 1 << 20
COLUMNS = ["key", "version_id", "event_time", "size"]
GROUP_ROWS = 131_072
"""Of a row group here, so that two are more than is read in one request."""
ROWS = 2 * GROUP_ROWS + 50_000


@pytest.fixture(scope="module", autouse=True)
def large_groups() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "ROW_GROUP_ROWS", GROUP_ROWS)
        yield


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with moto_s3() as client:
        yield client


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Three row groups, some 16 MB."""
    return observed(image_keys(ROWS))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, rows: pa.Table) -> tuple[RootSite, ArchiveFile]:
    site = root_site("file", tmp_path_factory.mktemp("large"), None)
    return site, put_rows(site.root, PATH, rows)


@pytest.fixture(params=["file", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path, s3: Any) -> RootSite:
    return root_site(request.param, tmp_path, s3)


@pytest.fixture
def _large_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few kilobytes are read as those of many megabytes are."""
    monkeypatch.setattr(reading, "SMALL", 0)
    monkeypatch.setattr(reading, "TINY", 0)


# What is read


@pytest.mark.parametrize("columns", [None, ["key"], ["size", "key"], [*reversed(SEGMENT.names)]])
@pytest.mark.parametrize("groups", [None, [0], [1], [2, 0], [0, 1, 2], []])
def test_the_rows_are_those_that_were_written(
    large: tuple[RootSite, ArchiveFile], rows: pa.Table, columns: list[str] | None, groups: list[int] | None
) -> None:
    site, file = large
    table = ArchiveReader(site.root).read(file, groups=groups, columns=columns)
    starts = [n * GROUP_ROWS for n in (range(3) if groups is None else sorted(groups))]
    parts = [rows.slice(start, GROUP_ROWS) for start in starts] or [rows.slice(0, 0)]
    expected = pa.concat_tables(parts).select(columns or rows.column_names)
    assert table.equals(expected)
    assert table.schema.equals(expected.schema)


def test_a_small_file_reads_the_same_by_every_way(site: RootSite, monkeypatch: pytest.MonkeyPatch) -> None:
    table = observed(image_keys(2000))
    file = put_rows(site.root, PATH, table)
    assert ArchiveReader(site.root).read(file).equals(table)
    assert ArchiveReader(site.root).read(file, columns=COLUMNS).equals(table.select(COLUMNS))
    monkeypatch.setattr(reading, "SMALL", 0)
    monkeypatch.setattr(reading, "TINY", 0)
    assert ArchiveReader(site.root).read(file).equals(table)
    assert ArchiveReader(site.root).read(file, columns=COLUMNS).equals(table.select(COLUMNS))


def test_a_file_without_rows_reads_as_a_table_without_rows(site: RootSite) -> None:
    file = put_rows(site.root, PATH, SEGMENT.empty_table())
    assert ArchiveReader(site.root).groups(file) == ()
    assert ArchiveReader(site.root).read(file).equals(SEGMENT.empty_table())
    assert ArchiveReader(site.root).read(file, groups=[], columns=["key"]).column_names == ["key"]


def test_nested_columns_and_files_without_keys_are_read(site: RootSite) -> None:
    epochs = pa.table({"number": [1, 2], "cover": [{"a": [1]}, {"a": [2, 3]}], "text": ["x", None]})
    with FileWriter(site.root, PATH, "epochs", epochs.schema) as writer:
        writer.write(epochs)
    reader = ArchiveReader(site.root)
    assert list(reader.groups(writer.file)) == [(2, "", "")]
    assert reader.read(writer.file, groups=[0], columns=["cover"]).equals(epochs.select(["cover"]))


def test_the_keys_of_row_groups_are_exact_even_at_their_greatest_length(site: RootSite) -> None:
    long = ["k" * 1020 + end for end in ("aaaa", "zzzz", "é\u00ff", "\U0001f4be")]
    assert max(len(key.encode()) for key in long) == 1024
    file = put_rows(site.root, PATH, observed(long))
    assert list(ArchiveReader(site.root).groups(file)) == [(4, long[0], long[-1])]
    file = put_rows(site.root, PATH, observed(["\uffee", "\U0001f4be"]))
    assert list(ArchiveReader(site.root).groups(file)) == [(2, "\uffee", "\U0001f4be")]


def test_row_groups_are_told_with_their_keys(large: tuple[RootSite, ArchiveFile], rows: pa.Table) -> None:
    site, file = large
    groups = ArchiveReader(site.root).groups(file)
    keys = rows["key"].to_pylist()
    assert [g.rows for g in groups] == [GROUP_ROWS, GROUP_ROWS, 50_000]
    assert [g.min_key for g in groups] == [keys[0], keys[GROUP_ROWS], keys[2 * GROUP_ROWS]]
    assert [g.max_key for g in groups] == [keys[GROUP_ROWS - 1], keys[2 * GROUP_ROWS - 1], keys[-1]]


def test_columns_that_the_file_has_not_are_a_mistake_of_the_caller(site: RootSite) -> None:
    file = put_rows(site.root, PATH, observed(["a"]))
    for columns in (["key", "colour"], []):
        with pytest.raises(ValueError, match="has the columns"):
            ArchiveReader(site.root).read(file, columns=columns)


# Requests and bytes


def test_a_small_file_takes_one_request(site: RootSite) -> None:
    file = put_rows(site.root, PATH, observed(image_keys(2000)))
    for columns in (None, COLUMNS):
        reader = ArchiveReader(site.root)
        reader.read(file, columns=columns)
        assert (reader.requests, reader.bytes_read) == (1, file.size)
        reader.groups(file)
        assert reader.requests == 1


def test_a_footer_takes_one_request_of_just_its_bytes_and_no_second(site: RootSite) -> None:
    file = put_rows(site.root, PATH, observed(image_keys(2000)))
    reader = ArchiveReader(site.root)
    reader.groups(file)
    assert (reader.requests, reader.bytes_read) == (1, file.footer_size)
    reader.groups(file)
    assert reader.requests == 1


def test_one_row_group_of_a_large_file_takes_two_requests_and_its_own_bytes(
    large: tuple[RootSite, ArchiveFile],
) -> None:
    site, file = large
    reader = ArchiveReader(site.root)
    reader.read(file, groups=[2])
    assert reader.requests == 2
    assert reader.bytes_read < file.size * 50_000 / ROWS * 1.1 + file.footer_size + 2 * writing.BLOCK
    reader.read(file, groups=[2])
    assert reader.requests == 3


def test_a_few_columns_take_only_their_bytes(
    large: tuple[RootSite, ArchiveFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, file = large
    monkeypatch.setattr(reading, "GAP", 0)
    monkeypatch.setattr("snapengine.archive.pieces.GAP", 0)
    reader = ArchiveReader(site.root)
    reader.groups(file)
    before = reader.bytes_read
    reader.read(file, columns=["key", "size"], groups=[0, 1])
    assert site.folder
    metadata = pq.read_metadata(site.folder / PATH)
    chunks = [
        metadata.row_group(group).column(SEGMENT.names.index(name)).total_compressed_size
        for group in (0, 1)
        for name in ("key", "size")
    ]
    assert reader.bytes_read - before <= sum(chunks) + len(chunks) * 2 * writing.BLOCK
    assert reader.requests == 1 + len(chunks)


def test_near_pieces_are_asked_for_together_and_far_ones_apart() -> None:
    pieces = [Piece(0, 10), Piece(5, 12), Piece(20, 30), Piece(41, 50), Piece(50, 90)]
    assert merged(pieces, 10, None) == [(0, 30), (41, 90)]
    assert merged(pieces, 10, 40) == [(0, 30), (41, 50), (50, 90)]
    assert merged(pieces, 10, 1) == [(0, 10), (5, 12), (20, 30), (41, 50), (50, 90)]
    assert merged([], 10, 10) == []


def test_a_whole_large_file_is_asked_for_in_requests_of_sixteen_megabytes(
    large: tuple[RootSite, ArchiveFile], rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, file = large
    monkeypatch.setattr(reading, "SMALL", MIB)
    monkeypatch.setattr(reading, "REQUEST", 8 * MIB)
    reader = ArchiveReader(site.root, workers=2)
    assert reader.read(file).equals(rows)
    assert reader.requests == 1 + 3
    assert reader.bytes_read < file.size + 4 * writing.BLOCK


def test_footers_in_memory_have_their_bound(site: RootSite, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [put_rows(site.root, f"b/{n}.parquet", observed(["a"], seed=n)) for n in range(3)]
    monkeypatch.setattr(reading, "_FOOTERS", sum(file.footer_size for file in files[:2]))
    reader = ArchiveReader(site.root)
    for number in (0, 1, 0, 2, 0, 2):
        reader.groups(files[number])
    assert reader.requests == 3
    reader.groups(files[1])
    assert reader.requests == 4


def test_threads_share_a_reader(large: tuple[RootSite, ArchiveFile], rows: pa.Table, tmp_path: Path) -> None:
    site, file = large
    reader = ArchiveReader(site.root, Cache(tmp_path / "cache", 100 * MIB))
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda n: reader.read(file, groups=[n % 3], columns=["key"]), range(12)))
    keys = rows.select(["key"])
    for number, table in enumerate(tables):
        assert table.equals(keys.slice(number % 3 * GROUP_ROWS, GROUP_ROWS))


def test_bytes_that_were_not_fetched_are_an_error_never_zeros() -> None:
    file = sparse_file(100, [(10, b"0123456789"), (15, b"56789abcde"), (40, b"x")])
    assert file.size() == 100
    file.seek(12)
    assert file.read(13) == b"23456789abcde"
    file.seek(16)
    assert file.read_buffer(3).to_pybytes() == b"678"
    for at in (16, 25, 60, 100):
        file.seek(at)
        assert file.read(0) == b""
    file.seek(100)
    assert file.read(5) == b"", "there is no more"
    for start, length in ((0, 1), (9, 2), (24, 2), (39, 2), (40, 2), (99, 1)):
        file.seek(start)
        with pytest.raises(ValueError, match="not read beforehand"):
            file.read(length)


# Damage


def _flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 0x10]) + data[index + 1 :]


Damage = Callable[[bytes, ArchiveFile], bytes]
DAMAGES: dict[str, Damage] = {
    "truncated by a byte": lambda data, _: data[:-1],
    "empty": lambda _data, _: b"",
    "a byte short at the start": lambda data, _: data[1:],
    "flipped in the magic at the end": lambda data, _: _flipped(data, len(data) - 1),
    "flipped in the footer": lambda data, file: _flipped(data, len(data) - file.footer_size // 2),
    "flipped in the first page": lambda data, _: _flipped(data, 60),
    "flipped in the header of the first page": lambda data, _: _flipped(data, 6),
    "flipped in the middle": lambda data, _: _flipped(data, len(data) // 2),
    "flipped just before the footer": lambda data, file: _flipped(data, len(data) - file.footer_size - 1),
    "zeros in the middle": lambda data, _: (
        data[: len(data) // 2] + b"\0" * 512 + data[len(data) // 2 + 512 :]
    ),
}


def _reads(reader: ArchiveReader) -> dict[str, Callable[[ArchiveFile], object]]:
    return {
        "read": reader.read,
        "columns": lambda file: reader.read(file, columns=SEGMENT.names),
        "group": lambda file: reader.read(file, groups=[0]),
        "check": reader.check,
    }


@pytest.mark.parametrize("way", ["read", "columns", "group", "check"])
@pytest.mark.parametrize("size", ["small", "as large"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_an_error_that_names_the_file(
    site: RootSite, monkeypatch: pytest.MonkeyPatch, damage: str, size: str, way: str
) -> None:
    if size == "as large":
        monkeypatch.setattr(reading, "SMALL", 0)
        monkeypatch.setattr(reading, "TINY", 0)
    file = put_rows(site.root, PATH, observed(image_keys(3000)))
    site.overwrite(PATH, DAMAGES[damage](site.root.read(PATH), file))
    with pytest.raises(ArchiveDamaged, match=PATH) as caught:
        _reads(ArchiveReader(site.root))[way](file)
    assert not isinstance(caught.value, ArchiveFileMissing)
    assert caught.value.code == "archive-damaged"


@pytest.mark.parametrize("way", ["read", "columns", "group", "check"])
def test_a_missing_file_is_an_error_that_names_it(site: RootSite, way: str) -> None:
    file = put_rows(site.root, PATH, observed(["a"]))
    site.root.delete(PATH)
    with pytest.raises(ArchiveFileMissing, match=PATH):
        _reads(ArchiveReader(site.root))[way](file)
    with pytest.raises(ArchiveFileMissing, match=PATH):
        ArchiveReader(site.root).groups(file)


@pytest.mark.parametrize("way", ["read", "columns", "group", "check"])
@pytest.mark.parametrize("size", ["small", "as large"])
@pytest.mark.parametrize("footer_known", [False, True])
def test_another_valid_file_of_the_same_layout_is_not_taken_for_it(
    site: RootSite, monkeypatch: pytest.MonkeyPatch, size: str, way: str, footer_known: bool
) -> None:
    if size == "as large":
        monkeypatch.setattr(reading, "SMALL", 0)
        monkeypatch.setattr(reading, "TINY", 0)
    file = _put_plain(site, "bbbb", monkeypatch)
    metadata = pq.read_metadata(pa.BufferReader(site.root.read(PATH)))
    reader = ArchiveReader(site.root)
    if footer_known:
        reader.groups(file)
    # The checksum in a page's header has a length of its own: until it is that of ours.
    for letter in "cdefghijklmnopqrstuvwxyz":
        other = _put_plain(site, f"bbb{letter}", monkeypatch)
        data = pa.BufferReader(site.root.read(PATH))
        if _chunks(pq.read_metadata(data)) == _chunks(metadata):
            break
    assert other.size == file.size
    trap = pq.ParquetFile(data, metadata=metadata, page_checksum_verification=True).read()
    assert trap["etag"].to_pylist() == ["aaaa", f"bbb{letter}"]  # pyarrow notices nothing
    reads = _reads(reader) | {"columns": lambda known: reader.read(known, columns=["etag"])}
    with pytest.raises(ArchiveDamaged, match=PATH):
        reads[way](file)
    assert ArchiveReader(site.root).read(other)["etag"].to_pylist() == ["aaaa", f"bbb{letter}"]


def _put_plain(site: RootSite, etag: str, monkeypatch: pytest.MonkeyPatch) -> ArchiveFile:
    """Two rows without compression, so that the size depends on no value."""
    table = pa.table({"key": ["aaaa", "bbbb"], "etag": ["aaaa", etag]})
    writer_of: Any = pq.ParquetWriter

    def plain(*arguments: Any, **options: Any) -> Any:
        return writer_of(*arguments, **(options | {"compression": "none", "compression_level": None}))

    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetWriter", plain)
        with FileWriter(site.root, PATH, "objects", table.schema, sort=("key",)) as writer:
            writer.write(table)
    return writer.file


def _chunks(metadata: Any) -> list[tuple[int, int]]:
    group = metadata.row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    return [(chunk.data_page_offset, chunk.total_compressed_size) for chunk in chunks]


@pytest.mark.usefixtures("_large_files")
def test_no_flipped_byte_anywhere_changes_an_answer(tmp_path: Path) -> None:
    site = root_site("file", tmp_path, None)
    table = observed(["a", "b", "c"])
    file = put_rows(site.root, PATH, table)
    data = site.root.read(PATH)
    for index in range(len(data)):
        site.overwrite(PATH, _flipped(data, index))
        with pytest.raises(ArchiveDamaged, match=PATH):
            ArchiveReader(site.root).read(file)


def test_a_longer_file_is_found_by_a_check(site: RootSite) -> None:
    file = put_rows(site.root, PATH, observed(["a"]))
    ArchiveReader(site.root).check(file)
    site.overwrite(PATH, site.root.read(PATH) + b"x")
    with pytest.raises(ArchiveDamaged, match=PATH):
        ArchiveReader(site.root).check(file)


def test_a_newer_format_is_refused_by_name(site: RootSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "FORMAT_VERSION", 2)
    file = put_rows(site.root, PATH, observed(["a"]))
    with pytest.raises(SchemaTooNew, match=f"{PATH} has format 2.*Upgrade"):
        ArchiveReader(site.root).read(file)


def test_a_parquet_file_that_snapengine_did_not_write_is_refused(site: RootSite, tmp_path: Path) -> None:
    file = put_rows(site.root, PATH, observed(["a"]))
    pq.write_table(observed(["a"]), tmp_path / "plain.parquet")
    data = (tmp_path / "plain.parquet").read_bytes()
    site.overwrite(PATH, data)
    size = int.from_bytes(data[-8:-4], "little") + 8
    plain = replace(
        file,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        footer_size=size,
        footer_sha256=hashlib.sha256(data[-size:]).hexdigest(),
    )
    with pytest.raises(ArchiveDamaged, match=PATH):
        ArchiveReader(site.root).read(plain)


# The cache


@pytest.mark.parametrize("as_large", [False, True])
def test_a_second_reader_takes_all_from_the_cache(
    site: RootSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_large: bool
) -> None:
    if as_large:
        monkeypatch.setattr(reading, "SMALL", 0)
        monkeypatch.setattr(reading, "TINY", 0)
    table = observed(image_keys(3000))
    file = put_rows(site.root, PATH, table)
    cache = tmp_path / "cache"
    ArchiveReader(site.root, Cache(cache, 100 * MIB)).read(file)
    reader = ArchiveReader(site.root, Cache(cache, 100 * MIB))
    assert reader.read(file).equals(table)
    assert (reader.requests, reader.bytes_read) == (0, 0)


def test_row_groups_that_are_cached_are_not_asked_for_again(
    large: tuple[RootSite, ArchiveFile], tmp_path: Path, rows: pa.Table
) -> None:
    site, file = large
    reader = ArchiveReader(site.root, Cache(tmp_path / "cache", 100 * MIB))
    reader.read(file, groups=[1])
    before = reader.bytes_read
    assert reader.read(file, groups=[1, 2]).equals(rows.slice(GROUP_ROWS))
    assert reader.requests == 3
    assert reader.bytes_read - before < file.size * 50_000 / ROWS * 1.1 + 2 * writing.BLOCK


@pytest.mark.parametrize("as_large", [False, True])
@pytest.mark.parametrize("validly", [False, True])
def test_a_poisoned_cache_changes_no_answer(
    site: RootSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_large: bool, validly: bool
) -> None:
    if as_large:
        monkeypatch.setattr(reading, "SMALL", 0)
        monkeypatch.setattr(reading, "TINY", 0)
    table = observed(image_keys(3000))
    file = put_rows(site.root, PATH, table)
    folder = tmp_path / "cache"
    cache = Cache(folder, 100 * MIB)
    ArchiveReader(site.root, cache).read(file)
    kept = [path for path in folder.rglob("*-*") if path.is_file()]
    assert len(kept) == (2 if as_large else 1)
    for path in kept:
        if validly:  # as by somebody who knows our checksums
            data = cache.get(path.name)
            assert data is not None
            cache.put(path.name, _flipped(data, len(data) // 2))
        else:
            path.write_bytes(_flipped(path.read_bytes(), path.stat().st_size // 2))
    reader = ArchiveReader(site.root, Cache(folder, 100 * MIB))
    assert reader.read(file).equals(table)
    assert reader.requests == len(kept)
    again = ArchiveReader(site.root, Cache(folder, 100 * MIB))
    assert again.read(file).equals(table)
    assert again.requests == 0
