"""A view's rows by their numbers, for datasets: resolved once, whatever number of processes then read.

Rows of a view of at most 2,000,000 objects are in memory, and go along when the dataset is pickled. Those of
a greater one are written to a temporary file once, in bounded memory; the processes of the machine map it.
Where the file is not to be had (on another machine, or after its maker has ended) the view's reference gives
the same rows again, into a file of that process's own.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import weakref
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from readers.sampling import Numbers
from snapengine import View
from snapengine.bulkfold import VIEW_SCHEMA, versions_of
from snapengine.digest import digest_batches
from snapengine.errors import UsageError
from snapengine.model import ObjectVersion
from snapengine.row_bytes import COLUMNS
from snapengine.view_rows import FEW_ROWS

_AT_ONCE: Final = 256
"""Rows that are made into versions at once, where they are read one after the other."""


class ViewRows:
    """The rows of a view, from 0 in key order. Thread-safe; pickles; may go through a fork."""

    def __init__(self, view: View) -> None:
        """Resolves the view, if nobody has yet. Raises `UsageError` for a slice of all versions, and what
        reading a view raises."""
        if view.ref.versions == "all":
            raise UsageError(
                f"{view} has several objects of one key. A dataset is made over a view, or over a slice "
                "without versions='all'."
            )
        self._view = view
        self._process = os.getpid()
        self._open(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._view, self._path)

    def _open(self, path: Path | None) -> None:
        self._path: Path | None = None
        table = self._view.rows_if_few() if path is None else None
        if table is None or table.num_rows > FEW_ROWS:
            self._path = path if path is not None and path.exists() else self._spool()
            table = pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()
        self._batches = table.to_batches()
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def _spool(self) -> Path:
        """Write the rows to a file that goes with this object."""
        folder = Path(tempfile.mkdtemp(prefix="snapengine-"))
        weakref.finalize(self, _remove, folder, os.getpid())
        with pa.ipc.new_file(str(folder / "rows.arrow"), VIEW_SCHEMA) as file:
            for batch in self._view.to_batches(VIEW_SCHEMA.names):
                file.write_batch(batch)
        return folder / "rows.arrow"

    @property
    def view(self) -> View:
        """The view, for this process: one that was forked must not share its parent's connections."""
        if self._process != os.getpid():
            kind, (source, *rest) = self._view.__reduce__()[:2]
            self._view = kind(pickle.loads(pickle.dumps(source)), *rest)  # noqa: S301  # made a moment ago
            self._process = os.getpid()
        return self._view

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def versions(self, numbers: Sequence[int] | Numbers) -> list[ObjectVersion]:
        """The rows of these numbers, in their order. Raises `IndexError`."""
        places: defaultdict[int, list[int]] = defaultdict(list)
        for place, number in enumerate(numbers):
            if not 0 <= number < len(self):
                raise IndexError(
                    f"{self._view.reference} has {len(self):,} objects, and none of number {number}"
                )
            places[bisect_right(self._ends, number)].append(place)
        found: dict[int, ObjectVersion] = {}
        for which, some in places.items():
            batch = self._batches[which]
            start = self._ends[which] - batch.num_rows
            rows = batch.take(pa.array([numbers[place] - start for place in some], pa.int64()))
            found.update(zip(some, versions_of(pa.Table.from_batches([rows])), strict=True))
        return [found[place] for place in range(len(numbers))]

    def each(self, numbers: Sequence[int] | Numbers) -> Iterator[ObjectVersion]:
        """The same one after the other, of any number of rows."""
        for start in range(0, len(numbers), _AT_ONCE):
            yield from self.versions(numbers[start : start + _AT_ONCE])

    def digest(self) -> str:
        """The view's digest, from the rows at hand."""
        return digest_batches(_columns(self._batches))


def _columns(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (batch.select(list(COLUMNS)) for batch in batches)


def _unpickled(view: View, path: Path | None) -> ViewRows:
    rows = ViewRows.__new__(ViewRows)
    rows._view = view
    rows._process = os.getpid()
    rows._open(path)
    return rows


def _remove(folder: Path, maker: int) -> None:
    if os.getpid() == maker:
        shutil.rmtree(folder, ignore_errors=True)
