"""Blocks are compared with their checksums, all at once or one by one: what is found is the same."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine import checksums
from snapengine.checksums import first_wrong


@pytest.mark.parametrize("at_once", [True, False])
@given(data=st.binary(max_size=40), block=st.integers(1, 12), wrong=st.sets(st.integers(0, 39)))
def test_the_first_block_that_was_altered_is_found(
    data: bytes, block: int, wrong: set[int], at_once: bool
) -> None:
    sums = [zlib.crc32(data[at : at + block]) for at in range(0, len(data), block)]
    altered = bytes(byte ^ (at in wrong) for at, byte in enumerate(data))
    expected = min((at // block for at in wrong if at < len(data)), default=None)
    with pytest.MonkeyPatch.context() as patched:
        if not at_once:
            patched.setattr(checksums, "_combine", None)
        assert first_wrong(memoryview(altered), block, sums) == expected


def test_blocks_in_each_others_place_are_found() -> None:
    data = b"aabbcc"
    sums = [zlib.crc32(data[at : at + 2]) for at in range(0, 6, 2)]
    assert first_wrong(memoryview(b"aaccbb"), 2, sums) == 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_other_numbers_of_blocks_and_of_checksums_are_a_mistake(count: int) -> None:
    with pytest.raises(ValueError, match="checksums"):
        first_wrong(memoryview(b"aabb"), 2, [0] * count)
