"""What a copy has to be told so that it is as its source."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from readers.export_carrying import carried, described_again
from readers.export_evidence import stored
from snapengine.errors import BytesUnavailable

ETAG = "1" * 32


def source(**more: Any) -> Any:
    return stored({"ContentLength": 10, "ETag": f'"{ETAG}"', **more})


def test_in_its_own_place_a_copy_keeps_storage_class_and_key_and_elsewhere_it_does_not() -> None:
    kms = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k"}
    told = source(StorageClass="STANDARD_IA", WebsiteRedirectLocation="/x", **kms)
    assert carried(told, in_place=False) == {"WebsiteRedirectLocation": "/x"}
    assert carried(told, in_place=True) == {
        "WebsiteRedirectLocation": "/x",
        "StorageClass": "STANDARD_IA",
        **kms,
    }
    assert carried(source(ServerSideEncryption="AES256"), in_place=True) == {}


@pytest.mark.parametrize("archive", ["GLACIER", "DEEP_ARCHIVE"])
def test_what_was_restored_from_an_archive_does_not_go_back_there(archive: str) -> None:
    assert carried(source(StorageClass=archive), in_place=True) == {}


def test_an_upload_is_described_as_its_source_is() -> None:
    told = source(
        ContentType="x/y",
        CacheControl="no-cache",
        Metadata={"a": "b"},
        ExpiresString="Wed, 21 Oct 2026 07:28:00 GMT",
    )
    tags = [{"Key": "a b", "Value": "c&d=+é"}, {"Key": "e", "Value": ""}]
    assert described_again(told, tags) == {
        "ContentType": "x/y",
        "CacheControl": "no-cache",
        "Metadata": {"a": "b"},
        "Expires": datetime(2026, 10, 21, 7, 28, tzinfo=UTC),
        "Tagging": "a%20b=c%26d%3D%2B%C3%A9&e=",
    }
    assert described_again(source(), []) == {"Metadata": {}}


def test_a_header_that_cannot_be_carried_is_no_reason_to_leave_it_out_in_silence() -> None:
    with pytest.raises(BytesUnavailable, match="Expires"):
        described_again(source(ExpiresString="tomorrow"), [])


@pytest.mark.parametrize(
    ("checksum", "kind", "asked"),
    [
        ("CRC64NVME", "FULL_OBJECT", {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}),
        ("SHA256", "COMPOSITE", {"ChecksumAlgorithm": "SHA256", "ChecksumType": "COMPOSITE"}),
        ("SHA256", "FULL_OBJECT", {}),
        ("CRC32", None, {"ChecksumAlgorithm": "CRC32"}),
    ],
)
def test_the_checksum_of_the_source_is_asked_for_where_s3_can_give_it(
    checksum: str, kind: str | None, asked: dict[str, str]
) -> None:
    reply = {f"Checksum{checksum}": "x", **({"ChecksumType": kind} if kind else {})}
    assert described_again(source(**reply), []) == {"Metadata": {}, **asked}
