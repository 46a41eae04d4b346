"""The short forms of the benchmarks over a made bucket: a few thousand objects. Never how fast."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks import metadata_query, resolve_memory, simulate_scale
from benchmarks._big_bucket import BUCKET, big_buckets
from benchmarks._big_rows import PATIENT_OBJECTS, Made
from benchmarks._scale_model import Scenario
from benchmarks.archiving import measure, result
from benchmarks.harness import Unavailable
from benchmarks.prefix_scaling import look
from benchmarks.prefix_scaling import measure as measure_prefixes
from snapengine.engine import Engine
from snapengine.model import CREATED, MARKER_CREATED, VERSION_DELETED
from snapengine.settings import Settings

OBJECTS = 3_000


def test_a_made_bucket_has_every_kind_of_change_and_is_the_same_every_time() -> None:
    made = Made(OBJECTS, 1)
    (lot,) = made.all_lots()
    assert lot.live.num_rows == lot.listed.num_rows == OBJECTS
    events = pa.concat_tables([lot.before, lot.after, lot.lately])
    kinds = Counter(events["kind"].to_pylist())
    assert set(kinds) == {CREATED, MARKER_CREATED, VERSION_DELETED}
    assert len(set(events["version_id"].to_pylist())) > len(events) * 0.9
    assert Made(OBJECTS, 1).lot(0).live.equals(lot.live)
    assert not Made(OBJECTS, 2).lot(0).live.equals(lot.live)
    below = made.live_below(1)
    assert below.num_rows == PATIENT_OBJECTS
    assert pc.all(pc.starts_with(below["key"], made.prefix(1))).as_py()


def test_lots_are_numbered_on_in_key_order() -> None:
    first, second = Made(101_000, 1).all_lots()
    assert second.live.num_rows == 1000
    assert first.live["key"][-1].as_py() < second.live["key"][0].as_py()
    assert second.listed["position"][0].as_py() == first.listed["position"][-1].as_py() + 1


def test_views_of_made_buckets_say_what_was_done_to_them_and_the_folder_serves_again(tmp_path: Path) -> None:
    sizes = [1_000, OBJECTS]
    options = argparse.Namespace(repetitions=1, seed=1, root="file", sizes="1000,3000")
    with big_buckets(tmp_path, sizes, seed=1, root="file") as buckets:
        found = measure_prefixes(buckets, options)
        archive = buckets[1].engine().archive(BUCKET)
        assert len(archive.checkpoints) == 1
        assert archive.last_epoch > archive.checkpoints[0].epoch  # segments after the checkpoint
        assert archive.last_epoch < buckets[1].stamp.epoch  # and a tail of the log
        stamps = [bucket.stamp for bucket in buckets]
        assert look(buckets[1], 2).right
        assert not look(replace(buckets[1], made=Made(OBJECTS, 2)), 2).right  # compared with another history
    assert found.correct
    assert found.figures["row_groups_3k"].value >= 2
    with big_buckets(tmp_path, sizes, seed=1, root="file") as again:
        assert [bucket.stamp for bucket in again] == stamps
        digested = resolve_memory.measure(again[1], 1)
        recorded, right = simulate_scale.measure(again[1], 8_000, Scenario())
    assert digested.correct
    assert 0 < digested.ratios["peak_gib"] < 1
    assert right
    assert 0 < recorded.event_bytes < 200


def test_a_question_of_a_made_bucket_is_answered_as_its_history_says_and_as_duckdb_does(
    tmp_path: Path,
) -> None:
    with big_buckets(tmp_path, [20_000], seed=1, root="file", metadata=True) as (bucket,):
        found = metadata_query.measure(bucket, 1)
        other = replace(bucket, made=Made(20_000, 2))
        assert not metadata_query.measure(other, 1).correct  # compared with another history
    assert found.correct
    assert int(found.params["found"]) > 100
    assert 0 < found.ratios["peak_gib"] < 1


def test_a_folder_that_holds_another_bucket_or_a_size_that_is_none_is_refused(tmp_path: Path) -> None:
    with big_buckets(tmp_path, [1_000], seed=1, root="file") as (bucket,):
        stamp = bucket.folder / "made.json"
    stamp.write_text(stamp.read_text().replace('"objects": 1000', '"objects": 2000'))
    with (
        pytest.raises(Unavailable, match="another --folder"),
        big_buckets(tmp_path, [1_000], seed=1, root="file"),
    ):
        raise AssertionError("it was taken")
    with pytest.raises(Unavailable, match="multiple"), big_buckets(tmp_path, [1_500], seed=1, root="file"):
        raise AssertionError("it was taken")


def test_a_log_is_archived_and_its_segment_holds_what_it_held(tmp_path: Path) -> None:
    engine = Engine(Settings(store=f"sqlite:///{tmp_path / 'store.db'}"))
    engine.store.create()
    measured = measure(engine, tmp_path, 4_000, 1)
    found = result(measured, measured, 1)
    assert found.correct
    assert found.params["observations"] == 4_000
    assert found.ratios["bytes_an_observation"] < 80
