"""The embedded cloud behind IAM: whose access key a request bears says which policies it must pass.

Actions, resources and condition keys are those of the Service Authorization Reference. A request that is not
known here is an error, never let through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from snapengine.devcloud import DevCloud
from snapengine.devcloud.server import READY_PATH, Dispatcher
from tests.iam import Policy, Request, decide

ACCOUNT: Final = "123456789012"
REGION: Final = "eu-central-1"

_CREDENTIAL: Final = re.compile(r"Credential=([^/]+)/\d+/[^/]+/([^/]+)/aws4_request")
_PARTITION: Final = re.compile(r"(?:^|\s|\()(\S+)\s*=\s*(:\w+)")
_BATCH: Final = {"PutRequest": "Item", "DeleteRequest": "Key"}
_TRANSACTED: Final = {"Get": "GetItem", "Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request by somebody with policies, and what came of it."""

    who: str
    request: Request
    decision: str

    @property
    def partitions(self) -> Sequence[str]:
        return self.request.context.get("dynamodb:LeadingKeys", ())


class Guard:
    """A WSGI application before the cloud's own. Access keys that have no policies are an administrator's."""

    def __init__(self, behind: Dispatcher) -> None:
        self._behind = behind
        self.policies: dict[str, list[Policy]] = {}
        self.asked: list[Asked] = []
        self.unknown: list[str] = []
        """Requests that could not be judged; a test must find none."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == READY_PATH:
            return self._behind(environ, start_response)
        found = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
        who, service = found.groups() if found else ("", "")
        if who in self.policies:
            body = environ["wsgi.input"].read()
            environ["wsgi.input"] = BytesIO(body)
            try:
                requests = requests_of(service, environ, body)
            except (KeyError, ValueError) as error:
                self.unknown.append(
                    f"{service} {environ['REQUEST_METHOD']} {environ['PATH_INFO']}: {error!r}"
                )
                raise
            for request in requests:
                decision = decide(self.policies[who], request)
                self.asked.append(Asked(who, request, decision))
                if decision != "allowed":
                    return _denied(service, who, request, decision, environ, start_response)
        return self._behind(environ, start_response)

    def is_identified_by(self, reply: bytes) -> bool:
        return self._behind.is_identified_by(reply)

    def standstill(self) -> Any:
        return self._behind.standstill()

    def denied(self, who: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.who == who and asked.decision != "allowed"]


@contextmanager
def guarded_cloud() -> Iterator[tuple[DevCloud, Guard]]:
    """A running cloud and the guard before it."""
    cloud = DevCloud()
    guard = Guard(cloud._dispatcher)
    cloud._dispatcher = guard  # type: ignore[assignment]  # does what is asked of a dispatcher
    with cloud:
        yield cloud, guard


def requests_of(service: str, environ: Mapping[str, Any], body: bytes) -> list[Request]:
    """What a request on the wire needs to be allowed, all of it."""
    if service == "sts":
        return []  # GetCallerIdentity needs no permission
    if service == "s3":
        return _of_s3(environ)
    operation = str(environ["HTTP_X_AMZ_TARGET"]).partition(".")[2]
    asked = json.loads(body or b"{}")
    if service == "dynamodb":
        return _of_dynamodb(operation, asked)
    if service == "sqs":
        action = re.sub(r"Batch$", "", operation)
        name = asked.get("QueueName") or asked["QueueUrl"].rpartition("/")[2]
        return [Request(f"sqs:{action}", f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")]
    raise ValueError(f"the service {service} is not known here")


def _of_dynamodb(operation: str, asked: Mapping[str, Any]) -> list[Request]:
    if operation in {"BatchGetItem", "BatchWriteItem"}:
        return [
            _on_table(operation, table, _batch_keys(wanted))
            for table, wanted in asked["RequestItems"].items()
        ]
    if operation in {"TransactGetItems", "TransactWriteItems"}:
        parts = [part for item in asked["TransactItems"] for part in item.items()]
        return [
            _on_table(_TRANSACTED.get(kind, kind), part["TableName"], [_partition(part)])
            for kind, part in parts
        ]
    if operation in {"GetItem", "PutItem", "UpdateItem", "DeleteItem"}:
        return [_on_table(operation, asked["TableName"], [_partition(asked)])]
    if operation == "Query":
        return [_on_table(operation, asked["TableName"], [_queried(asked)])]
    if operation in {"ExecuteStatement", "BatchExecuteStatement", "ExecuteTransaction"}:
        raise ValueError("PartiQL is not known here")
    return [_on_table(operation, asked["TableName"], None)]


def _on_table(operation: str, table: str, keys: Sequence[str] | None) -> Request:
    arn = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{table}"
    return Request(f"dynamodb:{operation}", arn, {} if keys is None else {"dynamodb:LeadingKeys": keys})


def _batch_keys(wanted: Any) -> list[str]:
    if isinstance(wanted, Mapping):
        return [key["PK"]["S"] for key in wanted["Keys"]]
    return [part[_BATCH[kind]]["PK"]["S"] for one in wanted for kind, part in one.items()]


def _partition(asked: Mapping[str, Any]) -> str:
    return str((asked["Item"] if "Item" in asked else asked["Key"])["PK"]["S"])


def _queried(asked: Mapping[str, Any]) -> str:
    names = asked.get("ExpressionAttributeNames", {})
    for name, value in _PARTITION.findall(asked["KeyConditionExpression"]):
        if names.get(name, name) == "PK":
            return str(asked["ExpressionAttributeValues"][value]["S"])
    raise ValueError("a query without a partition")


def _of_s3(environ: Mapping[str, Any]) -> list[Request]:
    method = environ["REQUEST_METHOD"]
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    raw = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or environ["PATH_INFO"])
    bucket, _, key = unquote(raw.partition("?")[0].lstrip("/")).partition("/")
    if not key:
        return [_on_bucket(method, bucket, query)]
    arn = f"arn:aws:s3:::{bucket}/{key}"
    one = "Version" if query.get("versionId") else ""
    if "tagging" in query and method == "GET":
        return [Request(f"s3:GetObject{one}Tagging", arn)]
    if method in {"GET", "HEAD"} and not {"acl", "torrent", "uploadId", "attributes"} & query.keys():
        return [Request(f"s3:GetObject{one}", arn)]
    if method in {"PUT", "POST"} and not {"acl", "tagging", "retention", "restore"} & query.keys():
        source = environ.get("HTTP_X_AMZ_COPY_SOURCE")
        copied = [Request("s3:GetObject", f"arn:aws:s3:::{unquote(source).lstrip('/')}")] if source else []
        return [*copied, Request("s3:PutObject", arn)]
    if method == "DELETE":
        action = "s3:AbortMultipartUpload" if "uploadId" in query else f"s3:DeleteObject{one}"
        return [Request(action, arn)]
    raise ValueError(f"{method} of an object with {sorted(query)} is not known here")


def _on_bucket(method: str, bucket: str, query: Mapping[str, Sequence[str]]) -> Request:
    arn = f"arn:aws:s3:::{bucket}"
    if method == "GET" and "versions" in query:
        return Request("s3:ListBucketVersions", arn, {"s3:prefix": query.get("prefix", [""])})
    if method == "HEAD" or (method == "GET" and set(query) <= _LISTING):
        return Request("s3:ListBucket", arn, {"s3:prefix": query.get("prefix", [""])})
    raise ValueError(f"{method} of a bucket with {sorted(query)} is not known here")


_LISTING: Final = {
    "list-type", "prefix", "delimiter", "max-keys", "continuation-token", "encoding-type", "start-after",
    "fetch-owner",
}  # fmt: skip


def _denied(
    service: str,
    who: str,
    request: Request,
    decision: str,
    environ: Mapping[str, Any],
    start_response: Any,
) -> list[bytes]:
    """As AWS says no."""
    why = "with an explicit deny in an identity-based policy"
    if decision == "implicit deny":
        why = f"because no identity-based policy allows the {request.action} action"
    said = (
        f"User: arn:aws:sts::{ACCOUNT}:assumed-role/{who}/session is not authorized to perform: "
        f"{request.action} on resource: {request.resource} {why}"
    )
    if service == "s3":
        body = f"<Error><Code>AccessDenied</Code><Message>{said}</Message></Error>".encode()
        start_response("403 Forbidden", [("Content-Type", "application/xml")])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]
    kind = "com.amazon.coral.service#AccessDeniedException"
    text = json.dumps({"__type": kind, "Message": said, "message": said})
    start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.0")])
    return [text.encode()]
