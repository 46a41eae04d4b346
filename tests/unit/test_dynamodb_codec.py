"""Items of the DynamoDB table: manifests of every size, forms of entries, items that leave."""

from __future__ import annotations

import pytest

from snapengine.errors import ArchiveDamaged, BadData
from snapengine.model import LogEntry
from snapengine.stores import dynamodb_codec as codec
from snapengine.testing.archive_contract import archive_file, file_entry, incompressible, stub
from snapengine.testing.store_contract import BUCKET, T, entry, observation

LIMIT = 409_600
"""Bytes of an item, names and values."""


@pytest.mark.parametrize(
    "body", ["", "{}", "é" * 2_000, "é" * 2_001, "x" * 3_000_000, incompressible(690_000)]
)
def test_a_manifest_of_any_size_that_fits_is_had_back(body: str) -> None:
    item = codec.manifest_item(BUCKET, "SEGMENT#1", body)
    assert codec.manifest_from(item) == body
    content = item["body"]
    assert ("S" in content) == (len(body.encode()) <= 4_000)
    assert len(content.get("S", "").encode()) + len(content.get("B", b"")) < LIMIT - 2_000


def test_a_manifest_that_no_item_holds_is_refused_by_name_and_size() -> None:
    with pytest.raises(BadData, match=r"Manifest SEGMENT#1 of bucket scans has 5\d\d,\d{3} bytes"):
        codec.manifest_item(BUCKET, "SEGMENT#1", incompressible(1_000_000))


@pytest.mark.parametrize(
    "body", [{"B": b"no zlib"}, {"S": "another"}, codec.manifest_item(BUCKET, "n", "other" * 2_000)["body"]]
)
def test_a_manifest_that_was_altered_in_the_table_is_damage(body: object) -> None:
    item = {**codec.manifest_item(BUCKET, "SEGMENT#1", "the body"), "body": body}
    with pytest.raises(ArchiveDamaged, match="SEGMENT#1"):
        codec.manifest_from(item)


@pytest.mark.parametrize("put", [entry(1, observation(1)), file_entry(2, archive_file()), stub(3)])
def test_only_entries_that_hold_no_rows_say_their_form(put: LogEntry) -> None:
    item = codec.entry_item(put)
    assert codec.entry_from(BUCKET, 0, item) == put
    assert ("form" in item) == (put.form != "rows")
    assert ("payload" in item) == (put.form != "stub")


@pytest.mark.parametrize(
    ("millis", "seconds"), [(T, "1700000000"), (T + 1, "1700000001"), (T - 1, "1700000000")]
)
def test_nothing_leaves_before_its_time(millis: int, seconds: str) -> None:
    item = codec.observation_item(BUCKET, 0, 1, observation(1))
    left = codec.leaving(item, millis)
    assert left == {**item, "expires": {"N": seconds}}
    assert codec.observation_from("k0001", left, {0: 1}) == observation(1)
