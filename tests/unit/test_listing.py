"""ListObjectVersions in S3's own order, S3's clock, and where a stopped listing goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from uuid import uuid4

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine.buckets.asking import asking, iam_action
from snapengine.buckets.bookkeeping import YOUNG_MS, Bookkeeping, Mark, saved_mark
from snapengine.buckets.clock import ServerClock, date_of
from snapengine.buckets.listing import ListedEntry, Page, list_versions, parse_page
from snapengine.buckets.replies import parse_xml
from snapengine.devcloud import DevCloud
from snapengine.errors import BadData, BucketUnknown, PermissionMissing
from snapengine.model import CREATED, MARKER_CREATED, BucketConfig, Kind
from tests.servers import Endpoint

T = 1_800_000_000_000

# The XML

REPLY = """<?xml version="1.0" encoding="UTF-8"?>
<ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>scans</Name><Prefix></Prefix>
<KeyMarker></KeyMarker><VersionIdMarker></VersionIdMarker><MaxKeys>1000</MaxKeys>
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
<NextKeyMarker>ct/b+c%2B1</NextKeyMarker><NextVersionIdMarker>v1</NextVersionIdMarker>
<Version><Key>ct/%01%C3%A9%25</Key><VersionId>v3</VersionId><IsLatest>true</IsLatest>
<LastModified>2026-11-20T09:00:00.000Z</LastModified><ETag>&quot;c4ca&quot;</ETag><Size>12</Size>
<Owner><ID>o</ID></Owner><StorageClass>GLACIER</StorageClass></Version>
<DeleteMarker><Key>ct/b+c%2B1</Key><VersionId>m1</VersionId><IsLatest>true</IsLatest>
<LastModified>2026-11-20T09:00:00.000Z</LastModified><Owner><ID>o</ID></Owner></DeleteMarker>
<Version><Key>ct/b+c%2B1</Key><VersionId>null</VersionId><IsLatest>false</IsLatest>
<LastModified>2026-11-20T09:00:00.000Z</LastModified><ETag>&quot;0cc1-2&quot;</ETag><Size>0</Size>
<StorageClass>STANDARD</StorageClass></Version></ListVersionsResult>"""


def test_versions_and_markers_come_in_the_order_of_the_xml() -> None:
    page = parse_page(REPLY.encode(), T)
    assert [(entry.kind, entry.key, entry.version_id) for entry in page.entries] == [
        (CREATED, "ct/\x01é%", "v3"),
        (MARKER_CREATED, "ct/b c+1", "m1"),
        (CREATED, "ct/b c+1", "null"),
    ]
    assert (page.next_key, page.next_version_id, page.time) == ("ct/b c+1", "v1", T)


def test_an_entry_has_all_that_s3_says_of_it() -> None:
    first, marker, last = parse_page(REPLY.encode(), T).entries
    assert first == ListedEntry(
        CREATED, "ct/\x01é%", "v3", 1_795_165_200_000, "c4ca", 12, "GLACIER", is_latest=True
    )
    assert (marker.etag, marker.size, marker.storage_class) == (None, None, None)
    assert (last.etag, last.size, last.is_latest) == ("0cc1-2", 0, False)


def test_keys_are_decoded_only_if_the_reply_says_that_they_are_encoded() -> None:
    plain = REPLY.replace("<EncodingType>url</EncodingType>", "")
    assert parse_page(plain.encode(), T).entries[1].key == "ct/b+c%2B1"


@pytest.mark.parametrize(
    "body",
    [
        b"not xml",
        b"<Error><Code>SlowDown</Code></Error>",
        b'<!DOCTYPE x [<!ENTITY e "ee">]><ListVersionsResult/>',
        b"<ListVersionsResult><IsTruncated>true</IsTruncated></ListVersionsResult>",
        b"<ListVersionsResult><Version><Key>k</Key></Version></ListVersionsResult>",
        REPLY.replace("%C3%A9", "%C3").encode(),
        REPLY.replace("<Size>12", "<Size>many").encode(),
    ],
)
def test_a_reply_that_s3_would_not_send_is_refused_and_not_guessed_at(body: bytes) -> None:
    with pytest.raises(BadData):
        parse_page(body, T)


def test_a_document_type_is_refused_in_any_reply() -> None:
    with pytest.raises(BadData, match="document type"):
        parse_xml(b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>')


# Against a server


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def s3(cloud: DevCloud) -> Any:
    return boto3.client("s3", **cloud.client_arguments())


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    name = f"b{abs(hash(request.node.name)) % 10**12}"
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


STRANGE = ["a b+c", "a%2Bb", "x\x01y", "tab\tline\nend", "é/ü", "n&<>\"'", "日本", "🦴.dcm", "~", "//"]


def test_every_key_comes_out_as_it_went_in(s3: Any, bucket: str) -> None:
    for key in STRANGE:
        s3.put_object(Bucket=bucket, Key=key, Body=b"1")
    pages = list(list_versions(s3, bucket, page_size=3))
    assert [entry.key for page in pages for entry in page.entries] == sorted(STRANGE)
    assert [len(page.entries) for page in pages] == [3, 3, 3, 1]


def test_a_put_and_a_delete_in_one_second_keep_their_order(s3: Any, bucket: str) -> None:
    versions = []
    for _ in range(3):
        versions.append(s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"])
        versions.append(s3.delete_object(Bucket=bucket, Key="k")["VersionId"])
    pages = list(list_versions(s3, bucket, page_size=1))
    assert [entry.version_id for page in pages for entry in page.entries] == versions[::-1]
    assert [entry.kind for page in pages for entry in page.entries] == [MARKER_CREATED, CREATED] * 3


def test_a_listing_can_begin_after_a_key_and_below_a_prefix(s3: Any, bucket: str) -> None:
    for key in ("a/1", "a/2", "a/2", "a/3", "b/1"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"1")
    pages = list_versions(s3, bucket, prefix="a/", after_key="a/1", page_size=2)
    assert [entry.key for page in pages for entry in page.entries] == ["a/2", "a/2", "a/3"]


def test_other_calls_of_the_same_client_are_as_ever(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    barrier = threading.Barrier(2)

    def ours() -> list[str]:
        barrier.wait()
        pages = [page for _ in range(10) for page in list_versions(s3, bucket)]
        return [entry.key for page in pages for entry in page.entries]

    def theirs() -> list[str]:
        barrier.wait()
        replies = [s3.list_object_versions(Bucket=bucket) for _ in range(10)]
        assert not any("SnapengineBody" in reply for reply in replies)
        return [version["Key"] for reply in replies for version in reply["Versions"]]

    with ThreadPoolExecutor(2) as pool:
        both = pool.submit(ours), pool.submit(theirs)
        assert [future.result() for future in both] == [["k"] * 10] * 2


def test_a_missing_permission_is_named_as_iam_names_it(s3: Any, bucket: str) -> None:
    def deny(model: Any, **_: Any) -> None:
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, model.name)

    s3.meta.events.register("before-call.s3.ListObjectVersions", deny)
    with pytest.raises(PermissionMissing, match="s3:ListBucketVersions") as raised:
        next(list_versions(s3, bucket))
    assert raised.value.action == "s3:ListBucketVersions"


def test_an_unknown_bucket_is_said_to_be_unknown(s3: Any) -> None:
    with pytest.raises(BucketUnknown):
        next(list_versions(s3, "no-such-bucket-of-ours"))
    with pytest.raises(BucketUnknown), asking("bucket no-such-bucket-of-ours"):
        s3.head_bucket(Bucket="no-such-bucket-of-ours")


def test_the_iam_action_of_an_sqs_operation_has_its_name() -> None:
    assert iam_action("CreateQueue") == "sqs:CreateQueue"


def test_a_page_is_never_dated_after_its_request(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    clock = ServerClock()
    before = s3.head_bucket(Bucket=bucket)
    pages = [next(list_versions(s3, bucket, clock=clock)) for _ in range(3)]
    after = s3.head_bucket(Bucket=bucket)
    first, last = date_of(before), date_of(after)
    assert first is not None
    assert last is not None
    assert all(first - 1100 <= page.time <= last + 1000 for page in pages)
    assert all(one.time <= other.time for one, other in pairwise(pages))


@pytest.mark.services
def test_a_real_server_is_listed_in_its_order_and_every_key_as_it_went_in(
    seaweedfs_server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs_server.environment().items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3", endpoint_url=seaweedfs_server.endpoint_url)
    bucket = f"listing-{uuid4().hex}"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    stored: dict[str, list[str]] = {key: [] for key in sorted(STRANGE) if key not in {"x\x01y", "//"}}
    for key, versions in stored.items():
        versions.insert(0, s3.put_object(Bucket=bucket, Key=key, Body=b"1")["VersionId"])
        versions.insert(0, s3.delete_object(Bucket=bucket, Key=key)["VersionId"])
        versions.insert(0, s3.put_object(Bucket=bucket, Key=key, Body=b"2")["VersionId"])
    listed: dict[str, list[str]] = {}
    for page in list_versions(s3, bucket, page_size=2):
        for found in page.entries:
            listed.setdefault(found.key, []).append(found.version_id)
    assert list(listed.items()) == list(stored.items())


# The clock: a made-up server, whose replies have whole seconds


@given(
    offset=st.integers(-3_600_000, 3_600_000),
    calls=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 900), st.integers(0, 900)), min_size=1),
)
def test_a_page_time_is_never_after_the_server_evaluated_the_request(
    offset: int, calls: list[tuple[int, int, int]]
) -> None:
    now = 0.0
    clock = ServerClock(lambda: now)
    for gap, there, back in calls:
        now += gap
        sent = now
        now += there
        evaluated = T + offset + now
        now += back
        clock.observe(evaluated // 1000 * 1000, sent, now)
        assert clock.not_after(sent) <= evaluated
        assert clock.not_after(sent) >= evaluated - there - (there + back) - 1000 - 10


@given(drift=st.floats(-0.0004, 0.0004), minutes=st.integers(1, 600))
def test_a_clock_that_drifts_during_a_long_listing_does_not_date_a_page_late(
    drift: float, minutes: int
) -> None:
    local = 0.0
    clock = ServerClock(lambda: local)
    for _ in range(minutes):
        local += 60_000
        server = T + local * (1 + drift)
        clock.observe(server // 1000 * 1000, local, local)
        assert clock.not_after(local) <= server


def test_more_replies_narrow_the_bound_to_the_millisecond() -> None:
    local = 0.0
    clock = ServerClock(lambda: local)
    for step in range(1000):
        local = step * 7.0
        server = T + 123 + local
        clock.observe(server // 1000 * 1000, local, local)
    assert 0 <= T + 123 + local - clock.not_after(local) < 15


def test_without_any_date_our_own_clock_is_all_there_is() -> None:
    assert date_of({"ResponseMetadata": {"HTTPHeaders": {}}}) is None
    assert date_of({"ResponseMetadata": {"HTTPHeaders": {"date": "yesterday"}}}) is None
    clock = ServerClock()
    assert clock.about(clock.now()) == pytest.approx(clock.not_after(clock.now()), abs=1000)


# Where a stopped listing goes on


def entry(key: str, version: str = "v", kind: Kind = CREATED, modified: int = T - 10_000) -> ListedEntry:
    return ListedEntry(kind, key, version, modified, "e", 1, "STANDARD", is_latest=True)


def config(prefix: str = "", enabled_at: int = T) -> BucketConfig:
    return BucketConfig("scans", "r", "a", prefix=prefix, enabled_at=enabled_at)


def test_a_run_goes_on_after_the_last_key_that_is_whole() -> None:
    books = Bookkeeping(Mark(), "l")
    books.take(Page((entry("a", "1"), entry("b", "2")), T, "b", "2"))
    assert saved_mark(books.resume_at(config(), T), config()) == Mark("a", 1, 0, 1, T)
    books.take(Page((entry("b", "1", MARKER_CREATED),), T + 1, "b", "1"))
    assert saved_mark(books.resume_at(config(), T), config()) == Mark("a", 1, 0, 2, T)
    books.take(Page((entry("c"),), T + 2, None, None))
    assert saved_mark(books.resume_at(config(), T), config()) == Mark("c", 3, 1, 3, T)


def test_a_key_is_whole_if_the_next_page_begins_after_it() -> None:
    books = Bookkeeping(Mark(), "l")
    books.take(Page((entry("a"), entry("b")), T, "b", None))
    assert books.mark.complete == "b"


def test_positions_run_on_over_the_pages_of_a_listing() -> None:
    books = Bookkeeping(Mark(), "l")
    observations = books.take(Page((entry("a"), entry("b")), T, "b", "v"))
    observations += books.take(Page((entry("b", "w"),), T + 5, None, None))
    assert [(o.position, o.page_time, o.listing, o.origin) for o in observations] == [
        (0, T, "l", "baseline"),
        (1, T, "l", "baseline"),
        (2, T + 5, "l", "baseline"),
    ]


def test_a_young_null_holds_the_run_back_until_it_has_been_listed_again() -> None:
    books = Bookkeeping(Mark(), "l")
    books.take(Page((entry("a"),), T, "a", None))
    books.take(Page((entry("b", "null", modified=T - 1000),), T, "b", None))
    books.take(Page((entry("c"),), T, None, None))
    (young,) = books.young
    assert (young.keys, young.due, young.before.complete) == (frozenset("b"), T - 1000 + YOUNG_MS, "a")
    assert books.resume_at(config(), T)["complete"] == "a"
    books.young.popleft()
    assert books.resume_at(config(), T)["complete"] == "c"


def test_what_an_earlier_enabling_or_another_prefix_left_is_not_gone_on_with() -> None:
    saved = Bookkeeping(Mark("k", 5, 1, 2, T), "l").resume_at(config("ct/"), T)
    assert saved_mark(saved, config("ct/")).complete == "k"
    assert saved_mark(saved, config("")) == Mark()
    assert saved_mark(saved, config("ct/", enabled_at=T + 1)) == Mark()
    assert saved_mark(None, config()) == Mark()
