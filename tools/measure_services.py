"""How long the real servers take to start, and how fast a simple loop of one client is: a table in Markdown.

Run from the root of the repository: .venv/bin/python -m tools.measure_services
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3

from tools.local_servers import ACCESS_KEY, REGION, SECRET_KEY, DynamoDbLocal, ElasticMq, SeaweedFs, Server

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import WriteRequestTypeDef
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

SECONDS_EACH = 1.0
BODY = "x" * 1000

SESSION = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)


def rate(step: Callable[[int], int]) -> float:
    """Items a second of `step`, which takes its number and returns how many items it handled."""
    items = number = 0
    begun = time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < SECONDS_EACH:
        items += step(number)
        number += 1
    return items / elapsed


def dynamodb(server: Server) -> Iterator[tuple[str, float]]:
    client = SESSION.client("dynamodb", endpoint_url=server.endpoint_url)
    client.create_table(
        TableName="measured",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )

    def item(number: int) -> dict[str, dict[str, str]]:
        return {"pk": {"S": "one"}, "sk": {"S": f"{number:09d}"}, "body": {"S": BODY}}

    def put(number: int) -> int:
        client.put_item(
            TableName="measured", Item=item(number), ConditionExpression="attribute_not_exists(pk)"
        )
        return 1

    def batch(number: int) -> int:
        first = 10**6 + 25 * number
        requests: list[WriteRequestTypeDef] = [
            {"PutRequest": {"Item": item(n)}} for n in range(first, first + 25)
        ]
        client.batch_write_item(RequestItems={"measured": requests})
        return 25

    def query(_: int) -> int:
        return client.query(
            TableName="measured",
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": "one"}},
            ConsistentRead=True,
            Limit=500,
        )["Count"]

    yield "conditional PutItem", rate(put)
    yield "items by BatchWriteItem of 25", rate(batch)
    yield "items by Query, 500 a page", rate(query)


def sqs(server: Server) -> Iterator[tuple[str, float]]:
    client = SESSION.client("sqs", endpoint_url=server.endpoint_url)
    queue = client.create_queue(QueueName="measured")["QueueUrl"]

    def send(_: int) -> int:
        client.send_message_batch(
            QueueUrl=queue, Entries=[{"Id": str(n), "MessageBody": BODY} for n in range(10)]
        )
        return 10

    def receive(_: int) -> int:
        messages = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        if messages:
            client.delete_message_batch(
                QueueUrl=queue,
                Entries=[
                    {"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]}
                    for n, message in enumerate(messages)
                ],
            )
        return len(messages)

    yield "messages sent, 10 a batch", rate(send)
    for _ in range(200):
        send(0)
    yield "messages received and deleted, 10 a batch", rate(receive)


def s3(server: Server) -> Iterator[tuple[str, float]]:
    client = SESSION.client("s3", endpoint_url=server.endpoint_url)
    client.create_bucket(Bucket="measured")
    client.put_bucket_versioning(Bucket="measured", VersioningConfiguration={"Status": "Enabled"})
    written: list[ObjectIdentifierTypeDef] = []

    def put(number: int) -> int:
        key = f"key-{number % 100}"
        reply = client.put_object(Bucket="measured", Key=key, Body=BODY.encode())
        written.append({"Key": key, "VersionId": reply["VersionId"]})
        return 1

    def get(number: int) -> int:
        wanted = written[number % len(written)]
        client.get_object(Bucket="measured", Key=wanted["Key"], VersionId=wanted["VersionId"])["Body"].read()
        return 1

    def listing(_: int) -> int:
        return len(client.list_object_versions(Bucket="measured")["Versions"])

    yield "PutObject of 1 kB, versioned", rate(put)
    yield "GetObject of a version", rate(get)
    yield "versions listed", rate(listing)


def seconds(action: Callable[[], None]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def main() -> None:
    print("| server | measured | a second, or seconds |")
    print("|---|---|---:|")
    with tempfile.TemporaryDirectory() as data:
        cases: list[tuple[Server, Callable[[Server], Iterator[tuple[str, float]]]]] = [
            (DynamoDbLocal(), dynamodb),
            (DynamoDbLocal(Path(data) / "dynamodb"), dynamodb),
            (ElasticMq(Path(data) / "sqs"), sqs),
            (SeaweedFs(Path(data) / "s3"), s3),
        ]
        for number, (server, loops) in enumerate(cases):
            name = f"{server.name}, in memory" if number == 0 else f"{server.name}, on disk"
            print(f"| {name} | start | {seconds(server.start):.1f} s |")
            for what, figure in loops(server):
                print(f"| {name} | {what} | {figure:,.0f}/s |", flush=True)
            server.kill()
            print(f"| {name} | start after a kill | {seconds(server.start):.1f} s |")
            print(f"| {name} | stop | {seconds(server.stop):.1f} s |")
            server.close()


if __name__ == "__main__":
    main()
