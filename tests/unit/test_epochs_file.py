"""What the archive keeps of epochs, to restore them from: also of those from before metadata had rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from snapengine.archive.manifest import Segment
from snapengine.archive.reading import ArchiveReader
from snapengine.archive.roots import Root, open_root
from snapengine.archive.schemas import EPOCHS, with_rows
from snapengine.archive.writing import FileWriter
from snapengine.archiving.making import epochs_table
from snapengine.archiving.salvage import jumps_in, read_epochs
from snapengine.model import Epoch, Watermarks
from snapengine.testing.store_contract import T
from tests.archive_files import no_client

EPOCHS_OF_ROWS = [
    Epoch(1, T, {0: 1}, Watermarks(caught_up=T)),
    Epoch(2, T + 1, {0: 1}, Watermarks(caught_up=T), {3: 12}),
    Epoch(3, T + 2, {0: 2}, Watermarks(verified={"": T}), {3: 12, 11: 1}),
]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return open_root(f"file://{tmp_path}/root", no_client)


def segment(root: Root, table: pa.Table, epochs: list[Epoch]) -> Segment:
    with FileWriter(root, "b/epochs/e.parquet", "epochs", table.schema, sort=("number",)) as writer:
        writer.write(table)
    last = epochs[-1]
    return Segment(1, last.number, (writer.file,), last.cover, last.time, 0, T, rows_cover=last.rows)


def test_epochs_are_had_back_with_what_they_cover_of_rows(root: Root) -> None:
    kept = segment(root, epochs_table(EPOCHS_OF_ROWS), EPOCHS_OF_ROWS)
    assert list(read_epochs(ArchiveReader(root), kept)) == EPOCHS_OF_ROWS
    assert list(read_epochs(ArchiveReader(root), kept, last_only=True)) == EPOCHS_OF_ROWS[-1:]
    assert jumps_in(kept, EPOCHS_OF_ROWS) == []


def test_a_file_of_before_there_were_rows_says_that_none_are_covered(root: Root) -> None:
    epochs = [Epoch(1, T, {0: 1}), Epoch(2, T + 1, {0: 4})]
    old = epochs_table(epochs).drop_columns(["rows"])
    assert list(read_epochs(ArchiveReader(root), segment(root, old, epochs))) == epochs
    assert with_rows(old).schema.equals(EPOCHS)
    assert pa.concat_tables([with_rows(old), epochs_table(EPOCHS_OF_ROWS)]).num_rows == 5


@pytest.mark.parametrize(
    "epochs",
    [
        [Epoch(1, T, {0: 1}, rows={0: 2}), Epoch(2, T + 1, {0: 2}, rows={0: 1})],
        [Epoch(1, T, {0: 1}, rows={0: 2}), Epoch(2, T + 1, {0: 2})],
    ],
)
def test_epochs_that_take_back_rows_are_none_to_restore(root: Root, epochs: list[Epoch]) -> None:
    with pytest.raises(ValueError, match="epoch 2 does not follow epoch 1"):
        jumps_in(segment(root, epochs_table(epochs), epochs), epochs)


def test_a_segment_that_covers_other_rows_than_its_last_epoch_is_not_whole(root: Root) -> None:
    kept = segment(root, epochs_table(EPOCHS_OF_ROWS), EPOCHS_OF_ROWS)
    other = Segment(1, 3, kept.files, kept.cover, kept.last_time, 0, T, rows_cover={3: 12})
    with pytest.raises(ValueError, match="is not its segment's"):
        jumps_in(other, EPOCHS_OF_ROWS)
