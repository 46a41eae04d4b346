"""An archived history, and rows of metadata of its versions: late, twice, by newer extractors, of what is
gone."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from hypothesis.stateful import precondition

from snapengine.archive.planning import newest_start
from snapengine.log import RowWriter
from snapengine.metadata_rows import RANKS, row_schema
from snapengine.model import CREATED, Epoch, SnapshotRef
from snapengine.resolver import resolve
from snapengine.row_reading import extractors_of, joined
from snapengine.row_reading import row_schema as schema_of
from snapengine.testing.model_bucket import Version
from tests.row_answers import covered, expected, read, same
from tests.stateful.archived import ArchivedHistory
from tests.stateful.history import Deed, burst, deeds, many, step


def field(name: str, kind: pa.DataType, *, identifying: bool = False) -> pa.Field[Any]:
    return pa.field(name, kind, metadata={"identifying": str(identifying).lower()})


PLAIN = [field("Modality", pa.string()), field("thickness", pa.float64())]
SCHEMAS = {
    ("dicom", "1"): row_schema(pa.schema([*PLAIN, field("PatientName", pa.string(), identifying=True)])),
    ("dicom", "2"): row_schema(
        pa.schema(
            [*PLAIN, field("Spacing", pa.list_(pa.float64())), field("Age", pa.int64(), identifying=True)]
        )
    ),
    ("sizes", "1"): row_schema(pa.schema([field("width", pa.int64())])),
    ("sizes", "2"): row_schema(pa.schema([field("width", pa.int64(), identifying=True)])),
}
"""By extractor and its version."""
VALUES: dict[str, list[Any]] = {
    "Modality": ["CT", "MR", None],
    "thickness": [1.5, None],
    "PatientName": ["ann", "bob"],
    "Spacing": [[1.0, 2.0], [], None],
    "Age": [50, 51],
    "width": [1, 2, None],
}


def difference(answer: pa.Table, truth: pa.Table) -> Any:
    """What is in the one and not in the other."""
    one, other = answer.to_pylist(), truth.to_pylist()
    return [r for r in one if r not in other], [r for r in other if r not in one]


Drawn = tuple[int, int, int, int]
"""Which version, which outcome, extracted when, and which values."""
drawn = st.tuples(many, st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 6]), st.integers(0, 3), st.integers(0, 5))
Asked = tuple[SnapshotRef, Epoch, str, bool]


class ExtractedHistory(ArchivedHistory):
    """The same, and extractors that are at it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.told: dict[tuple[int, int], tuple[str, pa.Table]] = {}
        self.asked: list[tuple[Asked, pa.Table]] = []

    @precondition(lambda self: self._made())
    @step(
        kind=st.sampled_from(sorted(SCHEMAS)),
        some=st.lists(drawn, min_size=1, max_size=6),
        writer=st.integers(0, 3),
        cut=st.booleans(),
        pick=many,
    )
    def rows_are_appended(
        self, kind: tuple[str, str], some: list[Drawn], writer: int, cut: bool, pick: int
    ) -> None:
        """Of versions that are shown, or were, or that nobody has observed yet."""
        self._append(kind, some, writer, pick)
        if cut:
            self._cut()
            self._ask(pick, kind[0])

    @precondition(lambda self: self._made() and self.baseline_taken and self._archived)
    @step(
        kind=st.sampled_from(sorted(SCHEMAS)),
        before=st.lists(drawn, min_size=1, max_size=4),
        some=burst | deeds,
        wait=st.sampled_from([0, 61_000, 400_000]),
        after=st.lists(drawn, max_size=4),
        then=st.sampled_from(["take", "take and cut"]),
        pick=many,
    )
    def rows_come_before_and_after_a_checkpoint(
        self,
        kind: tuple[str, str],
        before: list[Drawn],
        some: list[Deed],
        wait: int,
        after: list[Drawn],
        then: str,
        pick: int,
    ) -> None:
        """With things done to the bucket before, that a worker tells of before or after."""
        if pick % 2:
            self._do_all(some, "take and cut" if pick % 4 == 1 else "")
        self._append(kind, before, 0, pick)
        self._cut()
        self.archiver.archive(1000)
        self._make_checkpoint(pick)
        self.bucket.now += wait
        self._do_all(some, then)
        if after:
            self._append(kind, after, 1, pick)
        self._cut()
        if pick % 5 < 3:
            self.archiver.archive(1000)
            self._make_differential(pick)
            self._append(kind, before, 2, pick)
            self._cut()
        self._ask(pick, kind[0])

    @precondition(lambda self: self._made())
    @step(kind=st.sampled_from(sorted(SCHEMAS)), some=st.lists(drawn, min_size=1, max_size=3), pick=many)
    def rows_are_archived_and_days_later_let_go(
        self, kind: tuple[str, str], some: list[Drawn], pick: int
    ) -> None:
        self._append(kind, some, 2, pick)
        self._cut()
        self.archiver.archive(1000)
        self.bucket.now += 2 * 86_400_000
        self.checks.held["let go"] += self.archiver.let_go()
        self._ask(pick, kind[0])

    def _append(self, kind: tuple[str, str], some: list[Drawn], writer: int, pick: int) -> None:
        table = self._rows(kind, some)
        store = self.site.log
        committed = self.site.run(
            RowWriter(store, f"extractor-{writer}", lambda: self.bucket.now).append(
                self.site.bucket, kind[0], table
            )
        )
        for one in committed:
            self.told[one.stream, one.number] = (kind[0], table)
        assert len(committed) == 1
        if pick % 5 == 0:  # of a writer that lost its race
            number = committed[0].number + pick % 2
            self.site.run(
                store.put_identifying(self.site.bucket, committed[0].stream, number, f"x{pick}", b"nobody's")
            )

    @precondition(lambda self: self.told and self.checks.epochs)
    @step(pick=many, kind=st.sampled_from(sorted(SCHEMAS)))
    def a_view_is_joined_with_its_rows(self, pick: int, kind: tuple[str, str]) -> None:
        self._ask(pick, kind[0])

    def _made(self) -> list[Version]:
        return [version for version in self.bucket.made if version.kind == CREATED]

    def _rows(self, kind: tuple[str, str], some: list[Drawn]) -> pa.Table:
        made, schema = self._made(), SCHEMAS[kind]
        own = [name for name in schema.names if name in VALUES]
        rows = []
        for which, outcome, seconds, value in some:
            version = made[-1 - which % 5] if which % 2 and len(made) > 4 else made[which % len(made)]
            listed = version.version_id == "null" and which % 7 == 0
            rows.append(
                {
                    "key": version.key,
                    "version_id": version.version_id,
                    "etag": version.etag,
                    "sequencer": None if listed else self.bucket.told[version].sequencer,
                    "extractor_version": kind[1],
                    "outcome": list(RANKS)[outcome],
                    "error": None,
                    "extracted_at": self.bucket.now // 60_000 * 60_000 + 1000 * seconds,
                }
                | {name: VALUES[name][value % len(VALUES[name])] for name in own}
            )
        return pa.Table.from_pylist(rows, schema=schema)

    def _ask(self, pick: int, extractor: str) -> None:
        """At some instants, as the newest epoch knows them, and some older one."""
        bucket = self.site.bucket
        instants = self.checks.instants()
        epochs = self.checks.epochs
        for number in {epochs[-1].number, epochs[pick % len(epochs)].number}:
            epoch = epochs[number - 1]
            self.whose_rows_there_are_is_known(epoch)
            for at in {
                self.bucket.now,
                instants[-1 - pick % min(9, len(instants))],
                instants[pick % len(instants)],
            }:
                start = instants[pick // 3 % len(instants)] if pick % 3 == 0 else None
                if start is not None and start > at:
                    start = None
                ref = SnapshotRef(bucket, "ct/" if pick % 4 == 0 else "", at, number, start)
                for full in (False, True):
                    asked = (ref, epoch, extractor, full)
                    self.rows_beside_a_view_are_those_of_its_versions(asked)
        if self.asked:
            self.a_view_has_the_same_rows_for_ever(*self.asked[pick % len(self.asked)])

    def whose_rows_there_are_is_known(self, epoch: Epoch) -> None:
        self.held["whose_rows_there_are_is_known"] += 1
        names = {name for name, _ in SCHEMAS}
        there = {name for name in names if covered(self.told, epoch, name).num_rows}
        assert extractors_of(self.engine, self.site.bucket, epoch) == sorted(there)
        for name in names:
            found = schema_of(self.engine, self.site.bucket, epoch, name)
            assert found.equals(covered(self.told, epoch, name).schema, check_metadata=True)

    def rows_beside_a_view_are_those_of_its_versions(self, asked: Asked) -> None:
        ref, epoch, extractor, full = asked
        found = joined(self.engine, ref, epoch, extractor, full)
        found.verify()
        answer = read(found)
        view = resolve(self.engine, ref, epoch)
        truth = expected(view, covered(self.told, epoch, extractor), full=full)
        self.held["rows_beside_a_view_are_those_of_its_versions"] += bool(view.num_rows)
        self.held["joined from files"] += bool(found.files)
        begin = newest_start(self.engine.archive(ref.bucket), ref.at, epoch.number, extractor)
        self.held["joined from a differential"] += begin is not None and begin.difference is not None
        self.held["joined with rows"] += truth["outcome"].null_count < truth.num_rows
        self.held["kept from files"] += bool(found.files) and len(found.changed) < view.num_rows
        assert same(answer, truth), (ref, extractor, full, difference(answer, truth))
        self.asked.append((asked, answer))
        few = read(joined(self.engine, ref, epoch, extractor, full, ["thickness", "PatientName"]))
        assert same(few, truth.select(few.schema.names)), (asked, difference(few, truth))

    def a_view_has_the_same_rows_for_ever(self, asked: Asked, answer: pa.Table) -> None:
        self.held["a_view_has_the_same_rows_for_ever"] += 1
        ref, epoch, extractor, full = asked
        again = read(joined(self.engine, ref, epoch, extractor, full))
        assert same(again, answer), (asked, difference(again, answer))

    def _settle(self) -> None:
        super()._settle()
        if self.told:
            for pick, extractor in enumerate(["dicom", "sizes", "dicom"]):
                self._ask(pick, extractor)
