"""A checkpoint and what came after it give what folding everything gives: for any history, cut anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snapengine import deltafold
from snapengine.bulkfold import VIEW_SCHEMA, bulkfold, version_table, versions_of
from snapengine.deltafold import EMPTY_BASE, Changes, pieces_together, put_together, settle
from snapengine.digest import digest, digest_batches, digest_pieces
from snapengine.errors import BadData
from snapengine.fold import fold
from snapengine.model import SLACK_MS, ObjectVersion, Observation
from snapengine.observation_codec import SCHEMA, decode_table, encode
from snapengine.row_bytes import COLUMNS
from snapengine.testing.model_bucket import Versioning
from snapengine.testing.strategies import (
    KEY,
    OPERATIONS,
    KeyHistory,
    Step,
    absent,
    listing,
    marked,
    put,
    removed,
    row,
)

WAITS = (0, 1, 700, 1000, 30_000, 61_000, 100_000, 400_000, 40_000_000)


class Known(NamedTuple):
    """An observation, and the first epoch that covers it."""

    epoch: int
    observation: Observation


class Cut(NamedTuple):
    """A history, a checkpoint, and the view to be resolved from it."""

    known: list[Known]
    checkpoint: tuple[int, int]
    """Its instant and its epoch."""
    at: int
    epoch: int
    differential: tuple[int, int] | None = None
    """Its instant and its epoch, between those of the checkpoint and of the view."""


@st.composite
def cuts(draw: st.DrawFn, *, differential: bool = False) -> Cut:
    """What is done to a key, told early, late, twice or never, and listed now and then."""
    versioning: list[Versioning] = ["enabled", "enabled", "suspended", "off"]
    history = KeyHistory(draw(st.sampled_from(versioning)))
    known: list[Known] = []
    told = 0
    calm = differential and draw(st.booleans())  # then it takes removals alone to need what stood before
    waits = WAITS[-3:] if calm else WAITS
    step = st.builds(Step, st.sampled_from(OPERATIONS), st.sampled_from(waits), st.integers(0, 11))
    rounds = draw(st.integers(3, 4) if calm else st.integers(1, 6))
    for epoch in range(1, rounds + 1):
        history.play([draw(step)] if calm else draw(st.lists(step, max_size=4)))
        for event in history.events[told:]:
            delays = (0,) if calm else draw(st.sampled_from([(0,), (0,), (0,), (1,), (2,), (), (0, 2)]))
            known += [Known(epoch + late, event) for late in delays]
        told = len(history.events)
        if not calm and draw(st.sampled_from([True, False, False])):
            so_far = [k.observation for k in known if k.epoch <= epoch]
            known += [Known(epoch, o) for o in history.listed(f"L{epoch}", so_far)]
    last = max((k.epoch for k in known), default=1)
    times = {t for k in known for t in (k.observation.event_time, k.observation.page_time or 0)} | {
        history.now
    }
    instants = sorted({t + by for t in times | {history.now} for by in (-1, 0, 1, -SLACK_MS)})
    at = draw(st.just(history.now) | st.sampled_from(instants))
    first, second = sorted((draw(st.sampled_from(instants)), at))
    made, asked = sorted((draw(st.integers(0, last)), draw(st.just(last) | st.integers(0, last))))
    if not differential:
        return Cut(known, (first, made), second, asked)
    if not calm:
        between = draw(st.sampled_from([t for t in {*instants, first, second} if first <= t <= second]))
        return Cut(known, (first, made), second, asked, (between, draw(st.integers(made, asked))))
    points = sorted(draw(st.sets(st.integers(1, rounds), min_size=2, max_size=2)))
    ends = [max([0, *(moment(k) for k in known if k.epoch <= epoch)]) for epoch in points]
    return Cut(known, (ends[0], points[0]), max(ends[-1], at), last, (ends[1], points[1]))


def moment(known: Known) -> int:
    return max(known.observation.event_time, known.observation.page_time or 0)


def resolved(cut: Cut, *, start: int | None = None) -> list[ObjectVersion]:
    """By way of the checkpoint, and of the differential if there is one; what no plan would read is left
    out."""
    base = bulkfold(known_by(cut, cut.checkpoint[1]), cut.checkpoint[0])
    begin, over = cut.checkpoint, None
    if cut.differential is not None:
        changes = changed(cut, base, None, begin, cut.differential)
        gone = pc.is_in(changes.replaced, value_set=changes.rows["key"].combine_chunks())
        begin, over = cut.differential, Changes(changes.replaced.filter(pc.invert(gone)), changes.rows)
    if start is not None:
        base, over = VIEW_SCHEMA.empty_table(), None
    last = changed(cut, base if start is None else EMPTY_BASE, over, begin, (cut.at, cut.epoch))
    shown = put_together(base, *(last if over is None else over.then(last)))
    return [v for v in versions_of(shown) if start is None or v.event_time >= start]


def changed(
    cut: Cut, base: pa.Table, over: Changes | None, begin: tuple[int, int], end: tuple[int, int]
) -> Changes:
    """From one instant and epoch to another."""
    (horizon, made), (at, epoch) = begin, end
    earlier = [k.observation for k in cut.known if k.epoch <= made]
    late = any(moment(k) > horizon for k in cut.known if k.epoch <= made)
    delta = [k.observation for k in cut.known if made < k.epoch <= epoch and not skipped(cut, k, at)]
    told = settle(base, table(earlier if late else []), table(delta), at, horizon, over)
    rows = [told.rows, bulkfold(known_by(cut, epoch if len(told.whole) else 0), at)]
    return Changes(told.replaced, pa.concat_tables(rows))


def known_by(cut: Cut, epoch: int) -> pa.Table:
    return table([k.observation for k in cut.known if k.epoch <= epoch])


def skipped(cut: Cut, known: Known, at: int) -> bool:
    """Whether it can be in a regular file that tells only of later instants."""
    o = known.observation
    listed_until = max((k.observation.page_time or 0 for k in cut.known if k.epoch <= known.epoch), default=0)
    regular = o.listing is None and o.event_time > listed_until + 60_000
    return regular and o.event_time - 1000 > at


def table(observations: list[Observation]) -> pa.Table:
    return decode_table(encode(observations)) if observations else SCHEMA.empty_table()


def truth(cut: Cut, start: int | None = None) -> list[ObjectVersion]:
    version = fold([k.observation for k in cut.known if k.epoch <= cut.epoch], cut.at)
    return [version] if version and (start is None or version.event_time >= start) else []


@settings(max_examples=1500, deadline=None)
@given(cuts())
def test_a_checkpoint_and_what_came_after_it_show_what_the_whole_history_shows(cut: Cut) -> None:
    assert resolved(cut) == truth(cut)


@settings(max_examples=500, deadline=None)
@given(cuts())
def test_a_slice_needs_nothing_that_was_before_it(cut: Cut) -> None:
    start = cut.checkpoint[0] + 1
    assert resolved(cut, start=start) == truth(cut, start)


@settings(max_examples=500, deadline=None)
@given(cuts(differential=True))
def test_so_do_a_checkpoint_a_differential_and_what_came_after_both(cut: Cut) -> None:
    assert resolved(cut) == truth(cut)
    assert cut.differential is not None
    start = cut.differential[0] + 1
    assert resolved(cut, start=start) == truth(cut, start)


def story(*epochs: list[Observation]) -> list[Known]:
    return [Known(number, o) for number, told in enumerate(epochs, 1) for o in told]


def test_removals_are_of_what_stands_by_the_differential_and_not_by_the_checkpoint() -> None:
    again = [put("v1", 10)], [put("v2", 200)], [removed("v2", 500)]
    back = [put("v1", 10)], [marked("m", 200)], [removed("m", 500)]
    stays = [put("v1", 10)], [put("v2", 200)], [removed("v1", 500)]
    away = [put("v1", 10)], [marked("m", 200)], [removed("v1", 500)]
    new = [marked("m", 10)], [put("v2", 200)], [removed("m", 500)]
    for epochs, shown in ((again, ["v1"]), (back, ["v1"]), (stays, ["v2"]), (away, []), (new, ["v2"])):
        cut = Cut(story(*epochs), (100_000, 1), 600_000, 3, (300_000, 2))
        assert [v.version_id for v in resolved(cut)] == shown
        assert resolved(cut) == truth(cut)


def test_an_object_is_back_when_its_marker_is_removed_after_the_checkpoint() -> None:
    cut = Cut(story([put("v1", 10), marked("m", 20)], [removed("m", 500)]), (100_000, 1), 600_000, 2)
    assert [v.version_id for v in resolved(cut)] == ["v1"]
    assert resolved(cut) == truth(cut)


def test_a_put_delivered_again_after_its_removal_and_a_checkpoint_stays_absent() -> None:
    cut = Cut(story([put("v1", 10), removed("v1", 20)], [put("v1", 10)]), (100_000, 1), 600_000, 2)
    assert resolved(cut) == truth(cut) == []


def test_a_listed_order_known_before_the_checkpoint_is_not_lost_when_an_event_comes_after_it() -> None:
    listed = listing("L", 30.0, row("v3", 20.0), row("v2", 20.0), row("v1", 20.0))
    for at, version in ((20_000, "v3"), (20_502, "v3")):
        cut = Cut(story(listed, [put("v2", 20.502)]), (20_000, 1), at, 2)
        assert resolved(cut) == truth(cut), at
        assert version in {v.version_id for v in resolved(Cut(story(listed), (20_000, 1), at, 1))}


def test_an_event_dated_after_the_checkpoint_takes_back_what_a_listing_dated_before_it() -> None:
    listed = listing("L", 900.0, row("v3", 20.0, "e-2"), row("v2", 10.0))
    cut = Cut(story([put("v2", 10.3), *listed], [put("v3", 800.0, "e-2")]), (100_000, 1), 500_000, 2)
    assert [v.version_id for v in resolved(cut)] == ["v2"]
    assert resolved(cut) == truth(cut)


def test_what_a_listing_shows_of_a_key_with_later_facts_is_compared_with_all_its_events() -> None:
    """Its event is in a file that was left out, as it tells only of later instants."""
    known = story(
        [put("v1", 150)],
        [put("v2", 1000, "e-2")],
        listing("L", 2000.0, row("v2", 400.0, "e-2"), row("v1", 150.0)),
    )
    cut = Cut(known, (100_000, 1), 500_000, 3)
    assert skipped(cut, known[1], cut.at)
    assert [v.version_id for v in resolved(cut)] == ["v1"]
    assert resolved(cut) == truth(cut)


def test_a_removal_told_again_long_after_a_listing_proved_it_changes_nothing() -> None:
    known = story([put("v1", 10), absent("v1", 50)], [removed("v1", 900)])
    for at in (20_000, 50_000, 55_000, 500_000, 900_000):
        assert (fold([k.observation for k in known], at) is None) == (at >= 50_000)
    for at in (500_000, 900_000):
        cut = Cut(known, (55_000, 1), at, 2)
        assert resolved(cut) == truth(cut) == []


def test_removing_a_version_that_is_not_shown_needs_no_history() -> None:
    """Lifecycle rules do so to every object that was ever overwritten."""
    known = story([put("v1", 10), put("v2", 20)], [removed("v1", 900)])
    base = bulkfold(table([k.observation for k in known if k.epoch == 1]), 100_000)
    told = settle(base, SCHEMA.empty_table(), table([known[-1].observation]), 10**9, 100_000)
    assert len(told.whole) == len(told.replaced) == 0


def test_whatever_could_bring_an_earlier_entry_back_is_folded_from_its_whole_history() -> None:
    base = bulkfold(table([put("v1", 10), put("v2", 20)]), 100_000)
    for late in (removed("v2", 900), absent("v1", 900), put("v1", 10)):
        told = settle(base, SCHEMA.empty_table(), table([late]), 10**9, 100_000)
        assert told.whole.to_pylist() == [KEY], late
    gone = settle(base.slice(0, 0), SCHEMA.empty_table(), table([removed("v1", 900)]), 10**9, 100_000)
    assert gone.whole.to_pylist() == [KEY]


def test_new_events_alone_settle_a_key() -> None:
    base = bulkfold(table([put("v1", 10)]), 100_000)
    for events in (
        [put("v2", 900)],
        [put("v2", 900), marked("m", 950)],
        [put("v2", 900), removed("v9", 950)],
    ):
        told = settle(base, SCHEMA.empty_table(), table(events), 10**9, 100_000)
        assert (told.whole.to_pylist(), told.replaced.to_pylist()) == ([], [KEY]), events
        assert list(versions_of(told.rows)) == [v for v in [fold(events, 10**9)] if v]


KEYS = st.text("ab/é🦴\x01", min_size=1, max_size=3)


def _row(key: str, version: str) -> ObjectVersion:
    return ObjectVersion(key, version, 1, "e", 5)


@given(st.sets(KEYS), st.sets(KEYS), st.sets(KEYS))
@example({"a", "b"}, {"a"}, set())
def test_rows_are_put_into_others_in_the_order_of_utf_8(old: set[str], gone: set[str], new: set[str]) -> None:
    base = version_table([_row(key, "old") for key in sorted(old)])
    rows = version_table([_row(key, "new") for key in new])
    replaced = pa.array(sorted(gone | new), pa.string())
    together = put_together(base, replaced, rows)
    expected = dict.fromkeys(old - gone, "old") | dict.fromkeys(new, "new")
    assert dict(zip(together["key"].to_pylist(), together["version_id"].to_pylist(), strict=True)) == expected
    assert together["key"].to_pylist() == sorted(expected)


@st.composite
def _changes(draw: st.DrawFn, version: str) -> Changes:
    rows = version_table([_row(key, version) for key in draw(st.sets(KEYS))])
    return Changes(pa.array(sorted(draw(st.sets(KEYS))), pa.string()), rows)


@given(st.sets(KEYS), _changes("first"), _changes("second"))
def test_changes_one_after_the_other_are_the_changes_of_both(
    old: set[str], first: Changes, second: Changes
) -> None:
    base = version_table([_row(key, "old") for key in sorted(old)])
    step_by_step = put_together(put_together(base, *first), *second)
    both = first.then(second)
    assert put_together(base, *both).to_pylist() == step_by_step.to_pylist()
    assert len(both.rows) == len(set(both.rows["key"].to_pylist()))
    ids = Changes(first.replaced, first.rows.select(["key", "version_id"]))
    assert ids.then(second).rows.column_names == ["key", "version_id"]


def _many(make: Callable[[int], str], numbers: range) -> pa.Table:
    return version_table([_row(make(n), f"v{n}") for n in numbers])


@given(
    st.lists(st.lists(KEYS, max_size=4), max_size=5), st.sets(KEYS), st.sets(KEYS), st.sampled_from([1, 2, 9])
)
def test_rows_are_put_in_alike_however_the_others_are_cut_into_pieces(
    drawn: list[list[str]], gone: set[str], new: set[str], most: int
) -> None:
    old = sorted({key for piece in drawn for key in piece})
    whole = version_table([_row(key, "old") for key in old])
    ends = [0, *itertools.accumulate(min(len(piece), len(old)) for piece in drawn), len(old)]
    base = pa.concat_tables([whole.slice(a, max(b - a, 0)) for a, b in itertools.pairwise(ends)])
    rows = version_table([_row(key, "new") for key in new])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deltafold, "PIECE_ROWS", most)
        together = put_together(base, pa.array(sorted(gone), pa.string()), rows)
        in_pieces = _digest_of_pieces(base, pa.array(sorted(gone), pa.string()), rows)
    expected = dict.fromkeys(set(old) - gone, "old") | dict.fromkeys(new, "new")
    found = zip(together["key"].to_pylist(), together["version_id"].to_pylist(), strict=True)
    assert list(found) == sorted(expected.items())
    assert in_pieces == _digest_row_by_row(together)


def _digest_of_pieces(base: pa.Table, replaced: pa.Array, rows: pa.Table) -> str:
    return digest_pieces(pieces_together(base.select(COLUMNS), replaced, rows.select(COLUMNS)))


def _digest_row_by_row(rows: pa.Table) -> str:
    return digest(zip(*(rows[name].to_pylist() for name in COLUMNS), strict=True))


@pytest.mark.parametrize("added", [lambda n: f"{n + 1:06d}", lambda n: f"{n:06d}+", lambda n: f"{n:06d}é"])
@pytest.mark.parametrize("every", [2, 50, 30_000, 150_000])
def test_the_digest_of_what_is_put_together_is_that_of_its_pieces(
    every: int, added: Callable[[int], str]
) -> None:
    base = _many(lambda n: f"{n:06d}", range(0, 150_000, 2))
    rows = _many(added, range(every - 1, 150_000, every))
    replaced = pa.array([f"{n:06d}" for n in range(0, 150_000, 3 * every)], pa.string())
    whole = put_together(base, replaced, rows)
    assert _digest_of_pieces(base, replaced, rows) == _digest_row_by_row(whole)
    assert digest_batches(whole.to_batches(max_chunksize=50_001)) == _digest_row_by_row(whole)


def test_a_row_that_no_digest_can_stand_for_is_damage_in_a_piece_too() -> None:
    base = _many(lambda n: f"{n:06d}", range(10))
    rows = _many(lambda n: f"{n:06d}+", range(3)).set_column(
        2, VIEW_SCHEMA.field("size"), pa.array([1, -1, 2])
    )
    with pytest.raises(BadData, match="negative size"):
        _digest_of_pieces(base, pa.array([], pa.string()), rows)


@pytest.mark.parametrize("every", [1, 25, 1000])
def test_rows_are_put_in_alike_however_many_they_are(every: int) -> None:
    base = _many(lambda n: f"{n:06d}", range(5000))
    rows = _many(lambda n: f"{n:06d}+", range(0, 5000, every))
    gone = [f"{n:06d}" for n in range(0, 5000, 2 * every)]
    replaced = pa.array(gone + rows["key"].to_pylist(), pa.string())
    keys = put_together(base, replaced, rows)["key"].to_pylist()
    assert keys == sorted({*base["key"].to_pylist(), *rows["key"].to_pylist()} - set(gone))
