"""The short form of `python -m benchmarks faults`: 26 kills, a few pauses and outages, on real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks._faults_judge import Verdict
from benchmarks._faults_listings import kill_listings
from benchmarks._faults_process import step_of
from benchmarks._faults_workers import kill_workers, restart_servers
from tests import servers
from tests.servers import Endpoint


def assert_clean(verdict: Verdict) -> None:
    """Nothing lost, invented, wrong or changed; and enough was looked at to say so."""
    assert verdict.clean, "\n".join(verdict.notes)
    assert verdict.views > 20
    assert verdict.references > 0


@pytest.mark.services
@pytest.mark.slow
@pytest.mark.xdist_group("elasticmq")
def test_workers_killed_at_every_step_and_put_to_sleep_lose_invent_and_change_nothing(
    elasticmq_server: Endpoint, dynamodb_local_server: Endpoint, tmp_path: Path
) -> None:
    tally, verdict = kill_workers(
        (dynamodb_local_server, elasticmq_server), tmp_path, kills=16, pauses=3, long_pause=6, seed=7
    )
    assert tally.kills.total() == 16
    assert tally.pauses + tally.missed >= 4
    assert tally.longest >= 6
    assert tally.duplicates
    assert tally.reorderings
    assert_clean(verdict)


@pytest.mark.services
@pytest.mark.slow
@pytest.mark.xdist_group("seaweedfs")
def test_a_baseline_and_a_reconcile_killed_at_their_steps_lose_invent_and_change_nothing(
    seaweedfs_server: Endpoint, elasticmq_server: Endpoint, dynamodb_local_server: Endpoint, tmp_path: Path
) -> None:
    endpoints = (dynamodb_local_server, elasticmq_server, seaweedfs_server)
    tally, verdict = kill_listings(endpoints, tmp_path, kills=10, seed=7)
    assert tally.kills.total() == 10
    assert tally.losses
    assert_clean(verdict)


@pytest.mark.services
@pytest.mark.slow
def test_the_table_and_the_queue_go_away_under_load_and_come_back_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with (
        servers.dynamodb_local(tmp_path / "table") as table,
        servers.elasticmq(tmp_path / "queue") as queue,
    ):
        tally, verdict = restart_servers(table, queue, tmp_path / "logs", rounds=1, seed=7)
    assert tally.outages == 2
    assert_clean(verdict)


@pytest.mark.parametrize(
    ("target", "body", "step"),
    [
        ("AmazonSQS.ReceiveMessage", b"{}", "receive"),
        ("DynamoDB_20120810.BatchWriteItem", b"{}", "by key"),
        ("DynamoDB_20120810.PutItem", b'{"Item": {"PK": {"S": "LOG#b#0"}, "SK": {"S": "1"}}}', "commit"),
        ("DynamoDB_20120810.PutItem", b'{"Item": {"PK": {"S": "DONE#b#0"}, "SK": {"S": "1"}}}', "done"),
        ("DynamoDB_20120810.PutItem", b'{"Item": {"PK": {"S": "EPOCH#b"}, "SK": {"S": "1"}}}', "epoch"),
        (
            "DynamoDB_20120810.DeleteItem",
            b'{"Key": {"PK": {"S": "BUCKET#b"}, "SK": {"S": "LEASE#baseline"}}}',
            "end of lease",
        ),
    ],
)
def test_a_request_is_known_by_what_it_does(target: str, body: bytes, step: str) -> None:
    assert step_of("POST", "http://127.0.0.1/", {"X-Amz-Target": target.encode()}, body) == step


def test_a_page_of_a_listing_is_known_by_its_query() -> None:
    assert step_of("GET", "http://127.0.0.1/bucket?versions&max-keys=7", {}, None) == "page"
    assert step_of("GET", "http://127.0.0.1/bucket?uploads", {}, None) == "s3"
