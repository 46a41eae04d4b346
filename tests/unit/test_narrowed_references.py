"""A narrowed view's reference is of one view: with another instant, epoch or prefix it does not open."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snapengine import Engine, View, selections
from snapengine.cautions import SelectionNotKept
from snapengine.errors import IdentifyingRefused, NoSuchSelection
from snapengine.instants import render
from snapengine.reference import render_reference
from snapengine.selections import QUERIES, Chosen, selection_log
from tests.seed import T0, enable, engine_at, event, record

KEYS = [f"ct/{n}" for n in range(5)]
BEFORE, LATER = T0 + 60_000, T0 + 120_000


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """Nothing that is selected here changes between the two instants, and the second epoch adds one key."""
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(key, f"v-{key}", 10) for key in KEYS])
    record(engine, [event("mr/0", "v", 90)])
    return engine


def again(engine: Engine) -> Engine:
    """Another process's engine on the same table."""
    return Engine(engine.settings, clock=engine.clock)


def edited(view: View, kind: str) -> str:
    text = view.reference
    at, epoch = render(view.ref.at), view.ref.epoch
    return {
        "instant": text.replace(at, render(view.ref.at + 1)),
        "epoch": text.replace(f"~{epoch}/", f"~{epoch - 1}/"),
        "prefix": text.replace("/?", "/ct/?"),
        "slice": text.replace(f"@{at}", f"@{render(T0)}..{at}"),
    }[kind]


@pytest.mark.parametrize("kind", ["instant", "epoch", "prefix", "slice"])
@pytest.mark.parametrize("count", [0, 3])
def test_an_edited_reference_is_refused_also_where_the_same_rows_would_be_shown(
    engine: Engine, kind: str, count: int
) -> None:
    view = engine.view("scans", BEFORE)
    some = view.select(KEYS[:count])
    assert again(engine).open_ref(some.reference) == some
    changed = edited(some, kind)
    assert changed != some.reference
    with pytest.raises(NoSuchSelection, match="was not chosen from") as refused:
        again(engine).open_ref(changed)
    assert view.reference in str(refused.value)
    with pytest.raises(NoSuchSelection):
        engine.open_ref(changed)


def test_the_same_rows_of_several_views_open_by_each_reference_and_by_no_other(engine: Engine) -> None:
    views = [engine.view("scans", at, epoch=epoch) for at in (BEFORE, LATER) for epoch in (1, 2)]
    narrowed = [view.select(KEYS) for view in views[:3]]
    assert len({view.ref.selection for view in narrowed}) == 1
    for each in narrowed:
        assert again(engine).open_ref(each.reference) == each
    with pytest.raises(NoSuchSelection):
        again(engine).open_ref(f"{views[3].reference}?select={narrowed[0].ref.selection}")
    assert again(engine).open_ref(views[3].select(KEYS).reference).to_arrow().num_rows == len(KEYS)


def test_a_view_narrowed_twice_is_of_the_view_that_was_narrowed_first(engine: Engine) -> None:
    some = engine.view("scans", BEFORE).select(KEYS[:3]).select(KEYS[:2])
    assert again(engine).open_ref(some.reference) == some
    with pytest.raises(NoSuchSelection):
        again(engine).open_ref(edited(some, "instant"))


def test_where_the_table_lost_how_it_was_chosen_it_opens_if_its_view_shows_those_rows(engine: Engine) -> None:
    some = engine.view("scans", LATER).select(["ct/0", "mr/0"])
    log = selection_log("scans", some.ref.selection)
    engine._database.run("DELETE FROM log WHERE bucket = ? AND stream = ?", log, QUERIES)
    assert again(engine).open_ref(some.reference) == some
    earlier = some.reference.replace(render(LATER), render(BEFORE))
    with pytest.raises(NoSuchSelection, match=r"is not what .* shows"):
        again(engine).open_ref(earlier)
    record(engine, [event("ct/0", "v2", 100)])
    with pytest.raises(NoSuchSelection, match=r"is not what .* shows"):
        again(engine).open_ref(some.reference.replace("~2/", "~3/"))


def test_a_condition_that_may_not_be_kept_keeps_no_reference_from_opening(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise IdentifyingRefused("This role may not write identifying columns.")

    some, other = engine.view("scans", BEFORE).select(KEYS[:3]), engine.view("scans", LATER)
    hidden = Chosen(other.reference, "PatientID = '4711'", "dicom", {"matched": 3}, identifying=True)
    ref = replace(other.ref, selection=some.ref.selection)
    reference = render_reference(ref)

    async def note() -> None:
        async with engine.log() as log:
            await selections.note(log, ref, hidden, engine.clock)

    with pytest.raises(NoSuchSelection):
        again(engine).open_ref(reference)
    with monkeypatch.context() as patch:
        patch.setattr("snapengine.stores.sqlite_log.SQLiteLog.put_identifying", refuse)
        with pytest.warns(SelectionNotKept, match="was not kept with it"):
            asyncio.run(note())
    opened = again(engine).open_ref(reference)
    assert opened.to_arrow().equals(some.to_arrow())
    assert opened.query is None
    asyncio.run(note())
    assert again(engine).open_ref(reference).query == hidden.query
