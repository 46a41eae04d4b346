"""Listings through a view's client are those of a plain client, and stay so when the bucket changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from snapengine.devcloud import DevCloud
from tests.integration.s3_client_house import House
from tests.seed import enable, engine_at, event, record

KEYS = [
    "README", "a b/c d/1", "a b/c d/2", "a b/e", "ct/", "ct/1.dcm", "ct/2.dcm", "ct/sub/1", "ct/sub/2/3",
    "ct0", "mr/é/ü", "mr/日本", "z/x&y=z", "~",
]  # fmt: skip
PREFIXES = [None, "", "ct", "ct/", "a b/", "mr/é", "none", "z"]
STARTS = [None, "", "a", "a b/", "ct/", "ct0", "q", "~"]
LIMITS = [None, 0, 1, 3, 1000]

Build = Callable[[], House]


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture(scope="module", params=["devcloud", pytest.param("seaweedfs", marks=pytest.mark.services)])
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Makes a house that holds `KEYS`."""
    name = "cloud" if request.param == "devcloud" else "seaweedfs_server"
    server = request.getfixturevalue(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_REGION", "us-east-1")

        def made() -> House:
            house = House(server.environment(), tmp_path_factory.mktemp("log") / "log.db", patch, "Enabled")
            house.put_many(keys_of(house))
            return house

        yield made


@pytest.fixture(scope="module")
def house(build: Build) -> House:
    """Nothing more is written to it."""
    return build()


def keys_of(house: House) -> list[str]:
    """SeaweedFS keeps no versions of a key that ends in a slash: docs/services.md."""
    return [key for key in KEYS if key != "ct/" or not house.is_seaweedfs]


def parsed(reply: Mapping[str, Any], *but: str) -> dict[str, Any]:
    """Less ids, tokens, dates, headers, and what a view does not know."""
    left_out = {"ResponseMetadata", "ContinuationToken", "NextContinuationToken", *but}
    found = {name: value for name, value in reply.items() if name not in left_out}
    unknown = {"LastModified", "ChecksumAlgorithm", "ChecksumType", "Owner"}
    if "Contents" in found:
        found["Contents"] = [
            {name: value for name, value in entry.items() if name not in unknown}
            for entry in found["Contents"]
        ]
    return found


def grid(start: str, delimiters: list[str | None]) -> Iterator[dict[str, Any]]:
    for prefix, delimiter, limit, after in product(PREFIXES, delimiters, LIMITS, STARTS):
        given = {"Prefix": prefix, "Delimiter": delimiter, "MaxKeys": limit, start: after}
        yield {name: value for name, value in given.items() if value is not None}


def delimiters_of(house: House, operation: str) -> list[str | None]:
    """Those by which the server lists as S3 does. SeaweedFS gives the common prefixes of any but `/` out of
    order, and says that a last page is not; moto's ListObjects gives them all on every page."""
    if house.is_seaweedfs:
        return [None, "/"]
    return [None, "/", "c", "sub/"] if operation == "list_objects_v2" else [None]


def not_told(house: House, operation: str) -> list[str]:
    """What the server says of ListObjects otherwise than S3 does: `NextMarker` is there without a delimiter,
    and of moto a token, of SeaweedFS the name of a file; moto leaves out the others."""
    if operation == "list_objects_v2":
        return []
    return ["NextMarker"] if house.is_seaweedfs else ["NextMarker", "Marker", "Prefix"]


@pytest.mark.parametrize(
    ("operation", "start"), [("list_objects_v2", "StartAfter"), ("list_objects", "Marker")]
)
def test_every_page_is_the_plain_clients(house: House, operation: str, start: str) -> None:
    client, but = house.view().client(), not_told(house, operation)
    for asked in grid(start, delimiters_of(house, operation)):
        if asked.get("Delimiter") == "c" and asked.get(start) == "ct/":
            continue  # in the midst of `c`, which moto then leaves out, though keys of it come after
        plain = parsed(getattr(house.s3, operation)(Bucket=house.bucket, **asked), *but)
        assert parsed(getattr(client, operation)(Bucket=house.bucket, **asked), *but) == plain, asked


@pytest.mark.parametrize("operation", ["list_objects_v2", "list_objects"])
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_pages_together_are_the_plain_clients(house: House, operation: str, size: int) -> None:
    client = house.view().client()
    for prefix, delimiter in product(["", "ct/", "a b/"], delimiters_of(house, operation)):
        asked = {"Bucket": house.bucket, "Prefix": prefix}
        if delimiter is not None:
            asked["Delimiter"] = delimiter
        paginator = client.get_paginator(operation)
        pages = list(paginator.paginate(**asked, PaginationConfig={"PageSize": size}))
        expected = parsed(house.s3.list_objects_v2(**asked))
        objects = [row for page in pages for row in parsed(page).get("Contents", [])]
        assert objects == expected.get("Contents", [])
        groups = [group for page in pages for group in page.get("CommonPrefixes", [])]
        assert groups == expected.get("CommonPrefixes", [])


def test_whatever_happens_to_the_bucket_then_every_listing_stays(build: Build) -> None:
    house = build()
    view = house.view()
    client = view.client()
    calls = [
        (operation, asked)
        for operation, start in (("list_objects_v2", "StartAfter"), ("list_objects", "Marker"))
        for asked in grid(start, [None, "/", "sub/"])
    ]
    before = [getattr(client, name)(Bucket=house.bucket, **asked) for name, asked in calls]
    for key in keys_of(house):
        house.put(key, b"overwritten")
        house.put(f"{key}-new", b"new")
    for row in house.s3.list_objects_v2(Bucket=house.bucket)["Contents"]:
        house.delete(row["Key"])
    assert "Contents" not in house.s3.list_objects_v2(Bucket=house.bucket)
    assert "Contents" not in house.view().client().list_objects_v2(Bucket=house.bucket)
    for again in (client, house.engine.open_ref(view.reference).client()):
        found = [getattr(again, name)(Bucket=house.bucket, **asked) for name, asked in calls]
        assert found == before


# Without S3, from the log alone


@pytest.fixture
def logged(tmp_path: Path) -> Any:
    """A client of a view of 2,500 objects that nobody put anywhere."""
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    record(engine, [event(f"k {n:04}", f"v{n}", 1, size=n) for n in range(2500)])
    return engine.view("scans").client()


def test_a_page_has_at_most_a_thousand_keys_and_tells_where_to_go_on(logged: Any) -> None:
    page = logged.list_objects_v2(Bucket="scans", MaxKeys=5000)
    assert (page["KeyCount"], page["MaxKeys"], page["IsTruncated"]) == (1000, 1000, True)
    token = page["NextContinuationToken"]
    for _ in range(2):  # the second time it is no longer kept open
        following = logged.list_objects_v2(Bucket="scans", ContinuationToken=token, StartAfter="x")
        assert following["Contents"][0]["Key"] == "k 1000"
        assert (following["ContinuationToken"], following["StartAfter"]) == (token, "x")
    first = page["Contents"][1]
    assert first.keys() == {"Key", "LastModified", "ETag", "Size"}, "the class nobody told"
    assert (first["Key"], first["ETag"], first["Size"]) == ("k 0001", '"etag-v1"', 1)
    assert first["LastModified"].isoformat() == "2023-11-14T22:13:21+00:00"


def test_a_token_goes_on_in_another_client_of_the_view_and_in_no_other_listing(
    logged: Any, tmp_path: Path
) -> None:
    token = logged.list_objects_v2(Bucket="scans", MaxKeys=7)["NextContinuationToken"]
    other = engine_at(tmp_path / "log.db").open_ref(logged.view.reference).client()
    found = other.list_objects_v2(Bucket="scans", MaxKeys=1, ContinuationToken=token)["Contents"]
    assert [row["Key"] for row in found] == ["k 0007"]
    for more in ({"Prefix": "k"}, {"Delimiter": "/"}, {"ContinuationToken": "k 0007"}):
        with pytest.raises(ClientError, match="continuation token") as error:
            logged.list_objects_v2(**{"Bucket": "scans", "ContinuationToken": token} | more)
        assert error.value.response["Error"]["Code"] == "InvalidArgument"
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_keys_come_encoded_where_the_caller_asks_for_that(logged: Any) -> None:
    page = logged.list_objects_v2(Bucket="scans", Prefix="k 000", MaxKeys=1, EncodingType="url")
    assert (page["Contents"][0]["Key"], page["Prefix"], page["EncodingType"]) == ("k+0000", "k+000", "url")


@pytest.mark.parametrize(
    ("asked", "code", "status"),
    [
        ({"FetchOwner": True}, "NotImplemented", 501),
        ({"OptionalObjectAttributes": ["RestoreStatus"]}, "NotImplemented", 501),
        ({"MaxKeys": -1}, "InvalidArgument", 400),
        ({"EncodingType": "x"}, "InvalidArgument", 400),
    ],
)
def test_what_a_listing_cannot_honour_is_refused(
    logged: Any, asked: dict[str, Any], code: str, status: int
) -> None:
    with pytest.raises(ClientError) as error:
        logged.list_objects_v2(Bucket="scans", **asked)
    response = error.value.response
    assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)


def test_a_view_of_a_prefix_lists_that_and_nothing_above_it(logged: Any) -> None:
    client = logged.view.source.view("scans", logged.view.at, prefix="k 01").client()
    for prefix, count in (("", 100), ("k", 100), ("k 010", 10), ("k 02", 0)):
        assert client.list_objects_v2(Bucket="scans", Prefix=prefix)["KeyCount"] == count
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket="scans", Key="k 0200")
