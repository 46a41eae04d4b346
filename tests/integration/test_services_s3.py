"""SeaweedFS does what is relied on of S3, and the launcher starts and ends all servers."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from tests import servers
from tests.server_fixtures import skip_or_fail
from tests.servers import Endpoint, ServiceUnavailable
from tools import local_servers

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import BucketVersioningStatusType
from tests.integration.service_clients import ONCE, refusal, services, session, unused_name


def s3_client(endpoint: Endpoint) -> "S3Client":
    return session(endpoint).client("s3", endpoint_url=endpoint.endpoint_url, config=ONCE)


@pytest.mark.services
@pytest.mark.xdist_group("seaweedfs")
class TestSeaweedFs:
    @pytest.fixture
    def client(self, seaweedfs_server: Endpoint) -> "Iterator[S3Client]":
        client = s3_client(seaweedfs_server)
        yield client
        client.close()

    @pytest.fixture
    def bucket(self, client: "S3Client") -> str:
        """A versioned bucket of the test's own; it goes with the server's data directory."""
        name = unused_name()
        client.create_bucket(Bucket=name)
        set_versioning(client, name, "Enabled")
        return name

    def test_versions_and_markers_are_listed_newest_first_and_interleaved(
        self, client: "S3Client", bucket: str
    ) -> None:
        first = put(client, bucket, "key", b"one")
        second = put(client, bucket, "key", b"two")
        marker = client.delete_object(Bucket=bucket, Key="key")["VersionId"]
        third = put(client, bucket, "key", b"three")

        assert listed(client, bucket) == [
            ("Version", "key", third, True),
            ("DeleteMarker", "key", marker, False),
            ("Version", "key", second, False),
            ("Version", "key", first, False),
        ]

    def test_a_version_is_read_by_range_only_while_its_etag_matches(
        self, client: "S3Client", bucket: str
    ) -> None:
        older = client.put_object(Bucket=bucket, Key="key", Body=b"0123456789")
        put(client, bucket, "key", b"newer")

        def read(etag: str) -> bytes:
            reply = client.get_object(
                Bucket=bucket, Key="key", VersionId=older["VersionId"], Range="bytes=2-5", IfMatch=etag
            )
            assert reply["ContentRange"] == "bytes 2-5/10"
            return reply["Body"].read()

        assert read(older["ETag"]) == b"2345"
        assert refusal(lambda: read('"another"')) == (412, "PreconditionFailed")

    def test_a_conditional_put_refuses_what_is_there_and_what_is_not(
        self, client: "S3Client", bucket: str
    ) -> None:
        put(client, bucket, "key", b"one")

        assert refusal(lambda: client.put_object(Bucket=bucket, Key="key", IfNoneMatch="*")) == (
            412,
            "PreconditionFailed",
        )
        assert refusal(lambda: client.put_object(Bucket=bucket, Key="key", IfMatch='"another"')) == (
            412,
            "PreconditionFailed",
        )

    @pytest.mark.parametrize("page", [1, 2, 7])
    def test_pages_of_a_listing_hold_what_the_whole_holds(
        self, client: "S3Client", bucket: str, page: int
    ) -> None:
        for number in range(12):
            put(client, bucket, f"patient {number % 3}/series/é{number:02d}", b"")
            put(client, bucket, f"patient {number % 3}/series/é{number:02d}", b"")

        assert listed(client, bucket, page) == listed(client, bucket)

    def test_a_version_survives_a_kill(self, tmp_path: Path) -> None:
        with servers.seaweedfs(tmp_path) as server:
            client = s3_client(server)
            client.create_bucket(Bucket="kept")
            set_versioning(client, "kept", "Enabled")
            version = put(client, "kept", "key", b"one")
            put(client, "kept", "key", b"two")

            server.kill()
            server.start()

            reply = client.get_object(Bucket="kept", Key="key", VersionId=version)
            assert reply["Body"].read() == b"one"
            put(client, "kept", "key", b"three")
            client.close()

    def test_a_wrong_secret_is_refused(self, seaweedfs_server: Endpoint) -> None:
        stranger = boto3.client(
            "s3",
            endpoint_url=seaweedfs_server.endpoint_url,
            aws_access_key_id="testing",
            aws_secret_access_key="wrong",
            region_name="us-east-1",
        )
        assert refusal(stranger.list_buckets) == (403, "SignatureDoesNotMatch")
        stranger.close()

    # The tests below hold what differs from S3: a change in them is news for docs/services.md.

    def test_a_null_version_is_listed_last_even_when_it_is_the_latest(
        self, client: "S3Client", bucket: str
    ) -> None:
        older = put(client, bucket, "key", b"one")
        set_versioning(client, bucket, "Suspended")
        client.put_object(Bucket=bucket, Key="key", Body=b"null")

        assert listed(client, bucket) == [("Version", "key", older, False), ("Version", "key", "null", True)]
        assert client.get_object(Bucket=bucket, Key="key")["VersionId"] == "null"

    def test_after_a_null_marker_later_versions_do_not_bring_the_key_back(
        self, client: "S3Client", bucket: str
    ) -> None:
        set_versioning(client, bucket, "Suspended")
        client.delete_object(Bucket=bucket, Key="key")
        set_versioning(client, bucket, "Enabled")
        later = put(client, bucket, "key", b"later")

        assert listed(client, bucket) == [
            ("Version", "key", later, False),
            ("DeleteMarker", "key", "null", True),
        ]
        assert refusal(lambda: client.get_object(Bucket=bucket, Key="key")) == (404, "NoSuchKey")

    def test_small_pages_lose_versions_where_a_key_is_also_a_folder(
        self, client: "S3Client", bucket: str
    ) -> None:
        for key in ("a", "a-b", "a/b", "ab"):
            put(client, bucket, key, b"")
            put(client, bucket, key, b"")

        assert len(listed(client, bucket)) == 8
        assert len(listed(client, bucket, 2)) < 8

    def test_a_marker_is_not_told_from_a_missing_key(self, client: "S3Client", bucket: str) -> None:
        put(client, bucket, "key", b"one")
        marker = client.delete_object(Bucket=bucket, Key="key")["VersionId"]

        reads: list[Callable[[], object]] = [
            lambda: client.get_object(Bucket=bucket, Key="key"),
            lambda: client.get_object(Bucket=bucket, Key="key", VersionId=marker),
        ]
        for read in reads:
            with pytest.raises(client.exceptions.NoSuchKey) as refused:
                read()
            headers = refused.value.response["ResponseMetadata"]["HTTPHeaders"]
            assert "x-amz-delete-marker" not in headers

    def test_bucket_notifications_cannot_be_set(self, client: "S3Client", bucket: str) -> None:
        assert refusal(
            lambda: client.put_bucket_notification_configuration(
                Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
            )
        ) == (409, "BucketAlreadyOwnedByYou")


def set_versioning(client: "S3Client", bucket: str, status: "BucketVersioningStatusType") -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def put(client: "S3Client", bucket: str, key: str, body: bytes) -> str:
    return client.put_object(Bucket=bucket, Key=key, Body=body)["VersionId"]


def listed(client: "S3Client", bucket: str, page: int = 1000) -> list[tuple[str, str, str, bool]]:
    """Kind, key, version and IsLatest in the order of the XML, which boto3 splits by kind."""
    entries: list[tuple[str, str, str, bool]] = []

    def read(http_response: object, **_: object) -> None:
        xml = bytes(getattr(http_response, "content", b"")).decode()
        for kind, entry in re.findall(r"<(Version|DeleteMarker)>(.*?)</\1>", xml, re.DOTALL):
            key, version, latest = (
                re.findall(f"<{tag}>(.*?)</{tag}>", entry, re.DOTALL)[0]
                for tag in ("Key", "VersionId", "IsLatest")
            )
            entries.append((kind, key, version, latest == "true"))

    client.meta.events.register("after-call.s3.ListObjectVersions", read, unique_id="listed")
    try:
        paginator = client.get_paginator("list_object_versions")
        for _ in paginator.paginate(Bucket=bucket, PaginationConfig={"PageSize": page}):
            pass
    finally:
        client.meta.events.unregister("after-call.s3.ListObjectVersions", unique_id="listed")
    return entries


class TestLauncher:
    def test_what_is_missing_skips_a_test(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="no `java`"):
            skip_or_fail(ServiceUnavailable("no `java`"))

    def test_what_is_missing_fails_a_test_in_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="no `java`"):
            skip_or_fail(ServiceUnavailable("no `java`"))

    def test_fetching_without_maven_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(local_servers, "CACHE", tmp_path)
        monkeypatch.setenv("PATH", "")
        with pytest.raises(ServiceUnavailable, match=r"no `mvn` on PATH .* install Apache Maven"):
            local_servers.jars("elasticmq")

    def test_fetch_without_java_ends_with_a_remedy_and_a_failure(self) -> None:
        done = services("fetch", PATH="")
        assert done.returncode == 1
        assert "no `java` on PATH; install a JDK 17" in done.stderr

    @pytest.mark.services
    def test_start_prints_the_addresses_and_ends_all_it_started(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "tools/services.py", "start"],
            cwd=local_servers.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            printed = [process.stdout.readline() for _ in range(6)]
            while_running = services("status")
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)

        assert process.returncode == 0, errors
        names = [line.removeprefix("export ").partition("=")[0] for line in printed]
        assert {"SNAPENGINE_TEST_DYNAMODB", "SNAPENGINE_TEST_SQS", "SNAPENGINE_TEST_S3"} < set(names)
        assert set(printed) <= set(while_running.stdout.splitlines(keepends=True))
        pids = [int(pid) for pid in re.findall(r"process (\d+),", errors)]
        assert len(pids) == 3
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
