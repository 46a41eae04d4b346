"""Which files, row groups and log entries a view needs: counted."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine.archive.manifest import (
    Archive,
    ArchiveFile,
    Checkpoint,
    Differential,
    Listed,
    Manifest,
    Role,
    Segment,
    Start,
    archive_of,
    from_json,
    retired,
    to_json,
)
from snapengine.archive.planning import (
    Bounds,
    Gap,
    KeyRange,
    changed_between,
    groups_in,
    groups_of,
    keys_below,
    make_plan,
    newest_start,
    next_key,
    one_key,
    split,
    starting_only,
    tile,
)
from snapengine.errors import BadData, SchemaTooNew
from snapengine.model import Epoch

ALL = keys_below("")
HOUR = 3_600_000


def file(
    role: Role, *, rows: int = 100, keys: tuple[str, str] = ("a", "z"), times: tuple[int, int]
) -> ArchiveFile:
    return ArchiveFile(f"{role}-{times}-{keys}", role, rows, 1000, "0" * 64, 100, "1" * 64, *keys, *times, 0)


def segment(first: int, last: int, *, keys: tuple[str, str] = ("a", "z")) -> Segment:
    """An epoch an hour; its regular file tells of that time, its irregular one of any."""
    files = (
        file("regular", times=(first * HOUR, last * HOUR), keys=keys),
        file("irregular", rows=3, times=(0, last * HOUR), keys=keys),
    )
    return Segment(first, last, files, {0: last * 10, 1: last}, last * HOUR, 0, 1)


def checkpoint(hour: int, *, parts: int = 1, side: bool = True) -> Checkpoint:
    bounds = [("a", "f"), ("g", "m"), ("n", "z")][:parts]
    files = [file("objects", rows=1000, times=(0, hour * HOUR), keys=b) for b in bounds]
    return Checkpoint(
        hour * HOUR - 1000,
        hour,
        (*files, *([file("side", rows=2, times=(0, hour * HOUR))] if side else [])),
        1,
    )


def differential(hour: int, base: Checkpoint, *, keys: tuple[str, str] = ("c", "h")) -> Differential:
    times = (0, hour * HOUR)
    files = (
        file("objects", rows=50, times=times, keys=keys),
        file("gone", rows=7, times=times, keys=("b", "b")),
        file("side", rows=4, times=times),
    )
    return Differential(hour * HOUR - 1000, hour, files, 1, base=base.name)


def epoch(number: int) -> Epoch:
    return Epoch(number, number * HOUR, {0: number * 10, 1: number})


ARCHIVE = archive_of(
    [*(segment(n, n) for n in range(1, 101)), checkpoint(50, parts=3), checkpoint(90, parts=3)]
)


def test_a_view_of_now_reads_the_newest_checkpoint_and_what_came_after_it() -> None:
    plan = make_plan(ARCHIVE, epoch(103), 103 * HOUR, ALL)
    assert plan.start is not None
    assert plan.start.epoch == 90
    assert (len(plan.objects), len(plan.side)) == (3, 1)
    assert [(part.after, part.to) for part in plan.delta] == [(n, n + 1) for n in range(90, 100)]
    assert sum(len(part.files) for part in plan.delta) == 20
    assert plan.tail == {0: (1000, 1030), 1: (100, 103)}
    assert plan.entries == 33
    assert "103 log" not in plan.in_words()


def test_a_view_of_a_past_instant_skips_files_that_tell_only_of_later_ones() -> None:
    plan = make_plan(ARCHIVE, epoch(100), 60 * HOUR, ALL)
    assert plan.start is not None
    assert plan.start.epoch == 50
    read = [f.role for part in plan.delta for f in part.files]
    assert (read.count("regular"), read.count("irregular")) == (10, 50)
    assert plan.entries == 0


def test_what_a_key_is_folded_from_whole_is_never_skipped() -> None:
    plan = make_plan(ARCHIVE, epoch(100), 60 * HOUR, ALL)
    assert sum(len(part.files) for part in plan.history) == 200


def test_an_early_epoch_never_sees_a_later_checkpoint() -> None:
    plan = make_plan(ARCHIVE, epoch(89), 200 * HOUR, ALL)
    assert plan.start is not None
    assert plan.start.epoch == 50
    assert plan.tail == {}


def test_without_a_checkpoint_the_whole_history_is_read_and_the_plan_says_so() -> None:
    plan = make_plan(ARCHIVE, epoch(49), 49 * HOUR, ALL)
    assert plan.start is None
    assert plan.delta == plan.history
    assert sum(len(part.files) for part in plan.delta) == 98
    assert "whole history" in plan.in_words()
    assert (
        "checkpoint of 1970-01-04T17:59:59.000Z" in make_plan(ARCHIVE, epoch(100), 90 * HOUR, ALL).in_words()
    )


def test_a_prefix_reads_only_the_files_that_can_hold_it() -> None:
    plan = make_plan(ARCHIVE, epoch(100), 100 * HOUR, keys_below("h"))
    assert [f.min_key for f in plan.objects] == ["g"]
    assert make_plan(ARCHIVE, epoch(100), 100 * HOUR, keys_below("zz")).objects == ()


def test_a_slice_reads_what_came_after_the_last_checkpoint_before_it_and_no_live_set() -> None:
    plan = make_plan(ARCHIVE, epoch(100), 95 * HOUR, ALL, start=55 * HOUR)
    assert plan.start is not None
    assert plan.start.epoch == 50
    assert plan.objects == ()
    assert len(plan.side) == 1
    assert [f.role for part in plan.delta for f in part.files].count("regular") == 45


def test_segments_tile_the_epochs_the_longest_first_and_each_epoch_once() -> None:
    segments = archive_of(
        [segment(1, 1), segment(2, 2), segment(1, 3), segment(4, 4), segment(3, 6)]
    ).segments
    assert [(p.after, p.to, p.whole) for p in tile(segments, 0, 6, ALL)] == [(0, 3, True), (3, 6, False)]
    assert [(p.after, p.to, p.whole) for p in tile(segments, 1, 5, ALL)] == [(1, 3, False), (3, 5, False)]
    assert tile(segments, 6, 6, ALL) == ()


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 5)), max_size=8),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_tiles_never_leave_an_epoch_out_nor_take_one_twice(
    spans: list[tuple[int, int]], after: int, to: int
) -> None:
    segments = archive_of([segment(first, first + more) for first, more in dict.fromkeys(spans)]).segments
    held = {e for s in segments for e in range(s.first, s.last + 1)}
    wanted = set(range(after + 1, to + 1))
    if not wanted <= held:
        with pytest.raises(Gap, match="No segment"):
            tile(segments, after, to, ALL)
        return
    parts = tile(segments, after, to, ALL)
    assert [e for p in parts for e in range(p.after + 1, p.to + 1)] == sorted(wanted)


def test_a_missing_segment_is_a_gap_and_never_passed_over() -> None:
    holed = archive_of([*(segment(n, n) for n in (1, 2, 4)), checkpoint(2)])
    with pytest.raises(Gap, match="epoch 3"):
        make_plan(holed, epoch(4), 4 * HOUR, ALL)


def test_without_an_archive_all_is_read_from_the_log() -> None:
    plan = make_plan(Archive(), epoch(7), 7 * HOUR, ALL)
    assert (plan.files, plan.tail) == ([], {0: (0, 70), 1: (0, 7)})


def test_what_a_segment_has_taken_over_is_no_longer_the_listings() -> None:
    listed = [Listed(0, 10, ()), Listed(0, 11, ())]
    assert [one.number for one in archive_of([segment(1, 1), *listed]).listed] == [11]


# Differentials

OLD, NEW = checkpoint(50, parts=3), checkpoint(90, parts=3)
FIRST, SECOND, LAST = differential(60, OLD), differential(70, OLD), differential(96, NEW)
HOURS = [segment(n, n) for n in range(1, 101)]
WITH_DIFFERENTIALS = archive_of([*HOURS, OLD, NEW, LAST, SECOND, FIRST])


def test_a_view_begins_at_the_newest_differential_and_reads_its_checkpoint_too() -> None:
    plan = make_plan(WITH_DIFFERENTIALS, epoch(103), 103 * HOUR, ALL)
    assert plan.start == Start(NEW, LAST)
    assert (plan.start.at, plan.start.epoch) == (LAST.at, LAST.epoch)
    assert plan.objects == NEW.objects
    assert (plan.changed, plan.gone, plan.side) == (LAST.objects, LAST.gone, LAST.side)
    assert [(part.after, part.to) for part in plan.delta] == [(n, n + 1) for n in range(96, 100)]
    assert len(plan.files) == len(set(plan.files)) == 3 + 1 + 1 + 1 + 2 * 4
    assert plan.entries == 33
    assert sum(len(part.files) for part in plan.history) == 200


def test_what_a_view_that_begins_at_a_differential_costs_is_said() -> None:
    words = make_plan(WITH_DIFFERENTIALS, epoch(103), 103 * HOUR, ALL).in_words()
    assert words == (
        "The checkpoint of 1970-01-04T17:59:59.000Z, epoch 90: at most 3,000 live objects in 3 files; at "
        "most 57 keys that had changed by 1970-01-04T23:59:59.000Z, epoch 96, in 2 files; then 412 "
        "observations in 8 files and 33 log entries."
    )


def test_a_prefix_reads_only_those_files_of_a_differential_that_can_hold_it() -> None:
    asked = [make_plan(WITH_DIFFERENTIALS, epoch(100), 100 * HOUR, keys_below(p)) for p in ("b", "d", "x")]
    assert [(len(p.changed), len(p.gone)) for p in asked] == [(0, 1), (1, 0), (0, 0)]
    assert {p.start for p in asked} == {Start(NEW, LAST)}
    assert "at most 7 keys that had changed" in asked[0].in_words()
    assert "changed" not in asked[2].in_words()


@pytest.mark.parametrize(
    ("at", "known", "start"),
    [
        (95 * HOUR, 100, Start(NEW)),
        (96 * HOUR, 95, Start(NEW)),
        (LAST.at, LAST.epoch, Start(NEW, LAST)),
        (LAST.at - 1, LAST.epoch, Start(NEW)),
        (89 * HOUR, 100, Start(OLD, SECOND)),
        (65 * HOUR, 100, Start(OLD, FIRST)),
        (200 * HOUR, 69, Start(OLD, FIRST)),
        (55 * HOUR, 100, Start(OLD)),
        (40 * HOUR, 100, None),
    ],
)
def test_an_older_view_begins_at_an_older_start(at: int, known: int, start: Start | None) -> None:
    assert make_plan(WITH_DIFFERENTIALS, epoch(known), at, ALL).start == start


def test_a_slice_begins_where_a_differential_ends_and_reads_no_object_of_it() -> None:
    plan = make_plan(WITH_DIFFERENTIALS, epoch(100), 95 * HOUR, ALL, start=75 * HOUR)
    assert plan.start == Start(OLD, SECOND)
    assert (plan.objects, plan.changed, plan.gone) == ((), (), ())
    assert plan.side == SECOND.side
    assert plan.delta[0].after == 70
    at_once = make_plan(WITH_DIFFERENTIALS, epoch(100), 95 * HOUR, ALL, start=SECOND.at)
    assert at_once.start == Start(OLD, FIRST)


def test_a_differential_without_its_checkpoint_is_none() -> None:
    archive = archive_of([*HOURS, OLD, LAST, retired(NEW, 7)])
    assert archive.differentials == (LAST,)
    assert make_plan(archive, epoch(100), 100 * HOUR, ALL).start == Start(OLD)
    assert archive.starts == (Start(OLD),)


def test_what_is_retired_is_no_start() -> None:
    archive = archive_of([*HOURS, NEW, retired(LAST, 7)])
    assert (archive.differentials, archive.starts) == ((), (Start(NEW),))
    assert make_plan(archive, epoch(100), 100 * HOUR, ALL).start == Start(NEW)


def test_all_observations_are_read_from_no_start() -> None:
    plan = make_plan(WITH_DIFFERENTIALS, epoch(100), 100 * HOUR, ALL, base=False)
    assert (plan.start, plan.objects, plan.changed, plan.gone, plan.side) == (None, (), (), (), ())


def test_differentials_are_no_checkpoints_and_their_files_are_needed() -> None:
    archive = WITH_DIFFERENTIALS
    assert archive.checkpoints == (OLD, NEW)
    assert archive.differentials == (FIRST, SECOND, LAST)
    every: list[Manifest] = [*HOURS, OLD, NEW, FIRST, SECOND, LAST]
    assert sorted(one.name for one in archive.standing) == sorted(one.name for one in every)
    assert {*archive.starts} == {
        *(Start(OLD), Start(NEW), Start(OLD, FIRST), Start(OLD, SECOND), Start(NEW, LAST))
    }
    assert len(archive.starts) == 5


def with_rows(point: Checkpoint, *extractors: str) -> Checkpoint:
    times = (0, point.at)
    live = [replace(file("live", times=times), extractor=name) for name in extractors]
    return replace(point, files=(*point.files, *live))


def test_the_newest_start_is_that_of_a_checkpoint_or_of_an_extractor_if_so_asked() -> None:
    archive = archive_of(
        [*HOURS, with_rows(OLD, "dicom", "sizes"), with_rows(NEW, "dicom"), with_rows(FIRST, "sizes"), LAST]
    )

    def newest(extractor: str | None = None, of: Checkpoint | None = None) -> str | None:
        start = newest_start(archive, 100 * HOUR, 100, extractor, of=of)
        return start.last.name if start else None

    assert newest() == LAST.name
    assert newest("dicom") == NEW.name
    assert newest("sizes") == FIRST.name
    assert newest("other") is None
    assert newest(of=OLD) == FIRST.name
    assert newest("dicom", of=OLD) == OLD.name
    assert newest("sizes", of=NEW) is None
    no_rows_there = archive_of([*HOURS, with_rows(OLD, "dicom"), with_rows(FIRST, "dicom", "sizes")])
    assert [start.extractors for start in no_rows_there.starts] == [("dicom",), ("dicom",)]


@pytest.mark.parametrize("start", WITH_DIFFERENTIALS.starts)
def test_where_one_start_is_known_no_other_is_used(start: Start) -> None:
    archive = starting_only(WITH_DIFFERENTIALS, start)
    assert make_plan(archive, epoch(100), 100 * HOUR, ALL).start == start
    assert archive.segments == WITH_DIFFERENTIALS.segments


# Keys

TEXT = st.text(max_size=4)


@given(TEXT, TEXT)
def test_keys_below_a_prefix_are_those_that_start_with_it(prefix: str, key: str) -> None:
    for each in (key, prefix + key):
        keys = keys_below(prefix)
        assert keys.overlaps(each, each) == keys.includes(each, each) == each.startswith(prefix)


@given(TEXT, TEXT)
def test_nothing_lies_between_a_key_and_the_next(key: str, other: str) -> None:
    assert not key < other < next_key(key)
    assert one_key(key).includes(key, key)


def bounds(*spans: tuple[str, str]) -> list[Bounds]:
    return [Bounds(10, *span) for span in spans]


GROUPS = bounds(("a", "c"), ("c", "f"), ("h", "k"), ("m", "m"))


def test_only_row_groups_that_can_hold_the_keys_are_read() -> None:
    assert groups_in(GROUPS, keys_below("c")) == [0, 1]
    assert groups_in(GROUPS, keys_below("g")) == []
    assert groups_in(GROUPS, KeyRange("k", "m")) == [2]
    assert groups_of(GROUPS, ["c"]) == [0, 1]
    assert groups_of(GROUPS, ["b", "g", "m"]) == [0, 3]
    assert groups_of(GROUPS, []) == []


@given(st.lists(st.tuples(TEXT, TEXT).map(lambda two: (min(two), max(two)))), TEXT, st.integers(1, 40))
def test_ranges_follow_each_other_without_a_gap(spans: list[tuple[str, str]], prefix: str, rows: int) -> None:
    keys = keys_below(prefix)
    ranges = split(bounds(*spans), keys, rows)
    assert (ranges[0].first, ranges[-1].after) == keys
    assert all(one.after == other.first for one, other in pairwise(ranges))
    assert all(one.after is None or one.first < one.after for one in ranges)


def test_ranges_hold_about_as_many_rows_as_asked_for() -> None:
    groups = [Bounds(100, f"{n:03d}a", f"{n:03d}z") for n in range(50)]
    ranges = split(groups, ALL, 1000)
    assert [len(groups_in(groups, keys)) for keys in ranges] == [10] * 5


def test_files_are_left_out_of_a_comparison_only_if_nothing_in_them_lies_between() -> None:
    plan = make_plan(ARCHIVE, epoch(100), 100 * HOUR, ALL)
    found = changed_between(plan.history, 40 * HOUR, 42 * HOUR)
    assert [f.min_time // HOUR for f in found if f.role == "regular"] == [41, 42]
    assert sum(f.role == "irregular" for f in found) == 60


# Manifests


@pytest.mark.parametrize("manifest", [segment(3, 9), checkpoint(5, parts=2), FIRST, Listed(3, 4, ())])
def test_a_manifest_comes_back_from_its_text(manifest: Manifest) -> None:
    assert from_json(to_json(manifest)) == manifest
    gone = retired(manifest, 77)
    assert from_json(to_json(gone)) == gone
    assert archive_of([manifest, gone]).retired == (gone,)


def test_a_newer_archive_is_refused_and_a_later_addition_to_ours_is_passed_over() -> None:
    text = to_json(segment(1, 2))
    with pytest.raises(SchemaTooNew, match="format 4"):
        from_json(text.replace('"format":1', '"format":4'))
    assert from_json(text.replace('"rows":', '"color":"blue","rows":')) == segment(1, 2)


def test_a_manifest_that_names_rows_of_metadata_is_none_for_an_archiver_that_would_leave_them_out() -> None:
    plain = segment(3, 9)
    assert '"format":1,' in to_json(plain)
    assert "rows_cover" not in to_json(plain)
    assert "extractor" not in to_json(plain)
    rows = replace(plain.files[0], role="rows", extractor="dicom")
    for told in (replace(plain, files=(*plain.files, rows)), replace(plain, rows_cover={3: 7})):
        assert '"format":2,' in to_json(told)
        assert from_json(to_json(told)) == told


def test_a_differential_is_a_newer_manifest_to_whoever_would_take_it_for_a_whole_live_set() -> None:
    text = to_json(FIRST)
    assert text.startswith('{"format":3,"kind":"DIFFERENTIAL",')
    assert f'"base":"{OLD.name}"' in text
    assert to_json(with_rows(FIRST, "dicom")).startswith('{"format":3,')
    assert to_json(OLD).startswith('{"format":1,"kind":"CHECKPOINT",')
    assert '"base"' not in to_json(OLD)
    with pytest.MonkeyPatch.context() as patch:  # the number that stood there before there were any
        patch.setattr("snapengine.archive.manifest.DIFFERENTIAL_FORMAT_VERSION", 2)
        with pytest.raises(SchemaTooNew, match="format 3; this snapengine reads up to 2"):
            from_json(text)
        assert from_json(to_json(OLD)) == OLD


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"format":1}', '{"format":1,"kind":"OTHER"}'])
def test_what_is_no_manifest_is_bad_data(text: str) -> None:
    with pytest.raises(BadData, match="no manifest"):
        from_json(text)
