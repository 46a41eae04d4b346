"""The digest of whole batches is the digest of their rows, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine import digest as digest_module
from snapengine.digest import BLOCK_ROWS, Row, digest, digest_batches, digest_pieces
from snapengine.errors import BadData
from snapengine.row_bytes import COLUMNS, Added, Piece, Room, bytes_of, encoded_rows

GOLDEN = "sha256:4d931caef4455a3581cccbf324f0bf96bd80df42f74f72f9217257fc3d0e13a8"
"""Of the rows of the test that names it: references that were given out hold such digests."""
SCHEMA = pa.schema(
    [("etag", pa.string()), ("key", pa.string()), ("size", pa.int64()), ("version_id", pa.string())]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ROWS = st.lists(st.tuples(TEXT, TEXT, st.none() | TEXT, st.none() | st.integers(0, 2**63 - 1)), max_size=40)


def table(rows: Sequence[Row]) -> pa.Table:
    """With the columns in another order than the digest's, and one more."""
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(COLUMNS, ())
    found = pa.table({name: list(columns[name]) for name in SCHEMA.names}, schema=SCHEMA)
    return found.append_column("time", pa.array(["event"] * len(rows), pa.string()))


def many(count: int) -> pa.Table:
    """Rows of which some lack an ETag, some a size."""
    return table(
        [
            (f"é/{i:07d}", f"v{i}", None if i % 7 == 0 else f"{i:x}", None if i % 11 == 0 else i)
            for i in range(count)
        ]
    )


def rows_of(given: pa.Table) -> Iterator[Row]:
    return zip(*(given[name].to_pylist() for name in COLUMNS), strict=True)


@pytest.fixture(autouse=True, scope="module", params=[1, 3])
def _workers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether it is hashed here or by other threads."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(digest_module, "_WORKERS", request.param)
        yield


def test_the_digest_is_the_contracts_and_stays_it() -> None:
    rows = [(f"é/{i:06d}", f"v{i}", f"{i:x}", i) for i in range(65_537)]

    def field(text: str) -> bytes:
        return len(text.encode()).to_bytes(4, "big") + text.encode()

    blocks = (
        sha256(
            b"".join(field(k) + field(v) + field(e) + n.to_bytes(8, "big") for k, v, e, n in block)
        ).digest()
        for block in (rows[:65_536], rows[65_536:])
    )
    expected = f"sha256:{sha256(b''.join(blocks)).hexdigest()}"
    assert expected == GOLDEN
    assert digest(rows) == digest_batches([table(rows)]) == GOLDEN


@given(ROWS, st.lists(st.integers(0, 40), max_size=6))
def test_batches_have_the_digest_of_their_rows_however_they_are_cut(rows: list[Row], cuts: list[int]) -> None:
    whole = table(rows)
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [whole.slice(a, b - a) for a, b in pairwise(bounds)]
    batches = [batch for piece in pieces for batch in piece.to_batches()]
    assert digest_batches(pieces) == digest_batches(batches) == digest_batches([whole]) == digest(rows)
    assert digest_batches([pa.concat_tables(pieces)]) == digest(rows)


@pytest.mark.parametrize(
    "count", [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS - 1, 2 * BLOCK_ROWS]
)
def test_blocks_end_where_the_contract_says(count: int) -> None:
    whole = many(count)
    expected = digest(rows_of(whole))
    assert digest_batches([whole]) == expected
    assert digest_batches(whole.to_batches(max_chunksize=10_007)) == expected
    assert digest_batches([whole.slice(0, count // 3), whole.slice(count // 3)]) == expected


def test_many_more_blocks_than_are_hashed_at_once_keep_their_order() -> None:
    whole = many(40)
    repeated = [whole] * (16 * BLOCK_ROWS // 40)
    expected = digest(row for piece in repeated for row in rows_of(piece))
    assert digest_batches([pa.concat_tables(repeated).combine_chunks()]) == expected


def test_batches_are_read_no_further_ahead_than_there_are_blocks_in_work() -> None:
    block = many(BLOCK_ROWS)
    read = 0

    def endless() -> Iterator[pa.Table]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield (
                block
                if read != 20
                else table([("k", "v", None, 1)])
                .slice(0, 1)
                .set_column(2, "size", pa.array([-1], pa.int64()))
            )

    with pytest.raises(BadData, match="negative size"):
        digest_batches(endless())
    assert read < 40, "it stopped soon after the bad row"


def test_an_error_of_the_source_comes_out_as_it_is() -> None:
    def broken() -> Iterator[pa.Table]:
        yield many(3)
        raise BadData("the file is damaged")

    with pytest.raises(BadData, match="the file is damaged"):
        digest_batches(broken())


@pytest.mark.parametrize("column", ["key", "version_id"])
def test_a_row_without_a_key_or_a_version_has_no_digest(column: str) -> None:
    rows = many(2).select(list(COLUMNS))
    place = rows.column_names.index(column)
    with pytest.raises(BadData, match="no version id"):
        digest_batches([rows.set_column(place, column, pa.array(["a", None]))])


@given(ROWS, st.integers(0, 5))
def test_a_row_has_the_same_bytes_wherever_in_a_batch_it_stands(rows: list[Row], skipped: int) -> None:
    whole = table(rows)
    assert encoded_rows(whole.slice(skipped)).to_pylist() == encoded_rows(whole).to_pylist()[skipped:]


@st.composite
def alike(draw: st.DrawFn) -> list[Row]:
    """Rows of which most have texts of the same widths, as real ones do."""
    texts = [draw(st.sampled_from(["a", "bb", "é", "é🦴", "x" * 20])) for _ in range(3)]
    row = st.tuples(*map(st.just, texts), st.integers(0, 2**63 - 1))
    odd = st.tuples(TEXT, TEXT, st.none() | TEXT, st.none() | st.integers(0, 2**63 - 1))
    return draw(st.lists(draw(st.sampled_from([row, row, row, row | odd])), max_size=9))


@st.composite
def pieces(draw: st.DrawFn) -> tuple[Piece, list[Row]]:
    """A piece, and its rows."""
    held, more = draw(alike()), draw(alike())
    both = held + more
    order = draw(st.lists(st.integers(0, len(both) - 1), max_size=30)) if both else []
    before, behind = draw(alike()), draw(alike())  # others'
    batch = table([*before, *more, *behind]).combine_chunks().to_batches()
    added = Added(batch[0] if batch else NONE)
    piece = Piece(table(held), added, len(before), len(before + more), np.array(order, np.int64))
    return piece, [both[place] for place in order]


NONE = pa.RecordBatch.from_pylist([], table([]).schema)


@given(st.lists(pieces(), max_size=6), st.data())
def test_pieces_one_after_the_other_have_their_rows_bytes_whatever_came_before(
    drawn: list[tuple[Piece, list[Row]]], data: st.DataObject
) -> None:
    room = Room()
    for piece, rows in drawn:
        start = data.draw(st.integers(0, len(rows)))
        stop = data.draw(st.integers(start, len(rows)))
        expected = b"".join(encoded_rows(table(rows[start:stop])).to_pylist())
        assert bytes(bytes_of(piece, start, stop, room)) == expected
    assert digest_pieces(piece for piece, _ in drawn) == digest([row for _, rows in drawn for row in rows])


def test_the_bytes_of_one_piece_stay_as_they_are_when_its_room_is_used_for_the_next() -> None:
    first, second = ([(f"k{i}{name}", "v", "e", i) for i in range(5)] for name in "ab")
    places, room = np.arange(5), Room()
    given_first = bytes_of(Piece(table(first), Added(NONE), order=places), 0, 5, room)
    bytes_of(Piece(table(second), Added(NONE), order=places), 0, 5, room)
    assert bytes(given_first) == b"".join(encoded_rows(table(first)).to_pylist())
