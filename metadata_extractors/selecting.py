"""Rows of metadata by a condition, and how many objects there were of each other kind."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from metadata_extractors.closed_duckdb import check_names
from metadata_extractors.conditions import Condition
from snapengine.deltafold import put_together
from snapengine.errors import UsageError

if TYPE_CHECKING:
    import duckdb

USUAL: Final = ("ok", "not_matched")
"""Outcomes that are no cause for concern."""

Transform = Callable[[pa.Table], pa.Table]
"""What is done with rows before they are judged: nothing, or de-identification."""


@dataclass(frozen=True, slots=True)
class Selected:
    """The rows for which a condition is true, and how many objects there were of each other kind."""

    table: pa.Table
    """In key order; fields keep their metadata."""
    matched: int
    not_matched: int | None
    """None unless it was asked for."""
    unknown: int
    """The condition is NULL: some value that it needs is not there."""
    without_row: int
    """Objects of the view of which there is no metadata. They are in none of the other numbers."""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Of the objects with a row, how many ended how (`failed`, `partial`, ...); `ok` and `not_matched` only
    if all numbers were asked for."""
    read_now: int = 0
    """Of the objects with a row, how many had none, and were read for this."""

    @property
    def counts(self) -> dict[str, int]:
        """The numbers that are known."""
        not_matched = {} if self.not_matched is None else {"not_matched": self.not_matched}
        return {
            "matched": self.matched,
            **not_matched,
            "unknown": self.unknown,
            "without_row": self.without_row,
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of rows, whatever they come from."""

    condition: Condition
    answer: pa.Schema
    """The columns of the answer."""
    transform: Transform | None = None
    """What is done with the rows of the answer."""
    transformed_first: bool = False
    """The condition is of transformed rows."""
    numbers: bool = True
    """All numbers are wanted, also how many rows make the condition false: that costs a look at every row."""

    def finish(self, rows: pa.Table) -> pa.Table:
        """Rows that were chosen, as the answer has them."""
        if self.transform is not None and not self.transformed_first:
            rows = self.transform(rows)
        return rows.select(self.answer.names).cast(self.answer)


class Tally:
    """Takes rows as they come, and counts."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._kept: list[pa.Table] = []
        self._scanned: tuple[pa.Table, pa.Array[Any]] | None = None
        self._verdicts: Counter[bool | None] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._without_row = 0
        self._selected: Selected | None = None

    def judge(
        self,
        batches: Iterable[pa.RecordBatch],
        without: list[pa.RecordBatch] | None = None,
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> None:
        """Rows with the columns that are asked for and used, and `outcome`. Those of objects without a row of
        metadata are counted, and put into `without`. For `connection` see `Condition.judging`."""
        self._selected = None
        first = self.asked.transform if self.asked.transformed_first else None
        with self.asked.condition.judging(connection) as judge:
            for batch in batches:
                known = pc.is_valid(batch["outcome"])
                self._without_row += batch.num_rows - known.true_count
                if without is not None:
                    without.append(batch.filter(pc.invert(known)))
                rows = pa.Table.from_batches([batch.filter(known)])
                for told in pc.value_counts(rows["outcome"]).to_pylist():
                    self._outcomes[told["values"]] += told["counts"]
                for part in (rows if first is None else first(rows)).combine_chunks().to_batches():
                    verdicts = judge(part)
                    self._verdicts[True] += verdicts.true_count
                    self._verdicts[None] += verdicts.null_count
                    self._verdicts[False] += len(verdicts) - verdicts.true_count - verdicts.null_count
                    self._kept.append(self.asked.finish(pa.Table.from_batches([part.filter(verdicts)])))

    def keep(self, rows: pa.Table, changed: pa.Array[Any]) -> None:
        """Rows that were chosen elsewhere, once; those of the keys that have changed do not count."""
        self._selected = None
        if self.asked.transform is not None:  # which must not meet what does not count
            rows = rows.filter(pc.invert(pc.is_in(rows["key"], value_set=changed)))
        self._scanned = self.asked.finish(rows), changed

    def count(self, groups: Iterable[tuple[str | None, bool | None, int]]) -> None:
        """What was judged elsewhere: numbers by outcome (None: no row) and verdict."""
        self._selected = None
        for outcome, verdict, count in groups:
            if outcome is None:
                self._without_row += count
            else:
                self._outcomes[outcome] += count
                self._verdicts[verdict] += count

    @property
    def selected(self) -> Selected:
        """All of it, in key order."""
        self._selected = self._selected or self._put_together()
        return self._selected

    def _put_together(self) -> Selected:
        table = in_order(pa.concat_tables([self.asked.answer.empty_table(), *self._kept]))
        if self._scanned is not None:
            rows, changed = self._scanned
            table = put_together(in_order(rows), changed, table)
        return Selected(
            table,
            table.num_rows,
            self._verdicts[False] if self.asked.numbers else None,
            self._verdicts[None],
            self._without_row,
            {
                outcome: count
                for outcome, count in sorted(self._outcomes.items())
                if count and (self.asked.numbers or outcome not in USUAL)
            },
        )


def in_order(table: pa.Table) -> pa.Table:
    """By `key`, if that is not so already."""
    last = ""
    for keys in table["key"].chunks:
        if not len(keys):
            continue
        if keys[0].as_py() < last or not pc.all(pc.less_equal(keys[:-1], keys[1:])).as_py():
            return table.take(pc.sort_indices(table["key"]))
        last = keys[len(keys) - 1].as_py()
    return table


def picked(names: Sequence[str] | None, schema: pa.Schema) -> list[str]:
    """The names, each once, if there are such columns; None means all. Raises `UsageError`."""
    if isinstance(names, str):
        raise UsageError(f"columns must be a list of names, as in columns=[{names!r}].")
    check_names(schema.names)
    found = list(dict.fromkeys(schema.names if names is None else names))
    for name in found:
        if name not in schema.names:
            near = difflib.get_close_matches(str(name), schema.names, n=1)
            raise UsageError(f"There is no column {name!r}{f'; did you mean {near[0]!r}?' if near else '.'}")
    return found
