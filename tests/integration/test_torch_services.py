"""Datasets against a real S3 server: keys that look alike, null versions, large objects, workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snapengine.errors import VersionGone
from tests.integration.test_reading import AWKWARD
from tests.seed import record
from tests.servers import Endpoint
from tests.torch_house import QUIET, NumberedBucket, key, need_torch, number_of

need_torch()

from torch.utils.data import DataLoader  # noqa: E402  # only where it is installed

pytestmark = [pytest.mark.services, *QUIET]
MERGED = {"/a", "a/", "a//b", "a/../b"}
"""Keys that SeaweedFS takes for others, or refuses: docs/services.md."""
ALIKE = sorted(set(AWKWARD) - MERGED, key=str.encode)
COUNT = 9


@pytest.fixture
def bucket(seaweedfs_server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NumberedBucket:
    for name, value in seaweedfs_server.environment().items():
        monkeypatch.setenv(name, value)
    return NumberedBucket(tmp_path, COUNT)


def put_all(bucket: NumberedBucket, word: bytes) -> None:
    told = [bucket.put(name, word + name.encode()) for name in ALIKE]
    record(bucket.engine(), told, bucket.bucket)


def read(view: Any, style: str) -> list[tuple[str, bytes]]:
    dataset = view.to_torch(style=style)
    return list(dataset) if style == "iterable" else [dataset[number] for number in range(len(dataset))]


@pytest.mark.parametrize("style", ["map", "iterable"])
def test_keys_that_look_alike_are_each_read_exactly_in_old_and_new_versions(
    bucket: NumberedBucket, style: str
) -> None:
    put_all(bucket, b"old ")
    old = bucket.engine().view(bucket.bucket).select(ALIKE)
    put_all(bucket, b"newer ")
    new = bucket.engine().view(bucket.bucket).select(ALIKE)
    assert read(old, style) == [(name, b"old " + name.encode()) for name in ALIKE]
    assert read(new, style) == [(name, b"newer " + name.encode()) for name in ALIKE]


@pytest.mark.parametrize("style", ["map", "iterable"])
def test_a_null_version_that_was_overwritten_is_refused(bucket: NumberedBucket, style: str) -> None:
    bucket.s3.put_bucket_versioning(Bucket=bucket.bucket, VersioningConfiguration={"Status": "Suspended"})
    put_all(bucket, b"old ")
    old = bucket.engine().view(bucket.bucket).select(ALIKE)
    assert read(old, style) == [(name, b"old " + name.encode()) for name in ALIKE]
    put_all(bucket, b"newer ")
    with pytest.raises(VersionGone):
        read(old, style)
    new = bucket.engine().view(bucket.bucket).select(ALIKE)
    assert read(new, style) == [(name, b"newer " + name.encode()) for name in ALIKE]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_small_objects_and_large_ones_in_parts(bucket: NumberedBucket, context: str) -> None:
    large = bytes(range(256)) * (20 << 12)
    record(bucket.engine(), [bucket.put("large", large)], bucket.bucket)
    view = bucket.engine().view(bucket.bucket)
    assert view.to_torch()[len(view) - 1] == ("large", large)
    small = view.select([key(number) for number in range(COUNT)]).to_torch(number_of)
    loader = DataLoader(small, batch_size=2, num_workers=2, multiprocessing_context=context)
    assert [int(number) for batch in loader for number in batch] == list(range(COUNT))
    whole = DataLoader(
        view.to_torch(style="iterable"), batch_size=None, num_workers=2, multiprocessing_context=context
    )
    assert {name: len(data) for name, data in whole}["large"] == len(large)
