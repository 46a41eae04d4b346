"""What a run notes of its views: names, tags within MLflow's limits, `run:/<id>`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils import validation

from snapengine.errors import BadTime
from snapengine.model import RunNote, SnapshotRef
from snapengine.reference import parse_reference, render_reference
from snapengine.run_notes import (
    AT,
    BUCKETS,
    IGNORED,
    Tracked,
    fitting,
    input_tags,
    reference_of,
    run_named,
    run_tags,
    run_text,
    slug,
    tracked,
    tracking_tags,
    view_name,
    views_of,
)

validate: Callable[[str, str], None] = validation._validate_tag
T = 1_700_000_000_000
REF = SnapshotRef("scans", "ct/", T, 12)
SELECTION = "sha256:" + "ab" * 32

buckets = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", fullmatch=True)
prefixes = st.text(max_size=300).filter(lambda text: len(text.encode("utf-8", "replace")) <= 1024)
refs = st.builds(
    SnapshotRef,
    buckets,
    prefixes,
    st.just(T),
    st.integers(0, 99),
    st.sampled_from([None, T - 5]),
    st.just("last"),
    st.sampled_from(["", SELECTION]),
)


def note(ref: SnapshotRef = REF, **changes: object) -> RunNote:
    base = RunNote(
        run_id="a" * 32,
        bucket=ref.bucket,
        name=view_name(ref, own=True),
        reference=render_reference(ref),
        started_at=T,
        noted_at=T,
        digest="sha256:" + "0" * 64,
        objects=3,
        bytes=30,
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # fields of RunNote


def test_a_run_is_named_by_its_id_and_other_times_name_none() -> None:
    assert run_named(run_text("0123abc")) == "0123abc"
    assert run_named("2026-11-20") is None
    assert run_named(T) is None


@pytest.mark.parametrize("text", ["run:/", "run:/a/b", "run:/ä", "run:/a b", "run:/" + "a" * 257])
def test_an_id_that_no_run_can_have_is_refused(text: str) -> None:
    with pytest.raises(BadTime, match="as MLflow shows it"):
        run_named(text)


def test_the_run_s_own_views_have_short_names_and_others_say_their_instant() -> None:
    assert view_name(replace(REF, prefix=""), own=True) == "scans"
    assert view_name(REF, own=True) == "scans/ct/"
    assert view_name(REF, own=False) == "scans/ct/@2023-11-14T22:13:20.000Z~12"
    assert view_name(replace(REF, selection=SELECTION), own=True) == "scans/ct/?abababab"
    assert (
        view_name(replace(REF, start=T - 1000), own=True)
        == "scans/ct/@2023-11-14T22:13:19.000Z..2023-11-14T22:13:20.001Z"
    )


@given(st.lists(refs, min_size=2, max_size=6, unique=True), st.booleans())
def test_several_views_have_distinct_names_and_tags(several: list[SnapshotRef], own: bool) -> None:
    named = {replace(ref, epoch=12) if own else ref for ref in several}
    names = {view_name(ref, own=own) for ref in named}
    assert len({slug(name) for name in names}) == len(names) == len(named)


@given(refs, st.text(max_size=9000))
def test_names_and_tags_keep_mlflow_s_limits(ref: SnapshotRef, query: str) -> None:
    noted = note(ref, query=query)
    assert len(noted.name) <= 500
    for key, value in run_tags(noted).items():
        validate(key, value)
        assert "/" not in key  # the file store makes files of keys
    for key, value in input_tags(noted).items():
        assert len(key) <= 250
        assert len(value) <= 500


@given(refs)
def test_a_reference_comes_back_from_an_input_s_tags_however_long(ref: SnapshotRef) -> None:
    assert reference_of(input_tags(note(ref))) == render_reference(ref)


def test_no_reference_is_found_where_there_is_none() -> None:
    assert reference_of({"mlflow.data.context": "training"}) is None


def test_a_run_s_tags_give_its_references_and_digests() -> None:
    other = note(replace(REF, prefix=""), digest="")
    tags = run_tags(note()) | run_tags(other) | {"mlflow.user": "ann"}
    assert views_of(tags) == [(other.reference, None), (note().reference, note().digest)]


def test_names_of_dots_and_slashes_are_told_apart_in_keys() -> None:
    assert slug("scans/ct/") == "scans.ct"
    assert len({slug(name) for name in ("scans/ct/", "scans.ct", "scans/ct", "scans/.ct", "scans.ct/")}) == 5


def test_what_is_tracked_is_named_once_and_what_names_nothing_is_told() -> None:
    assert tracked(" scans, labels/2026/ ,scans,,") == ([Tracked("scans"), Tracked("labels", "2026/")], [])
    assert tracked("s3://scans/ct,a") == ([], ["s3://scans/ct", "a"])
    assert tracking_tags("s3://scans", T) == {IGNORED: "s3://scans"}
    assert tracking_tags("", T) == {}


def test_a_tracked_run_carries_its_instant_its_buckets_and_references_that_open() -> None:
    tags = tracking_tags("scans,labels/2026/", T)
    assert tags == {
        AT: "2023-11-14T22:13:20.000Z",
        BUCKETS: "scans,labels/2026/",
        "snapengine.view.scans": "snap://scans@2023-11-14T22:13:20.000Z/",
        "snapengine.view.labels.2026": "snap://labels@2023-11-14T22:13:20.000Z/2026/",
    }
    parsed = parse_reference(tags["snapengine.view.labels.2026"])
    assert (parsed.bucket, parsed.prefix, parsed.epoch) == ("labels", "2026/", None)


def test_a_view_that_is_noted_takes_the_place_of_the_tracked_one() -> None:
    assert set(run_tags(note(digest=""))) <= set(tracking_tags("scans/ct/", T))


def test_a_replayed_run_says_so_and_names_no_instant_of_its_own() -> None:
    assert tracking_tags("scans", "run:/abc") == {AT: "run:/abc", BUCKETS: "scans"}


@given(st.text(max_size=3000))
def test_tracking_never_fails_and_keeps_the_limits(text: str) -> None:
    for key, value in tracking_tags(text, T).items():
        validate(key, value)


def test_a_view_is_found_again_by_its_prefix() -> None:
    whole, ct = note(replace(REF, prefix="")), note(REF)
    chosen = note(replace(REF, selection=SELECTION))
    slice_ = note(replace(REF, start=T - 1000))
    notes = [whole, ct, chosen, slice_]
    assert fitting(notes, "ct/") == [ct]
    assert fitting(notes, "") == [whole]
    assert fitting(notes, "ct/2026/") == [ct]
    assert fitting(notes, "mr/") == [whole]
    assert fitting([ct], "") == [ct]
    assert fitting([ct], "mr/") == []
    assert fitting([chosen], "ct/") == [chosen]
    assert fitting(notes, "ct/", interval=True) == [slice_]
    assert fitting(notes, "ct/", interval=True, every=True) == []
