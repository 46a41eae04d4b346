"""The short form of `python -m benchmarks view_vs_listing`: few objects, boto3 only. Never how fast."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks._listing_filling import prepare
from benchmarks._listing_peers import PEERS
from benchmarks.harness import Unavailable
from benchmarks.view_vs_listing import measure, result
from tests.servers import Endpoint

OBJECTS = 300


@pytest.mark.services
@pytest.mark.slow
@pytest.mark.xdist_group("dynamodb-local")
def test_a_view_and_a_folded_listing_of_a_real_bucket_agree_and_the_folder_serves_again(
    dynamodb_local_server: Endpoint, tmp_path: Path
) -> None:
    options = argparse.Namespace(seed=1, endpoint_url=dynamodb_local_server.endpoint_url)
    boto3 = [peer for peer in PEERS if peer.name == "boto3"]
    measured = measure(options, tmp_path, OBJECTS, boto3, 1)
    found = result(measured, measured, [])
    assert found.correct
    assert 0 < len(measured.expected) < OBJECTS
    assert measured.filled.markers > 0
    assert measured.listing_requests == 1  # a page holds them all
    own = tmp_path / f"objects-{OBJECTS}-seed-1"
    assert prepare(own, OBJECTS, 1) == measured.filled
    with pytest.raises(Unavailable, match="another --folder"):
        prepare(own, OBJECTS, 2)
