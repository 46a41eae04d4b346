"""What the real servers do that the tests count on, and where they differ from AWS (docs/services.md)."""

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests import servers
from tests.server_fixtures import skip_or_fail
from tests.servers import Endpoint, ServiceUnavailable
from tools import local_servers

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import BucketVersioningStatusType
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

ONCE = Config(retries={"total_max_attempts": 1})


def unused_name() -> str:
    """For a table, a queue or a bucket: the server may be shared, and outlive the test."""
    return f"services-{uuid.uuid4().hex}"


def session(endpoint: Endpoint) -> boto3.Session:
    settings = endpoint.environment()
    return boto3.Session(
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        region_name=settings["AWS_REGION"],
    )


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    """The HTTP status and the error code with which `call` is refused."""
    with pytest.raises(ClientError) as refused:
        call()
    response = refused.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def dynamodb_client(endpoint: Endpoint) -> "DynamoDBClient":
    return session(endpoint).client("dynamodb", endpoint_url=endpoint.endpoint_url, config=ONCE)


def sqs_client(endpoint: Endpoint) -> "SQSClient":
    return session(endpoint).client("sqs", endpoint_url=endpoint.endpoint_url, config=ONCE)


def s3_client(endpoint: Endpoint) -> "S3Client":
    return session(endpoint).client("s3", endpoint_url=endpoint.endpoint_url, config=ONCE)


def create_table(client: "DynamoDBClient", table: str) -> None:
    client.create_table(
        TableName=table,
        KeySchema=[
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )


@pytest.mark.services
@pytest.mark.xdist_group("dynamodb-local")
class TestDynamoDbLocal:
    @pytest.fixture
    def client(self, dynamodb_local_server: Endpoint) -> "Iterator[DynamoDBClient]":
        client = dynamodb_client(dynamodb_local_server)
        yield client
        client.close()

    @pytest.fixture
    def table(self, client: "DynamoDBClient") -> Iterator[str]:
        name = unused_name()
        create_table(client, name)
        yield name
        client.delete_table(TableName=name)

    def test_a_refused_conditional_put_returns_the_item_that_stands(
        self, client: "DynamoDBClient", table: str
    ) -> None:
        standing = {"pk": {"S": "a"}, "sk": {"S": "1"}, "owner": {"S": "first"}}
        client.put_item(TableName=table, Item=standing, ConditionExpression="attribute_not_exists(pk)")

        with pytest.raises(client.exceptions.ConditionalCheckFailedException) as refused:
            client.put_item(
                TableName=table,
                Item=standing | {"owner": {"S": "second"}},
                ConditionExpression="attribute_not_exists(pk)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )

        assert dict(refused.value.response)["Item"] == standing

    def test_a_batch_write_takes_25_items_and_refuses_26(self, client: "DynamoDBClient", table: str) -> None:
        def write(count: int) -> dict[str, object]:
            items = [{"pk": {"S": "a"}, "sk": {"S": f"{n:02d}"}} for n in range(count)]
            reply = client.batch_write_item(
                RequestItems={table: [{"PutRequest": {"Item": i}} for i in items]}
            )
            return dict(reply["UnprocessedItems"])

        assert write(25) == {}
        assert refusal(lambda: write(26)) == (400, "ValidationException")

    def test_a_consistent_query_sees_the_last_write_in_the_byte_order_of_its_keys(
        self, client: "DynamoDBClient", table: str
    ) -> None:
        # U+FFFF sorts after U+1F600 in UTF-16, before it in UTF-8.
        keys = ["a", "Z", "a b", "é", "\uffff", "\U0001f600"]
        for key in keys:
            client.put_item(TableName=table, Item={"pk": {"S": "a"}, "sk": {"S": key}})

        found = client.query(
            TableName=table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": "a"}},
            ConsistentRead=True,
        )["Items"]

        assert [item["sk"]["S"] for item in found] == sorted(keys, key=str.encode)

    def test_a_transaction_repeated_with_its_token_is_applied_once(
        self, client: "DynamoDBClient", table: str
    ) -> None:
        key = {"pk": {"S": "a"}, "sk": {"S": "count"}}
        for _ in range(2):
            client.transact_write_items(
                TransactItems=[
                    {
                        "Update": {
                            "TableName": table,
                            "Key": key,
                            "UpdateExpression": "ADD applied :one",
                            "ExpressionAttributeValues": {":one": {"N": "1"}},
                        }
                    }
                ],
                ClientRequestToken="the-same-token",
            )

        assert client.get_item(TableName=table, Key=key, ConsistentRead=True)["Item"]["applied"] == {"N": "1"}

    def test_what_was_written_on_disk_survives_a_kill_and_a_stop(self, tmp_path: Path) -> None:
        with servers.dynamodb_local(tmp_path) as server:
            client = dynamodb_client(server)
            create_table(client, "kept")
            for position, end in (("killed", server.kill), ("stopped", server.stop)):
                item = {"pk": {"S": "a"}, "sk": {"S": position}}
                client.put_item(TableName="kept", Item=item)
                end()
                server.start()
                assert client.get_item(TableName="kept", Key=item, ConsistentRead=True)["Item"] == item
            client.close()


@pytest.mark.services
@pytest.mark.xdist_group("elasticmq")
class TestElasticMq:
    @pytest.fixture
    def client(self, elasticmq_server: Endpoint) -> "Iterator[SQSClient]":
        client = sqs_client(elasticmq_server)
        yield client
        client.close()

    @pytest.fixture
    def queue(self, client: "SQSClient") -> Iterator[str]:
        url = client.create_queue(QueueName=unused_name())["QueueUrl"]
        yield url
        client.delete_queue(QueueUrl=url)

    def test_a_batch_is_sent_received_and_deleted(self, client: "SQSClient", queue: str) -> None:
        bodies = [f"message {number}" for number in range(10)]
        sent = client.send_message_batch(
            QueueUrl=queue, Entries=[{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies)]
        )
        assert len(sent["Successful"]) == 10

        received = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
        assert sorted(message["Body"] for message in received) == bodies

        deleted = client.delete_message_batch(
            QueueUrl=queue,
            Entries=[
                {"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]}
                for n, message in enumerate(received)
            ],
        )
        assert len(deleted["Successful"]) == 10
        assert message_counts(client, queue) == (0, 0)

    def test_a_message_made_visible_comes_back_with_its_receives_counted(
        self, client: "SQSClient", queue: str
    ) -> None:
        client.send_message(QueueUrl=queue, MessageBody="again")
        (first,) = client.receive_message(QueueUrl=queue)["Messages"]
        client.change_message_visibility(
            QueueUrl=queue, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0
        )

        (second,) = client.receive_message(
            QueueUrl=queue, MessageSystemAttributeNames=["ApproximateReceiveCount"]
        )["Messages"]

        assert second["MessageId"] == first["MessageId"]
        assert second["Attributes"]["ApproximateReceiveCount"] == "2"

    def test_a_message_received_too_often_is_set_aside_and_a_move_task_brings_it_back(
        self, client: "SQSClient", queue: str
    ) -> None:
        (aside_arn,) = client.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])[
            "Attributes"
        ].values()
        policy = f'{{"deadLetterTargetArn":"{aside_arn}","maxReceiveCount":"1"}}'
        work = client.create_queue(QueueName=unused_name(), Attributes={"RedrivePolicy": policy})["QueueUrl"]
        client.send_message(QueueUrl=work, MessageBody="poison")
        (message,) = client.receive_message(QueueUrl=work)["Messages"]
        client.change_message_visibility(
            QueueUrl=work, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
        assert client.receive_message(QueueUrl=work).get("Messages", []) == []
        assert message_counts(client, queue) == (1, 0)

        client.start_message_move_task(SourceArn=aside_arn)

        back = client.receive_message(QueueUrl=work, WaitTimeSeconds=10)["Messages"]
        assert [m["Body"] for m in back] == ["poison"]
        client.delete_queue(QueueUrl=work)

    def test_queues_messages_and_receipts_survive_a_kill(self, tmp_path: Path) -> None:
        with servers.elasticmq(tmp_path) as server:
            client = sqs_client(server)
            queue = client.create_queue(
                QueueName="kept",
                Attributes={"VisibilityTimeout": "600", "ReceiveMessageWaitTimeSeconds": "1"},
            )["QueueUrl"]
            for batch in range(30):
                client.send_message_batch(
                    QueueUrl=queue,
                    Entries=[{"Id": str(n), "MessageBody": f"{batch}-{n}"} for n in range(10)],
                )
            (in_flight,) = client.receive_message(QueueUrl=queue)["Messages"]

            server.kill()
            server.start()

            assert message_counts(client, queue) == (299, 1)
            attributes = client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
            assert attributes["VisibilityTimeout"] == "600"
            client.delete_message(QueueUrl=queue, ReceiptHandle=in_flight["ReceiptHandle"])
            assert message_counts(client, queue) == (299, 0)
            client.close()

    @pytest.mark.parametrize(
        "name", ["SqsManagedSseEnabled", "KmsMasterKeyId", "RedriveAllowPolicy", "NoSuchAttribute"]
    )
    def test_creation_drops_an_attribute_it_does_not_have_and_setting_refuses_it(
        self, client: "SQSClient", queue: str, name: "QueueAttributeNameType"
    ) -> None:
        other = client.create_queue(QueueName=unused_name(), Attributes={name: "true"})["QueueUrl"]
        got = client.get_queue_attributes(QueueUrl=other, AttributeNames=[name])["Attributes"]
        client.delete_queue(QueueUrl=other)

        assert got == {}
        assert refusal(lambda: client.set_queue_attributes(QueueUrl=queue, Attributes={name: "true"})) == (
            400,
            "InvalidAttributeName",
        )

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("Policy", '{"Statement":[]}'),
            ("MessageRetentionPeriod", "1209600"),
            ("MaximumMessageSize", "1024"),
        ],
    )
    def test_some_attributes_are_accepted_and_forgotten(
        self, client: "SQSClient", queue: str, name: "QueueAttributeNameType", value: str
    ) -> None:
        client.set_queue_attributes(QueueUrl=queue, Attributes={name: value})
        assert client.get_queue_attributes(QueueUrl=queue, AttributeNames=[name])["Attributes"] == {}

    def test_a_second_deletion_is_refused_though_sqs_accepts_it(
        self, client: "SQSClient", queue: str
    ) -> None:
        client.send_message(QueueUrl=queue, MessageBody="once")
        (message,) = client.receive_message(QueueUrl=queue)["Messages"]
        handle = message["ReceiptHandle"]
        client.delete_message(QueueUrl=queue, ReceiptHandle=handle)

        assert refusal(lambda: client.delete_message(QueueUrl=queue, ReceiptHandle=handle)) == (
            400,
            "ReceiptHandleIsInvalid",
        )

    def test_error_codes_are_the_short_names_of_their_exceptions(self, client: "SQSClient") -> None:
        # SQS itself says AWS.SimpleQueueService.NonExistentQueue; the exception class is the same.
        with pytest.raises(client.exceptions.QueueDoesNotExist) as refused:
            client.get_queue_url(QueueName="no-such-queue")
        assert refused.value.response["Error"]["Code"] == "QueueDoesNotExist"


def message_counts(client: "SQSClient", queue: str) -> tuple[int, int]:
    """How many messages are visible, and how many in flight."""
    attributes = client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    visible = attributes["ApproximateNumberOfMessages"]
    return int(visible), int(attributes["ApproximateNumberOfMessagesNotVisible"])


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


def services(command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "tools/services.py", command],
        cwd=local_servers.ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
