"""What ETags, sizes and checksums show of two objects, and what they do not."""

from __future__ import annotations

from hashlib import md5
from typing import Any

import pytest

from readers.export_carrying import parts_etag
from readers.export_evidence import part_count, same_bytes, stored, verdict
from readers.export_order import done_ahead, side_by_side
from snapengine.errors import BadData
from snapengine.model import ObjectVersion

ONE, TWO = "1" * 32, "2" * 32
KMS: dict[str, Any] = {"ServerSideEncryption": "aws:kms"}
FULL: dict[str, Any] = {"ChecksumType": "FULL_OBJECT"}


def reply(etag: str, size: int = 10, **more: Any) -> dict[str, Any]:
    return {"ContentLength": size, "ETag": f'"{etag}"', **more}


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (reply(ONE), reply(ONE), "etag"),
        (reply(f"{ONE}-2"), reply(f"{ONE}-2"), "etag"),
        (reply(ONE), reply(ONE, size=11), "different"),
        (reply(ONE), reply(TWO), "different"),
        (reply(ONE), reply(TWO, **KMS), "unknown"),
        (reply(ONE, ServerSideEncryption="AES256"), reply(TWO), "different"),
        (reply(ONE), reply(TWO, SSECustomerAlgorithm="AES256"), "unknown"),
        (reply(ONE), reply(f"{ONE}-1"), "unknown"),
        (reply(f"{ONE}-2"), reply(f"{TWO}-2"), "unknown"),
        (reply(ONE, ChecksumSHA256="x", **FULL), reply(TWO, ChecksumSHA256="x", **FULL, **KMS), "checksum"),
        (reply(ONE, ChecksumSHA256="x", **FULL), reply(TWO, ChecksumSHA256="y", **FULL, **KMS), "different"),
        (reply(ONE, ChecksumSHA256="x", **FULL), reply(TWO, ChecksumCRC32="x", **FULL, **KMS), "unknown"),
        (
            reply(f"{ONE}-2", ChecksumCRC32="x-2", ChecksumType="COMPOSITE"),
            reply(f"{TWO}-3", ChecksumCRC32="y-3", ChecksumType="COMPOSITE"),
            "unknown",
        ),
        (
            reply(f"{ONE}-2", ChecksumCRC32="x-2", ChecksumType="COMPOSITE"),
            reply(TWO, ChecksumCRC32="y", **FULL),
            "unknown",
        ),
    ],
)
def test_no_more_is_concluded_than_is_told(one: Any, other: Any, told: str) -> None:
    assert verdict(stored(one), stored(other)) == told
    assert verdict(stored(other), stored(one)) == told


def test_the_etag_of_parts_is_computed_as_s3_does_it() -> None:
    parts = [b"one", b"two"]
    etags = [f'"{md5(part).hexdigest()}"' for part in parts]  # noqa: S324  # S3's ETags are MD5s
    joined = b"".join(md5(part).digest() for part in parts)  # noqa: S324  # S3's own
    assert parts_etag(etags) == f"{md5(joined).hexdigest()}-2"  # noqa: S324  # S3's own
    assert parts_etag([etags[0], '"not-md5"']) == ""


def test_how_many_parts_an_object_came_in_is_told_by_its_etag() -> None:
    assert part_count(f"{ONE}-12") == 12
    assert [part_count(text) for text in (ONE, None, "", f"{ONE}-", "x-2")] == [None] * 5


def test_bytes_are_compared_to_the_end() -> None:
    one, other = bytes(40 << 20), bytearray(40 << 20)
    other[-1] = 1
    assert same_bytes(lambda a, b: one[a:b], lambda a, b: one[a:b], len(one))
    assert not same_bytes(lambda a, b: one[a:b], lambda a, b: bytes(other[a:b]), len(one))


def versions(*keys: str) -> list[ObjectVersion]:
    return [ObjectVersion(key, "v", 1, None, 0) for key in keys]


def test_streams_in_key_order_are_matched_by_key() -> None:
    def names(left: list[ObjectVersion], right: list[ObjectVersion]) -> list[tuple[Any, Any]]:
        return [(a and a.key, b and b.key) for a, b in side_by_side(left, right)]

    assert names(versions("a", "c", "é", "\U0001f600"), versions("b", "c", "\uffff")) == [
        ("a", None),
        (None, "b"),
        ("c", "c"),
        ("é", None),
        (None, "\uffff"),
        ("\U0001f600", None),
    ]
    assert names([], versions("a")) == [(None, "a")]
    with pytest.raises(BadData, match="order of S3's listings"):
        names(versions("a"), versions("b", "a"))
    with pytest.raises(BadData):
        names(versions("a"), versions("a", "a"))


def test_work_is_done_ahead_in_order_and_within_bounds() -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(100):
            taken.append(number)
            yield number

    results = done_ahead(lambda number: number * 2, items(), 2)
    assert next(results) == (0, 0)
    assert len(taken) <= 9
    assert [result for _, result in results] == [number * 2 for number in range(1, 100)]


def test_what_work_raises_is_raised_in_its_turn() -> None:
    def work(number: int) -> int:
        return 10 // (3 - number)

    results = done_ahead(work, iter(range(10)), 2)
    assert [next(results)[1] for _ in range(3)] == [3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(results)
