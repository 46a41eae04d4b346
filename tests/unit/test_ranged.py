from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata_extractors.base import BudgetSpent, Extraction, NeedMoreBytes, Prefix, Reader
from metadata_extractors.ranged import (
    FIRST_BYTES,
    MAX_HEADER_BYTES,
    PrefixFile,
    RangedReader,
    ReaderFile,
    extract_from,
    from_front,
    next_length,
)

MIB = 2**20
Asked = list[tuple[int, int]]


class Needs:
    """An extractor whose header is `length` bytes long."""

    name = "needs"
    version = "1"
    schema = pa.schema([])

    def __init__(self, length: int) -> None:
        self.length = length

    def matches(self, key: str, size: int | None, head: bytes) -> bool:
        return True

    def extract(self, reader: Reader) -> Extraction:
        return from_front(reader, self.parse)

    def parse(self, prefix: Prefix) -> Extraction:
        if len(prefix.data) < self.length and not prefix.last:
            raise NeedMoreBytes(len(prefix.data) + 8)
        return Extraction("ok" if len(prefix.data) >= self.length else "partial", {"data": prefix.data})


def reader(content: bytes) -> tuple[Callable[[int, int], bytes], Asked]:
    asked: Asked = []

    def read(start: int, end: int) -> bytes:
        asked.append((start, end))
        return content[start:end]

    return read, asked


def test_a_header_within_the_first_64_kib_costs_one_request() -> None:
    read, asked = reader(bytes(MIB))
    assert extract_from(Needs(15_000), RangedReader(read, MIB)).outcome == "ok"
    assert asked == [(0, 65_536)]


def test_an_object_smaller_than_that_is_asked_for_exactly() -> None:
    read, asked = reader(bytes(100))
    extract_from(Needs(100), RangedReader(read, 100))
    assert asked == [(0, 100)]


def test_a_longer_header_is_read_in_growing_ranges_and_no_byte_twice() -> None:
    content = bytes(range(256)) * 4096
    read, asked = reader(content)
    found = extract_from(Needs(300_000), RangedReader(read, len(content)))
    assert asked == [(0, 65_536), (65_536, 262_144), (262_144, 1_048_576)]
    assert found.values["data"] == content


def test_a_header_without_end_is_given_up_at_16_mib() -> None:
    read, asked = reader(bytes(MAX_HEADER_BYTES + MIB))
    assert extract_from(Needs(10**9), RangedReader(read, MAX_HEADER_BYTES + MIB)).outcome == "partial"
    assert asked[-1][1] == MAX_HEADER_BYTES


def test_an_empty_object_costs_no_request() -> None:
    read, asked = reader(b"")
    assert extract_from(Needs(1), RangedReader(read, 0)).outcome == "partial"
    assert asked == []


def test_the_end_of_an_object_of_unknown_size_is_found_by_reading() -> None:
    read, asked = reader(bytes(70_000))
    assert extract_from(Needs(10**6), RangedReader(read, None)).outcome == "partial"
    assert asked == [(0, 65_536), (65_536, 262_144)]


def test_an_object_of_unknown_size_that_ends_with_a_range_costs_one_request_more() -> None:
    read, asked = reader(bytes(FIRST_BYTES))
    assert extract_from(Needs(10**6), RangedReader(read, None)).outcome == "partial"
    assert asked == [(0, 65_536), (65_536, 262_144)]


def test_an_object_shorter_than_it_was_said_to_be_is_read_to_its_end() -> None:
    read, asked = reader(bytes(1000))
    assert extract_from(Needs(4000), RangedReader(read, 5000)).outcome == "partial"
    assert asked == [(0, 5000)]


def test_an_element_that_claims_more_than_may_be_read_is_not_fetched_in_part() -> None:
    assert next_length(FIRST_BYTES, 2**32, 10**9) is None


def test_an_element_that_claims_more_than_a_small_object_has_makes_it_be_read_whole() -> None:
    assert next_length(FIRST_BYTES, 2**32, 100_000) == 100_000


@given(
    known=st.integers(0, 20 * MIB), beyond=st.integers(1, 40 * MIB), size=st.none() | st.integers(0, 40 * MIB)
)
def test_the_next_length_grows_and_stays_within_the_object_and_the_limit(
    known: int, beyond: int, size: int | None
) -> None:
    length = next_length(known, known + beyond, size)
    if length is not None:
        assert known < length <= MAX_HEADER_BYTES
        assert size is None or length <= size
        assert length == size or length >= min(known + beyond, MAX_HEADER_BYTES)


def test_a_prefix_refuses_to_be_read_past_its_end_and_remembers_it() -> None:
    file = PrefixFile(Prefix(bytes(10), whole=False, last=False), 10)
    assert file.read(8) == bytes(8)
    with pytest.raises(NeedMoreBytes):
        file.read(8)
    assert file.needed == 16


def test_a_skip_past_the_end_of_a_prefix_is_refused_at_the_next_read() -> None:
    file = PrefixFile(Prefix(bytes(10), whole=False, last=False), 10)
    file.seek(1000)
    with pytest.raises(NeedMoreBytes):
        file.read(8)
    assert file.needed == 1008


@pytest.mark.parametrize(
    ("position", "clean"), [(10, True), (9, False), (11, False)], ids=["at-the-end", "before", "beyond"]
)
def test_an_object_ends_cleanly_only_where_the_next_element_would_begin(position: int, clean: bool) -> None:
    file = PrefixFile(Prefix(bytes(10), whole=True, last=True), 10)
    file.seek(position)
    file.read(8)
    assert file.ended_cleanly is clean


def test_a_prefix_is_never_read_as_a_whole() -> None:
    file = PrefixFile(Prefix(bytes(10), whole=True, last=True), 10)
    with pytest.raises(OSError, match="never"):
        file.read()


def test_reading_stops_when_its_time_is_up() -> None:
    file = PrefixFile(Prefix(bytes(10), whole=True, last=True), -1)
    with pytest.raises(OSError, match="too long"):
        file.read(1)
    assert file.timed_out


# The reader, and the file over it


def test_what_was_read_from_the_front_is_not_fetched_again() -> None:
    content = bytes(range(256)) * 1000
    read, asked = reader(content)
    ranged = RangedReader(read, len(content))
    assert ranged.read(0, 100) == content[:100]
    assert ranged.read(50, 200) == content[50:200]
    assert ranged.read(10, 20) == content[10:20]
    assert asked == [(0, 100), (100, 200)]


def test_the_last_other_range_is_not_fetched_again() -> None:
    content = bytes(range(256)) * 1000
    read, asked = reader(content)
    ranged = RangedReader(read, len(content))
    assert ranged.read(200_000, 300_000) == content[200_000:]
    assert ranged.read(255_990, 256_000) == content[-10:]
    assert asked == [(200_000, 256_000)]


def test_no_byte_beyond_the_budget_is_fetched() -> None:
    read, asked = reader(bytes(MIB))
    ranged = RangedReader(read, MIB, max_bytes=1000)
    ranged.read(0, 600)
    with pytest.raises(BudgetSpent):
        ranged.read(5000, 5401)
    assert (asked, ranged.fetched) == ([(0, 600)], 600)
    ranged.begin_again()
    assert ranged.read(0, 600) == bytes(600)
    assert len(ranged.read(5000, 6000)) == 1000


def test_no_request_beyond_the_budget_is_made() -> None:
    read, asked = reader(bytes(MIB))
    ranged = RangedReader(read, MIB, max_requests=3)
    for start in (0, 1000, 2000):
        ranged.read(start, start + 10)
    with pytest.raises(BudgetSpent):
        ranged.read(3000, 3010)
    assert len(asked) == 3


def test_a_small_budget_makes_a_long_header_partial() -> None:
    read, asked = reader(bytes(MIB))
    found = extract_from(Needs(500_000), RangedReader(read, MIB, max_bytes=100_000))
    assert found.outcome == "partial"
    assert asked == [(0, 65_536), (65_536, 100_000)]


def test_ranges_that_are_none_are_refused() -> None:
    for start, end in ((-1, 5), (5, 4)):
        with pytest.raises(ValueError, match="no range"):
            RangedReader(reader(b"")[0], 10).read(start, end)


def test_an_object_that_does_not_match_costs_its_head_and_no_more() -> None:
    class Picky(Needs):
        head_bytes = 4

        def matches(self, key: str, size: int | None, head: bytes) -> bool:
            assert (key, size, head) == ("a/b", 1000, bytes(4))
            return False

    read, asked = reader(bytes(1000))
    assert extract_from(Picky(1), RangedReader(read, 1000, "a/b")).outcome == "not_matched"
    assert asked == [(0, 4)]


def test_a_file_over_a_reader_reads_and_jumps_as_files_do() -> None:
    content = bytes(range(256)) * 1000
    file = ReaderFile(RangedReader(reader(content)[0], len(content)), len(content))
    assert file.read(4) == content[:4]
    file.seek(-10, 2)
    assert file.read() == content[-10:]
    file.seek(-5, 1)
    assert (file.tell(), file.read(3), file.short) == (255_995, content[-5:-2], False)
    assert (file.read(3), file.short, file.refused) == (content[-2:], True, False)


def test_a_file_remembers_that_a_read_was_beyond_the_budget() -> None:
    file = ReaderFile(RangedReader(reader(bytes(MIB))[0], MIB, max_bytes=1000), MIB)
    with pytest.raises(OSError, match="budget"):
        file.read()
    assert file.refused
