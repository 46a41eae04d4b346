"""What the real servers do that the tests count on, and where they differ from AWS (docs/services.md)."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import servers
from tests.servers import Endpoint

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
from tests.integration.service_clients import ONCE, refusal, session, unused_name


def dynamodb_client(endpoint: Endpoint) -> "DynamoDBClient":
    return session(endpoint).client("dynamodb", endpoint_url=endpoint.endpoint_url, config=ONCE)


def sqs_client(endpoint: Endpoint) -> "SQSClient":
    return session(endpoint).client("sqs", endpoint_url=endpoint.endpoint_url, config=ONCE)


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
