"""A view too great to keep answers as one that is kept, and holds no more than a few batches at a time."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine import View
from snapengine.bulkfold import BECAME, VIEW_SCHEMA, version_table, versions_of
from snapengine.errors import BadData, CannotExpressKey, NoSuchKey, UsageError
from snapengine.model import Epoch, GoneVersion, ObjectVersion, SnapshotRef
from snapengine.view_rows import BATCH_ROWS, FEW_ROWS
from snapengine.views import Listing

EPOCH = Epoch(number=3, time=1_000, cover={0: 5})
REF = SnapshotRef("scans", "", 500, 3)
ALL = replace(REF, start=0, versions="all")
KEYS = st.text(st.sampled_from("ab/é\U0001f600\uffff"), min_size=1, max_size=5)
KEY_SETS = st.sets(KEYS, max_size=40)


@dataclass(frozen=True)
class Source:
    """Rows that come in small batches; where they are `great` in number, never all at once."""

    rows: pa.Table
    great: bool
    step: int = 3
    asked: list[tuple[str, str, tuple[str, ...] | None]] = field(default_factory=list, compare=False)
    other: pa.Table | None = None
    """The rows at another instant."""

    def table(self, ref: SnapshotRef, epoch: Epoch) -> pa.Table:
        assert not self.great, "all rows were asked for at once"
        self.asked.append(("table", ref.prefix, None))
        return self._of(ref)

    def batches(
        self, ref: SnapshotRef, epoch: Epoch, columns: Sequence[str] | None = None, after: str = ""
    ) -> Iterator[pa.RecordBatch]:
        self.asked.append(("batches", ref.prefix, None if columns is None else tuple(columns)))
        found = self._of(ref)
        found = found.filter(pc.greater(found["key"], after))
        yield from found.select(columns or found.column_names).to_batches(max_chunksize=self.step)

    def bound(self, ref: SnapshotRef, epoch: Epoch) -> int:
        return FEW_ROWS + 1 if self.great else FEW_ROWS

    def differing(
        self, before_ref: SnapshotRef, before_epoch: Epoch, after_ref: SnapshotRef, after_epoch: Epoch
    ) -> tuple[pa.Table, pa.Table]:
        self.asked.append(("differing", before_ref.prefix, None))
        return self._of(before_ref), self._of(after_ref)

    def explain(self, ref: SnapshotRef, epoch: Epoch) -> str:
        return f"reads {ref.prefix!r} at epoch {epoch.number}"

    def version(self, ref: SnapshotRef, epoch: Epoch, key: str) -> ObjectVersion | None:
        self.asked.append(("version", ref.prefix, None))
        return next((each for each in versions_of(self._of(ref)) if each.key == key), None)

    def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        return f"{version.key} {version.version_id}".encode()[start:end]

    def removal(self, bucket: str, version: ObjectVersion) -> str | None:
        return None

    def audit(self, ref: SnapshotRef, shown: pa.Table) -> list[GoneVersion]:
        return []

    def _of(self, ref: SnapshotRef) -> pa.Table:
        rows = self.rows if ref.at == REF.at or self.other is None else self.other
        return rows.filter(pc.starts_with(rows["key"], ref.prefix))


def rows_of(keys: set[str], mark: str = "v") -> pa.Table:
    return version_table(
        [ObjectVersion(key, f"{mark}-{key}", len(key), "e", 5) for key in sorted(keys, key=str.encode)]
    )


def both(keys: set[str], step: int = 3, ref: SnapshotRef = REF) -> tuple[View, View]:
    """A view of few rows and a view of the same rows that is told they are many."""
    rows = rows_of({key for key in keys if key.startswith(ref.prefix)})
    return View(Source(rows, great=False), ref, EPOCH), View(Source(rows, great=True, step=step), ref, EPOCH)


def level(keys: set[str], prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
    """S3's rule, key by key."""
    objects: list[str] = []
    prefixes: dict[str, None] = {}
    for key in sorted((key for key in keys if key.startswith(prefix)), key=str.encode):
        head, found, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else (key, "", "")
        if found:
            prefixes[prefix + head + found] = None
        else:
            objects.append(key)
    return objects, list(prefixes)


def shown(listing: Listing) -> tuple[list[str], list[str]]:
    assert all(each.version_id == f"v-{each.key}" for each in listing.objects)
    return [each.key for each in listing.objects], listing.prefixes


@given(KEY_SETS, st.integers(1, 9))
def test_a_great_view_gives_the_same_answers_as_a_small_one(keys: set[str], step: int) -> None:
    small, great = both(keys, step)
    ordered = sorted(keys, key=str.encode)
    for view in (small, great):
        assert list(view) == ordered
        assert [key for key, _ in view.items()] == [each.key for each in view.values()] == ordered
        assert len(view) == len(view.items()) == len(ordered)
        assert bool(view) == bool(ordered)
        assert all(view[key].version_id == f"v-{key}" and key in view for key in ordered)
        assert "none" not in view
        assert pa.Table.from_batches(view.to_batches(), VIEW_SCHEMA).equals(rows_of(keys))
    assert small.digest() == great.digest()
    assert list(small.versions()) == list(great.versions())
    assert small == great


@given(
    KEY_SETS, KEYS | st.just(""), st.sampled_from(["", "/", "a", "b/", "é"]), st.integers(1, 9), st.booleans()
)
def test_a_level_is_listed_as_s3_does_from_memory_or_not(
    keys: set[str], prefix: str, delimiter: str, step: int, resolved: bool
) -> None:
    for view in both(keys, step):
        if resolved and not view._source.great:  # type: ignore[attr-defined]  # it is our source
            view.to_arrow()
        assert shown(view.list(prefix, delimiter)) == level(keys, prefix, delimiter)


@given(KEY_SETS, KEYS | st.just(""), KEYS | st.just(""), st.sampled_from(["", "a"]), st.booleans())
def test_rows_are_read_from_any_key_on(
    keys: set[str], prefix: str, after: str, own: str, resolved: bool
) -> None:
    expected = sorted(key for key in keys if key.startswith(own) and key.startswith(prefix) and key > after)
    for view in both(keys, ref=replace(REF, prefix=own)):
        if resolved and not view._source.great:  # type: ignore[attr-defined]  # it is our source
            view.to_arrow()
        batches = view.to_batches(["key"], prefix=prefix, after=after)
        assert [key for batch in batches for key in batch["key"].to_pylist()] == expected


@given(KEY_SETS, KEYS, KEYS | st.just(""), st.sampled_from(["", "/", "a"]))
def test_a_view_of_a_prefix_lists_what_it_has_below_any_other(
    keys: set[str], own: str, prefix: str, delimiter: str
) -> None:
    held = {key for key in keys if key.startswith(own)}
    for view in both(keys, ref=replace(REF, prefix=own)):
        assert shown(view.list(prefix, delimiter)) == level(held, prefix, delimiter)


@given(KEY_SETS, KEY_SETS, KEY_SETS)
def test_a_diff_is_the_same_from_memory_from_the_source_and_from_streams(
    kept: set[str], gone: set[str], new: set[str]
) -> None:
    before = rows_of(kept | gone)
    after = rows_of(kept - gone | new)
    later = replace(REF, at=600)
    small, great = Source(before, great=False, other=after), Source(before, great=True, other=after)
    in_memory = View(small, REF, EPOCH), View(small, later, EPOCH)
    for view in in_memory:
        view.to_arrow()
    expected = in_memory[0].diff(in_memory[1])
    assert [change.key for change in expected] == sorted((kept | gone) ^ (kept - gone | new), key=str.encode)
    assert View(great, REF, EPOCH).diff(View(great, later, EPOCH)) == expected
    elsewhere = Source(before, great=True, step=4, other=after)
    assert elsewhere != great
    assert View(great, REF, EPOCH).diff(View(elsewhere, later, EPOCH)) == expected
    assert [kind for kind, _, _ in great.asked] == ["differing", "batches"]


def test_only_the_columns_and_the_prefix_that_are_needed_are_read() -> None:
    keys = {f"ct/{i}/{j}" for i in range(9) for j in range(9)} | {"a", "b"}
    _, great = both(keys)
    asked = great._source.asked  # type: ignore[attr-defined]  # it is our source

    def after(what: object) -> list[tuple[str, str, tuple[str, ...] | None]]:
        told, asked[:] = list(asked), []
        return told

    assert after(list(iter(great))) == [("batches", "", ("key",))]
    assert after(great.digest()) == [("batches", "", ("key", "version_id", "etag", "size"))]
    assert after(bool(great)) == [("batches", "", ("key",))]
    assert after(len(great)) == [("batches", "", ("key",))]
    assert after((len(great), great.bound(), repr(great))) == [], "the count is remembered"
    assert after(great.list("ct/3/")) == [("batches", "ct/3/", tuple(VIEW_SCHEMA.names))]
    assert after(great.list("ct/", "/")) == [("batches", "ct/", ("key",))]
    assert after(great.list("", "/")) == [
        ("batches", "", ("key",)),
        ("version", "", None),
        ("version", "", None),
    ]
    assert after(great.list("mr/", "/")) == [("batches", "mr/", ("key",))]
    assert after("ct/1/1" in great) == [("version", "", None)]
    assert after(great.explain()) == []


def test_a_small_view_is_resolved_once_and_a_prefix_of_it_by_itself() -> None:
    small, _ = both({"a", "ct/1", "ct/2"})
    asked = small._source.asked  # type: ignore[attr-defined]  # it is our source
    assert [each.key for each in small.list("ct/").objects] == ["ct/1", "ct/2"]
    assert repr(small).endswith("(not read yet)>")
    assert (len(small), list(small), small.digest()[:7]) == (3, ["a", "ct/1", "ct/2"], "sha256:")
    assert [each.key for each in small.list("ct/").objects] == ["ct/1", "ct/2"]
    assert repr(small).endswith("(3 objects)>")
    assert asked == [("table", "ct/", None), ("table", "", None)]


def test_a_level_with_many_objects_is_read_in_a_second_pass_until_the_last_of_them() -> None:
    keys = {f"k{i:03d}" for i in range(200)} | {f"k1{i}/x" for i in range(200)} | {"z/1"}
    _, great = both(keys, step=7)
    assert shown(great.list("", "/")) == level(keys, "", "/")
    assert [kind for kind, _, _ in great._source.asked] == ["batches", "batches"]  # type: ignore[attr-defined]  # it is our source


def test_a_look_up_that_contradicts_the_listing_is_an_error() -> None:
    class Forgetful(Source):
        def version(self, ref: SnapshotRef, epoch: Epoch, key: str) -> ObjectVersion | None:
            return None

    view = View(Forgetful(rows_of({"a", "b/1"}), great=True), REF, EPOCH)
    with pytest.raises(BadData, match="lists 'a', and a look-up does not find it"):
        view.list("", "/")


@given(st.lists(st.tuples(KEYS, st.sampled_from(["current", "superseded"])), max_size=30), st.integers(1, 5))
def test_a_great_slice_of_all_versions_gives_each_of_them_and_what_became_of_it(
    given_rows: list[tuple[str, str]], step: int
) -> None:
    ordered = sorted(given_rows, key=lambda row: row[0].encode())
    table = version_table(
        [ObjectVersion(key, f"v{i}", i, None, i) for i, (key, _) in enumerate(ordered)]
    ).append_column(BECAME, pa.array([became for _, became in ordered], pa.string()))
    small, great = (View(Source(table, great=g, step=step), ALL, EPOCH) for g in (False, True))
    assert pa.Table.from_batches(great.to_batches(), table.schema).equals(table)
    became = [value for batch in great.to_batches(["became"]) for value in batch.column(0).to_pylist()]
    assert became == [row[1] for row in ordered]
    assert (list(small), small.digest(), small.list("a")) == (list(great), great.digest(), great.list("a"))
    assert small.list("", "/") == great.list("", "/")
    last = {version.key: version for version in small.versions()}
    assert {key: great[key] for key in last} == {key: small[key] for key in last} == last
    with pytest.raises(NoSuchKey):
        great["none"]
    with pytest.raises(NoSuchKey):
        View(Source(table, great=True), replace(ALL, prefix="a"), EPOCH)["b"]


def test_a_column_that_there_is_not_is_refused_at_once() -> None:
    for view in both({"a"}):
        for wrong in (["became"], ["Key"], [], ["key", "key"]):
            with pytest.raises(UsageError, match="name one or more of key, version_id"):
                view.to_batches(wrong)


def test_a_great_view_is_pickled_without_its_rows_unless_it_is_asked_to_hold_few() -> None:
    keys = {f"key-{i:05d}" for i in range(5000)}
    small, great = both(keys)
    assert len(pickle.dumps(great)) < len(pickle.dumps(great._source)) + 1000
    again = pickle.loads(pickle.dumps(great))  # noqa: S301  # our own bytes
    assert repr(again).endswith("(not read yet)>")
    assert (again, again.digest()) == (great, great.digest())
    received = pickle.loads(pickle.dumps(small))  # noqa: S301  # our own bytes
    assert repr(received).endswith("(5,000 objects)>")
    received.digest()
    assert received._source.asked == [("table", "", None)], "nothing was resolved again"


def test_a_great_view_is_downloaded_after_all_its_names_were_checked(tmp_path: Path) -> None:
    keys = {f"ct/{i}" for i in range(20)} | {"mr/1"}
    small, great = both(keys)
    paths = great.download(tmp_path / "great", "ct/")
    assert [path.name for path in small.download(tmp_path / "small", "ct/")] == [path.name for path in paths]
    assert {path.read_bytes() for path in paths} == {f"{key} v-{key}".encode() for key in keys - {"mr/1"}}
    _, odd = both(keys | {"zz//1"})
    with pytest.raises(CannotExpressKey):
        odd.download(tmp_path / "odd")
    assert not (tmp_path / "odd").exists()
    assert both({"a"})[1].download(tmp_path / "none", "b") == []


def test_a_great_view_looks_like_something_in_a_notebook_without_being_counted() -> None:
    _, great = both({f"<b>{i:03d}" for i in range(100)}, step=10)
    page = great._repr_html_()
    assert f"at most {FEW_ROWS + 1:,} objects" in page
    assert "… and more" in page
    assert "<b>" not in page
    assert "and more" not in both({"a"})[1]._repr_html_()


def test_several_threads_may_read_one_great_view() -> None:
    keys = {f"{i:04d}" for i in range(500)}
    for view in both(keys, step=11):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _, view=view: (list(view), len(view), view.digest()), range(16)))
        assert all(answer == answers[0] for answer in answers)
    asked = [kind for kind, _, _ in both(keys)[0]._source.asked]  # type: ignore[attr-defined]  # it is our source
    assert asked.count("table") <= 1


class Endless:
    """More rows than are ever kept, made as they are asked for; notes how much Arrow holds meanwhile."""

    rows = FEW_ROWS + 100_000
    step = 100_000

    def __init__(self) -> None:
        self.started = 0
        self.peak = 0
        self.read = 0

    def bound(self, ref: SnapshotRef, epoch: Epoch) -> int:
        return self.rows

    def batches(
        self, ref: SnapshotRef, epoch: Epoch, columns: Sequence[str] | None = None, after: str = ""
    ) -> Iterator[pa.RecordBatch]:
        self.started, self.peak, self.read = pa.total_allocated_bytes(), 0, 0
        for start in range(0, self.rows, self.step):
            numbers = pa.array(range(start, start + self.step), pa.int64())
            text = pc.utf8_lpad(numbers.cast(pa.string()), 40, "0")
            values = {"key": text, "version_id": text, "etag": text, "size": numbers}
            self.peak = max(self.peak, pa.total_allocated_bytes() - self.started)
            self.read += self.step
            yield pa.record_batch([values[name] for name in columns or ()], list(columns or ()))


def test_no_more_than_a_few_batches_of_two_million_rows_are_alive_at_once() -> None:
    source = Endless()
    view = View(source, REF, EPOCH)  # type: ignore[arg-type]  # what else a source does is not needed here
    assert view.digest().startswith("sha256:")
    assert 0 < source.peak < 200 * 10 * BATCH_ROWS, "ten blocks; all rows would be 270 MB"
    assert len(view) == source.rows == sum(1 for _ in view)
    assert 0 < source.peak < 60 * 10 * BATCH_ROWS
    assert view
    assert source.read <= source.step, "to know whether there is any row, one batch is read"
    assert max(batch.num_rows for batch in view.to_batches(["key"])) == BATCH_ROWS
