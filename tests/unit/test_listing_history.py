"""What `view_vs_listing` does to its bucket, how answers are judged, and when the benchmark fails."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks._listing_filling import Filled
from benchmarks._listing_history import (
    ROUND_OF_T,
    Answer,
    Row,
    answer_at,
    body_of,
    differing,
    key_of,
    make_rounds,
)
from benchmarks._listing_ours import Seen, digest_of
from benchmarks._listing_peers import Answered
from benchmarks._listing_record import STRETCH, stretched
from benchmarks.view_vs_listing import Measured, result
from snapengine.model import CREATED, MARKER_CREATED, Observation

ROUNDS = make_rounds(3_000, seed=1)
PUT = Observation(CREATED, "a", "v1", 1_000, "01", 5, "e1")
OTHER = Observation(CREATED, "b", "v2", 2_000, "02", 6, "e2")
MARKER = Observation(MARKER_CREATED, "a", "v3", 3_000, "03")
FILLED = Filled(1, 2, 1, at=2_500, began=0, ended=4_000, versions=2, markers=1)
EXPECTED: Answer = {"a": Row("v1", 5, "e1"), "b": Row("v2", 6, "e2")}


def test_an_object_has_two_versions_on_average_and_some_are_deleted() -> None:
    acts = Counter(operation.act for operations in ROUNDS for operation in operations)
    assert acts["put"] / 3_000 == pytest.approx(2.0, abs=0.1)
    assert acts["delete"] / 3_000 == pytest.approx(0.145, abs=0.05)


def test_no_key_has_two_operations_in_a_round_and_each_begins_with_a_put() -> None:
    begun: set[str] = set()
    for operations in ROUNDS:
        keys = [operation.key for operation in operations]
        assert len(keys) == len(set(keys))
        assert all(o.act == "put" for o in operations if o.key not in begun)
        begun.update(keys)
    assert begun == {key_of(number) for number in range(3_000)}


def test_there_is_much_to_do_after_t_and_no_two_bodies_are_the_same() -> None:
    after = sum(map(len, ROUNDS[ROUND_OF_T:]))
    assert after > 3_000 // 3
    puts = [body_of(o) for operations in ROUNDS for o in operations if o.act == "put"]
    assert len(puts) == len(set(puts))


def test_the_bucket_at_t_is_what_was_last_put_and_not_deleted_by_then() -> None:
    assert answer_at([PUT, OTHER, MARKER], 2_500) == EXPECTED
    assert answer_at([PUT, OTHER, MARKER], 3_000) == {"b": Row("v2", 6, "e2")}


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (EXPECTED, 0),
        ({"a": Row(None, 5, "e1"), "b": Row("v2", 6, None)}, 0),
        ({"a": Row("v1", 5, "e1")}, 1),
        ({**EXPECTED, "c": Row("v4", 1, "e4")}, 1),
        ({"a": Row("v3", 5, "e1"), "b": Row(None, 7, None)}, 2),
    ],
)
def test_a_peer_is_judged_by_all_that_it_says_and_by_nothing_that_it_does_not(
    said: Answer, wrong: int
) -> None:
    assert differing(EXPECTED, said) == wrong


def test_the_log_takes_longer_than_the_filling_and_t_keeps_its_place() -> None:
    history = stretched(FILLED, [PUT, OTHER, MARKER])
    assert answer_at(history.events, history.at) == EXPECTED
    assert history.ended - history.events[0].event_time == STRETCH * (FILLED.ended - PUT.event_time)


def measured(view_seconds: float, said: Answer, *, requests: int = 10) -> Measured:
    seen = Seen(view_seconds, 0.0, requests, 3, said, digest_of(said))
    found = Measured(
        FILLED,
        EXPECTED,
        "DynamoDB Local",
        record_seconds=1.0,
        archive_seconds=1.0,
        archive_runs=1,
        archive_bytes=1,
        views=[seen],
        processes=[1.0],
    )
    found.peers = {"boto3": [Answered(30.0, EXPECTED)], "rclone": [Answered(10.0, {})]}
    found.peer_requests = {"boto3": 200, "rclone": 210}
    return found


def test_the_quickest_peer_is_the_baseline_and_its_mistakes_are_counted() -> None:
    good = measured(0.1, EXPECTED)
    found = result(good, good, ["s3_pit_restore: not here"])
    assert found.params["baseline"] == "rclone"
    assert found.params["not_run"] == "s3_pit_restore: not here"
    assert found.figures["rclone_wrong_keys"].value == 2
    assert found.ratios["speedup"] == 100.0
    assert found.ratios["s3_request_share"] == 0.05
    assert found.correct
    assert found.ok


def test_the_share_of_requests_has_to_fall_with_size() -> None:
    good = measured(0.1, EXPECTED)
    assert not result(good, measured(0.1, EXPECTED, requests=8), []).ok


def test_a_view_that_is_wrong_in_one_key_or_in_its_digest_fails_the_benchmark() -> None:
    good, wrong = measured(0.1, EXPECTED), measured(0.1, {"a": EXPECTED["a"]})
    assert not result(wrong, good, []).correct
    assert not result(good, wrong, []).correct
    lying = measured(0.1, EXPECTED)
    lying.views = [replace(lying.views[0], said="sha256:0")]
    assert not result(lying, good, []).correct


def test_it_says_so_where_a_peer_is_quicker_than_the_view(capsys: pytest.CaptureFixture[str]) -> None:
    slow = measured(11.0, EXPECTED)
    found = result(slow, slow, [])
    assert not found.ok
    assert "rclone is quicker than the view" in capsys.readouterr().err
