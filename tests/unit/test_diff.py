"""A diff tells exactly the keys whose data differ, however the rows come."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from snapengine.bulkfold import version_table
from snapengine.diff import Change, diff_batches, diff_tables
from snapengine.digest import digest_batches
from snapengine.model import ObjectVersion

KEYS = st.text(st.sampled_from("ab/é\U0001f600\uffff"), min_size=1, max_size=4)
VERSIONS = st.builds(
    ObjectVersion,
    key=st.just(""),
    version_id=st.sampled_from(["v1", "v2", "null"]),
    size=st.sampled_from([None, 0, 7]),
    etag=st.sampled_from([None, "e1", "e2"]),
    event_time=st.integers(0, 3),
)
SIDES = st.dictionaries(KEYS, VERSIONS, max_size=25).map(
    lambda found: {key: replace(version, key=key) for key, version in found.items()}
)
Side = dict[str, ObjectVersion]


def rows(side: Side) -> pa.Table:
    return version_table([side[key] for key in sorted(side, key=str.encode)])


def differs(one: ObjectVersion | None, other: ObjectVersion | None) -> bool:
    if one is None or other is None:
        return one is not other
    return (one.version_id, one.etag, one.size) != (other.version_id, other.etag, other.size)


@given(SIDES, SIDES, st.integers(1, 7), st.integers(1, 7))
def test_a_diff_is_what_a_comparison_key_by_key_finds(
    before: Side, after: Side, old_step: int, new_step: int
) -> None:
    expected = [
        Change(key, before.get(key), after.get(key))
        for key in sorted({*before, *after}, key=str.encode)
        if differs(before.get(key), after.get(key))
    ]
    old, new = rows(before), rows(after)
    whole = diff_tables("x", old, "y", new)
    pieces = diff_batches(
        "x", old.to_batches(max_chunksize=old_step), "y", new.to_batches(max_chunksize=new_step)
    )
    for diff in (whole, pieces):
        assert diff.changes == tuple(diff) == tuple(expected)
        assert len(diff) == len(expected)
        assert diff.added == [c.after for c in expected if c.kind == "added"]
        assert diff.removed == [c.before for c in expected if c.kind == "removed"]
        assert diff.changed == [(c.before, c.after) for c in expected if c.kind == "changed"]
        assert str(diff) == (
            f"{len(diff.added)} added, {len(diff.changed)} changed, {len(diff.removed)} removed"
        )
    assert pickle.loads(pickle.dumps(whole)) == whole == pieces  # noqa: S301  # our own bytes


def test_a_time_that_became_better_known_is_no_change() -> None:
    version = ObjectVersion("k", "v", 1, "e", 1_000, "listed")
    later = replace(version, event_time=1_234, time="event", sequencer="0A", storage_class="STANDARD")
    assert len(diff_tables("x", version_table([version]), "y", version_table([later]))) == 0


def test_views_of_equal_digests_do_not_differ() -> None:
    unknown, empty = ObjectVersion("k", "v", 1, None, 1), ObjectVersion("k", "v", 1, "", 1)
    before, after = version_table([unknown]), version_table([empty])
    assert digest_batches([before]) == digest_batches([after])
    assert len(diff_tables("x", before, "y", after)) == 0


def test_a_diff_does_not_print_its_rows_nor_need_them_to_be_hashed() -> None:
    diff = diff_tables("x", version_table([]), "y", version_table([ObjectVersion("k", "v", 1, "e", 1)]))
    assert repr(diff) == "Diff(before='x', after='y')"
    assert {diff}


def test_rows_whose_schema_forgot_what_is_never_null_are_compared_all_the_same() -> None:
    table = version_table([ObjectVersion("k", "v", 1, "e", 1)])
    loose = table.cast(pa.schema([field.with_nullable(True) for field in table.schema], metadata={"a": "b"}))
    assert len(diff_tables("x", loose, "y", table)) == 0
    assert len(diff_tables("x", loose, "y", table.slice(0, 0))) == 1
