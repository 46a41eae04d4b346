"""What a view, a slice and a diff show, and that their references resolve again."""

from __future__ import annotations

import multiprocessing
import pickle
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

import snapengine
from snapengine import Engine, View
from snapengine.errors import (
    BadReference,
    BadTime,
    BucketNotEnabled,
    FutureTime,
    NoSuchEpoch,
    NoSuchKey,
    NoSuchSnapshot,
    NotYetComplete,
    Refused,
    TableMissing,
    UsageError,
)
from snapengine.instants import render
from tests.seed import T0, enable, engine_at, event, marker, record, removal


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    return engine


@pytest.fixture
def history(engine: Engine) -> Engine:
    """ct/1 overwritten at 20; ct/2 deleted at 30 and back at 40; mr/1 removed for good at 50; é at 60."""
    record(
        engine,
        [
            event("ct/1", "a1", 10),
            event("ct/1", "a2", 20, size=20),
            event("ct/2", "b1", 10),
            marker("ct/2", "b2", 30),
            removal("ct/2", "b2", 40),
            event("mr/1", "c1", 10),
            removal("mr/1", "c1", 50),
            event("é", "d1", 60),
        ],
    )
    return engine


def seconds(value: float) -> int:
    return T0 + round(value * 1000)


def shown(view: View) -> dict[str, str]:
    return {key: version.version_id for key, version in view.items()}


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (9.999, {}),
        (10, {"ct/1": "a1", "ct/2": "b1", "mr/1": "c1"}),
        (20, {"ct/1": "a2", "ct/2": "b1", "mr/1": "c1"}),
        (30, {"ct/1": "a2", "mr/1": "c1"}),
        (40, {"ct/1": "a2", "ct/2": "b1", "mr/1": "c1"}),
        (50, {"ct/1": "a2", "ct/2": "b1"}),
        (60, {"ct/1": "a2", "ct/2": "b1", "é": "d1"}),
    ],
)
def test_a_view_shows_each_instant_as_it_was_to_the_millisecond(
    history: Engine, at: float, expected: dict[str, str]
) -> None:
    listed, looked_up = history.view("scans", seconds(at)), history.view("scans", seconds(at))
    assert shown(listed) == expected
    assert {key: looked_up[key].version_id for key in expected} == expected
    assert all((key in looked_up) == (key in expected) for key in ("ct/1", "ct/2", "mr/1", "é", "none"))


def test_a_view_is_in_order_of_the_keys_utf8_bytes(engine: Engine) -> None:
    keys = ["é", "z", "a/b", "a-b", "a", "A", "\U0001f600", "￿", "a\x01"]
    record(engine, [event(key, f"v{i}", 1) for i, key in enumerate(keys)])
    view = engine.view("scans")
    assert list(view) == sorted(keys, key=str.encode)
    assert all(view[key].key == key for key in keys)


def test_a_view_keeps_its_answer_whatever_is_learned_later(history: Engine) -> None:
    view = history.view("scans", seconds(25))
    reference, digest = view.reference, view.digest()
    record(history, [event("late", "x1", 5), removal("ct/1", "a2", 22), event("ct/1", "a1", 10)])
    again = history.open_ref(reference)
    assert (again.digest(), shown(again)) == (digest, shown(view))
    assert again["ct/1"].version_id == "a2"
    assert shown(history.view("scans", seconds(25))) == {
        "ct/1": "a1",
        "ct/2": "b1",
        "late": "x1",
        "mr/1": "c1",
    }


def test_an_event_an_hour_late_is_in_views_of_its_own_epoch_and_of_none_before(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    in_time = engine_at(path, now=T0 + 20_000)
    enable(in_time)
    first, late, last = (event("k", f"v{n}", at) for n, at in ((1, 10), (2, 10.5), (3, 12)))
    record(in_time, [first, last])
    before = in_time.view("scans", seconds(11))
    an_hour_later = engine_at(path, now=T0 + 3_620_000)
    record(an_hour_later, [late, event("late", "x1", 11)])
    assert shown(an_hour_later.open_ref(before.reference)) == shown(before) == {"k": "v1"}
    after = an_hour_later.view("scans", seconds(11))
    assert shown(after) == {"k": "v2", "late": "x1"} == {key: after[key].version_id for key in after}
    assert shown(an_hour_later.view("scans", seconds(12))) == {"k": "v3", "late": "x1"}


def test_an_event_that_comes_before_the_baseline_has_reached_its_key_is_one_fact_with_what_that_shows(
    tmp_path: Path,
) -> None:
    engine = engine_at(tmp_path / "log.db")
    enable(engine, baseline_ended=None)
    told = event("k", "v2", 10.7)
    record(engine, [told])
    early = engine.view("scans", seconds(15))
    page = told._replace(event_time=seconds(10), origin="baseline", event_name=None, sequencer=None)
    page = page._replace(listing="L", page_time=seconds(20), position=0)
    older = page._replace(version_id="v1", event_time=seconds(5), etag="etag-v1", position=1)
    record(engine, [page, older])
    enable(engine, baseline_ended=seconds(21))
    view = engine.view("scans", seconds(15))
    assert view["k"] == early["k"]
    assert (view["k"].event_time, view["k"].time) == (told.event_time, "event")
    assert shown(engine.view("scans", seconds(10.5))) == {"k": "v1"}
    assert engine.open_ref(early.reference).digest() == early.digest()


def test_an_epoch_can_be_asked_for_by_number_and_by_time(history: Engine) -> None:
    first = history.view("scans", seconds(60))
    record(history, [event("late", "x1", 5)])
    cut = history.store.epoch("scans", 1)
    assert cut is not None
    assert shown(history.view("scans", seconds(60), epoch=1)) == shown(first)
    assert shown(history.view("scans", seconds(60), epoch=render(cut.time))) == shown(first)
    assert len(history.view("scans", seconds(60), epoch=render(cut.time - 1))) == 0
    with pytest.raises(NoSuchEpoch, match="Epoch 99"):
        history.view("scans", epoch=99)


def test_a_prefix_shows_the_keys_that_start_with_it_and_no_others(history: Engine) -> None:
    view = history.view("scans", seconds(20), prefix="ct/")
    assert list(view) == ["ct/1", "ct/2"]
    assert "mr/1" not in view
    fresh = history.view("scans", seconds(20), prefix="ct/")
    with pytest.raises(NoSuchKey, match="no object 'mr/1'"):
        fresh["mr/1"]


def test_list_rolls_up_common_prefixes_as_s3_does(engine: Engine) -> None:
    keys = ["a", "b/", "b/1", "b/2/x", "b/2/y", "b/3", "c/d/e", "b0"]
    record(engine, [event(key, "v" + key, 1) for key in keys])
    view = engine.view("scans")
    top = view.list(delimiter="/")
    assert ([o.key for o in top.objects], top.prefixes) == (["a", "b0"], ["b/", "c/"])
    below = view.list("b/", delimiter="/")
    assert ([o.key for o in below.objects], below.prefixes) == (["b/", "b/1", "b/3"], ["b/2/"])
    assert [o.key for o in view.list("b/2").objects] == ["b/2/x", "b/2/y"]
    assert view.list("nothing").objects == []
    assert view.list("c", delimiter="/d").prefixes == ["c/d"]
    assert list(view.keys_below("b/2")) == ["b/2/x", "b/2/y"]
    assert list(view.keys_below("nothing")) == []


def test_the_digest_is_the_one_that_the_contract_spells_out(engine: Engine) -> None:
    record(engine, [event("é", "v1", 1, size=5, etag="abc")])
    row = b"\0\0\0\2\xc3\xa9" + b"\0\0\0\2v1" + b"\0\0\0\3abc" + (5).to_bytes(8, "big")
    expected = sha256(sha256(row).digest()).hexdigest()
    assert engine.view("scans").digest() == f"sha256:{expected}"
    assert engine.view("scans", seconds(0)).digest() == f"sha256:{sha256().hexdigest()}"


def test_a_view_gives_its_rows_to_arrow_and_pandas(history: Engine) -> None:
    view = history.view("scans", seconds(25))
    frame = view.to_pandas()
    assert list(frame["key"]) == list(view)
    assert str(frame["event_time"].dtype) == "datetime64[ms, UTC]"
    assert frame["event_time"][0] == datetime.fromtimestamp((T0 + 20_000) / 1000, UTC)
    assert view.to_arrow().num_rows == len(view) == 3


def _in_another_process(view: View, queue: multiprocessing.Queue[object]) -> None:
    queue.put((view.reference, view.digest(), list(view), view["ct/1"].version_id))


def test_a_view_goes_to_a_spawned_process_without_being_resolved_again(history: Engine) -> None:
    view = history.view("scans", seconds(25))
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[object] = context.Queue()
    payload = pickle.dumps(view)
    Path(history.settings.store.removeprefix("sqlite:///")).unlink()  # nothing is left to resolve from
    process = context.Process(target=_in_another_process, args=(pickle.loads(payload), queue))  # noqa: S301  # our own bytes
    process.start()
    received = queue.get(timeout=60)
    process.join(60)
    assert received == (view.reference, view.digest(), ["ct/1", "ct/2", "mr/1"], "a2")
    assert pickle.loads(payload) == view  # noqa: S301  # our own bytes


def test_a_view_says_what_it_rests_on(history: Engine) -> None:
    inside = history.view("scans", seconds(10)).completeness
    assert (inside.level, inside.history) == ("provisional", "recorded")
    before = history.view("scans", seconds(-10)).completeness
    assert before.history == "surviving"
    assert "only what had survived" in before.reason


def test_a_view_before_the_baseline_has_ended_says_so(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "log.db")
    enable(engine, baseline_ended=None)
    record(engine, [event("a", "v", 1)])
    assert "baseline" in engine.view("scans").completeness.reason


def test_a_view_looks_like_something_in_a_notebook(engine: Engine) -> None:
    record(engine, [event(f"<script>{i}", f"v{i}", 1) for i in range(12)])
    page = engine.view("scans")._repr_html_()
    assert "12 objects" in page
    assert "… and 4 more" in page
    assert "provisional" in page
    assert "<script>" not in page


def test_a_bucket_with_nothing_in_it_has_empty_views(engine: Engine) -> None:
    view = engine.view("scans")
    assert (len(view), list(view), view.epoch) == (0, [], 0)
    assert view.list(delimiter="/").prefixes == []
    assert engine.open_ref(view.reference).digest() == view.digest()


# Slices


def test_a_slice_shows_what_was_ingested_and_is_still_there_at_its_end(history: Engine) -> None:
    assert shown(history.slice("scans", seconds(10), seconds(20))) == {
        "ct/1": "a1",
        "ct/2": "b1",
        "mr/1": "c1",
    }
    assert shown(history.slice("scans", seconds(20), seconds(61))) == {"ct/1": "a2", "é": "d1"}
    assert shown(history.slice("scans", seconds(11), seconds(20))) == {}
    assert shown(history.slice("scans", seconds(10), seconds(31))) == {"ct/1": "a2", "mr/1": "c1"}


def test_a_slice_looks_up_a_key_as_it_lists_it(history: Engine) -> None:
    for start, end in [(10, 20), (11, 20), (10, 31), (0, 60)]:
        listed = history.slice("scans", seconds(start), seconds(end))
        expected = shown(listed)
        for key in ("ct/1", "ct/2", "mr/1", "é"):
            assert (key in history.slice("scans", seconds(start), seconds(end))) == (key in expected)


def test_a_slice_of_all_versions_tells_what_became_of_each(history: Engine) -> None:
    table = history.slice("scans", seconds(10), seconds(35), versions="all").to_arrow()
    told = list(zip(table["version_id"].to_pylist(), table["became"].to_pylist(), strict=True))
    assert told == [("a1", "superseded"), ("a2", "current"), ("b1", "deleted"), ("c1", "current")]
    later = history.slice("scans", seconds(10), seconds(55), versions="all").to_arrow()
    assert later["became"].to_pylist() == ["superseded", "current", "current", "removed"]


def test_a_slice_has_a_reference_that_opens_it_again(history: Engine) -> None:
    for versions in ("last", "all"):
        view = history.slice("scans", seconds(10), seconds(35), prefix="ct/", versions=versions)
        again = history.open_ref(view.reference)
        assert again == view
        assert again.to_arrow().equals(view.to_arrow())


def test_a_slice_that_ends_before_it_starts_is_refused(history: Engine) -> None:
    with pytest.raises(BadTime, match="before it starts"):
        history.slice("scans", seconds(20), seconds(10))
    assert len(history.slice("scans", seconds(20), seconds(20))) == 0


# Diffs


def test_a_diff_tells_what_was_added_changed_and_removed(history: Engine) -> None:
    diff = history.view("scans", seconds(15)).diff(history.view("scans", seconds(60)))
    assert [(c.kind, c.key) for c in diff] == [("changed", "ct/1"), ("removed", "mr/1"), ("added", "é")]
    assert str(diff) == "1 added, 1 changed, 1 removed"
    assert diff.changed[0][1].version_id == "a2"
    assert "mr/1" in diff._repr_html_()
    assert len(history.view("scans", seconds(15)).diff(history.view("scans", seconds(15)))) == 0


def test_a_diff_of_two_buckets_is_refused(history: Engine) -> None:
    enable(history, "labels")
    with pytest.raises(UsageError, match="different buckets"):
        history.view("scans").diff(history.view("labels"))


# Bad input


@pytest.mark.parametrize(
    "text",
    ["", "snap://", "snap://b", "snap://b/x", "http://b@now/", "snap://b@..2026-01-01/", "snap://b@2026-01-01~all/",
     "snap://b@2026-01-01~x/"],
)  # fmt: skip
def test_text_that_is_no_reference_is_refused(history: Engine, text: str) -> None:
    with pytest.raises((BadReference, BadTime)):
        history.open_ref(text)


def test_a_prefix_in_a_reference_is_taken_to_the_letter(engine: Engine) -> None:
    for i, prefix in enumerate(["a@b/", "a~1/", "..", "a..b", "a%2F", "a\nb", "/x", "?v=1", "~all/"]):
        record(engine, [event(prefix + "k", f"v{i}", 1)])
        view = engine.view("scans", prefix=prefix)
        assert engine.open_ref(view.reference) == view
        assert list(engine.open_ref(view.reference)) == [prefix + "k"]


def test_naive_and_future_times_are_refused(history: Engine) -> None:
    with pytest.raises(BadTime, match="no time zone"):
        history.view("scans", datetime(2026, 1, 1))  # noqa: DTZ001  # the point
    with pytest.raises(FutureTime, match="is in the future"):
        history.view("scans", history.clock() + 5000)


def test_a_bucket_that_is_not_enabled_is_named_with_the_remedy(history: Engine) -> None:
    with pytest.raises(BucketNotEnabled, match="snapengine enable-bucket nobody"):
        history.view("nobody")


def test_a_missing_table_is_named_with_the_remedy(tmp_path: Path) -> None:
    engine = Engine(snapengine.Settings(store=f"sqlite:///{tmp_path}/none.db"))
    with pytest.raises(TableMissing, match="snapengine init"):
        engine.view("scans")


def test_a_prefix_that_is_not_watched_is_refused_rather_than_shown_empty(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "log.db")
    enable(engine, prefix="ct/")
    record(engine, [event("ct/1", "v", 1)])
    with pytest.raises(UsageError, match="Only keys below 'ct/'"):
        engine.view("scans", prefix="mr/")
    assert engine.view("scans").prefix == "ct/"
    assert list(engine.view("scans", prefix="c")) == ["ct/1"]
    assert engine.view("scans", prefix="ct/2").prefix == "ct/2"


def test_the_module_s_functions_use_the_environment_s_settings(
    history: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPENGINE_STORE", history.settings.store)
    assert shown(snapengine.view("scans", at=render(seconds(60)))) == shown(
        history.view("scans", seconds(60))
    )
    assert len(snapengine.slice("scans", render(seconds(10)), render(seconds(20)))) == 3
    view = history.view("scans", seconds(20))
    assert snapengine.open_ref(view.reference) == view


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPENGINE_STORE", "postgres://x")
    with pytest.raises(UsageError, match="SNAPENGINE_STORE"):
        snapengine.view("scans")


def test_a_settings_file_that_is_named_and_missing_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SNAPENGINE_CONFIG_FILE", str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"none\.toml"):
        snapengine.view("scans")


def test_the_environment_wins_over_the_settings_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "snapengine.toml"
    file.write_text('store = "dynamodb://from-file"\nstreams = 3\n')
    monkeypatch.setenv("SNAPENGINE_CONFIG_FILE", str(file))
    monkeypatch.setenv("SNAPENGINE_STORE", "dynamodb://from-environment")
    settings = snapengine.Settings()
    assert (settings.store, settings.streams) == ("dynamodb://from-environment", 3)


# Named snapshots, levels, what is gone


def test_a_named_snapshot_is_the_very_same_view_for_ever(history: Engine) -> None:
    view = history.view("scans", seconds(25), prefix="ct/")
    kept = history.name_snapshot(view, "run-1", creator="ann", note="before", labels={"team": "ct"})
    record(history, [event("ct/late", "x1", 5)])
    again = history.view("scans", "snapshot:run-1")
    assert (again, again.digest()) == (view, kept.digest)
    assert list(history.view("scans", "snapshot:run-1", prefix="ct/2")) == ["ct/2"]
    with pytest.raises(UsageError, match="only keys below 'ct/'"):
        history.view("scans", "snapshot:run-1", prefix="mr/")
    with pytest.raises(UsageError, match="epoch of its own"):
        history.view("scans", "snapshot:run-1", epoch=1)
    with pytest.raises(Refused, match="already"):
        history.name_snapshot(view, "run-1", creator="bob")
    with pytest.raises(NoSuchSnapshot, match="snapengine snapshot list scans"):
        history.view("scans", "snapshot:run-2")
    with pytest.raises(UsageError, match="cannot name a snapshot"):
        history.name_snapshot(view, "no spaces", creator="ann")


def test_an_audit_tells_what_is_gone_since_when_and_why(history: Engine) -> None:
    view = history.view("scans", seconds(25))
    assert [(g.key, g.since, g.why) for g in view.audit()] == [("mr/1", seconds(50), "ObjectRemoved:Delete")]
    record(history, [removal("ct/1", "a2", 70)])
    assert [g.key for g in view.audit()] == ["ct/1", "mr/1"]
    assert list(view) == ["ct/1", "ct/2", "mr/1"], "the view itself stays as it was"


def test_a_null_version_that_was_overwritten_counts_as_gone(engine: Engine) -> None:
    record(engine, [event("k", "null", 1, etag="e1"), event("k", "null", 2, etag="e2")])
    view = engine.view("scans", seconds(1))
    assert [(g.version_id, g.since, g.why) for g in view.audit()] == [
        ("null", seconds(2), "overwritten (ObjectCreated:Put)")
    ]
    assert engine.view("scans", seconds(2)).audit() == []


def test_a_level_that_is_not_reached_in_time_says_how_far_it_is(history: Engine) -> None:
    with pytest.raises(NotYetComplete, match=r"not settled: no worker has said.*snapengine reconcile scans"):
        history.view("scans", seconds(25), require="settled", timeout=0)
    with pytest.raises(NotYetComplete, match="Ask without an epoch"):
        history.view("scans", seconds(25), epoch=1, require="verified")
    with pytest.raises(UsageError, match="provisional, settled, verified"):
        history.view("scans", require="certain")  # type: ignore[arg-type]  # the point
    assert len(history.view("scans", seconds(25), require="provisional")) == 3
