"""The embedded cloud as a process: starting, ending, environment, queues, tables."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import aioboto3
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from snapengine.devcloud import ACCOUNT_ID, REGION, DevCloud
from snapengine.errors import Busy

SERVE = "from snapengine.devcloud import serve; serve(0, lambda line: print(line, flush=True))"


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture(scope="module")
def sqs(cloud: DevCloud) -> Any:
    return boto3.client("sqs", config=Config(max_pool_connections=16), **cloud.client_arguments())


@pytest.fixture
def queue(sqs: Any) -> str:
    url: str = sqs.create_queue(QueueName=f"q-{uuid4().hex[:12]}")["QueueUrl"]
    return url


def receive(sqs: Any, url: str, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sqs.receive_message(QueueUrl=url, **options).get("Messages", [])
    return found


def test_it_listens_on_loopback_alone(cloud: DevCloud) -> None:
    assert cloud.endpoint_url == f"http://127.0.0.1:{cloud.port}"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", cloud.port)) != 0


def test_it_answers_who_the_caller_is_with_the_documentation_account(cloud: DevCloud) -> None:
    identity = boto3.client("sts", **cloud.client_arguments()).get_caller_identity()
    assert identity["Account"] == ACCOUNT_ID


def test_a_client_without_arguments_finds_it_whatever_the_shell_had_set(
    cloud: DevCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_PROFILE": "no-such-profile",
        "AWS_DEFAULT_PROFILE": "no-such-profile-either",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "AWS_USE_FIPS_ENDPOINT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    for service, call in (("s3", "list_buckets"), ("sqs", "list_queues"), ("dynamodb", "list_tables")):
        client = boto3.session.Session().client(service)  # type: ignore[call-overload]  # a name not known statically
        assert client.meta.region_name == REGION
        assert getattr(client, call)()["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert cloud.environment()["SNAPENGINE_STORE"] == "dynamodb://snapengine"


async def test_an_asynchronous_client_finds_it_by_the_environment(
    cloud: DevCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    async with aioboto3.Session().client("sqs") as client:
        created = await client.create_queue(QueueName=f"a-{uuid4().hex[:12]}")
        await client.send_message(QueueUrl=created["QueueUrl"], MessageBody="hello")
        reply = await client.receive_message(QueueUrl=created["QueueUrl"], WaitTimeSeconds=5)
        assert [message["Body"] for message in reply["Messages"]] == ["hello"]


def test_a_taken_port_is_named_in_the_error(cloud: DevCloud) -> None:
    with pytest.raises(Busy, match=f"127.0.0.1:{cloud.port}"), DevCloud(port=cloud.port):
        pass


def test_after_its_end_nothing_answers_and_a_new_one_is_empty() -> None:
    with DevCloud() as first:
        s3 = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}), **first.client_arguments())
        s3.create_bucket(Bucket="left-over")
        kept = http.client.HTTPConnection("127.0.0.1", first.port, timeout=5)
        kept.request("GET", "/")
        kept.getresponse().read()
        port = first.port
        first.reset()
        assert s3.list_buckets()["Buckets"] == []
    with pytest.raises(RuntimeError, match="not running"):
        _ = first.endpoint_url
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert kept.sock is not None
    assert kept.sock.recv(1) == b""
    kept.close()


def test_an_aborted_upload_stores_nothing(cloud: DevCloud) -> None:
    s3 = boto3.client("s3", **cloud.client_arguments())
    s3.create_bucket(Bucket="aborted")
    with socket.create_connection(("127.0.0.1", cloud.port), timeout=5) as half:
        half.sendall(b"PUT /aborted/key HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this")
        half.shutdown(socket.SHUT_WR)
        assert half.recv(1) == b""
    assert s3.list_objects_v2(Bucket="aborted")["KeyCount"] == 0


def test_the_command_prints_exports_and_ends_cleanly_when_told() -> None:
    for told in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines: list[str] = []
            while not any("SNAPENGINE_STORE" in line for line in lines):
                lines.append(process.stdout.readline())
                assert lines[-1]
            script = "".join(lines) + f'"{sys.executable}" -c "$PROGRAM"'
            program = "import boto3; print(boto3.client('s3').list_buckets()['Buckets'])"
            shell = subprocess.run(
                ["bash", "-c", script],
                env={**os.environ, "PROGRAM": program},
                capture_output=True,
                check=True,
            )
            assert shell.stdout.strip() == b"[]"
            process.send_signal(told)
            assert process.wait(timeout=10) == 0
        assert all(line.startswith("export ") for line in lines)


def test_importing_snapengine_does_not_import_moto() -> None:
    code = "import snapengine, sys; assert not {'moto', 'flask', 'werkzeug'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_message_is_lost_or_given_twice_while_senders_and_receivers_race(sqs: Any, queue: str) -> None:
    def send(worker: int) -> None:
        for turn in range(15):
            sqs.send_message(QueueUrl=queue, MessageBody=f"{worker}-{turn}")

    def take(_: int) -> list[str]:
        bodies = []
        while messages := receive(sqs, queue, MaxNumberOfMessages=10, WaitTimeSeconds=1):
            for message in messages:
                bodies.append(message["Body"])
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return bodies

    with ThreadPoolExecutor(8) as pool:
        takers = [pool.submit(take, number) for number in range(4)]
        list(pool.map(send, range(4)))
        taken = [body for taker in takers for body in taker.result()]
    assert sorted(taken) == sorted(f"{worker}-{turn}" for worker in range(4) for turn in range(15))


def test_a_waiting_receive_gets_a_message_as_it_comes(sqs: Any, queue: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receive, sqs, queue, WaitTimeSeconds=20)
        began = time.monotonic()
        sqs.send_message(QueueUrl=queue, MessageBody="now")
        assert [message["Body"] for message in waiting.result(timeout=10)] == ["now"]
        assert time.monotonic() - began < 10


def test_a_receiver_that_leaves_while_waiting_takes_no_message_with_it(
    sqs: Any, queue: str, cloud: DevCloud
) -> None:
    body = json.dumps({"QueueUrl": queue, "WaitTimeSeconds": 20})
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential=x/20260101/{REGION}/sqs/aws4_request, Signature=x",
        "X-Amz-Target": "AmazonSQS.ReceiveMessage",
        "Content-Type": "application/x-amz-json-1.0",
    }
    impatient = http.client.HTTPConnection("127.0.0.1", cloud.port, timeout=5)
    impatient.request("POST", "/", body, headers)
    impatient.close()
    sqs.send_message(QueueUrl=queue, MessageBody="for whoever stays")
    assert [each["Body"] for each in receive(sqs, queue, WaitTimeSeconds=5)] == ["for whoever stays"]


def test_a_message_received_too_often_goes_to_the_dead_letter_queue(sqs: Any, queue: str) -> None:
    dead = sqs.create_queue(QueueName=f"dead-{uuid4().hex[:12]}")["QueueUrl"]
    names = ["QueueArn"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=names)["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": policy})
    sqs.send_message(QueueUrl=queue, MessageBody="bad")
    for _ in range(2):
        (message,) = receive(sqs, queue, VisibilityTimeout=30)
        sqs.change_message_visibility(
            QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
    assert receive(sqs, queue) == []
    assert [each["Body"] for each in receive(sqs, dead, WaitTimeSeconds=5)] == ["bad"]


def test_of_many_conditional_puts_of_one_item_one_succeeds(cloud: DevCloud) -> None:
    ddb = boto3.client("dynamodb", config=Config(max_pool_connections=16), **cloud.client_arguments())
    ddb.create_table(
        TableName="entries",
        KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "PK", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )

    def claim(number: int) -> bool:
        item: Any = {"PK": {"S": str(number // 8)}, "owner": {"N": str(number)}}
        try:
            ddb.put_item(TableName="entries", Item=item, ConditionExpression="attribute_not_exists(PK)")
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(40))) == 5
