"""A narrowed view shows exactly what was selected, for ever, wherever the table can be read."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine import Engine, View
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.cautions import SelectionNotKept
from snapengine.errors import (
    BadReference,
    LogDamaged,
    NoSuchKey,
    NoSuchSelection,
    PermissionMissing,
    UsageError,
)
from snapengine.model import SnapshotRef
from snapengine.reference import parse_reference, render_reference, without_selection
from snapengine.selections import chunks, selection_digest
from tests.seed import T0, enable, engine_at, event, record, removal

KEYS = [f"ct/{n:04}" for n in range(20)]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(key, f"v-{key}", 10 + n, size=n) for n, key in enumerate(KEYS)])
    return engine


def again(engine: Engine) -> Engine:
    """Another process's engine on the same table."""
    return Engine(engine.settings, clock=engine.clock)


def test_a_selection_shows_what_was_selected_and_nothing_else(engine: Engine) -> None:
    view = engine.view("scans")
    some = view.select(["ct/0007", "ct/0003", "ct/0007"])
    assert list(some) == ["ct/0003", "ct/0007"]
    assert len(some) == 2
    assert some["ct/0003"] == view["ct/0003"]
    assert "ct/0004" not in some
    with pytest.raises(NoSuchKey):
        some["ct/0004"]
    assert some.list("ct/", "/").objects == [view["ct/0003"], view["ct/0007"]]
    assert [b.num_rows for b in some.to_batches(["key"])] == [2]
    assert some.completeness == view.completeness
    assert some.query is None
    assert some != view
    assert some.digest() != view.digest()


def test_its_reference_opens_it_again_elsewhere_whatever_happens_later(engine: Engine) -> None:
    some = engine.view("scans").select(KEYS[:3])
    assert some.reference.startswith("snap://scans@")
    assert "/?select=sha256:" in some.reference
    record(engine, [removal(KEYS[0], f"v-{KEYS[0]}", 100), event(KEYS[1], "new", 100)])
    opened = again(engine).open_ref(some.reference)
    assert opened == some
    assert opened.to_arrow().equals(some.to_arrow())
    assert opened.digest() == some.digest()
    assert opened["ct/0001"].version_id == "v-ct/0001"


def test_the_same_objects_of_the_same_view_are_the_same_narrowed_view(engine: Engine) -> None:
    view = engine.view("scans")
    assert view.select(KEYS[:3]) == view.select(KEYS[:5]).select(reversed(KEYS[:3]))
    assert view.select(KEYS[:3]) != view.select(KEYS[:4])


def test_a_few_keys_are_looked_up_and_make_the_same_view(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, looked_up = engine.view("scans"), engine.view("scans")
    assert len(read) == 20
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "batches", None)
        patch.setattr(Engine, "table", None)
        some = looked_up.select(KEYS[:3])
        with pytest.raises(NoSuchKey):
            looked_up.select(["ct/none"])
    assert some == read.select(KEYS[:3])
    assert some.to_arrow().equals(read.select(KEYS[:3]).to_arrow())


@pytest.mark.parametrize("make", [pd.DataFrame, pa.table], ids=["pandas", "arrow"])
def test_a_table_selects_by_key_and_version(engine: Engine, make: Any) -> None:
    view = engine.view("scans")
    chosen = {"key": ["ct/0002", "ct/0001", "ct/0002"], "version_id": ["v-ct/0002", "v-ct/0001", "v-ct/0002"]}
    assert view.select(make(chosen)) == view.select(["ct/0001", "ct/0002"])
    assert view.select(make({"key": ["ct/0002"], "other": [1]})) == view.select(["ct/0002"])
    frame = pa.table(chosen).to_pandas(types_mapper=pd.ArrowDtype)
    assert list(view.select(frame)) == ["ct/0001", "ct/0002"]
    assert list(view.select(frame["key"])) == ["ct/0001", "ct/0002"]
    assert list(view.select(pa.table(chosen)["key"])) == ["ct/0001", "ct/0002"]


def test_a_key_that_the_view_does_not_show_is_named(engine: Engine) -> None:
    with pytest.raises(NoSuchKey, match="'ct/9'"):
        engine.view("scans").select(["ct/0001", "ct/9"])
    with pytest.raises(NoSuchKey, match="'ct/0001'"):
        engine.view("scans", prefix="mr/").select(["ct/0001"])


def test_another_version_than_the_view_shows_is_named(engine: Engine) -> None:
    before = engine.view("scans", T0 + 60_000)
    record(engine, [event("ct/0001", "v2", 100)])
    chosen = pa.table({"key": ["ct/0000", "ct/0001"], "version_id": ["v-ct/0000", "v2"]})
    with pytest.raises(UsageError, match="shows version v-ct/0001 of 'ct/0001', not v2"):
        before.select(chosen)
    assert len(engine.view("scans").select(chosen)) == 2
    twice = pa.table({"key": ["ct/0001"] * 2, "version_id": ["v-ct/0001", "v2"]})
    with pytest.raises(UsageError, match="not v2"):
        before.select(twice)


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ("ct/0001", r"write \['ct/0001'\]"),
        ([1], "text, not int"),
        (pa.table({"Modality": ["CT"]}), "column `key`"),
        (pd.DataFrame({"Modality": ["CT"]}), "column `key`"),
        (pa.table({"key": ["ct/0001", None]}), "empty in 1 rows"),
        (pa.table({"key": [1]}), "holds int64"),
        (5, "not int"),
        (None, "not NoneType"),
        (pa.table({"key": ["ct/0001"], "version_id": [None]}), "holds null|empty in 1 rows"),
    ],
)
def test_what_names_no_objects_is_refused(engine: Engine, chosen: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        engine.view("scans").select(chosen)


def test_nothing_selected_is_a_view_too(engine: Engine) -> None:
    none = engine.view("scans").select([])
    assert len(none) == 0
    assert not none
    assert again(engine).open_ref(none.reference) == none


def test_a_narrowed_view_is_compared_read_pickled_and_named_as_any_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    view = engine.view("scans")
    some = view.select(KEYS[:3])
    changes = some.diff(view)
    assert (len(changes.added), len(changes.removed), len(changes.changed)) == (17, 0, 0)
    assert str(again(engine).view("scans").diff(some)) == "0 added, 0 changed, 17 removed"
    copy: View = pickle.loads(pickle.dumps(some))  # noqa: S301  # made here
    assert copy == some
    assert list(copy) == KEYS[:3]
    monkeypatch.setattr(Engine, "read", lambda *_: b"bytes")
    assert some.read_bytes(KEYS[0]) == b"bytes"
    assert len(some.download(tmp_path / "out")) == 3
    assert some.audit() == []
    assert "3 rows" in some.explain()
    snapshot = engine.name_snapshot(some, "train-1", creator="me")
    assert snapshot.digest == some.digest()
    assert engine.view("scans", "snapshot:train-1") == some
    assert list(engine.view("scans", "snapshot:train-1", prefix="ct/0001")) == ["ct/0001"]


def test_a_slice_can_be_narrowed_but_not_one_of_all_versions(engine: Engine) -> None:
    part = engine.slice("scans", T0 + 12_000, T0 + 15_000)
    some = part.select(["ct/0003"])
    assert again(engine).open_ref(some.reference) == some
    with pytest.raises(UsageError, match="all versions"):
        engine.slice("scans", T0, T0 + 15_000, versions="all").select(["ct/0003"])


def test_many_rows_are_kept_in_entries_that_fit_and_come_back_in_order(engine: Engine) -> None:
    keys = [f"many/{n:05}/{'x' * 500}" for n in range(3000)]
    record(engine, [event(key, f"v{n}", 20) for n, key in enumerate(keys)])
    some = engine.view("scans").select(keys)
    assert list(again(engine).open_ref(some.reference)) == keys


@given(st.lists(st.integers(1, 1024), max_size=60), st.integers(300, 3000))
def test_chunks_are_all_rows_in_order_and_none_is_too_large(lengths: list[int], most: int) -> None:
    rows = _rows([f"{n:04}".ljust(length, "k") for n, length in enumerate(lengths)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snapengine.selections.CHUNK_BYTES", most)
        pieces = list(chunks(rows))
        again = list(chunks(pa.concat_tables([rows.slice(0, 7), rows.slice(7)])))
    assert pa.concat_tables([VIEW_SCHEMA.empty_table(), *pieces]).equals(rows)
    assert [piece.num_rows for piece in pieces] == [piece.num_rows for piece in again]
    assert all(sum(len(key) for key in p["key"].to_pylist()[:-1]) < most for p in pieces)


def _rows(keys: Sequence[str], **columns: Any) -> pa.Table:
    count = len(keys)
    values: dict[str, Any] = {
        "key": keys,
        "version_id": ["v"] * count,
        "size": [1] * count,
        "etag": ["e"] * count,
        "event_time": [T0] * count,
        "time": ["event"] * count,
        "storage_class": [None] * count,
        "sequencer": [None] * count,
    }
    return pa.table(values | columns, schema=VIEW_SCHEMA)


def test_rows_that_differ_in_any_column_have_another_digest() -> None:
    first = _rows(["a", "b"])
    others = [
        _rows(["a", "c"]),
        _rows(["a", "b"], version_id=["v", "w"]),
        _rows(["a", "b"], size=[1, None]),
        _rows(["a", "b"], etag=["e", None]),
        _rows(["a", "b"], event_time=[T0, T0 + 1]),
        _rows(["a", "b"], time=["event", "listed"]),
        _rows(["a", "b"], storage_class=[None, ""]),
        _rows(["a", "b"], sequencer=[None, "0"]),
        _rows(["a", "b"], storage_class=[None, "0"]),
        _rows(["a"]),
    ]
    assert len({selection_digest(rows) for rows in [first, *others]}) == 11
    assert selection_digest(pa.concat_tables([first.slice(0, 1), first.slice(1)])) == selection_digest(first)


# Damage, and a table that takes nothing


def test_a_damaged_selection_is_an_error_and_no_answer(engine: Engine) -> None:
    some = engine.view("scans").select(KEYS[:3])
    other = engine.view("scans").select(KEYS[:2])
    run = engine._database.run
    mine, theirs = (f"scans#selection#{v.ref.selection.removeprefix('sha256:')}" for v in (some, other))
    (payload,) = run("SELECT payload FROM log WHERE bucket = ? AND stream = 0", theirs)[0]
    for damaged in (payload, payload[:-20], b""):
        run("UPDATE log SET payload = ? WHERE bucket = ? AND stream = 0", damaged, mine)
        with pytest.raises(LogDamaged):
            again(engine).open_ref(some.reference)
    run("DELETE FROM log WHERE bucket = ? AND stream = 0", mine)
    with pytest.raises(LogDamaged):
        again(engine).open_ref(some.reference)
    assert again(engine).open_ref(other.reference) == other


def test_a_selection_that_was_never_kept_does_not_open(engine: Engine) -> None:
    view = engine.view("scans")
    reference = f"{view.reference}?select=sha256:{'0' * 64}"
    with pytest.raises(NoSuchSelection, match="SNAPENGINE_STORE"):
        engine.open_ref(reference)


def test_where_the_table_takes_nothing_the_view_works_and_a_warning_says_what_does_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> bool:
        raise PermissionMissing("allow dynamodb:PutItem", "dynamodb:PutItem")

    with monkeypatch.context() as patch:
        patch.setattr("snapengine.stores.sqlite_log.SQLiteLog.put_entry", refuse)
        with pytest.warns(SelectionNotKept, match=r"this process only.*dynamodb:PutItem") as caught:
            some = engine.view("scans").select(KEYS[:3])
        assert caught[0].filename == __file__
        assert list(some) == KEYS[:3]
        assert engine.open_ref(some.reference) == some
        assert list(pickle.loads(pickle.dumps(some))) == KEYS[:3]  # noqa: S301  # made here
    with pytest.raises(NoSuchSelection):
        again(engine).open_ref(some.reference)
    engine.view("scans").select(KEYS[:3])
    assert again(engine).open_ref(some.reference) == some


def test_keeping_can_be_interrupted_anywhere_and_repeated(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapengine.selections.CHUNK_BYTES", 300)
    from snapengine.stores.sqlite_log import SQLiteLog

    put = SQLiteLog.put_entry
    left = 3

    async def stops(self: SQLiteLog, entry: Any) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            raise PermissionMissing("stopped")
        return await put(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteLog, "put_entry", stops)
        with pytest.warns(SelectionNotKept):
            some = engine.view("scans").select(KEYS)
    with pytest.raises(NoSuchSelection):
        again(engine).open_ref(some.reference)
    assert again(engine).open_ref(again(engine).view("scans").select(KEYS).reference) == some


# The reference as text


@pytest.mark.parametrize(
    "prefix",
    ["", "ct/", "a?select=", f"a?select=sha256:{'a' * 64}", "?select=sha256:12", "x?select=?select="],
)
@pytest.mark.parametrize("selection", ["", "sha256:" + "b" * 64])
def test_whatever_a_prefix_holds_a_reference_says_what_it_means(prefix: str, selection: str) -> None:
    text = render_reference(SnapshotRef("scans", prefix, T0, 7, selection=selection))
    parsed = parse_reference(text)
    assert (parsed.prefix, parsed.selection, parsed.epoch) == (prefix, selection, 7)
    base = parse_reference(without_selection(text))
    assert (base.prefix, base.selection, base.epoch) == (prefix, "", 7)


DIGEST = "sha256:" + "b" * 64


@pytest.mark.parametrize(
    "end",
    [DIGEST[:length] for length in range(len(DIGEST))]
    + [f"{DIGEST}.", f"{DIGEST}\n", f"{DIGEST}b", DIGEST.upper(), f" {DIGEST}", "None", "none."],
)
def test_a_reference_that_lost_part_of_what_it_selects_is_refused(end: str) -> None:
    with pytest.raises(BadReference, match="select"):
        parse_reference(f"snap://scans@2026-11-20T09:00:00.000Z~7/ct/?select={end}")


@pytest.mark.parametrize(
    "text",
    [
        "snap://scans@2026-11-20T09:00:00Z/?select=sha256:" + "b" * 64,
        "snap://scans@2026-11-19..2026-11-20~7~all/?select=sha256:" + "b" * 64,
    ],
)
def test_a_selection_without_its_epoch_is_no_reference(text: str) -> None:
    with pytest.raises(BadReference, match="selected"):
        parse_reference(text)
